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
use super::memory::Listed;
use super::meter::Meter;
use super::receive::{Receiver, receiving};
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
/// The same where memory is listed: no copy could be made, and the tasks stand still. An errno follows.
const NOT_COPIED: u8 = b'N';
/// All lists are complete.
const LISTED: u8 = b'P';

/// Orders to CRIU: list the memory; copy the tasks and let them run; let them run; end the copies.
const LIST: u8 = b'p';
const COPY: u8 = b's';
const RUN: u8 = b'r';
const END_COPIES: u8 = b'e';

/// Time in which CRIU must release the tasks. Then it is killed, which releases them too.
const LET_GO: Duration = Duration::from_secs(20);
/// Time from the end of a killed CRIU's pipes to its own.
const GONE: Duration = Duration::from_secs(1);

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
        dump.watch(victim);
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

    /// Receives CRIU's images until the service stands still and no image is left, but for memory that is listed, or read
    /// from copies.
    pub fn collect(&mut self, writer: &ImageWriter, meter: &Meter) -> Result<BTreeMap<String, BodyId>, DumpError> {
        let result = self.until_said(DUMPED, writer, meter);
        self.explained(result).map(|()| self.images.take())
    }

    /// Has CRIU list the memory of the service that stands still. Gives the images that came beside.
    pub fn list(&mut self, writer: &ImageWriter, meter: &Meter) -> Result<BTreeMap<String, BodyId>, DumpError> {
        let result = self.tell(LIST).and_then(|()| self.until_said(LISTED, writer, meter));
        self.explained(result).map(|()| self.images.take())
    }

    /// What is listed, since the last time.
    pub fn listed(&mut self) -> Vec<Listed> {
        self.images.take_listed()
    }

    /// Has CRIU copy the processes whose memory is listed, and let the service run: the copy of each process. The error
    /// that prevents a copy is the inner one; then there is none, and the service stands still.
    pub fn copy(
        &mut self,
        writer: &ImageWriter,
        meter: &Meter,
    ) -> Result<Result<BTreeMap<i32, i32>, io::Error>, DumpError> {
        let result = self.tell(COPY).and_then(|()| self.until_copied(writer, meter));
        self.explained(result)
    }

    fn until_copied(
        &mut self,
        writer: &ImageWriter,
        meter: &Meter,
    ) -> Result<Result<BTreeMap<i32, i32>, io::Error>, DumpError> {
        let said = self.said(writer, meter)?;
        let [errno] = self.read()?;
        if said == NOT_COPIED {
            return Ok(Err(io::Error::from_raw_os_error(errno.into())));
        }
        self.released = Some(Instant::now());
        let count = u32::from_le_bytes(self.read()?);
        let mut copies = BTreeMap::new();
        for _ in 0..count {
            let [pid, copy] = [self.read()?, self.read()?].map(i32::from_le_bytes);
            copies.insert(pid, copy);
        }
        Ok(Ok(copies))
    }

    /// Receives the lists that CRIU makes of copies, and all images that are left.
    pub fn rest(&mut self, writer: &ImageWriter, meter: &Meter) -> Result<BTreeMap<String, BodyId>, DumpError> {
        let result = self.until_ended(writer, meter);
        self.explained(result).map(|()| self.images.take())
    }

    fn until_ended(&mut self, writer: &ImageWriter, meter: &Meter) -> Result<(), DumpError> {
        while !self.images.has_ended() {
            self.take_in(false, writer, meter)?;
        }
        Ok(())
    }

    /// If CRIU has failed, its own reason explains the broken pipe or socket.
    fn explained<T>(&mut self, result: Result<T, DumpError>) -> Result<T, DumpError> {
        // Of what a CRIU that goes on has sent it knows no reason: it says that nobody listens any more.
        let is_strange = |error: &io::Error| error.kind() == io::ErrorKind::InvalidData;
        let strange = matches!(&result, Err(DumpError::Broken { error, .. }) if is_strange(error))
            && !fd::is_readable_within(self.criu.exit(), GONE);
        if result.is_err() {
            self.images.close();
        }
        match result {
            Err(DumpError::Broken { doing, error }) if !strange => {
                Err(self.refusal_at_end().unwrap_or(DumpError::Broken { doing, error }))
            }
            result => result,
        }
    }

    /// Receives images until CRIU says `word`, and those that it has asked for before.
    fn until_said(&mut self, word: u8, writer: &ImageWriter, meter: &Meter) -> Result<(), DumpError> {
        if self.said(writer, meter)? != word {
            return Err(self.gone());
        }
        // What CRIU has asked for before is there by now.
        loop {
            let at_once = self.images.is_idle();
            let Some(ready) = self.images.wait(self.criu.exit(), None, at_once).map_err(receiving)? else {
                return Ok(());
            };
            self.images.take_in(&ready, writer, meter)?;
            if ready.exited {
                return Err(self.refused());
            }
        }
    }

    /// Receives images until CRIU says a word at the gate.
    fn said(&mut self, writer: &ImageWriter, meter: &Meter) -> Result<u8, DumpError> {
        loop {
            if self.take_in(true, writer, meter)? {
                let [word] = self.read()?;
                return Ok(word);
            }
        }
    }

    /// Receives what has come. Returns whether CRIU has said something, if this `listens` to it.
    fn take_in(&mut self, listens: bool, writer: &ImageWriter, meter: &Meter) -> Result<bool, DumpError> {
        let gate = self.gate.as_ref().filter(|_| listens).map(AsFd::as_fd);
        let Some(ready) = self.images.wait(self.criu.exit(), gate, false).map_err(receiving)? else { return Ok(false) };
        self.images.take_in(&ready, writer, meter)?;
        if ready.exited && !ready.gate {
            return Err(self.refused());
        }
        Ok(ready.gate)
    }

    /// The next bytes that CRIU says. The end of the gate means that CRIU gave up.
    fn read<const N: usize>(&mut self) -> Result<[u8; N], DumpError> {
        let mut bytes = [0; N];
        let Some(gate) = &mut self.gate else { return Err(self.gone()) };
        let read = gate.set_nonblocking(false).and_then(|()| gate.read_exact(&mut bytes));
        match read.and_then(|()| gate.set_nonblocking(true)) {
            Ok(()) => Ok(bytes),
            Err(_) => Err(self.gone()),
        }
    }

    /// Why CRIU has ended, or ends now.
    fn gone(&mut self) -> DumpError {
        self.spare();
        self.criu.wait();
        self.refused()
    }

    /// Lets the service run on, and receives the memory that CRIU reads: from copies of its processes, if there may be
    /// `copies`, or before it runs. `running` gets the error that prevented a copy, if any.
    pub fn run_on(
        &mut self,
        copies: bool,
        writer: &ImageWriter,
        meter: &Meter,
        running: impl FnOnce(Option<io::Error>),
    ) -> Result<BTreeMap<String, BodyId>, DumpError> {
        self.tell(if copies { COPY } else { RUN })?;
        let result = self.until_read(writer, meter, running);
        match self.explained(result) {
            Err(DumpError::ShortOfMemory) if self.released.is_some() => Err(DumpError::CopiesGivenUp),
            result => result.map(|()| self.images.take()),
        }
    }

    fn until_read(
        &mut self,
        writer: &ImageWriter,
        meter: &Meter,
        running: impl FnOnce(Option<io::Error>),
    ) -> Result<(), DumpError> {
        if self.said(writer, meter)? != RUNNING {
            return Err(self.gone());
        }
        let [errno] = self.read()?;
        self.released = Some(Instant::now());
        running((errno != 0).then(|| io::Error::from_raw_os_error(errno.into())));
        while !self.images.has_ended() {
            let Some(ready) = self.images.wait(self.criu.exit(), None, false).map_err(receiving)? else { continue };
            self.images.take_in(&ready, writer, meter)?;
        }
        self.wait_for_end()
    }

    /// CRIU ends the copies, and itself.
    pub fn end_copies(&mut self) -> Result<(), DumpError> {
        self.tell(END_COPIES).and_then(|()| self.wait_for_end())
    }

    /// The same, without waiting for it. One that cannot be told has ended already.
    pub fn let_copies_end(&mut self) {
        let _ = self.tell(END_COPIES);
    }

    pub fn has_ended(&mut self) -> bool {
        self.criu.has_ended()
    }

    /// From now on this victim has CRIU killed if memory is short.
    pub fn watch(&mut self, victim: Victim) {
        self.criu.child().into_iter().for_each(|pid| victim.is(pid));
        self.victim = victim;
    }

    /// Why copies could not be read: they are given up if memory was short.
    pub fn or_given_up(&self, error: DumpError) -> DumpError {
        if self.victim.has_died(self.criu.child()) { DumpError::CopiesGivenUp } else { error }
    }

    fn wait_for_end(&mut self) -> Result<(), DumpError> {
        let short = self.spare();
        match wait_for(&mut self.criu) {
            true => Ok(()),
            false if short => Err(DumpError::ShortOfMemory),
            false => Err(self.refused()),
        }
    }

    /// CRIU may end by itself from now on. Returns whether it was killed for its memory.
    fn spare(&self) -> bool {
        self.victim.spare(self.criu.child())
    }

    /// Whether CRIU still holds the tasks, for the last time before it ends by itself.
    pub fn check(&mut self) -> Result<(), DumpError> {
        self.spare();
        self.check_held()
    }

    /// Whether CRIU still holds the tasks. A killed CRIU lets them run.
    pub fn check_held(&mut self) -> Result<(), DumpError> {
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
            Verdict::Run => RUN,
        };
        self.spare();
        self.tell(byte)?;
        self.gate = None;
        let success = wait_for(&mut self.criu);
        self.released = Some(Instant::now());
        if success { Ok(()) } else { Err(self.refused()) }
    }

    /// Answers CRIU at the gate.
    fn tell(&mut self, byte: u8) -> Result<(), DumpError> {
        let Some(gate) = &mut self.gate else { return Ok(()) };
        gate.write_all(&[byte]).map_err(|error| match self.victim.has_died(self.criu.child()) {
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

    /// Ends CRIU, and returns its reason if it failed.
    fn refusal_at_end(&mut self) -> Option<DumpError> {
        self.spare();
        drop(self.gate.take());
        (!wait_for(&mut self.criu)).then(|| self.refused())
    }

    fn refused(&mut self) -> DumpError {
        if self.spare() {
            return DumpError::ShortOfMemory;
        }
        DumpError::Refused(log::cause(&self.log, self.oom_kills.since()))
    }
}

impl Drop for Dump {
    /// Closes the gate, so the service runs on. Waits for that, since the caller may report it.
    fn drop(&mut self) {
        self.spare();
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
