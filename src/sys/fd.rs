//! Descriptors: handing them over exec, and receiving them from another process.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Lets `fd` survive the next exec.
pub fn inherit(fd: BorrowedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// Closes `fd` at the next exec again.
pub fn keep_from_exec(fd: BorrowedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// Makes reads and writes on `fd` return at once.
pub fn set_nonblocking(fd: BorrowedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Gives a pipe room for up to `bytes`; where the user's share of pipe memory is used up (pipe(7)) it stays as it is.
pub fn widen_pipe(pipe: BorrowedFd, bytes: i32) {
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(bytes));
}

/// Receives one descriptor that comes with one byte.
///
/// # Errors
/// `InvalidData` where no descriptor came.
pub fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut data = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut data, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let fd = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    match fd {
        // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
        Some(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "no descriptor where one was due")),
    }
}

/// A descriptor that becomes readable when `child` has ended (pidfd_open(2), Linux 5.3; allowed by the runtimes' seccomp profiles).
pub fn child_exit(child: &std::process::Child) -> io::Result<OwnedFd> {
    // SAFETY: takes a PID and flags, touches no memory of ours. The PID is our child's, which cannot be reused before it is reaped.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
