//! Serves images to `criu restore`: many at once, each at the pace of the process that reads it, from a bounded window.
//!
//! Every restored process reads its own pages, and one that waits for others in the middle must not hold them up. So this
//! is one poll loop over all pipes; no thread starts here, as without privileges every PID that anyone takes spoils the restore.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::process::{Child, ExitStatus};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::criu::stream::{Connection, PIPE_ROOM};
use crate::image::{Body, Fetcher, Front, ImageError, StreamId};
use crate::sys::fd;

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

/// Serves until CRIU is done, and returns how it ended.
pub fn serve(
    child: &mut Child,
    listener: &UnixListener,
    images: &BTreeMap<&str, &Body>,
    fetcher: &mut Fetcher,
) -> Result<ExitStatus, ServeError> {
    let exit = fd::child_exit(child)?;
    let mut socket = Socket::Listening(listener);
    let mut open: Vec<Open> = Vec::new();
    loop {
        fetcher.receive()?;
        let mut index = 0;
        while let Some(image) = open.get_mut(index) {
            if feed(image, fetcher)? {
                fetcher.close(open.swap_remove(index).stream);
            } else {
                index += 1;
            }
        }
        let ready = wait(exit.as_fd(), &socket, fetcher.wake_fd(), &mut open)?;
        if ready.socket {
            socket = talk(socket, images, fetcher, &mut open)?;
        } else if ready.exited {
            return Ok(child.wait()?);
        }
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
fn feed(image: &mut Open, fetcher: &mut Fetcher) -> Result<bool, ServeError> {
    while !image.full && !image.closed {
        let written = match fetcher.front(image.stream)? {
            Front::End => return Ok(true),
            Front::Pending => return Ok(false),
            Front::Data(data) => image.pipe.write(data),
        };
        match written {
            Ok(bytes) => fetcher.consume(image.stream, bytes),
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
    socket: bool,
}

/// Waits for CRIU, for room in a pipe that was full, or for newly decoded data (`wake`).
fn wait(exit: BorrowedFd, socket: &Socket, wake: BorrowedFd, open: &mut [Open]) -> io::Result<Ready> {
    let mut fds = vec![PollFd::new(exit, PollFlags::POLLIN), PollFd::new(wake, PollFlags::POLLIN)];
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
    Ok(Ready { exited: ready(0), socket: fixed > 2 && ready(2) })
}
