//! `criu dump`: feeds an [`ImageWriter`] while it runs, and waits at the gate until the service's after_commit is
//! decided.
//!
//! CRIU waits at the gate with all tasks frozen. If this worker dies, the kernel closes the gate and CRIU
//! lets the tasks run on. So the service survives every failure before [`Dump::release`].

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::meter::Meter;
use super::room::Victim;
use crate::criu::clocks;
use crate::criu::command::{self, Criu, NotStarted, SystemV};
use crate::criu::log::{self, Cause};
use crate::criu::named::{self, Named};
use crate::criu::running::{Place, Running, Start};
use crate::criu::stream;
use crate::fail_points::{Point, reach};
use crate::host::clock::Time;
use crate::host::oom::OomKills;
use crate::host::stdio;
use crate::image::{BodyId, BodyWriter, Clocks, ImageError, ImageWriter};
use crate::sys::fd;

/// CRIU's byte at the gate: the dump is complete and all tasks stand still.
const DUMPED: u8 = b'D';

/// Images that are looked at while they pass.
const COPIED: [&str; 3] = [named::IMAGES[0], named::IMAGES[1], clocks::IMAGE];

/// Time in which CRIU must release the tasks. Then it is killed, which releases them too.
const LET_GO: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error(transparent)]
    NotStarted(#[from] NotStarted),
    #[error("the service could not be dumped: {0}")]
    Refused(Cause),
    #[error(
        "the container's memory was nearly used up during the checkpoint, so freeze gave it up; raise the memory limit, or try again when the service uses less"
    )]
    ShortOfMemory,
    #[error(
        "the dump failed while {doing} ({error}); try again, and check the container's memory limit if it fails again"
    )]
    Broken { doing: &'static str, error: io::Error },
    #[error(
        "CRIU's list of the service's files cannot be read, so freeze cannot tell whether all of them are captured; try again, and report it if it fails again"
    )]
    Unknown,
    #[error("CRIU's image of the clocks cannot be read; try again, and report it if it fails again")]
    UnknownClocks,
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// What becomes of the frozen service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It ends, since the checkpoint is committed.
    Kill,
    Run,
}

/// A dump under way.
#[derive(Debug)]
pub struct Dump {
    /// The gate's end does not prove that it has ended: a child of a killed CRIU may keep the gate open.
    criu: Running,
    /// Who has this CRIU killed if memory is short.
    victim: Victim,
    gate: Option<UnixStream>,
    listener: UnixListener,
    log: PathBuf,
    /// Before CRIU was there.
    oom_kills: OomKills,
    /// Start of the time in which the service may stand still.
    since: Instant,
    released: Option<Instant>,
    /// The images of [`COPIED`].
    copies: BTreeMap<&'static str, Vec<u8>>,
}

/// A CRIU image that is being received.
struct Open {
    name: String,
    pipe: std::fs::File,
    body: BodyWriter,
    /// What came, if it is one of [`COPIED`].
    copy: Option<(&'static str, Vec<u8>)>,
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

impl Dump {
    /// Starts `criu` on the tree below `root`, with its sockets and log in the folder `work`. `watched` are
    /// the files under inotify watches.
    pub fn start(
        criu: Criu,
        place: Place,
        root: i32,
        work: &Path,
        watched: &[PathBuf],
        objects: Option<&SystemV>,
        victim: Victim,
    ) -> Result<Self, DumpError> {
        let broken = |error| DumpError::Broken { doing: "freeze prepared it", error };
        let listener = stream::listen(work, stream::CAPTURE_SOCKET).map_err(broken)?;
        let (gate, theirs) = UnixStream::pair().map_err(broken)?;
        gate.set_nonblocking(true).map_err(broken)?;
        let mut start = Start::prepare(place).map_err(broken)?;
        let number = start.keep(theirs.as_fd()).map_err(broken)?;
        drop(theirs);
        let args = command::dump(root, work, number, watched, &stdio::external(), objects);
        let time = Time::of(root).map_err(broken)?;
        let (since, oom_kills) = (Instant::now(), OomKills::now());
        let criu = start.start(criu, args, time.space())?;
        let mut dump = Self::of(work, criu, listener);
        dump.gate = Some(gate);
        victim.is(dump.criu.killer().map_err(broken)?);
        dump.victim = victim;
        // Of before CRIU was there.
        (dump.since, dump.oom_kills) = (since, oom_kills);
        Ok(dump)
    }

    fn of(work: &Path, criu: Running, listener: UnixListener) -> Self {
        Self {
            criu,
            victim: Victim::default(),
            gate: None,
            listener,
            log: work.join(command::DUMP_LOG),
            oom_kills: OomKills::now(),
            since: Instant::now(),
            released: None,
            copies: BTreeMap::new(),
        }
    }

    /// Receives all CRIU images until the dump is complete and the service stands still.
    ///
    /// CRIU writes some images twice, such as a memfd that is both open and mapped. The later one counts, as
    /// it would with files.
    pub fn collect(&mut self, writer: &ImageWriter, meter: &Meter) -> Result<BTreeMap<String, BodyId>, DumpError> {
        match self.take_in(writer, meter) {
            // If CRIU has failed, its own reason explains the broken pipe or socket.
            Err(DumpError::Broken { doing, error }) => {
                Err(self.refusal_at_end().unwrap_or(DumpError::Broken { doing, error }))
            }
            result => result,
        }
    }

    fn take_in(&mut self, writer: &ImageWriter, meter: &Meter) -> Result<BTreeMap<String, BodyId>, DumpError> {
        let broken = |error| DumpError::Broken { doing: "freeze read CRIU's images", error };
        let mut criu: Option<stream::Connection> = None;
        let mut connected = false;
        let mut open: Vec<Open> = Vec::new();
        let mut done = BTreeMap::new();
        let mut at_gate = false;
        while !at_gate || criu.is_some() || !open.is_empty() {
            let socket = criu.as_ref().map_or(self.listener.as_fd(), AsFd::as_fd);
            let socket = (!connected || criu.is_some()).then_some(socket);
            let ready =
                wait(self.criu.exit(), self.gate.as_ref().filter(|_| !at_gate), socket, &open).map_err(broken)?;
            for index in ready.pipes.into_iter().rev() {
                let Some(image) = open.get_mut(index) else { continue };
                if drain(image, meter)? {
                    let image = open.swap_remove(index);
                    self.copies.extend(image.copy);
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
            if ready.gate {
                at_gate = self.is_at_gate()?;
            }
            if ready.exited {
                return Err(self.refused());
            }
        }
        Ok(done)
    }

    /// Whether CRIU still holds the tasks. A killed CRIU lets them run.
    pub fn check(&mut self) -> Result<(), DumpError> {
        self.victim.spare();
        let open = |mut gate: &UnixStream| match gate.read(&mut [0]) {
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            Ok(_) => false,
        };
        // The gate closes before a killed CRIU's tasks run, but a child of CRIU may keep it open: check both.
        if self.gate.as_ref().is_some_and(open) && !self.criu.has_ended() { Ok(()) } else { Err(self.refused()) }
    }

    /// What the images name and do not carry.
    pub fn named(&self) -> Result<Named, DumpError> {
        named::named(&self.copies).map_err(|_| DumpError::Unknown)
    }

    /// The clocks that the process `root` sees, if they are `kernel` by the kernel.
    pub fn clocks(&self, root: i32, kernel: Clocks) -> Result<Clocks, DumpError> {
        let image = self.copies.get(clocks::IMAGE).map(Vec::as_slice);
        clocks::seen_by(root, image, kernel).map_err(|_| DumpError::UnknownClocks)
    }

    /// The image of all open files.
    pub fn files(&self) -> &[u8] {
        self.copies.get(named::IMAGES[0]).map_or(&[], Vec::as_slice)
    }

    /// How long the service may have stood still: until its release, or until now.
    pub fn frozen(&self) -> Duration {
        self.released.unwrap_or_else(Instant::now) - self.since
    }

    /// Makes CRIU end or release the tasks, and waits until that is done.
    pub fn release(&mut self, verdict: Verdict) -> Result<(), DumpError> {
        let byte = match verdict {
            Verdict::Kill => b'k',
            Verdict::Run => b'r',
        };
        let short = self.victim.spare();
        let broken = |error| match short {
            true => DumpError::ShortOfMemory,
            false => DumpError::Broken { doing: "CRIU released the service", error },
        };
        if let Some(mut gate) = self.gate.take() {
            gate.write_all(&[byte]).map_err(broken)?;
        }
        let success = wait_for(&mut self.criu);
        self.released = Some(Instant::now());
        if success { Ok(()) } else { Err(self.refused()) }
    }

    /// A dump whose CRIU has failed.
    #[cfg(test)]
    pub fn that_died(work: &Path) -> Self {
        let (listener, child) =
            (stream::listen(work, stream::CAPTURE_SOCKET), std::process::Command::new("false").spawn());
        let (listener, child) = (listener.unwrap(), child.unwrap());
        Self::of(work, Running::of(child), listener)
    }

    /// Whether CRIU says that the dump is complete. The end of the gate means that CRIU gave up.
    fn is_at_gate(&mut self) -> Result<bool, DumpError> {
        let mut byte = [0];
        let Some(gate) = &mut self.gate else { return Ok(false) };
        match gate.read(&mut byte) {
            Ok(1) if byte[0] == DUMPED => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            _ => {
                self.victim.spare();
                self.criu.wait();
                Err(self.refused())
            }
        }
    }

    /// Ends CRIU, and returns its reason if it failed.
    fn refusal_at_end(&mut self) -> Option<DumpError> {
        self.victim.spare();
        drop(self.gate.take());
        (!wait_for(&mut self.criu)).then(|| self.refused())
    }

    fn refused(&mut self) -> DumpError {
        if self.victim.spare() {
            return DumpError::ShortOfMemory;
        }
        DumpError::Refused(log::cause(&self.log, self.oom_kills.since()))
    }
}

impl Drop for Dump {
    /// Closes the gate, so the service runs on. Waits for that, since the caller may report it.
    fn drop(&mut self) {
        self.victim.spare();
        drop(self.gate.take());
        wait_for(&mut self.criu);
    }
}

/// Waits for a CRIU that is to release the tasks. Kills it after [`LET_GO`], which releases them too. Returns whether
/// it has succeeded.
fn wait_for(criu: &mut Running) -> bool {
    if !fd::is_readable_within(criu.exit(), LET_GO) {
        criu.kill();
    }
    criu.wait()
}

/// Result of poll(2).
#[derive(Default)]
struct Ready {
    exited: bool,
    gate: bool,
    socket: bool,
    /// Indexes, ascending.
    pipes: Vec<usize>,
}

fn wait(exit: BorrowedFd, gate: Option<&UnixStream>, socket: Option<BorrowedFd>, open: &[Open]) -> io::Result<Ready> {
    let fixed = [exit].into_iter().chain(gate.map(AsFd::as_fd)).chain(socket);
    let mut fds: Vec<PollFd> =
        fixed.chain(open.iter().map(|image| image.pipe.as_fd())).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    match poll(&mut fds, PollTimeout::NONE) {
        Err(nix::errno::Errno::EINTR) => return Ok(Ready::default()),
        result => result?,
    };
    let mut flags = fds.iter().map(|fd| fd.any().unwrap_or(true));
    Ok(Ready {
        exited: flags.next().unwrap_or(false),
        gate: gate.is_some() && flags.next().unwrap_or(false),
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
    let copy = COPIED.into_iter().find(|image| *image == name).map(|image| (image, Vec::new()));
    Ok(Open { name, pipe: pipe.into(), body: writer.begin(), copy })
}

/// Reads until the pipe is empty. Returns whether it has ended.
fn drain(image: &mut Open, meter: &Meter) -> Result<bool, DumpError> {
    loop {
        let read = match &mut image.copy {
            Some((_, copy)) => image.body.fill_from(&mut Copying { pipe: &mut image.pipe, copy }),
            None => image.body.fill_from(&mut image.pipe),
        };
        match read {
            Ok(0) => return Ok(true),
            Ok(read) => meter.add(read),
            Err(ImageError::Source(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}
