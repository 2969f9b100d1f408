//! The client's side of the control socket: one request, then lines until the last one.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::{
    folder::DEFAULTS,
    lines::{self, Got, Lines},
    protocol::{Event, Op, Request, SOCKET_NAME, VERSION},
};
use crate::proc::tree;

/// Time between two looks for an init that is not there yet.
const RETRY: Duration = Duration::from_millis(20);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No socket, or nobody behind it.
    #[error("there is no freeze init in this container ({0}): start the service with `freeze run`")]
    NoInit(String),
    /// Init ended, or dropped us.
    #[error("init closed the connection without an answer")]
    Closed,
    /// The deadline of whoever asked.
    #[error("the time is over")]
    TimedOut,
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
    deadline: Option<Instant>,
}

impl Client {
    /// Connects in the folder named, or else in the first of the usual ones where an init answers, and sends the request.
    ///
    /// # Errors
    /// [`ClientError::NoInit`] where there is none, and [`ClientError::Io`].
    pub fn ask(named: Option<&Path>, op: Op) -> Result<Client, ClientError> {
        let mut stream = connect(named)?;
        lines::write(&mut stream, &Request { version: VERSION, op })?;
        Ok(Client { stream, lines: Lines::default(), deadline: None })
    }

    /// The same, and waits for an init that is not there yet. The deadline holds for the answer, too.
    ///
    /// # Errors
    /// [`ClientError::NoInit`] where there is none by then, and [`ClientError::Io`].
    pub fn ask_until(named: Option<&Path>, op: Op, deadline: Option<Instant>) -> Result<Client, ClientError> {
        loop {
            match Client::ask(named, op.clone()) {
                Err(ClientError::NoInit(_)) if deadline.is_none_or(|end| Instant::now() < end) => thread::sleep(RETRY),
                result => return Ok(Client { deadline, ..result? }),
            }
        }
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// [`ClientError::Closed`], [`ClientError::TimedOut`], [`ClientError::Answer`] and [`ClientError::Io`].
    pub fn next_event(&mut self) -> Result<Event, ClientError> {
        loop {
            if let Some(event) = self.lines.next_line() {
                return Ok(event?);
            }
            if let Some(deadline) = self.deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(ClientError::TimedOut);
                }
                self.stream.set_read_timeout(Some(left))?;
            }
            if self.lines.read(&mut self.stream)? == Got::End {
                return Err(ClientError::Closed);
            }
        }
    }

    /// Init's PID as this process counts them; none where init is of another container.
    pub fn peer(&self) -> Option<i32> {
        getsockopt(&self.stream, PeerCredentials).ok().map(|peer| peer.pid()).filter(|pid| *pid > 0)
    }

    /// Init's PID, where init counts PIDs as this process does, so that those it tells mean the same here.
    pub fn init_pid(&self) -> Option<i32> {
        let peer = self.peer()?;
        (tree::numbers(peer)?.len() == 1).then_some(peer)
    }
}

fn connect(named: Option<&Path>) -> Result<UnixStream, ClientError> {
    let folders: Vec<PathBuf> =
        named.map_or_else(|| DEFAULTS.map(PathBuf::from).into(), |folder| vec![folder.to_owned()]);
    let mut reasons = Vec::new();
    for folder in folders {
        match UnixStream::connect(folder.join(SOCKET_NAME)) {
            // The containers of a pod may share these folders.
            Ok(stream) if named.is_none() && is_elsewhere(&stream) => {
                reasons.push(format!("{}: the init there is of another container", folder.display()));
            }
            Ok(stream) => return Ok(stream),
            Err(error) => reasons.push(format!("{}: {error}", folder.display())),
        }
    }
    Err(ClientError::NoInit(reasons.join("; ")))
}

/// Whether the init behind a socket is not of this PID namespace, which knows its process by no number.
fn is_elsewhere(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.pid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn an_init_that_comes_later_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join(SOCKET_NAME);
        let init = thread::spawn(move || {
            let listener = UnixListener::bind(socket).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            assert_eq!(Lines::default().read(&mut stream).unwrap(), Got::Bytes);
            lines::write(&mut stream, &Event::Reached).unwrap();
        });
        let mut client = Client::ask_until(Some(folder.path()), Op::Status, None).unwrap();
        assert_eq!(client.init_pid(), Some(std::process::id() as i32));
        assert_eq!(client.next_event().unwrap(), Event::Reached);
        assert!(matches!(client.next_event(), Err(ClientError::Closed)));
        init.join().unwrap();
    }

    #[test]
    fn the_deadline_ends_both_the_search_and_the_wait() {
        let folder = tempfile::tempdir().unwrap();
        let soon = || Some(Instant::now() + Duration::from_millis(50));
        assert!(matches!(Client::ask_until(Some(folder.path()), Op::Status, soon()), Err(ClientError::NoInit(_))));
        let _silent = UnixListener::bind(folder.path().join(SOCKET_NAME)).unwrap();
        let mut client = Client::ask_until(Some(folder.path()), Op::Status, soon()).unwrap();
        assert!(matches!(client.next_event(), Err(ClientError::TimedOut)));
    }
}
