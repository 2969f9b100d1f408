//! Namespaces (namespaces(7)): made for a child, entered, and looked at from inside. A refusal of any of these leaves the caller as it was.

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
    ptr,
};

use super::process::Fork;

/// User namespace.
pub const USER: i32 = libc::CLONE_NEWUSER;
/// PID namespace.
pub const PID: i32 = libc::CLONE_NEWPID;
/// Mount namespace.
pub const MOUNT: i32 = libc::CLONE_NEWNS;
/// Time namespace: `CLONE_NEWTIME` of time_namespaces(7), Linux 5.6.
pub const TIME: i32 = 0x80;

/// Forks a child that is in new namespaces from its first instruction. This process stays where it is. As
/// [`process::fork`](super::process::fork), only for a process of one thread.
///
/// # Errors
/// Where the kernel or the container's seccomp filter refuses one of them.
pub fn fork_into(namespaces: i32) -> io::Result<Fork> {
    // SAFETY: without CLONE_VM the child is a full copy, as of fork(2), of a process with one thread. The C library's only copy of
    // a number that changes is the thread's ID, by which nothing here is locked.
    match unsafe { libc::syscall(libc::SYS_clone, namespaces | libc::SIGCHLD, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as i32)),
    }
}

/// Moves this process, which must have one thread, into a namespace.
///
/// # Errors
/// Where that is refused.
pub fn enter(namespace: BorrowedFd, kind: i32) -> io::Result<()> {
    // SAFETY: numbers only.
    done(unsafe { libc::setns(namespace.as_raw_fd(), kind) })
}

/// `NS_GET_USERNS` of ioctl_ns(2), Linux 4.9.
const GET_USERS: libc::Ioctl = 0xb701;

/// Whether capabilities that this process has in its user namespace are over its PID namespace: whether that belongs to this user
/// namespace, or to one below it. Before Linux 4.9, which does not say, it is supposed to.
pub fn owns_pids() -> bool {
    let Ok(pids) = std::fs::File::open("/proc/self/ns/pid") else { return true };
    // SAFETY: a number in; what comes out is a descriptor of our own, or an error.
    let users = unsafe { libc::ioctl(pids.as_raw_fd(), GET_USERS) };
    if users < 0 {
        return io::Error::last_os_error().raw_os_error() != Some(libc::EPERM);
    }
    // SAFETY: the kernel has just made it, and nobody else knows it.
    unsafe { libc::close(users) };
    true
}

/// Shows this PID namespace's processes in /proc, in a mount namespace that what is mounted outside later reaches still.
///
/// # Errors
/// Where the container hides parts of its /proc: the kernel then lets nobody see a whole one.
pub fn mount_proc() -> io::Result<()> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let (none, root, proc) = (c"none".as_ptr(), c"/".as_ptr(), c"/proc".as_ptr());
    // SAFETY: strings that end in NUL, and no data.
    unsafe {
        done(libc::mount(none, root, ptr::null(), libc::MS_REC | libc::MS_SLAVE, ptr::null()))?;
        done(libc::mount(c"proc".as_ptr(), proc, c"proc".as_ptr(), flags, ptr::null()))
    }
}

/// Has the program that `command` starts live in a time namespace that is there, or fail to start.
pub fn start_in_time(command: &mut Command, namespace: OwnedFd) {
    // SAFETY: between fork and exec a system call, and no memory is touched.
    unsafe { command.pre_exec(move || enter(namespace.as_fd(), TIME)) };
}

/// Has the program that `command` starts live in a time namespace of its own, of which `offsets` is what is to be written to
/// `timens_offsets`. Where that is refused it lives in this process's.
pub fn start_in_new_time(command: &mut Command, offsets: CString) {
    // SAFETY: between fork and exec system calls only, and no memory is allocated or locked.
    unsafe {
        command.pre_exec(move || {
            make_time(&offsets);
            Ok(())
        })
    };
}

/// Moves this process, which must have one thread, into a time namespace of its own.
///
/// # Errors
/// Where that is refused.
pub fn try_time() -> io::Result<()> {
    let inside = || std::fs::read_link("/proc/self/ns/time");
    let before = inside()?;
    make_time(c"monotonic 1 0\n");
    if inside()? == before { Err(io::Error::from_raw_os_error(libc::EPERM)) } else { Ok(()) }
}

/// Nothing is made before it is known that no seccomp filter keeps this process, and the next dump's CRIU, from entering it.
fn make_time(offsets: &CStr) {
    // SAFETY: the paths end in NUL, and of `offsets` no more than its length is read. Descriptors close on exec.
    unsafe {
        libc::setns(-1, TIME);
        if *libc::__errno_location() != libc::EBADF || libc::unshare(TIME) != 0 {
            return;
        }
        let file = libc::open(c"/proc/self/timens_offsets".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        let length = offsets.to_bytes().len();
        if libc::write(file, offsets.as_ptr().cast(), length) != length as isize {
            return;
        }
        let made = libc::open(c"/proc/self/ns/time_for_children".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        libc::setns(made, TIME);
    }
}

fn done(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_namespace_belongs_to_none_that_was_made_later() {
        if std::env::var_os("ALONE").is_some() {
            assert!(!owns_pids());
            return;
        }
        assert!(owns_pids());
        let mut below = Command::new("unshare");
        below.arg("--user").arg(std::env::current_exe().unwrap()).env("ALONE", "1");
        below.args(["--exact", "sys::namespace::tests::the_pid_namespace_belongs_to_none_that_was_made_later"]);
        assert!(below.status().unwrap().success());
    }
}
