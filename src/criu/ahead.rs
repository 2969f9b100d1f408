//! A criu that starts before it is known what it restores, and takes memory in meanwhile (criu/README.md, 0099).
//!
//! A frame is a header of 32 bytes, and what belongs to it. Frames wait here until the socket has room, so that a criu that
//! does not read never stops this process.

use std::ffi::OsString;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::command::{self, Criu, NotStarted};
use super::running::{Place, Running, Start};
use crate::sys::fd;
use crate::sys::namespace::TimeSpace;

/// Most bytes of one frame of data.
pub const DATA_MAX: usize = 256 << 10;
/// Time for the last frames. A criu that takes longer has stopped.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy)]
enum Frame {
    Map = 1,
    Data = 2,
    Drop = 3,
    Forget = 4,
    Restore = 5,
}

/// Memory of a process that is made in one way. No memory is reserved for a mapping that is `unreserved`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub pid: i32,
    pub unreserved: bool,
}

/// A waiting criu. Dropping it ends it.
#[derive(Debug)]
pub struct Ahead {
    criu: Option<Running>,
    socket: UnixStream,
    frames: Vec<u8>,
    sent: usize,
}

impl Ahead {
    /// Starts one, which takes a PID.
    pub fn start(criu: Criu) -> Result<Self, NotStarted> {
        let broken = |error| NotStarted::new(command::PLAIN.into(), error);
        let (socket, theirs) = UnixStream::pair().map_err(broken)?;
        socket.set_nonblocking(true).map_err(broken)?;
        let mut start = Start::prepare(Place::Here).map_err(broken)?;
        let number = start.keep(theirs.as_fd()).map_err(broken)?;
        drop(theirs);
        let args = vec!["ahead".into(), number.to_string().into()];
        let criu = Some(start.start(criu, args, TimeSpace::Ours)?);
        Ok(Self { criu, socket, frames: Vec::new(), sent: 0 })
    }

    /// Makes room for the pages of a mapping.
    pub fn map(&mut self, space: Space, range: &Range<u64>) {
        self.frame(Frame::Map, Some(space), 0, range);
    }

    /// Pages from the address `start` on, at most [`DATA_MAX`] bytes.
    pub fn data(&mut self, space: Space, start: u64, pages: &[u8]) {
        self.frame(Frame::Data, Some(space), 0, &(start..start + pages.len() as u64));
        self.frames.extend_from_slice(pages);
    }

    /// Lets pages be as they were before any data came.
    pub fn drop_pages(&mut self, space: Space, range: &Range<u64>) {
        self.frame(Frame::Drop, Some(space), 0, range);
    }

    /// Gives up all memory of a process.
    pub fn forget(&mut self, pid: i32) {
        self.frame(Frame::Forget, Some(Space { pid, unreserved: false }), 0, &(0..0));
    }

    fn frame(&mut self, frame: Frame, space: Option<Space>, descriptors: u32, range: &Range<u64>) {
        let unreserved = space.is_some_and(|space| space.unreserved);
        let flags = if unreserved { libc::MAP_NORESERVE } else { 0 };
        let pid = space.map_or(0, |space| space.pid);
        self.frames.extend((frame as u32).to_ne_bytes());
        self.frames.extend(pid.to_ne_bytes());
        self.frames.extend(flags.to_ne_bytes());
        self.frames.extend(descriptors.to_ne_bytes());
        self.frames.extend(range.start.to_ne_bytes());
        self.frames.extend(range.end.to_ne_bytes());
    }

    /// Sends what the socket takes. Returns whether that was all.
    pub fn flush(&mut self) -> io::Result<bool> {
        while let Some(rest) = self.frames.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.socket.write(rest) {
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.frames.clear();
        self.sent = 0;
        Ok(true)
    }

    /// The socket, which has room or has ended when it is writable.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Lets it go on as a criu with these arguments, which has `keep` under the numbers that they have here.
    pub fn go_on(mut self, args: &[OsString], keep: &[OwnedFd]) -> io::Result<Running> {
        let text: Vec<u8> = args.iter().flat_map(|arg| [arg.as_bytes(), &[0]].concat()).collect();
        self.frame(Frame::Restore, None, keep.len() as u32, &(0..text.len() as u64));
        self.frames.extend(keep.iter().flat_map(|fd| fd.as_raw_fd().to_ne_bytes()));
        self.frames.extend(text);
        self.socket.set_nonblocking(false)?;
        self.socket.set_write_timeout(Some(PATIENCE))?;
        if !self.flush()? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let keep: Vec<BorrowedFd> = keep.iter().map(AsFd::as_fd).collect();
        fd::send(self.socket.as_fd(), &keep)?;
        self.criu.take().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Some(criu) = &mut self.criu {
            criu.kill();
            criu.wait();
        }
    }
}
