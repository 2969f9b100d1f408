//! Namespaces (namespaces(7)): creating them for a child, entering them, and inspecting them from inside.

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::Command,
    ptr,
};

use super::probe;
use super::process::Fork;

pub const USER: i32 = libc::CLONE_NEWUSER;
pub const PID: i32 = libc::CLONE_NEWPID;
pub const MOUNT: i32 = libc::CLONE_NEWNS;
/// `CLONE_NEWTIME` of time_namespaces(7), Linux 5.6.
pub const TIME: i32 = 0x80;

/// Forks a child into new namespaces; this process stays in its own. Like
/// [`process::fork`](super::process::fork), only for a process with one thread.
///
/// # Errors
/// If the kernel or the container's seccomp filter refuses one of them.
pub fn fork_into(namespaces: i32) -> io::Result<Fork> {
    // SAFETY: without CLONE_VM the child is a full copy of a process with one thread, as after fork(2). The
    // only changed number that the C library caches is the thread's ID, and no lock here depends on it.
    match unsafe { libc::syscall(libc::SYS_clone, namespaces | libc::SIGCHLD, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as i32)),
    }
}

/// Moves this process, which must have one thread, into a namespace.
pub fn enter(namespace: BorrowedFd, kind: i32) -> io::Result<()> {
    // SAFETY: numbers only.
    done(unsafe { libc::setns(namespace.as_raw_fd(), kind) })
}

/// `NS_GET_USERNS` of ioctl_ns(2), Linux 4.9.
const GET_USERS: libc::Ioctl = 0xb701;

/// Whether this process's capabilities apply to its PID namespace: the PID namespace belongs to this
/// process's user namespace, or to one below it. Assumed to be true before Linux 4.9, which cannot tell.
pub fn owns_pids() -> bool {
    let Ok(pids) = std::fs::File::open("/proc/self/ns/pid") else { return true };
    // SAFETY: takes a number, and returns a descriptor of our own or an error.
    let users = unsafe { libc::ioctl(pids.as_raw_fd(), GET_USERS) };
    if users < 0 {
        return io::Error::last_os_error().raw_os_error() != Some(libc::EPERM);
    }
    // SAFETY: the kernel has just made it, and nothing else knows it.
    unsafe { libc::close(users) };
    true
}

/// Mounts a /proc of this PID namespace. Later mounts from outside still reach this mount namespace.
///
/// # Errors
/// If the container hides parts of its /proc, because the kernel then refuses a complete one.
pub fn mount_proc() -> io::Result<()> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let (none, root, proc) = (c"none".as_ptr(), c"/".as_ptr(), c"/proc".as_ptr());
    // SAFETY: the strings end in NUL, and there is no data.
    unsafe {
        done(libc::mount(none, root, ptr::null(), libc::MS_REC | libc::MS_SLAVE, ptr::null()))?;
        done(libc::mount(c"proc".as_ptr(), proc, c"proc".as_ptr(), flags, ptr::null()))
    }
}

/// The time namespace in which a program starts.
#[derive(Debug)]
pub enum TimeSpace {
    /// This process's.
    Ours,
    /// If it cannot be entered, the program does not start.
    Existing(OwnedFd),
    /// With these offsets, in the format of `timens_offsets`. If it cannot be made, this process's.
    New(CString),
}

/// Makes `command` start its program in a time namespace.
pub fn start_in(command: &mut Command, time: TimeSpace) {
    match time {
        TimeSpace::Ours => {}
        TimeSpace::Existing(namespace) => start_in_time(command, namespace),
        TimeSpace::New(offsets) => start_in_new_time(command, offsets),
    }
}

fn start_in_time(command: &mut Command, namespace: OwnedFd) {
    // SAFETY: makes one system call between fork and exec, and touches no memory.
    unsafe { command.pre_exec(move || enter(namespace.as_fd(), TIME)) };
}

fn start_in_new_time(command: &mut Command, offsets: CString) {
    // SAFETY: makes only system calls between fork and exec, allocates no memory, and takes no lock.
    unsafe {
        command.pre_exec(move || {
            make_time(&offsets);
            Ok(())
        })
    };
}

/// Moves this process, which must have one thread, into a new time namespace.
pub fn try_time() -> io::Result<()> {
    let inside = || std::fs::read_link("/proc/self/ns/time");
    let before = inside()?;
    make_time(c"monotonic 1 0\n");
    if inside()? == before { Err(io::Error::from_raw_os_error(libc::EPERM)) } else { Ok(()) }
}

/// Whether a process with the capabilities may make a time namespace and enter it: the kernel has them, and no
/// seccomp filter forbids the calls. Changes nothing.
pub fn may_make_time() -> bool {
    Path::new("/proc/self/ns/time").exists() && may_enter_time() && probe::unshare().is_ok()
}

/// Tries no descriptor. Makes only system calls.
fn may_enter_time() -> bool {
    // SAFETY: numbers only, and errno is this thread's.
    unsafe {
        libc::setns(-1, TIME);
        *libc::__errno_location() == libc::EBADF
    }
}

/// Creates nothing if a seccomp filter forbids setns(2): this process and the next dump's CRIU have to enter
/// the namespace.
fn make_time(offsets: &CStr) {
    // SAFETY: the paths end in NUL, `offsets` is read up to its length, and the descriptors close on exec.
    unsafe {
        if !may_enter_time() || libc::unshare(TIME) != 0 {
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
