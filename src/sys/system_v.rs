//! What only system calls tell of System V objects (svipc(7)); /proc/sysvipc has the rest.

use std::io;
use std::ptr;

/// Kind of a System V object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Memory,
    Queue,
    Semaphores,
}

/// Whether this process has the permission to read the object. True if there is none.
pub fn may_read(kind: Kind, id: i32) -> bool {
    // SAFETY: IPC_STAT writes one structure of the kind, and nothing if it fails. Zeros are valid in all of them.
    let result = unsafe {
        match kind {
            Kind::Memory => libc::shmctl(id, libc::IPC_STAT, &mut std::mem::zeroed::<libc::shmid_ds>()),
            Kind::Queue => libc::msgctl(id, libc::IPC_STAT, &mut std::mem::zeroed::<libc::msqid_ds>()),
            Kind::Semaphores => {
                libc::semctl(id, 0, libc::IPC_STAT, ptr::from_mut(&mut std::mem::zeroed::<libc::semid_ds>()))
            }
        }
    };
    result >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EACCES)
}

/// Whether a process of this PID namespace used one of the `number` semaphores of a set last, dead or alive. None if
/// this process may not read the set, or there is none.
pub fn was_used_here(id: i32, number: i32) -> Option<bool> {
    for at in 0..number {
        // SAFETY: GETPID has no further argument, and returns a number.
        match unsafe { libc::semctl(id, at, libc::GETPID) } {
            0 => {}
            pid => return (pid > 0).then_some(true),
        }
    }
    Some(false)
}

/// Whether this kernel lets messages of a queue be copied (CONFIG_CHECKPOINT_RESTORE). Otherwise they can only be
/// received.
pub fn may_copy_messages(id: i32) -> bool {
    const MSG_COPY: libc::c_int = 0o40_000;
    let mut message = [0_u64; 2];
    // SAFETY: msgrcv writes at most the message's type and 8 bytes. It removes no message: with MSG_COPY it copies one or
    // fails, and a kernel that cannot do that looks at no queue.
    let size = unsafe { libc::msgrcv(id, message.as_mut_ptr().cast(), 8, 0, MSG_COPY | libc::IPC_NOWAIT) };
    size >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_may_be_read_by_its_owner_and_was_used_by_no_one_at_first() {
        // SAFETY: makes, sets and removes one set.
        unsafe {
            let id = libc::semget(libc::IPC_PRIVATE, 2, 0o600);
            assert!(id >= 0 && may_read(Kind::Semaphores, id));
            assert_eq!(was_used_here(id, 2), Some(false));
            libc::semctl(id, 1, libc::SETVAL, 3);
            assert_eq!(was_used_here(id, 2), Some(true));
            libc::semctl(id, 0, libc::IPC_RMID);
            assert!(may_read(Kind::Semaphores, id));
            assert_eq!(was_used_here(id, 2), None);
        }
    }

    #[test]
    fn to_ask_takes_no_message() {
        // SAFETY: makes, fills, asks and removes one queue.
        unsafe {
            let id = libc::msgget(libc::IPC_PRIVATE, 0o600);
            assert!(id >= 0 && libc::msgsnd(id, [1_u64, 7].as_ptr().cast(), 8, libc::IPC_NOWAIT) == 0);
            may_copy_messages(id);
            let mut state = std::mem::zeroed::<libc::msqid_ds>();
            libc::msgctl(id, libc::IPC_STAT, &mut state);
            libc::msgctl(id, libc::IPC_RMID, ptr::null_mut());
            assert_eq!(state.msg_qnum, 1);
        }
    }
}
