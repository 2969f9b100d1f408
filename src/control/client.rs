//! Client side of the control socket: sends one request, then reads events until the last one.
//!
//! Never trusts a socket by its path: the folder's owner and the peer's credentials decide.

use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use nix::sys::socket::sockopt::{PeerCredentials, SendTimeout};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, UnixCredentials, getsockopt, setsockopt};
use nix::sys::time::TimeVal;
use nix::unistd::geteuid;

use super::{
    folder::DEFAULTS,
    lines::{self, Got, Lines},
    protocol::{Event, Op, Request, SOCKET_NAME, VERSION},
};
use crate::proc::tree;
use crate::sys::private_folder::NotOurs;

/// Interval between two attempts to connect.
const RETRY: Duration = Duration::from_millis(20);
/// Longest wait for room in a listener's backlog. Init accepts at once.
const PATIENCE: TimeVal = TimeVal::new(5, 0);

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No folder holds a socket on which a trusted init listens.
    #[error(
        "no freeze init answers in this container ({0}): start the service with `freeze run`, or give the --runtime-dir that `freeze run` has"
    )]
    NoInit(String),
    /// Init ended, or dropped this client.
    #[error("init closed the connection without an answer")]
    Closed,
    /// The caller's deadline passed.
    #[error("timed out")]
    TimedOut,
    /// Reading or writing failed.
    #[error("the connection to init broke: {0}")]
    Io(#[from] io::Error),
    /// The answer is no event of this version: init is most likely another version of freeze.
    #[error("cannot parse init's answer: {0}")]
    Answer(#[from] serde_json::Error),
}

/// Why the client asks no init in a folder.
#[derive(Debug, thiserror::Error)]
enum Unasked {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Folder(#[from] NotOurs),
    #[error("it belongs to user {folder}, but user {server} listens there")]
    Intruder { folder: u32, server: u32 },
    /// Root asks, and a process of another user listens that is not PID 1.
    #[error(
        "it belongs to user {0}, and process 1 does not listen there: if it is the right folder, name it with --runtime-dir"
    )]
    Doubtful(u32),
    /// The peer is in another container's PID namespace.
    #[error("the init there belongs to another container")]
    Elsewhere,
}

/// A connection to init.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: Lines,
    deadline: Option<Instant>,
}

impl Client {
    /// Connects in `named`, or else in the first default folder where a trusted init listens, and sends the
    /// request.
    ///
    /// # Errors
    /// [`ClientError::NoInit`] if there is none, and [`ClientError::Io`].
    pub fn ask(named: Option<&Path>, op: Op) -> Result<Client, ClientError> {
        Client::over(connect(named)?, op)
    }

    /// Sends the request. An init that has no room for this client says so and closes, without reading.
    fn over(mut stream: UnixStream, op: Op) -> Result<Client, ClientError> {
        match lines::write(&mut stream, &Request { version: VERSION, op }) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
        Ok(Client { stream, lines: Lines::default(), deadline: None })
    }

    /// Like [`ask`](Self::ask), but retries until an init listens. The deadline covers the answer too.
    ///
    /// # Errors
    /// [`ClientError::NoInit`] if there is none by the deadline, and [`ClientError::Io`].
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

    /// Init's runtime folder.
    pub fn folder(&self) -> Option<PathBuf> {
        Some(self.stream.peer_addr().ok()?.as_pathname()?.parent()?.to_owned())
    }

    /// Init's PID in this process's PID namespace; `None` if init has none there.
    pub fn peer(&self) -> Option<i32> {
        getsockopt(&self.stream, PeerCredentials).ok().map(|peer| peer.pid()).filter(|pid| *pid > 0)
    }

    /// Init's PID if init is in this process's PID namespace, so that PIDs in its events are valid here.
    pub fn init_pid(&self) -> Option<i32> {
        let peer = self.peer()?;
        (tree::numbers(peer)?.len() == 1).then_some(peer)
    }
}

fn connect(named: Option<&Path>) -> Result<UnixStream, ClientError> {
    let folders: Vec<PathBuf> =
        named.map_or_else(|| DEFAULTS.map(PathBuf::from).into(), |folder| vec![folder.to_owned()]);
    first_of(&folders, named.is_some())
}

fn first_of(folders: &[PathBuf], is_named: bool) -> Result<UnixStream, ClientError> {
    let mut reasons = Vec::new();
    for folder in folders {
        match connect_in(folder, is_named) {
            Ok(stream) => return Ok(stream),
            Err(reason) => reasons.push(format!("{}: {reason}", folder.display())),
        }
    }
    Err(ClientError::NoInit(reasons.join("; ")))
}

fn connect_in(folder: &Path, is_named: bool) -> Result<UnixStream, Unasked> {
    let (us, metadata) = (geteuid().as_raw(), fs::symlink_metadata(folder)?);
    let owner = metadata.uid();
    if !metadata.is_dir() {
        return Err(NotOurs::NotAFolder.into());
    }
    if !may_own(us, owner) {
        return Err(NotOurs::Foreign(owner).into());
    }
    let stream = connect_to(&folder.join(SOCKET_NAME))?;
    let server = getsockopt(&stream, PeerCredentials).map_err(io::Error::from)?;
    check_server(us, owner, &server, is_named)?;
    Ok(stream)
}

/// Connects within [`PATIENCE`]: a listener of another user may never accept, and then the next folder is tried.
fn connect_to(path: &Path) -> io::Result<UnixStream> {
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // connect(2) waits for room in the backlog as long as a send may wait (unix(7), socket(7)).
    setsockopt(&socket, SendTimeout, &PATIENCE)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_write_timeout(None)?;
    Ok(stream)
}

/// Whether `us` may use a folder of this owner. Any user can make a default folder and impersonate init in
/// it, so a user trusts only its own folders and root's. Root accepts any owner: init often runs as an
/// ordinary user.
fn may_own(us: u32, folder: u32) -> bool {
    us == 0 || [0, us].contains(&folder)
}

/// Checks the listener's credentials, which the kernel vouches for. PID 1 belongs to the container, so root
/// trusts it under any user. Root trusts any other process of an ordinary user only in a folder that root
/// names.
fn check_server(us: u32, folder: u32, server: &UnixCredentials, is_named: bool) -> Result<(), Unasked> {
    match (server.uid(), server.pid()) {
        // The containers of a pod may share the default folders. A process in another PID namespace has PID 0
        // here (unix(7), SO_PEERCRED).
        (_, 0) if !is_named => Err(Unasked::Elsewhere),
        (user, _) if user != folder => Err(Unasked::Intruder { folder, server: user }),
        (user, pid) if user != us && user != 0 && pid != 1 && !is_named => Err(Unasked::Doubtful(user)),
        _ => Ok(()),
    }
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
    fn an_init_that_closes_at_once_is_heard() {
        let (stream, mut init) = UnixStream::pair().unwrap();
        let full = Event::Failed { message: "16 clients are already waiting".into(), log: None, phase: None };
        lines::write(&mut init, &full).unwrap();
        drop(init);
        let mut client = Client::over(stream, Op::Status).unwrap();
        assert_eq!(client.next_event().unwrap(), full);
        assert!(matches!(client.next_event(), Err(ClientError::Closed)));
    }

    /// Only root can chown.
    #[test]
    fn as_root_a_folder_of_another_user_is_passed_over() {
        let (theirs, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let _listeners = [&theirs, &ours].map(|folder| UnixListener::bind(folder.path().join(SOCKET_NAME)).unwrap());
        std::os::unix::fs::chown(theirs.path(), Some(1000), None).unwrap();
        let folders = [&theirs, &ours].map(|folder| folder.path().to_owned());
        let error = first_of(&folders[..1], false).unwrap_err().to_string();
        assert!(error.contains("it belongs to user 1000, but user 0 listens there"), "{error}");
        assert!(first_of(&folders[..1], true).is_err());
        let found = first_of(&folders, false).unwrap().peer_addr().unwrap();
        assert_eq!(found.as_pathname(), Some(&*ours.path().join(SOCKET_NAME)));
    }

    #[test]
    fn a_listener_that_accepts_nobody_is_passed_over() {
        let (deaf, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [stuck, _listener] =
            [&deaf, &ours].map(|folder| UnixListener::bind(folder.path().join(SOCKET_NAME)).unwrap());
        socket::listen(&stuck, socket::Backlog::new(0).unwrap()).unwrap();
        // A backlog of 0 takes one.
        let _queued = UnixStream::connect(deaf.path().join(SOCKET_NAME)).unwrap();
        let folders = [&deaf, &ours].map(|folder| folder.path().to_owned());
        let found = first_of(&folders, true).unwrap().peer_addr().unwrap();
        assert_eq!(found.as_pathname(), Some(&*ours.path().join(SOCKET_NAME)));
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(folder.path().join(SOCKET_NAME)).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(connect(Some(folder.path())).is_ok());
        assert!(connect(Some(&link)).unwrap_err().to_string().contains("it is not a folder"));
    }

    #[test]
    fn who_is_believed() {
        let believed = |us, folder, server, pid, is_named| {
            let server = libc::ucred { pid, uid: server, gid: 0 };
            may_own(us, folder) && check_server(us, folder, &server.into(), is_named).is_ok()
        };
        for is_named in [false, true] {
            // A user's own init and root's are trusted under any PID.
            assert!(believed(1000, 1000, 1000, 7, is_named) && believed(1000, 0, 0, 7, is_named));
            assert!(believed(0, 0, 0, 7, is_named));
            // Root trusts PID 1 of any user, and other processes in a folder that it names.
            assert!(believed(0, 1000, 1000, 1, is_named));
            assert_eq!(believed(0, 1000, 1000, 7, is_named), is_named);
            // An init in another container is trusted only in a named folder.
            assert_eq!(believed(1000, 1000, 1000, 0, is_named), is_named);
            // An ordinary user trusts no third user.
            assert!(!believed(1000, 1001, 1001, 1, is_named));
            // A process in a folder of another owner is never trusted.
            for us in [0, 1000, 1001] {
                assert!(!believed(us, 1001, 1000, 1, is_named) && !believed(us, 1001, 0, 1, is_named));
            }
        }
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
