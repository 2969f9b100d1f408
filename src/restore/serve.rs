//! Serves CRIU images to `criu restore` until all processes are at the gate: many images at once, each at its
//! reader's pace, in bounded memory.
//!
//! Every restored process reads its own pages, and one that waits for others must not block them. So one poll
//! loop serves all pipes. No thread starts here: without privileges every PID that is taken spoils the
//! restore.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::criu::running::Running;
use crate::criu::stream::{Connection, PIPE_ROOM};
use crate::image::{Body, Fetcher, Front, ImageError, StreamId};
use crate::sys::fd;

use super::meter::Meter;

/// Why serving failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(
        "the connection to CRIU broke ({0}); start a new container, and check its memory limit if it happens again"
    )]
    Broken(#[from] io::Error),
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// The socket over which CRIU requests images.
enum Socket<'a> {
    Listening(&'a UnixListener),
    Connected(Connection),
    /// Closed by CRIU: no more images, but open ones continue.
    Closed,
}

/// One image that CRIU is reading.
struct Open {
    pipe: File,
    stream: StreamId,
    full: bool,
    /// The reader has closed its end, having seen enough.
    closed: bool,
}

/// CRIU writes this to the gate when all processes exist and none has run.
const RESTORED: u8 = b'R';

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// CRIU holds all processes at the gate.
    AtGate,
    /// CRIU has ended.
    Ended,
}

/// Serves until CRIU says at the gate, `gate`, that all processes exist, or ends.
pub fn serve(
    criu: &mut Running,
    gate: &UnixStream,
    listener: &UnixListener,
    images: &BTreeMap<&str, &Body>,
    fetcher: &mut Fetcher,
    meter: &mut Meter,
) -> Result<Served, ServeError> {
    let mut socket = Socket::Listening(listener);
    let mut open: Vec<Open> = Vec::new();
    let mut gate = Some(gate);
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
        let ready = wait([criu.exit(), fetcher.wake_fd()], gate, &socket, &mut open)?;
        if ready.socket {
            socket = talk(socket, images, fetcher, &mut open)?;
        } else if ready.gate && is_at_gate(&mut gate)? {
            return Ok(Served::AtGate);
        } else if ready.exited {
            criu.wait();
            return Ok(Served::Ended);
        }
    }
}

/// Reads a byte from the gate, and returns whether it is [`RESTORED`]. Drops a gate that CRIU has closed:
/// then only CRIU's exit tells the result.
fn is_at_gate(gate: &mut Option<&UnixStream>) -> Result<bool, ServeError> {
    let Some(mut socket) = *gate else { return Ok(false) };
    let mut byte = [0];
    match socket.read(&mut byte) {
        Ok(0) => *gate = None,
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
        _ => {}
    }
    Ok(byte[0] == RESTORED)
}

/// Accepts CRIU's connection, or its next request.
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
    // If criu has failed, its exit status and its log say so.
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

/// Writes what is available and fits. Returns whether the image is done.
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
    gate: bool,
    socket: bool,
}

/// Waits for CRIU's end, a byte at the gate, decoded data, a request, or room in a full pipe.
fn wait(always: [BorrowedFd; 2], gate: Option<&UnixStream>, socket: &Socket, open: &mut [Open]) -> io::Result<Ready> {
    let mut fds = always.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).to_vec();
    let socket = match socket {
        Socket::Listening(listener) => Some(listener.as_fd()),
        Socket::Connected(connection) => Some(connection.as_fd()),
        Socket::Closed => None,
    };
    let [gate, socket] = [gate.map(AsFd::as_fd), socket].map(|fd| {
        fd.map(|fd| {
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
            fds.len() - 1
        })
    });
    let fixed = fds.len();
    // A pipe that is not full waits for data. poll reports the end of its reader unasked.
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
    let ready = |index: Option<usize>| index.and_then(|index| found.get(index)).is_some_and(|flags| !flags.is_empty());
    Ok(Ready { exited: ready(Some(0)), gate: ready(gate), socket: ready(socket) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_says_that_all_is_held_and_a_closed_socket_is_not_asked_again() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut gate = Some(&ours);
        assert!(!is_at_gate(&mut gate).unwrap());
        theirs.write_all(b"xR").unwrap();
        assert!(!is_at_gate(&mut gate).unwrap());
        assert!(is_at_gate(&mut gate).unwrap());
        drop(theirs);
        assert!(!is_at_gate(&mut gate).unwrap());
        assert!(gate.is_none());
    }
}
