//! The client's side of the control socket: one request, then lines until the last one.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::{
    folder::DEFAULTS,
    lines::{self, Got, Lines},
    protocol::{Event, Op, Request, SOCKET_NAME, VERSION},
};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No socket, or nobody behind it.
    #[error("there is no freeze init in this container ({0}): start the service with `freeze run`")]
    NoInit(String),
    /// Init ended, or dropped us.
    #[error("init closed the connection without an answer")]
    Closed,
    /// The connection broke.
    #[error("the connection to init broke: {0}")]
    Io(#[from] io::Error),
    /// Another version of freeze, most likely.
    #[error("init's answer is not understood: {0}")]
    Answer(#[from] serde_json::Error),
}

/// A connection to init.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: Lines,
}

impl Client {
    /// Connects in the folder named, or else in the first of the usual ones where an init answers, and sends the request.
    ///
    /// # Errors
    /// [`ClientError::NoInit`] where there is none, and [`ClientError::Io`].
    pub fn ask(named: Option<&Path>, op: Op) -> Result<Client, ClientError> {
        let folders: Vec<PathBuf> =
            named.map_or_else(|| DEFAULTS.map(PathBuf::from).into(), |folder| vec![folder.to_owned()]);
        let mut reasons = Vec::new();
        for folder in folders {
            match UnixStream::connect(folder.join(SOCKET_NAME)) {
                // The containers of a pod may share these folders.
                Ok(stream) if named.is_none() && is_elsewhere(&stream) => {
                    reasons.push(format!("{}: the init there is of another container", folder.display()));
                }
                Ok(mut stream) => {
                    lines::write(&mut stream, &Request { version: VERSION, op })?;
                    return Ok(Client { stream, lines: Lines::default() });
                }
                Err(error) => reasons.push(format!("{}: {error}", folder.display())),
            }
        }
        Err(ClientError::NoInit(reasons.join("; ")))
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// [`ClientError::Closed`], [`ClientError::Answer`] and [`ClientError::Io`].
    pub fn next_event(&mut self) -> Result<Event, ClientError> {
        loop {
            if let Some(event) = self.lines.next_line() {
                return Ok(event?);
            }
            if self.lines.read(&mut self.stream)? == Got::End {
                return Err(ClientError::Closed);
            }
        }
    }
}

/// Whether the init behind a socket is not of this PID namespace, which knows its process by no number.
fn is_elsewhere(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.pid() == 0)
}
