//! Messages on standard error. The service shares it, and it may be full, so no message waits for its reader.
//!
//! O_NONBLOCK would apply to the service's writes as well, so each kind of file has its own way. Only a sandbox that refuses these ways,
//! or a terminal that another user owns, leaves a gap: there the room that poll(2) saw may be taken before the write.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, open, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::pipe2;

/// Writes a message if that is possible at once; otherwise the message is lost.
pub fn say(message: &str) {
    write_at_once(io::stderr().as_fd(), format!("freeze: {message}\n").as_bytes());
}

/// Reports panics in the same way, because the panicking process may hold a frozen service.
pub fn say_panics() {
    std::panic::set_hook(Box::new(|panic| say(&panic.to_string())));
}

fn write_at_once(fd: BorrowedFd, text: &[u8]) {
    let text = text.get(..libc::PIPE_BUF).unwrap_or(text);
    let kind = fstat(fd).map_or(SFlag::empty(), |found| SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let written = match kind {
        SFlag::S_IFIFO => write_without_waiting(fd, text).or_else(|error| match error {
            error if is_refused(error) => splice_from_own_pipe(fd, text),
            error => Err(error),
        }),
        SFlag::S_IFSOCK => send(fd.as_raw_fd(), text, flags),
        SFlag::S_IFCHR => write_to_own_description(fd, text),
        _ => Err(Errno::EINVAL),
    };
    if written.is_err_and(is_refused) && has_room(fd) {
        let _ = nix::unistd::write(fd, text);
    }
}

/// Whether the kernel or a sandbox does not offer this way at all.
fn is_refused(error: Errno) -> bool {
    matches!(error, Errno::ENOSYS | Errno::EPERM | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EACCES | Errno::ENOENT)
}

/// Adds the text to what a pipe's last buffer holds. Linux offers this for pipes since 6.4.
fn write_without_waiting(fd: BorrowedFd, text: &[u8]) -> nix::Result<usize> {
    let part = IoSlice::new(text);
    // The position of a pipe: none.
    let (low, high): (libc::c_long, libc::c_long) = (-1, -1);
    let (count, flags): (libc::c_ulong, libc::c_int) = (1, libc::RWF_NOWAIT);
    // SAFETY: an IoSlice has the layout of iovec, and the kernel only reads the text. libc's wrapper is missing in older musl.
    let written =
        unsafe { libc::syscall(libc::SYS_pwritev2, fd.as_raw_fd(), &raw const part, count, low, high, flags) };
    Errno::result(written).map(|length| length as usize)
}

/// Splices the text from a pipe of our own: splice(2) has a non-blocking flag for pipes. Each text takes one of the pipe's 16 buffers.
fn splice_from_own_pipe(fd: BorrowedFd, text: &[u8]) -> nix::Result<usize> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let length = nix::unistd::write(&writer, text)?;
    splice(&reader, None, fd, None, length, SpliceFFlags::SPLICE_F_NONBLOCK)
}

/// Opens a terminal again, so that O_NONBLOCK is ours alone.
fn write_to_own_description(fd: BorrowedFd, text: &[u8]) -> nix::Result<usize> {
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let own = open(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str(), flags, Mode::empty())?;
    nix::unistd::write(own, text)
}

fn has_room(fd: BorrowedFd) -> bool {
    poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;
    use std::os::unix::net::UnixDatagram;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
    use std::thread;
    use std::time::{Duration, Instant};

    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;

    #[test]
    fn what_fits_is_written_whole_and_the_rest_is_lost() {
        let (mut reader, writer) = io::pipe().unwrap();
        for _ in 0..100 {
            write_at_once(writer.as_fd(), b"0123456789");
        }
        drop(writer);
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        assert!(text == b"0123456789".repeat(100), "{} bytes", text.len());
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        (0..1000).for_each(|_| write_at_once(ours.as_fd(), b"text"));
        assert_eq!(theirs.recv(&mut [0; 10]).unwrap(), 4);
        let mut file = tempfile::tempfile().unwrap();
        write_at_once(file.as_fd(), b"text");
        io::Seek::rewind(&mut file).unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "text");
    }

    /// A terminal whose reader has stopped has room for a part of the message, which poll(2) reports as room.
    #[test]
    fn a_terminal_is_not_waited_for() {
        let chunk = [b'x'; 1000];
        let fill = |most: usize| {
            let pty = nix::pty::openpty(None, None).unwrap();
            let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
            let path = format!("/proc/self/fd/{}", pty.slave.as_raw_fd());
            let other = open(path.as_str(), flags, Mode::empty()).unwrap();
            let count = (0..most).take_while(|_| nix::unistd::write(&other, &chunk).is_ok()).count();
            (pty, count)
        };
        let (_, whole) = fill(usize::MAX);
        let (pty, _) = fill(whole - 2);
        let (slave, done) = (pty.slave, std::sync::mpsc::channel());
        thread::spawn(move || {
            write_at_once(slave.as_fd(), &[b'y'; libc::PIPE_BUF]);
            done.0.send(()).unwrap();
        });
        assert!(done.1.recv_timeout(Duration::from_secs(10)).is_ok());
        drop(pty.master);
    }

    /// Another writer takes the room that was there a moment ago, and the reader has stopped.
    #[test]
    fn room_that_is_taken_in_between_is_not_waited_for() {
        let (mut reader, writer) = io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let mut other = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
        let (said, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let stuck = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    write_at_once(writer.as_fd(), b"text");
                    said.fetch_add(1, Relaxed);
                }
            });
            let goes_on = || {
                let (begun, before) = (Instant::now(), said.load(Relaxed));
                while said.load(Relaxed) < before + 2 {
                    if begun.elapsed() > Duration::from_secs(10) {
                        return false;
                    }
                }
                true
            };
            let stuck = (0..5000).any(|_| {
                let _ = reader.read(&mut [0; 4096]);
                let _ = other.write(&[0; 4096]);
                !goes_on()
            });
            over.store(true, Relaxed);
            let _ = reader.read(&mut [0; 4096]);
            stuck
        });
        assert!(!stuck);
    }
}
