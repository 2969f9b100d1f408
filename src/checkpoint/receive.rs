//! Receives CRIU's images while it dumps: each comes through a pipe of its own, and goes to an [`ImageWriter`].
//!
//! CRIU writes some images twice, such as a memfd that is both open and mapped. The later one counts, as it would with
//! files.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::dump_error::DumpError;
use super::memory::{self, Listed};
use super::meter::Meter;
use crate::criu::clocks;
use crate::criu::named;
use crate::criu::stream::{self, Connection};
use crate::fail_points::{Point, reach};
use crate::image::{BodyId, BodyWriter, ImageError, ImageWriter};
use crate::sys::fd;

/// Images that are looked at while they pass.
const COPIED: [&str; 3] = [named::IMAGES[0], named::IMAGES[1], clocks::IMAGE];

#[derive(Debug)]
pub struct Receiver {
    listener: UnixListener,
    stream: Stream,
    open: Vec<Open>,
    done: BTreeMap<String, BodyId>,
    copies: BTreeMap<&'static str, Vec<u8>>,
    listed: Vec<Listed>,
}

/// Bytes of one read of a list.
const LIST_READ: usize = 64 << 10;

/// The connection on which CRIU asks for images.
#[derive(Debug)]
enum Stream {
    Awaited,
    Open(Connection),
    Ended,
}

/// An image that is being received.
struct Open {
    name: String,
    pipe: std::fs::File,
    into: Into,
}

/// What becomes of an image.
enum Into {
    Body(BodyWriter),
    /// One of [`COPIED`], and what came.
    Copied(BodyWriter, &'static str, Vec<u8>),
    /// A list of pages, which is not stored.
    List(Vec<u8>),
}

/// Copies what it reads, but for what exceeds [`named::LIMIT`].
struct Copying<'a> {
    pipe: &'a mut std::fs::File,
    copy: &'a mut Vec<u8>,
}

impl Read for Copying<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.pipe.read(buffer)?;
        let room = named::LIMIT.saturating_sub(self.copy.len());
        self.copy.extend_from_slice(&buffer[..read.min(room)]);
        Ok(read)
    }
}

/// What can be read.
#[derive(Debug, Default)]
pub struct Ready {
    pub exited: bool,
    pub gate: bool,
    socket: bool,
    /// Indexes, ascending.
    pipes: Vec<usize>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Open").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Receiver {
    pub fn new(listener: UnixListener) -> Self {
        let (open, done, copies, listed) = (Vec::new(), BTreeMap::new(), BTreeMap::new(), Vec::new());
        Self { listener, stream: Stream::Awaited, open, done, copies, listed }
    }

    /// The images that are complete, since the last time.
    pub fn take(&mut self) -> BTreeMap<String, BodyId> {
        mem::take(&mut self.done)
    }

    /// The lists of pages that are complete, since the last time.
    pub fn take_listed(&mut self) -> Vec<Listed> {
        mem::take(&mut self.listed)
    }

    /// One of [`COPIED`].
    pub fn copy(&self, image: &str) -> Option<&[u8]> {
        self.copies.get(image).map(Vec::as_slice)
    }

    pub fn copies(&self) -> &BTreeMap<&'static str, Vec<u8>> {
        &self.copies
    }

    /// Receives nothing more, so that CRIU gives up rather than wait.
    pub fn close(&mut self) {
        self.open.clear();
        self.stream = Stream::Ended;
    }

    /// Whether no image has begun that is not complete.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether CRIU sends no more images.
    pub fn has_ended(&self) -> bool {
        self.is_idle() && !matches!(self.stream, Stream::Open(_))
    }

    /// Waits for images, for `exit` and for `gate`. None if `at_once`, and there is nothing.
    pub fn wait(&self, exit: BorrowedFd, gate: Option<BorrowedFd>, at_once: bool) -> io::Result<Option<Ready>> {
        let socket = match &self.stream {
            Stream::Awaited => Some(self.listener.as_fd()),
            Stream::Open(connection) => Some(connection.as_fd()),
            Stream::Ended => None,
        };
        let fixed = [exit].into_iter().chain(gate).chain(socket);
        let all = fixed.chain(self.open.iter().map(|image| image.pipe.as_fd()));
        let mut fds: Vec<PollFd> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, if at_once { PollTimeout::ZERO } else { PollTimeout::NONE }) {
            Err(nix::errno::Errno::EINTR) => return Ok(Some(Ready::default())),
            Ok(0) => return Ok(None),
            result => result?,
        };
        let mut flags = fds.iter().map(|fd| fd.any().unwrap_or(true));
        Ok(Some(Ready {
            exited: flags.next().unwrap_or(false),
            gate: gate.is_some() && flags.next().unwrap_or(false),
            socket: socket.is_some() && flags.next().unwrap_or(false),
            pipes: flags.enumerate().filter_map(|(index, ready)| ready.then_some(index)).collect(),
        }))
    }

    /// Takes what has come.
    pub fn take_in(&mut self, ready: &Ready, writer: &ImageWriter, meter: &Meter) -> Result<(), DumpError> {
        for index in ready.pipes.iter().rev() {
            let Some(image) = self.open.get_mut(*index) else { continue };
            if drain(image, meter)? {
                let image = self.open.swap_remove(*index);
                self.complete(image)?;
                reach(Point::CheckpointDumping);
            }
        }
        if ready.socket {
            self.hear(writer).map_err(receiving)?;
        }
        Ok(())
    }

    fn complete(&mut self, image: Open) -> Result<(), DumpError> {
        let body = match image.into {
            Into::List(bytes) => {
                self.listed.push(Listed::parse(&image.name, &bytes).map_err(receiving)?);
                return Ok(());
            }
            Into::Body(body) => body,
            Into::Copied(body, name, copy) => {
                self.copies.insert(name, copy);
                body
            }
        };
        self.done.insert(image.name, body.finish()?);
        Ok(())
    }

    fn hear(&mut self, writer: &ImageWriter) -> io::Result<()> {
        match &mut self.stream {
            Stream::Awaited => self.stream = Stream::Open(Connection::new(self.listener.accept()?.0)?),
            Stream::Open(connection) => match connection.request()? {
                Some(name) => self.open.push(begin(name, connection, writer)?),
                None => self.stream = Stream::Ended,
            },
            Stream::Ended => {}
        }
        Ok(())
    }
}

fn begin(name: String, connection: &mut Connection, writer: &ImageWriter) -> io::Result<Open> {
    let pipe = connection.pipe()?;
    fd::set_nonblocking(pipe.as_fd())?;
    if name.starts_with("pages-") || name.starts_with("runs-") || name.starts_with("ghost-file-") {
        fd::widen_pipe(pipe.as_fd(), stream::PIPE_ROOM);
    }
    let into = match COPIED.into_iter().find(|image| *image == name) {
        _ if name.starts_with("runs-") => Into::List(Vec::new()),
        Some(copied) => Into::Copied(writer.begin(), copied, Vec::new()),
        None => Into::Body(writer.begin()),
    };
    Ok(Open { name, pipe: pipe.into(), into })
}

pub(super) fn receiving(error: io::Error) -> DumpError {
    DumpError::Broken { doing: "freeze read CRIU's images", error }
}

/// Does one read(2) of a list.
fn fill(list: &mut Vec<u8>, pipe: &mut std::fs::File) -> io::Result<usize> {
    let before = list.len();
    if before > memory::LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "criu sent a list without end"));
    }
    list.resize(before + LIST_READ, 0);
    let read = pipe.read(&mut list[before..]);
    list.truncate(before + *read.as_ref().unwrap_or(&0));
    read
}

/// Reads until the pipe is empty. Returns whether it has ended.
fn drain(image: &mut Open, meter: &Meter) -> Result<bool, DumpError> {
    loop {
        let read = match &mut image.into {
            Into::Copied(body, _, copy) => body.fill_from(&mut Copying { pipe: &mut image.pipe, copy }),
            Into::Body(body) => body.fill_from(&mut image.pipe),
            Into::List(list) => fill(list, &mut image.pipe).map_err(ImageError::Source),
        };
        match read {
            Ok(0) => return Ok(true),
            Ok(read) => meter.add(read),
            Err(ImageError::Source(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(ImageError::Source(error)) if matches!(image.into, Into::List(_)) => return Err(receiving(error)),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::image::test_vault;

    /// Asks for an image, as CRIU does, and gives its pipe.
    fn ask(socket: &mut UnixStream, name: &str) -> io::PipeWriter {
        let request = [&[10, name.len() as u8], name.as_bytes()].concat();
        socket.write_all(&(request.len() as u32).to_le_bytes()).unwrap();
        socket.write_all(&request).unwrap();
        let (theirs, ours) = io::pipe().unwrap();
        fd::send(socket.as_fd(), &[theirs.as_fd()]).unwrap();
        ours
    }

    /// A receiver, and the CRIU that asks it for images.
    struct Both {
        _folder: tempfile::TempDir,
        writer: ImageWriter,
        receiver: Receiver,
        criu: UnixStream,
    }

    impl Both {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let writer = ImageWriter::new(&test_vault(folder.path()), 1 << 20, 1).unwrap();
            let receiver = Receiver::new(stream::listen(folder.path(), stream::CAPTURE_SOCKET).unwrap());
            let criu = UnixStream::connect(folder.path().join(stream::CAPTURE_SOCKET)).unwrap();
            Self { _folder: folder, writer, receiver, criu }
        }

        /// Takes in what has come. Gives the images that are complete by that.
        fn all(&mut self) -> Vec<String> {
            let (exit, _running) = io::pipe().unwrap();
            while let Some(ready) = self.receiver.wait(exit.as_fd(), None, true).unwrap() {
                self.receiver.take_in(&ready, &self.writer, &Meter::noop()).unwrap();
            }
            self.receiver.take().into_keys().collect()
        }
    }

    #[test]
    fn images_that_come_later_are_taken_later() {
        let mut both = Both::new();
        ask(&mut both.criu, "files.img").write_all(b"all of them").unwrap();
        let mut later = ask(&mut both.criu, "pages-1.img");
        assert_eq!(both.all(), ["files.img"]);
        assert_eq!(both.receiver.copy("files.img"), Some(&b"all of them"[..]));
        assert!(!both.receiver.is_idle() && !both.receiver.has_ended());
        later.write_all(&[7; 4096]).unwrap();
        drop(later);
        assert_eq!(both.all(), ["pages-1.img"]);
        assert!(both.receiver.is_idle() && !both.receiver.has_ended());
        both.criu.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(both.all(), Vec::<String>::new());
        assert!(both.receiver.has_ended());
    }

    /// CRIU would wait for a reader, with the service frozen.
    #[test]
    fn once_it_is_closed_no_pipe_has_a_reader() {
        let mut both = Both::new();
        let mut pages = ask(&mut both.criu, "pages-1.img");
        both.all();
        both.receiver.close();
        assert_eq!(pages.write(&[7]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
