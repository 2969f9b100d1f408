//! File descriptors: passing them across exec, receiving them from another process, and watching a child's
//! exit.

use std::io::{self, IoSlice, IoSliceMut, PipeReader};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::probe;

/// Keeps `fd` open across the next exec.
pub fn inherit(fd: BorrowedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// Makes `fd` close on exec again.
pub fn keep_from_exec(fd: BorrowedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// Makes reads and writes on `fd` non-blocking.
pub fn set_nonblocking(fd: BorrowedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Enlarges a pipe to `bytes`. It keeps its size if the user's pipe memory is used up (pipe(7)).
pub fn widen_pipe(pipe: BorrowedFd, bytes: i32) {
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(bytes));
}

/// Waits until `fd` is readable or its peer has closed it, at most `time`. Returns whether it is. A signal
/// does not end the wait.
pub fn is_readable_within(fd: BorrowedFd, time: Duration) -> bool {
    let until = Instant::now() + time;
    loop {
        let left = PollTimeout::try_from(until.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], left) {
            Err(Errno::EINTR) => {}
            result => return result.is_ok_and(|ready| ready > 0),
        }
    }
}

/// Receives one descriptor, which comes with one byte (SCM_RIGHTS).
///
/// # Errors
/// `InvalidData` if no descriptor came.
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
        // SAFETY: the kernel has just made this descriptor, and nothing else knows its number.
        Some(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "no descriptor where one was due")),
    }
}

/// Receives the descriptors that come with one byte, at most `most`.
///
/// # Errors
/// `InvalidData` if none came, or more.
pub fn receive_all(socket: BorrowedFd, most: usize) -> io::Result<Vec<OwnedFd>> {
    let mut byte = [0];
    // SAFETY: computes a size.
    let mut space = vec![0; unsafe { libc::CMSG_SPACE((most * size_of::<i32>()) as u32) } as usize];
    let mut data = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let whole = !message.flags.contains(MsgFlags::MSG_CTRUNC);
    let fds: Vec<OwnedFd> = message
        .cmsgs()?
        .filter_map(|part| if let ControlMessageOwned::ScmRights(fds) = part { Some(fds) } else { None })
        .flatten()
        // SAFETY: the kernel has just made them, and nothing else knows their numbers.
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect();
    if whole && !fds.is_empty() {
        return Ok(fds);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "other descriptors than were due"))
}

/// Sends descriptors with one byte.
pub fn send(socket: BorrowedFd, fds: &[BorrowedFd]) -> io::Result<()> {
    let numbers: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&[0])], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// A copy of `fd` whose number is at least `lowest`, and which closes on exec.
pub fn not_below(fd: BorrowedFd, lowest: i32) -> io::Result<OwnedFd> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    // SAFETY: the kernel has just made it, and nothing else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// A descriptor that is readable once the process has ended (pidfd_open(2)).
///
/// # Errors
/// If it has ended and was reaped, or a seccomp filter forbids the call.
pub fn process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes a PID and flags, and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and it closes on exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A descriptor that is readable while one of two is. They must stay open (epoll(7)).
pub fn either(one: BorrowedFd, other: BorrowedFd) -> io::Result<OwnedFd> {
    let both = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for fd in [one, other] {
        both.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    }
    Ok(both.0)
}

/// Watches for a child's exit by pidfd_open(2) (Linux 5.3; the runtimes' current seccomp profiles allow it),
/// else by a thread. It is prepared before the child: a thread started later could fail, and would take a TID
/// beside a criu that counts them.
#[derive(Debug)]
pub struct ExitWatch {
    /// Takes the child's PID to the thread; the pipe closes when the child has ended. None without a thread.
    thread: Option<(Sender<Pid>, PipeReader)>,
}

impl ExitWatch {
    /// Starts the thread, if one is needed.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn prepare() -> io::Result<Self> {
        if probe::pidfd().is_ok() { Ok(Self { thread: None }) } else { Self::by_thread() }
    }

    fn by_thread() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let (sender, child) = mpsc::channel();
        std::thread::Builder::new().name("exit".to_owned()).spawn(move || {
            // WNOWAIT leaves the child to be reaped by `Child::wait`.
            let left = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            if let Ok(child) = child.recv() {
                while waitid(Id::Pid(child), left) == Err(Errno::EINTR) {}
            }
            drop(writer);
        })?;
        Ok(Self { thread: Some((sender, reader)) })
    }

    /// A descriptor that becomes readable when `child` has ended, or has been reaped.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn of(self, child: &std::process::Child) -> io::Result<OwnedFd> {
        if let Some((sender, reader)) = self.thread {
            let _ = sender.send(Pid::from_raw(child.id() as i32));
            return Ok(reader.into());
        }
        // The child's PID cannot be reused before the child is reaped.
        process(child.id() as i32)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    use super::*;

    #[test]
    fn the_end_of_a_child_is_seen_and_its_status_is_left() {
        for watch in [ExitWatch::prepare, ExitWatch::by_thread] {
            let watch = watch().unwrap();
            let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            let exit = watch.of(&child).unwrap();
            let ended = |timeout: PollTimeout| {
                let mut fds = [PollFd::new(exit.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, timeout).unwrap() > 0
            };
            assert!(!ended(PollTimeout::ZERO));
            drop(child.stdin.take());
            assert!(ended(PollTimeout::NONE));
            assert!(child.wait().unwrap().success());
        }
    }

    #[test]
    fn either_of_two_is_enough() {
        let ((first, to_first), (second, to_second)) = (io::pipe().unwrap(), io::pipe().unwrap());
        let both = either(first.as_fd(), second.as_fd()).unwrap();
        assert!(!is_readable_within(both.as_fd(), Duration::ZERO));
        drop(to_second);
        assert!(is_readable_within(both.as_fd(), Duration::ZERO));
        drop(to_first);
    }

    extern "C" fn nothing(_: i32) {}

    #[test]
    fn a_signal_does_not_end_the_wait() {
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, and no other test uses the signal.
        unsafe { sigaction(Signal::SIGUSR2, &action) }.unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let (us, waiting) = (std::process::id(), nix::unistd::gettid().as_raw());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..20 {
                    std::thread::sleep(Duration::from_millis(10));
                    // SAFETY: numbers only.
                    assert_eq!(unsafe { libc::syscall(libc::SYS_tgkill, us, waiting, Signal::SIGUSR2 as i32) }, 0);
                }
                drop(writer);
            });
            assert!(is_readable_within(reader.as_fd(), Duration::from_secs(60)));
        });
        let (reader, _writer) = io::pipe().unwrap();
        assert!(!is_readable_within(reader.as_fd(), Duration::from_millis(20)));
    }
}
