//! `criu dump`: feeds an [`ImageWriter`] while it runs, and waits at the gate until it is decided what becomes of the
//! service.
//!
//! CRIU waits at the gate with all tasks frozen. If this worker dies, the kernel closes the gate and CRIU
//! lets the tasks run on. So the service survives every failure before [`Dump::release`].

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::dump_error::DumpError;
use super::meter::Meter;
use super::receive::Receiver;
use super::room::Victim;
use crate::criu::clocks;
use crate::criu::command::{self, Criu, DumpOptions};
use crate::criu::log;
use crate::criu::named::{self, Named};
use crate::criu::running::{Place, Running, Start};
use crate::criu::stream;
use crate::host::clock::Time;
use crate::host::oom::OomKills;
use crate::host::stdio;
use crate::image::{BodyId, Clocks, ImageWriter};
use crate::sys::fd;

/// CRIU's byte at the gate: the dump is complete and all tasks stand still.
const DUMPED: u8 = b'D';
/// With copies: the tasks run. The next byte is the errno of a copy that could not be made, or 0.
const RUNNING: u8 = b'R';

/// Time in which CRIU must release the tasks. Then it is killed, which releases them too.
const LET_GO: Duration = Duration::from_secs(20);

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
    images: Receiver,
    log: PathBuf,
    /// Before CRIU was there.
    oom_kills: OomKills,
    /// Start of the time in which the service may stand still.
    since: Instant,
    released: Option<Instant>,
}

impl Dump {
    /// Starts `criu` on the tree below `root`, with its sockets and log in the folder `work`.
    pub fn start(
        criu: Criu,
        place: Place,
        root: i32,
        work: &Path,
        options: &DumpOptions,
        victim: Victim,
    ) -> Result<Self, DumpError> {
        let broken = |error| DumpError::Broken { doing: "freeze prepared it", error };
        let listener = stream::listen(work, stream::CAPTURE_SOCKET).map_err(broken)?;
        let (gate, theirs) = UnixStream::pair().map_err(broken)?;
        gate.set_nonblocking(true).map_err(broken)?;
        let mut start = Start::prepare(place).map_err(broken)?;
        let number = start.keep(theirs.as_fd()).map_err(broken)?;
        drop(theirs);
        let args = command::dump(root, work, number, &stdio::external(), options);
        let time = Time::of(root).map_err(broken)?;
        let (since, oom_kills) = (Instant::now(), OomKills::now());
        let criu = start.start(criu, args, time.space())?;
        let mut dump = Self::of(work, criu, Receiver::new(listener));
        dump.gate = Some(gate);
        dump.criu.child().into_iter().for_each(|pid| victim.is(pid));
        dump.victim = victim;
        // Of before CRIU was there.
        (dump.since, dump.oom_kills) = (since, oom_kills);
        Ok(dump)
    }

    fn of(work: &Path, criu: Running, images: Receiver) -> Self {
        Self {
            criu,
            victim: Victim::default(),
            gate: None,
            images,
            log: work.join(command::DUMP_LOG),
            oom_kills: OomKills::now(),
            since: Instant::now(),
            released: None,
        }
    }

    /// Receives CRIU's images until the service stands still and no image is left, but for memory that is read from
    /// copies.
    pub fn collect(&mut self, writer: &ImageWriter, meter: &Meter) -> Result<BTreeMap<String, BodyId>, DumpError> {
        let result = self.until_gate(writer, meter);
        self.explained(result)
    }

    /// If CRIU has failed, its own reason explains the broken pipe or socket.
    fn explained(&mut self, result: Result<(), DumpError>) -> Result<BTreeMap<String, BodyId>, DumpError> {
        if result.is_err() {
            self.images.close();
        }
        match result {
            Err(DumpError::Broken { doing, error }) => {
                Err(self.refusal_at_end().unwrap_or(DumpError::Broken { doing, error }))
            }
            result => result.map(|()| self.images.take()),
        }
    }

    fn until_gate(&mut self, writer: &ImageWriter, meter: &Meter) -> Result<(), DumpError> {
        let mut at_gate = false;
        loop {
            // What CRIU has asked for before is there by now.
            let at_once = at_gate && self.images.is_idle();
            let gate = self.gate.as_ref().filter(|_| !at_gate).map(AsFd::as_fd);
            let ready = self.images.wait(self.criu.exit(), gate, at_once).map_err(receiving)?;
            let Some(ready) = ready else { return Ok(()) };
            self.images.take_in(&ready, writer, meter)?;
            if ready.gate {
                at_gate = self.is_at_gate()?;
            }
            if ready.exited {
                return Err(self.refused());
            }
        }
    }

    /// Lets the service run on, and receives the memory that is left: from copies of its processes, if there may be
    /// `copies`, or before it runs. `running` gets the error that prevented a copy, if any.
    pub fn run_on(
        &mut self,
        copies: bool,
        writer: &ImageWriter,
        meter: &Meter,
        running: impl FnMut(Option<io::Error>),
    ) -> Result<BTreeMap<String, BodyId>, DumpError> {
        self.tell(if copies { b's' } else { b'r' })?;
        let result = self.until_end(writer, meter, running);
        match self.explained(result) {
            Err(DumpError::ShortOfMemory) if self.released.is_some() => Err(DumpError::CopiesGivenUp),
            result => result,
        }
    }

    fn until_end(
        &mut self,
        writer: &ImageWriter,
        meter: &Meter,
        mut running: impl FnMut(Option<io::Error>),
    ) -> Result<(), DumpError> {
        while self.released.is_none() || !self.images.has_ended() {
            let gate = self.gate.as_ref().filter(|_| self.released.is_none()).map(AsFd::as_fd);
            let Some(ready) = self.images.wait(self.criu.exit(), gate, false).map_err(receiving)? else { continue };
            self.images.take_in(&ready, writer, meter)?;
            if ready.gate {
                running(self.prevented()?);
            } else if ready.exited && self.released.is_none() {
                return Err(self.refused());
            }
        }
        let short = self.victim.spare();
        match wait_for(&mut self.criu) {
            true => Ok(()),
            false if short => Err(DumpError::ShortOfMemory),
            false => Err(self.refused()),
        }
    }

    /// What CRIU says when the service runs: the error that prevented a copy.
    fn prevented(&mut self) -> Result<Option<io::Error>, DumpError> {
        let mut answer = [0; 2];
        if self.gate.as_mut().is_none_or(|gate| gate.read_exact(&mut answer).is_err()) || answer[0] != RUNNING {
            self.victim.spare();
            self.criu.wait();
            return Err(self.refused());
        }
        self.released = Some(Instant::now());
        Ok((answer[1] != 0).then(|| io::Error::from_raw_os_error(answer[1].into())))
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
        named::named(self.images.copies()).map_err(|_| DumpError::Unknown)
    }

    /// The clocks that the process `root` sees, if they are `kernel` by the kernel.
    pub fn clocks(&self, root: i32, kernel: Clocks) -> Result<Clocks, DumpError> {
        clocks::seen_by(root, self.images.copy(clocks::IMAGE), kernel).map_err(|_| DumpError::UnknownClocks)
    }

    /// The image of all open files.
    pub fn files(&self) -> &[u8] {
        self.images.copy(named::IMAGES[0]).unwrap_or_default()
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
        self.victim.spare();
        self.tell(byte)?;
        self.gate = None;
        let success = wait_for(&mut self.criu);
        self.released = Some(Instant::now());
        if success { Ok(()) } else { Err(self.refused()) }
    }

    /// Answers CRIU at the gate.
    fn tell(&mut self, byte: u8) -> Result<(), DumpError> {
        let Some(gate) = &mut self.gate else { return Ok(()) };
        gate.write_all(&[byte]).map_err(|error| match self.victim.has_died() {
            true => DumpError::ShortOfMemory,
            false => DumpError::Broken { doing: "CRIU released the service", error },
        })
    }

    /// A dump whose CRIU has failed.
    #[cfg(test)]
    pub fn that_died(work: &Path) -> Self {
        let (listener, child) =
            (stream::listen(work, stream::CAPTURE_SOCKET), std::process::Command::new("false").spawn());
        let (listener, child) = (listener.unwrap(), child.unwrap());
        Self::of(work, Running::of(child), Receiver::new(listener))
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
        self.images.close();
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

fn receiving(error: io::Error) -> DumpError {
    DumpError::Broken { doing: "freeze read CRIU's images", error }
}
