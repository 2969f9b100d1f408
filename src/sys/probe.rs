//! Asks the kernel what it allows. Each probe makes a call that cannot succeed or changes nothing, and the
//! kind of refusal tells. A probe never affects this or any other process.

use std::ffi::c_long;
use std::io;

use libc::{EBADF, EEXIST, EINVAL, ESRCH};

/// No process has this number: kernel.pid_max is at most 2^22 (proc_sys_kernel(5)).
const NO_PROCESS: c_long = 0x7fff_fff0;
/// A flag that userfaultfd(2) does not know.
const NO_FLAG: c_long = 1 << 30;
const KCMP_VM: c_long = 1;

/// Allowed, or the error of the refusal.
pub type Answer = Result<(), io::Error>;

/// clone3(2) without arguments: the kernel itself answers EINVAL (kernel/fork.c, copy_clone_args_from_user).
pub fn clone3() -> Answer {
    // SAFETY: a null pointer with size 0 is refused before anything is read.
    refused_with(EINVAL, unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0usize) })
}

/// clone3(2) with set_tid for PID 1, which always exists: EEXIST if this process may choose PIDs, else EPERM,
/// which is checked first (kernel/pid.c, alloc_pid).
pub fn set_tid() -> Answer {
    let wanted: [libc::pid_t; 1] = [1];
    // SAFETY: the structure holds plain numbers.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.set_tid = wanted.as_ptr().addr() as u64;
    arguments.set_tid_size = 1;
    // SAFETY: a structure of this size that outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    if result == 0 {
        super::process::exit_now(0);
    }
    refused_with(EEXIST, result)
}

/// kcmp(2) of this process with itself.
pub fn kcmp() -> Answer {
    let us = c_long::from(std::process::id() as i32);
    // SAFETY: numbers only.
    allowed(unsafe { libc::syscall(libc::SYS_kcmp, us, us, KCMP_VM, 0 as c_long, 0 as c_long) })
}

/// What two tasks may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// The descriptor table: KCMP_FILES.
    Files = 2,
    /// Working directory, root and umask: KCMP_FS.
    Places = 3,
}

/// Whether two processes or threads share `what` (kcmp(2)).
///
/// # Errors
/// If kcmp is not allowed, a task may not be traced, or a task is gone.
pub fn share(one: i32, other: i32, what: Shared) -> io::Result<bool> {
    let (one, other) = (c_long::from(one), c_long::from(other));
    // SAFETY: numbers only.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one, other, what as c_long, 0 as c_long, 0 as c_long) };
    allowed(order).map(|()| order == 0)
}

/// ptrace(2) of a process that does not exist.
pub fn ptrace() -> Answer {
    // SAFETY: numbers only.
    refused_with(ESRCH, unsafe {
        libc::syscall(libc::SYS_ptrace, c_long::from(libc::PTRACE_SEIZE), NO_PROCESS, 0 as c_long, 0 as c_long)
    })
}

/// process_vm_readv(2) of this process.
pub fn process_vm_readv() -> Answer {
    let from = [7u8];
    let mut to = [0u8];
    let remote = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: 1 };
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: copies one byte of ours to another byte of ours.
    let read =
        unsafe { libc::process_vm_readv(std::process::id() as i32, &raw const local, 1, &raw const remote, 1, 0) };
    allowed(read as c_long)
}

/// vmsplice(2) into no descriptor.
pub fn vmsplice() -> Answer {
    // SAFETY: no descriptor, no memory.
    refused_with(EBADF, unsafe { libc::vmsplice(-1, std::ptr::null(), 0, 0) as c_long })
}

/// userfaultfd(2) with an unknown flag: the permission is checked first (fs/userfaultfd.c).
pub fn userfaultfd() -> Answer {
    // SAFETY: numbers only.
    refused_with(EINVAL, unsafe { libc::syscall(libc::SYS_userfaultfd, NO_FLAG) })
}

/// PR_SET_MM_MAP_SIZE: Linux built with CONFIG_CHECKPOINT_RESTORE answers it.
pub fn memory_map() -> Answer {
    let mut size: libc::c_uint = 0;
    // SAFETY: writes one number.
    allowed(c_long::from(unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP_SIZE, &raw mut size, 0, 0) }))
}

/// PR_CAPBSET_DROP of a capability that does not exist: EPERM comes before EINVAL (security/commoncap.c,
/// cap_prctl_drop).
pub fn drop_from_bounding_set() -> Answer {
    // SAFETY: numbers only.
    refused_with(EINVAL, c_long::from(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, 63, 0, 0, 0) }))
}

/// unshare(2) without flags.
pub fn unshare() -> Answer {
    // SAFETY: numbers only.
    allowed(c_long::from(unsafe { libc::unshare(0) }))
}

/// pidfd_open(2) of this process, and pidfd_send_signal(2) of no signal to it.
pub fn pidfd() -> Answer {
    // SAFETY: numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, c_long::from(std::process::id() as i32), 0 as c_long) };
    allowed(fd)?;
    // SAFETY: numbers, and a null pointer, which asks for no information.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, 0, std::ptr::null::<u8>(), 0) };
    let sent = allowed(sent);
    close(fd)?;
    sent
}

/// An executable anonymous file; `vm.memfd_noexec` can forbid it.
pub fn memfd() -> Answer {
    let create = |flags| {
        // SAFETY: a string that ends in NUL.
        close(c_long::from(unsafe { libc::memfd_create(c"freeze-probe".as_ptr(), libc::MFD_CLOEXEC | flags) }))
    };
    match create(libc::MFD_EXEC) {
        // Linux before 6.3 neither knows nor needs the flag.
        Err(error) if error.raw_os_error() == Some(EINVAL) => create(0),
        answer => answer,
    }
}

/// Whether a file has capabilities (capabilities(7)); a copy has lost them.
pub fn has_file_capabilities(path: &std::path::Path) -> bool {
    let Ok(path) = std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())) else {
        return false;
    };
    // SAFETY: the strings end in NUL, and nothing is written with size 0.
    unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

fn close(fd: c_long) -> Answer {
    allowed(fd)?;
    // SAFETY: a descriptor that was just made and that nothing else knows.
    unsafe { libc::close(fd as i32) };
    Ok(())
}

fn allowed(result: c_long) -> Answer {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Allowed if the kernel refuses with this error. Any other error comes from a seccomp filter or a missing
/// permission.
fn refused_with(error: i32, result: c_long) -> Answer {
    match allowed(result) {
        Err(found) if found.raw_os_error() == Some(error) => Ok(()),
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_creates_no_process() {
        // Other tests have children, so this test runs itself in a process of its own.
        if std::env::var_os("ALONE").is_none() {
            let mut again = std::process::Command::new(std::env::current_exe().unwrap());
            again.args(["--exact", "sys::probe::tests::asking_creates_no_process"]).env("ALONE", "1");
            assert!(again.status().unwrap().success());
            return;
        }
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        for ask in
            [clone3, set_tid, kcmp, ptrace, process_vm_readv, vmsplice, userfaultfd, memory_map, unshare, pidfd, memfd]
        {
            let _ = ask();
        }
        assert_eq!(open(), before);
        assert_eq!(nix::sys::wait::wait(), Err(nix::errno::Errno::ECHILD));
    }

    #[test]
    fn threads_share_until_they_do_not() {
        let us = std::process::id() as i32;
        let thread = std::thread::spawn(move || {
            let own = nix::unistd::gettid().as_raw();
            let shared = || [Shared::Files, Shared::Places].map(|what| share(us, own, what).unwrap());
            let before = shared();
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
            (before, shared())
        });
        assert_eq!(thread.join().unwrap(), ([true, true], [true, false]));
        assert!(share(us, i32::MAX, Shared::Files).is_err());
    }

    #[test]
    fn an_ordinary_program_has_no_capabilities() {
        assert!(!has_file_capabilities(&std::env::current_exe().unwrap()));
        assert!(!has_file_capabilities("/does/not/exist".as_ref()));
    }

    #[test]
    fn another_error_is_a_refusal() {
        // SAFETY: closes no descriptor; only the error is wanted.
        let result = c_long::from(unsafe { libc::close(-1) });
        assert!(refused_with(EBADF, result).is_ok());
        // SAFETY: as above.
        let result = c_long::from(unsafe { libc::close(-1) });
        assert_eq!(refused_with(EEXIST, result).unwrap_err().raw_os_error(), Some(EBADF));
    }
}
