//! `criu dump`, fed into an [`ImageWriter`] while it runs, and held at its end until we know what becomes of the service.
//!
//! CRIU waits on the hold socket with all tasks frozen. If this worker dies, the socket closes and CRIU lets the tasks run
//! on; so whatever fails before [`Dump::release`], the service survives.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::meter::Meter;
use crate::criu::command::{self, Criu, NotStarted};
use crate::criu::{log, stream};
use crate::fail_points::{Point, reach};
use crate::host::clock::Time;
use crate::host::stdio;
use crate::image::{BodyId, BodyWriter, ImageError, ImageWriter};
use crate::sys::fd;

/// What CRIU writes to the hold socket when the dump is complete and all tasks stand still.
const DUMPED: u8 = b'D';

/// How many milliseconds CRIU may take to let the tasks run on; after that it is killed (which lets them run as well).
const LET_GO: u16 = 20_000;

/// Why a dump failed.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// No criu.
    #[error(transparent)]
    NotStarted(#[from] NotStarted),
    /// CRIU gave up; its own words, explained.
    #[error("the service could not be dumped: {0}")]
    Refused(String),
    /// Something between us and CRIU.
    #[error("the dump broke off while {doing} ({error}); try again, and look at the memory limit if it happens again")]
    Broken {
        /// The step.
        doing: &'static str,
        /// The system's word for it.
        error: io::Error,
    },
    /// The image could not be written.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// What becomes of the frozen service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It ends: the checkpoint is committed.
    Kill,
    /// It runs on.
    Run,
}

/// A dump under way.
#[derive(Debug)]
pub struct Dump {
    child: Child,
    /// Readable once CRIU has ended. The hold socket's end does not tell that: a child of a CRIU that was killed may have that open still.
    exit: OwnedFd,
    hold: Option<UnixStream>,
    listener: UnixListener,
    log: PathBuf,
    /// Since when the service may stand still.
    since: Instant,
    released: Option<Instant>,
}

/// One image file that is still open.
struct Open {
    name: String,
    pipe: std::fs::File,
    body: BodyWriter,
}

impl Dump {
    /// Starts this CRIU on the tree below `root`, which watches the files `watched`, with its sockets and its log in the folder `work`.
    pub fn start(criu: Criu, root: i32, work: &Path, watched: &[PathBuf]) -> Result<Self, DumpError> {
        let broken = |error| DumpError::Broken { doing: "preparing it", error };
        let listener = stream::listen(work, stream::CAPTURE_SOCKET).map_err(broken)?;
        let (hold, theirs) = UnixStream::pair().map_err(broken)?;
        hold.set_nonblocking(true).map_err(broken)?;
        let outside: Vec<String> = stdio::outside().into_iter().map(|file| file.key).collect();
        let args = command::dump(root, work, command::number(theirs.as_fd()), watched, &outside);
        let time = Time::of(root).map_err(broken)?;
        let watch = fd::ExitWatch::prepare().map_err(broken)?;
        let since = Instant::now();
        let mut child = command::spawn(criu, &args, &[theirs.as_fd()], |command| time.apply(command))?;
        let exit = watch.of(&child).map_err(|error| {
            let _ = child.kill();
            broken(error)
        })?;
        Ok(Self { child, exit, hold: Some(hold), listener, log: work.join(command::DUMP_LOG), since, released: None })
    }

    /// Takes in every image until the dump is complete and the service stands still.
    ///
    /// CRIU writes some images twice, such as the memory of a memfd that is open as well as mapped; the later one counts, as it
    /// would as a file.
    pub fn collect(&mut self, writer: &ImageWriter, meter: &Meter) -> Result<BTreeMap<String, BodyId>, DumpError> {
        match self.take_in(writer, meter) {
            // What breaks when CRIU ends is only how that shows.
            Err(DumpError::Broken { doing, error }) => {
                Err(self.refusal_at_end().unwrap_or(DumpError::Broken { doing, error }))
            }
            result => result,
        }
    }

    fn take_in(&mut self, writer: &ImageWriter, meter: &Meter) -> Result<BTreeMap<String, BodyId>, DumpError> {
        let broken = |error| DumpError::Broken { doing: "taking in images", error };
        let mut criu: Option<stream::Connection> = None;
        let mut connected = false;
        let mut open: Vec<Open> = Vec::new();
        let mut done = BTreeMap::new();
        let mut held = false;
        while !held || criu.is_some() || !open.is_empty() {
            let socket = criu.as_ref().map_or(self.listener.as_fd(), AsFd::as_fd);
            let socket = (!connected || criu.is_some()).then_some(socket);
            let ready = wait(self.exit.as_fd(), self.hold.as_ref().filter(|_| !held), socket, &open).map_err(broken)?;
            for index in ready.pipes.into_iter().rev() {
                let Some(image) = open.get_mut(index) else { continue };
                if drain(image, meter)? {
                    let image = open.swap_remove(index);
                    done.insert(image.name, image.body.finish()?);
                    reach(Point::CheckpointDumping);
                }
            }
            if ready.socket {
                match &mut criu {
                    None => {
                        criu =
                            Some(stream::Connection::new(self.listener.accept().map_err(broken)?.0).map_err(broken)?);
                        connected = true;
                    }
                    Some(connection) => match connection.request().map_err(broken)? {
                        Some(name) => open.push(begin(name, connection, writer).map_err(broken)?),
                        None => criu = None,
                    },
                }
            }
            if ready.hold {
                held = self.is_held()?;
            }
            if ready.exited {
                return Err(self.refused());
            }
        }
        Ok(done)
    }

    /// Whether CRIU has held the tasks up to now: one that is killed lets them run.
    pub fn check(&mut self) -> Result<(), DumpError> {
        let open = |mut hold: &UnixStream| match hold.read(&mut [0]) {
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            Ok(_) => false,
        };
        // The socket closes before the tasks are let go, and a child of a CRIU that was killed may have it open still.
        if self.hold.as_ref().is_some_and(open) && matches!(self.child.try_wait(), Ok(None)) {
            Ok(())
        } else {
            Err(self.refused())
        }
    }

    /// How long the service may have stood still: until now, or until it was released.
    pub fn frozen(&self) -> Duration {
        self.released.unwrap_or_else(Instant::now) - self.since
    }

    /// Lets CRIU go on, which ends the service or lets it run, and waits until that is done.
    pub fn release(&mut self, verdict: Verdict) -> Result<(), DumpError> {
        let byte = match verdict {
            Verdict::Kill => b'k',
            Verdict::Run => b'r',
        };
        let broken = |error| DumpError::Broken { doing: "letting the service go", error };
        if let Some(mut hold) = self.hold.take() {
            hold.write_all(&[byte]).map_err(broken)?;
        }
        let status =
            wait_for(&mut self.child, self.exit.as_fd()).ok_or_else(|| broken(io::ErrorKind::TimedOut.into()))?;
        self.released = Some(Instant::now());
        if status.success() { Ok(()) } else { Err(self.refused()) }
    }

    /// One whose CRIU has failed, for tests.
    #[cfg(test)]
    pub fn that_died(work: &Path) -> Self {
        let (listener, child) =
            (stream::listen(work, stream::CAPTURE_SOCKET), std::process::Command::new("false").spawn());
        let (listener, child, log) = (listener.unwrap(), child.unwrap(), work.join(command::DUMP_LOG));
        let exit = fd::ExitWatch::prepare().and_then(|watch| watch.of(&child)).unwrap();
        Self { child, exit, hold: None, listener, log, since: Instant::now(), released: None }
    }

    /// Whether the byte that came says "complete"; the end of the socket means that CRIU gave up.
    fn is_held(&mut self) -> Result<bool, DumpError> {
        let mut byte = [0];
        let Some(hold) = &mut self.hold else { return Ok(false) };
        match hold.read(&mut byte) {
            Ok(1) if byte[0] == DUMPED => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            _ => {
                let _ = self.child.wait();
                Err(self.refused())
            }
        }
    }

    /// Ends CRIU, unless it has ended, and gives its reason if it had one to fail.
    fn refusal_at_end(&mut self) -> Option<DumpError> {
        drop(self.hold.take());
        let status = wait_for(&mut self.child, self.exit.as_fd())?;
        (!status.success()).then(|| self.refused())
    }

    fn refused(&self) -> DumpError {
        DumpError::Refused(log::cause(&self.log))
    }
}

impl Drop for Dump {
    /// Whatever went wrong: closing the socket lets the service run on. Its caller may then say so, hence the wait.
    fn drop(&mut self) {
        drop(self.hold.take());
        wait_for(&mut self.child, self.exit.as_fd());
    }
}

/// Waits for a CRIU that was told to let the tasks go; kills it when that takes too long, which lets them go as well.
fn wait_for(child: &mut Child, exit: BorrowedFd) -> Option<ExitStatus> {
    let mut fds = [PollFd::new(exit, PollFlags::POLLIN)];
    if !poll(&mut fds, LET_GO).is_ok_and(|ready| ready > 0) {
        let _ = child.kill();
    }
    child.wait().ok()
}

/// What poll(2) found.
#[derive(Default)]
struct Ready {
    exited: bool,
    hold: bool,
    socket: bool,
    /// Indexes, ascending.
    pipes: Vec<usize>,
}

fn wait(exit: BorrowedFd, hold: Option<&UnixStream>, socket: Option<BorrowedFd>, open: &[Open]) -> io::Result<Ready> {
    let fixed = [exit].into_iter().chain(hold.map(AsFd::as_fd)).chain(socket);
    let mut fds: Vec<PollFd> =
        fixed.chain(open.iter().map(|image| image.pipe.as_fd())).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    match poll(&mut fds, PollTimeout::NONE) {
        Err(nix::errno::Errno::EINTR) => return Ok(Ready::default()),
        result => result?,
    };
    let mut flags = fds.iter().map(|fd| fd.any().unwrap_or(true));
    Ok(Ready {
        exited: flags.next().unwrap_or(false),
        hold: hold.is_some() && flags.next().unwrap_or(false),
        socket: socket.is_some() && flags.next().unwrap_or(false),
        pipes: flags.enumerate().filter_map(|(index, ready)| ready.then_some(index)).collect(),
    })
}

fn begin(name: String, connection: &mut stream::Connection, writer: &ImageWriter) -> io::Result<Open> {
    let pipe = connection.pipe()?;
    fd::set_nonblocking(pipe.as_fd())?;
    if name.starts_with("pages-") || name.starts_with("ghost-file-") {
        fd::widen_pipe(pipe.as_fd(), stream::PIPE_ROOM);
    }
    Ok(Open { name, pipe: pipe.into(), body: writer.begin() })
}

/// Reads until the pipe is empty; says whether it has ended.
fn drain(image: &mut Open, meter: &Meter) -> Result<bool, DumpError> {
    loop {
        match image.body.fill_from(&mut image.pipe) {
            Ok(0) => return Ok(true),
            Ok(read) => meter.add(read),
            Err(ImageError::Source(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}
