//! CRIU's stream protocol (`--stream`): criu asks for image files over one unix socket, and each file flows
//! through a pipe of its own.
//!
//! A message is a 32-bit little-endian length, then protobuf: a request `{1: filename}`, and at a restore a
//! reply `{1: exists}`. A pipe comes as SCM_RIGHTS with one byte (criu/img-streamer.c,
//! images/img-streamer.proto). Only the end of the socket says "done", and errors show only as broken pipes.
//! Never trusts a length or name that comes in.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use prost::Message;

use crate::sys::fd;

/// Sockets in the work folder that criu connects to, for a dump and for a restore.
pub const CAPTURE_SOCKET: &str = "streamer-capture.sock";
pub const SERVE_SOCKET: &str = "streamer-serve.sock";

/// Size of the pipes of large images, in bytes: the most that pipe(7) allows without privileges.
pub const PIPE_ROOM: i32 = 1 << 20;

/// Longest accepted request, in bytes: image names are short.
const MAX_REQUEST: usize = 512;

#[derive(Clone, PartialEq, Message)]
struct RequestEntry {
    #[prost(string, required, tag = "1")]
    filename: String,
}

#[derive(Clone, PartialEq, Message)]
struct ReplyEntry {
    #[prost(bool, required, tag = "1")]
    exists: bool,
}

pub fn listen(work: &Path, name: &str) -> io::Result<UnixListener> {
    UnixListener::bind(work.join(name))
}

/// Time limit for the rest of a message that has begun: only a killed criu leaves one incomplete.
const PATIENCE: Duration = Duration::from_secs(20);

/// The blocking connection to criu.
#[derive(Debug)]
pub struct Connection(UnixStream);

impl Connection {
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// Name of the next image that criu asks for; none once criu is done.
    pub fn request(&mut self) -> io::Result<Option<String>> {
        let mut length = [0; 4];
        if self.0.read(&mut length[..1])? == 0 {
            return Ok(None);
        }
        self.0.read_exact(&mut length[1..])?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_REQUEST {
            return Err(invalid(format!("a request of {length} bytes")));
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        let name = RequestEntry::decode(body.as_slice()).map_err(|error| invalid(error.to_string()))?.filename;
        if name.is_empty() || name.contains('/') {
            return Err(invalid(format!("an image named {name:?}")));
        }
        Ok(Some(name))
    }

    pub fn reply(&mut self, exists: bool) -> io::Result<()> {
        let body = ReplyEntry { exists }.encode_to_vec();
        let mut message = (body.len() as u32).to_le_bytes().to_vec();
        message.extend(body);
        self.0.write_all(&message)
    }

    /// The pipe that follows a request (dump) or a reply that the image exists (restore).
    pub fn pipe(&mut self) -> io::Result<OwnedFd> {
        fd::receive(&self.0)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("criu sent {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixStream, Connection) {
        let (criu, ours) = UnixStream::pair().unwrap();
        (criu, Connection::new(ours).unwrap())
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_le_bytes(), body].concat()
    }

    #[test]
    fn a_request_and_its_reply() {
        let (mut criu, mut ours) = pair();
        criu.write_all(&framed(&RequestEntry { filename: "core-7.img".into() }.encode_to_vec())).unwrap();
        assert_eq!(ours.request().unwrap().as_deref(), Some("core-7.img"));
        ours.reply(true).unwrap();
        let mut answer = [0; 6];
        criu.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [2, 0, 0, 0, 8, 1]);
    }

    #[test]
    fn the_end_of_the_socket_is_the_end() {
        let (criu, mut ours) = pair();
        drop(criu);
        assert_eq!(ours.request().unwrap(), None);
    }

    #[test]
    fn absurd_requests_are_refused() {
        for bytes in
            [vec![0xff; 4], framed(&RequestEntry { filename: "a/b".into() }.encode_to_vec()), framed(b"\xff\xff")]
        {
            let (mut criu, mut ours) = pair();
            criu.write_all(&bytes).unwrap();
            assert_eq!(ours.request().unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_byte_without_a_pipe_is_an_error() {
        let (mut criu, mut ours) = pair();
        criu.write_all(b"x").unwrap();
        assert_eq!(ours.pipe().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
