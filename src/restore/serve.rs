//! Serves images to `criu restore` until it holds all processes: many at once, each at the pace of the process that reads it, from a bounded window.
//!
//! Every restored process reads its own pages, and one that waits for others in the middle must not hold them up. So this
//! is one poll loop over all pipes; no thread starts here, as without privileges every PID that anyone takes spoils the restore.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Child;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::criu::stream::{Connection, PIPE_ROOM};
use crate::image::{Body, Fetcher, Front, ImageError, StreamId};
use crate::sys::fd;

use super::meter::Meter;

/// Why serving broke off.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The connection to CRIU.
    #[error(
        "the connection to CRIU broke ({0}); start a new container, and look at its memory limit if it happens again"
    )]
    Broken(#[from] io::Error),
    /// The store, or what is in it.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// The socket over which CRIU asks for images.
enum Socket<'a> {
    Listening(&'a UnixListener),
    Connected(Connection),
    /// CRIU has closed it: no more images, but those that are open flow on.
    Closed,
}

/// One image that CRIU is reading.
struct Open {
    pipe: File,
    stream: StreamId,
    /// The pipe is full.
    full: bool,
    /// CRIU has closed its end, having seen enough.
    closed: bool,
}

/// What CRIU writes to the hold socket when all processes are there and none has run.
const RESTORED: u8 = b'R';

/// What serving came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// CRIU holds all processes.
    Held,
    /// CRIU gave up.
    Ended,
}

/// Serves until CRIU says at `hold` that it holds all processes, or ends.
pub fn serve(
    child: &mut Child,
    mut hold: &UnixStream,
    listener: &UnixListener,
    images: &BTreeMap<&str, &Body>,
    fetcher: &mut Fetcher,
    meter: &mut Meter,
) -> Result<Served, ServeError> {
    let exit = fd::child_exit(child)?;
    let mut socket = Socket::Listening(listener);
    let mut open: Vec<Open> = Vec::new();
    loop {
        fetcher.receive()?;
        let mut index = 0;
        while let Some(image) = open.get_mut(index) {
            if feed(image, fetcher, meter)? {
                fetcher.close(open.swap_remove(index).stream);
            } else {
                index += 1;
            }
        }
        let ready = wait([exit.as_fd(), hold.as_fd(), fetcher.wake_fd()], &socket, &mut open)?;
        if ready.socket {
            socket = talk(socket, images, fetcher, &mut open)?;
        } else if ready.hold && is_held(&mut hold)? {
            return Ok(Served::Held);
        } else if ready.exited {
            child.wait()?;
            return Ok(Served::Ended);
        }
    }
}

/// Whether the byte that came says so. The end of the socket is that of CRIU, or soon will be.
fn is_held(hold: &mut &UnixStream) -> Result<bool, ServeError> {
    let mut byte = [0];
    match hold.read(&mut byte) {
        Ok(1) => Ok(byte[0] == RESTORED),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error.into()),
        _ => Ok(false),
    }
}

/// Takes CRIU's connection, or its next request.
fn talk<'a>(
    socket: Socket<'a>,
    images: &BTreeMap<&str, &Body>,
    fetcher: &mut Fetcher,
    open: &mut Vec<Open>,
) -> Result<Socket<'a>, ServeError> {
    let mut connection = match socket {
        Socket::Listening(listener) => return Ok(Socket::Connected(Connection::new(listener.accept()?.0)?)),
        Socket::Connected(connection) => connection,
        Socket::Closed => return Ok(Socket::Closed),
    };
    // A criu that failed is said to have failed by its exit status and its log.
    let name = match connection.request() {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
        result => result?,
    };
    let Some(name) = name else { return Ok(Socket::Closed) };
    let image = images.get(name.as_str());
    connection.reply(image.is_some())?;
    if let Some(body) = image {
        let pipe = connection.pipe()?;
        fd::set_nonblocking(pipe.as_fd())?;
        fd::widen_pipe(pipe.as_fd(), PIPE_ROOM);
        open.push(Open { pipe: pipe.into(), stream: fetcher.open(body), full: false, closed: false });
    }
    Ok(Socket::Connected(connection))
}

/// Writes what is there and fits; says whether the image is done.
fn feed(image: &mut Open, fetcher: &mut Fetcher, meter: &mut Meter) -> Result<bool, ServeError> {
    while !image.full && !image.closed {
        let written = match fetcher.front(image.stream)? {
            Front::End => return Ok(true),
            Front::Pending => return Ok(false),
            Front::Data(data) => image.pipe.write(data),
        };
        match written {
            Ok(bytes) => {
                fetcher.consume(image.stream, bytes);
                meter.add(bytes as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => image.full = true,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => image.closed = true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(image.closed)
}

/// What poll(2) found.
struct Ready {
    exited: bool,
    hold: bool,
    socket: bool,
}

/// Waits for CRIU's end, for its word at the hold socket, for newly decoded data, for a request, or for room in a pipe that was full.
fn wait(always: [BorrowedFd; 3], socket: &Socket, open: &mut [Open]) -> io::Result<Ready> {
    let mut fds = always.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).to_vec();
    match socket {
        Socket::Listening(listener) => fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN)),
        Socket::Connected(connection) => fds.push(PollFd::new(connection.as_fd(), PollFlags::POLLIN)),
        Socket::Closed => {}
    }
    let fixed = fds.len();
    // One that is not full waits for data; of it only the reader's end is worth knowing, which poll reports unasked.
    fds.extend(open.iter().map(|image| {
        PollFd::new(image.pipe.as_fd(), if image.full { PollFlags::POLLOUT } else { PollFlags::empty() })
    }));
    match poll(&mut fds, PollTimeout::NONE) {
        Err(nix::errno::Errno::EINTR) | Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let found: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::POLLERR)).collect();
    for (image, found) in open.iter_mut().zip(found.iter().skip(fixed)) {
        image.closed = found.contains(PollFlags::POLLERR);
        image.full &= found.is_empty();
    }
    let ready = |index: usize| found.get(index).is_some_and(|flags| !flags.is_empty());
    Ok(Ready { exited: ready(0), hold: ready(1), socket: fixed > always.len() && ready(always.len()) })
}
