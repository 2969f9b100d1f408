//! Runs `criu restore` up to the gate: all processes exist and none has run.
//!
//! CRIU holds them until this worker opens the gate. If the worker ends before, or CRIU is killed, they are
//! killed.

mod strays;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::criu::command::{self, Criu, Elsewhere, SystemV};
use crate::criu::log::{self, Cause};
use crate::criu::running::{Place, Running, Start};
use crate::criu::{stream, tracer};
use crate::fail_points::{Point, reach};
use crate::files::swapped;
use crate::host::clock::{self, Plan, Time};
use crate::host::oom::OomKills;
use crate::image::{Body, Fetcher, Manifest};
use crate::job::work_folder::Work;
use crate::restore::ahead::{GoesOn, MemoryAhead};
use crate::restore::error::RestoreError;
use crate::restore::meter::Meter;
use crate::restore::serve::{self, ServeError, Served};
use crate::restore::stdio::Stdio;
use crate::sys::fd;
use strays::Strays;

/// Written to the gate to let the tasks run.
const RUN: u8 = b'r';
/// Time that CRIU may take to release or kill the tasks. After that it is killed.
const LET_GO: Duration = Duration::from_secs(20);

/// Time between the end of CRIU's socket and its own.
const END: Duration = Duration::from_secs(1);

/// A restored service that has not run. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct RestoreGate {
    criu: Running,
    socket: UnixStream,
    log: PathBuf,
    /// Before CRIU was there.
    oom_kills: OomKills,
    strays: Strays,
    clock_jump: Option<io::Result<i64>>,
    state: State,
}

/// What CRIU must know of this container.
#[derive(Default)]
pub(crate) struct OfContainer<'a> {
    /// Its System V objects.
    pub objects: Option<SystemV>,
    pub elsewhere: Elsewhere,
    /// Channels of the tracers that are to stay above the service, where it needs them.
    pub tracers: Option<&'a [OwnedFd; tracer::COUNT]>,
    /// Which clocks the service is to see.
    pub clocks: Plan,
    /// The memory that a waiting container has.
    pub(super) ahead: Option<MemoryAhead>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// CRIU creates the processes.
    Coming,
    /// CRIU holds all of them at the gate.
    AtGate,
    /// They run.
    Gone,
}

impl RestoreGate {
    /// Restores all processes up to the gate. CRIU's sockets and log are in the folder `work`; the root
    /// becomes a child of the process `parent`.
    pub(crate) fn restore(
        criu: Criu,
        manifest: &Manifest,
        fetcher: &mut Fetcher,
        work: &Work,
        meter: &mut Meter,
        parent: i32,
        of_container: OfContainer,
    ) -> Result<Self, RestoreError> {
        let unusable = |error| RestoreError::RuntimeDir { path: work.path().to_owned(), error };
        let broken = |error| RestoreError::Serve(ServeError::Broken(error));
        let listener = stream::listen(work.path(), stream::SERVE_SOCKET).map_err(unusable)?;
        let mut images: BTreeMap<&str, &Body> =
            manifest.images.iter().filter_map(|image| Some((image.name.as_str(), image.body.as_ref()?))).collect();
        let (socket, theirs) = UnixStream::pair().map_err(broken)?;
        socket.set_nonblocking(true).map_err(broken)?;
        let OfContainer { objects, mut elsewhere, tracers, clocks, ahead } = of_container;
        elsewhere.moved.extend(swapped::moved(&manifest.folder_links));
        let place = tracers.map_or(Place::Here, |channels| Place::InNew(channels, manifest.root_pid));
        let mut start = Start::prepare(place).map_err(broken)?;
        let gate = start.keep(theirs.as_fd()).map_err(broken)?;
        let inherit = Stdio::join(&manifest.stdio, &mut |null| start.keep(null)).map_err(unusable)?;
        let shift_clocks = clocks == Plan::Hide;
        let args = command::restore(work.path(), &inherit, &elsewhere, gate, objects.as_ref(), shift_clocks);
        drop(theirs);
        let strays = Strays::from_now_on(parent);
        let continued = manifest.clocks.filter(|_| clocks == Plan::Continue);
        let time = continued.map_or(Time::Ours, Time::Continued);
        let oom_kills = OomKills::now();
        // One that runs already is in no time namespace of the service's.
        let ahead = ahead.filter(|_| continued.is_none());
        let goes_on = ahead.and_then(|ahead| ahead.go_on(manifest, fetcher, &start, &args));
        let (criu, instead) = match goes_on {
            Some(GoesOn { criu, instead, ahead }) => {
                meter.leave_out(ahead);
                (criu, instead)
            }
            None => (start.start(criu, args, time.space()).inspect_err(|_| strays.end())?, BTreeMap::new()),
        };
        images.extend(instead.iter().map(|(name, body)| (name.as_str(), body)));
        reach(Point::RestoreCriu);
        // By now CRIU is in the service's future time namespace.
        let clock_jump = manifest.clocks.map(|before| clock::jump(criu.pid(), &before));
        let log = work.path().join(command::RESTORE_LOG);
        let mut gate = Self { criu, socket, log, oom_kills, strays, clock_jump, state: State::Coming };
        match serve::serve(&mut gate.criu, &gate.socket, &listener, &images, fetcher, meter) {
            Ok(Served::AtGate) => {
                gate.state = State::AtGate;
                Ok(gate)
            }
            Ok(Served::Ended) => Err(RestoreError::Criu(gate.cause())),
            // The socket of a CRIU that ends may break before its end is seen.
            Err(ServeError::Broken(_)) if fd::is_readable_within(gate.criu.exit(), END) => {
                Err(RestoreError::Criu(gate.cause()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Milliseconds by which the kernel's clocks are ahead of the service's (negative: behind). None if the generation
    /// does not record them.
    pub(super) fn clock_jump(&self) -> Option<&io::Result<i64>> {
        self.clock_jump.as_ref()
    }

    /// The tracers above the service, outermost first; 0 for none.
    pub(super) fn tracers(&self) -> [i32; tracer::COUNT] {
        self.criu.tracers()
    }

    /// Checks that CRIU still holds the service: a dead one must not be taken from the container that has it.
    pub(super) fn check(&mut self) -> Result<(), RestoreError> {
        if self.criu.has_ended() { Err(RestoreError::Criu(self.cause())) } else { Ok(()) }
    }

    /// Opens the gate: the service runs.
    pub(crate) fn let_go(mut self) -> Result<(), RestoreError> {
        if self.socket.write_all(&[RUN]).is_err() {
            // CRIU has ended, and its tasks with it.
            return Err(RestoreError::Criu(self.cause()));
        }
        reach(Point::RestoreLetGo);
        if !self.wait() {
            return Err(RestoreError::AfterLettingGo(self.cause()));
        }
        self.state = State::Gone;
        Ok(())
    }

    /// Why CRIU has ended.
    fn cause(&self) -> Cause {
        log::cause(&self.log, self.oom_kills.since())
    }

    /// Waits until CRIU ends, and kills it after [`LET_GO`]. Returns whether it has succeeded.
    fn wait(&mut self) -> bool {
        if !fd::is_readable_within(self.criu.exit(), LET_GO) {
            self.criu.kill();
        }
        self.criu.wait()
    }
}

impl Drop for RestoreGate {
    /// Ends CRIU and then all processes that it has created: those that it does not trace yet do not end with
    /// it.
    fn drop(&mut self) {
        if self.state == State::Gone {
            return;
        }
        // When the gate closes, CRIU kills the processes that it holds.
        let _ = self.socket.shutdown(Shutdown::Both);
        if !self.criu.has_ended() {
            if self.state == State::Coming {
                self.criu.kill();
            }
            self.wait();
        }
        self.strays.end();
    }
}
