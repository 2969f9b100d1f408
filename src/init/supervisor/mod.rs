//! The event loop: polls signals, clients and the worker, feeds the state machine with inputs, and performs
//! its actions. Decides nothing itself.

mod perform;

use std::{
    collections::VecDeque,
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    config::Config,
    hook::Hook,
    machine::{Input, Machine, Now, Timer},
    tracers::Tracers,
    tree::Tree,
    worker::Worker,
};
use crate::{
    control::{
        protocol::{Isolation, millis, now_ms},
        server::{MAX_CLIENTS, Said, Server},
    },
    criu::tracer::COUNT,
    sys::{
        process::{self, Ending},
        signals::SignalFd,
    },
};

/// Worker events handled in one round.
const MAX_EVENTS: usize = 1024;
/// How long init waits at its end for answered clients to disconnect.
const LINGER: Duration = Duration::from_secs(2);

/// The state machine and everything that it acts on.
#[derive(Debug)]
pub struct Supervisor {
    machine: Machine,
    runtime_dir: PathBuf,
    signals: SignalFd,
    server: Server,
    worker: Option<Worker>,
    tracers: Tracers,
    hook: Option<Hook>,
    /// When each timer runs out, indexed by [`Timer`].
    timers: [Option<Instant>; Timer::COUNT],
    /// The user had stopped the service before its checkpoint, so it must stay stopped.
    was_stopped: bool,
    /// [`rest`](Self::rest) is due before the next sleep.
    rests: bool,
    began: Instant,
    /// Inputs that the machine has not seen yet.
    inputs: VecDeque<Input>,
    /// Set once init ends: its exit status, and until when it waits for its clients.
    end: Option<(u8, Instant)>,
}

/// What poll(2) found.
struct Ready {
    signals: bool,
    tracers: bool,
    clients: [bool; MAX_CLIENTS],
    newcomer: bool,
}

impl Supervisor {
    pub fn new(
        config: Config,
        isolation: Option<Isolation>,
        runtime_dir: PathBuf,
        signals: SignalFd,
        server: Server,
    ) -> Supervisor {
        Supervisor {
            machine: Machine::new(config).isolated(isolation),
            runtime_dir,
            signals,
            server,
            worker: None,
            tracers: Tracers::default(),
            hook: None,
            timers: [None; Timer::COUNT],
            was_stopped: false,
            rests: false,
            began: Instant::now(),
            inputs: VecDeque::new(),
            end: None,
        }
    }

    /// Restores or starts the service, and supervises it to its end. Returns init's exit status.
    pub fn run(&mut self) -> u8 {
        self.take_signals();
        self.feed(Input::Begin);
        loop {
            if let Some((code, until)) = self.end
                && (self.server.is_idle() || Instant::now() >= until)
            {
                let _ = std::fs::remove_file(self.runtime_dir.join(crate::control::protocol::SOCKET_NAME));
                return code;
            }
            self.rest();
            let ready = self.wait();
            // The worker comes first: a commit must be known before the deaths that it causes.
            self.hear_worker();
            if ready.tracers {
                self.tracers.hear(self.machine.tree());
            }
            if ready.signals {
                self.take_signals();
            }
            (0..MAX_CLIENTS).filter(|slot| ready.clients.get(*slot) == Some(&true)).for_each(|slot| self.serve(slot));
            if ready.newcomer {
                self.server.accept();
            }
            self.look_at_clock();
        }
    }

    /// Feeds the machine with an input and performs its actions, until no input is left.
    fn feed(&mut self, input: Input) {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            let now = Now { ms: millis(self.began.elapsed()), wall_ms: now_ms() };
            for action in self.machine.step(now, input) {
                self.perform(action);
            }
        }
    }

    /// Sleeps until an event arrives or a deadline passes.
    fn wait(&self) -> Ready {
        let signals = self.signals.fd();
        let slots = self.server.slots();
        // PollFd needs a descriptor: an empty place has the signals', without events.
        let watch = |fd, input| PollFd::new(fd, if input { PollFlags::POLLIN } else { PollFlags::empty() });
        let mut fds: [_; 3 + COUNT + MAX_CLIENTS] = std::array::from_fn(|_| watch(signals, false));
        let worker = self.worker.as_ref().and_then(Worker::socket);
        let sources = [Some((signals, true)), Some((self.server.listener(), true)), worker.map(|fd| (fd, true))];
        let tracers = self.tracers.fds().map(|channel| channel.map(|fd| (fd, true)));
        for (place, source) in fds.iter_mut().zip(sources.into_iter().chain(tracers).chain(slots)) {
            if let Some((fd, input)) = source {
                *place = watch(fd, input);
            }
        }
        // If poll itself fails, only signals can be served.
        let failed = poll(&mut fds, self.timeout()).is_err_and(|error| error != nix::errno::Errno::EINTR);
        let mut found = fds.iter().map(|fd| fd.any().unwrap_or(true));
        let mut next = || found.next().unwrap_or_default();
        let (signals, newcomer, _worker) = (next(), next(), next());
        let tracers = std::array::from_fn::<_, COUNT, _>(|_| next()).contains(&true);
        Ready { signals: signals || failed, newcomer, tracers, clients: std::array::from_fn(|_| next()) }
    }

    fn timeout(&self) -> PollTimeout {
        let others = [self.worker.as_ref().map(Worker::deadline), self.end.map(|(_, until)| until)];
        let deadlines = others.into_iter().chain(self.timers);
        let Some(first) = deadlines.flatten().min() else { return PollTimeout::NONE };
        // Rounds up, as poll(2) counts whole milliseconds.
        let millis = first.saturating_duration_since(Instant::now()).as_millis() + 1;
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
    }

    /// Handles the worker's events. Bounded, so that a worker that talks without end cannot starve the loop.
    fn hear_worker(&mut self) {
        for _ in 0..MAX_EVENTS {
            let Some(event) = self.worker.as_mut().and_then(Worker::next_event) else { return };
            self.feed(Input::Said(event));
        }
    }

    fn take_signals(&mut self) {
        let mut children = false;
        while let Some(signal) = self.signals.next_signal() {
            if signal == libc::SIGCHLD {
                children = true;
            } else {
                self.feed(Input::Signal(signal));
            }
        }
        if children {
            self.hear_worker();
            while let Some((pid, ending)) = process::reap() {
                self.buried(pid, ending);
            }
        }
    }

    /// Handles a child that was reaped.
    fn buried(&mut self, pid: i32, ending: Ending) {
        if self.worker.as_mut().is_some_and(|worker| worker.ended(pid, ending)) {
            return self.feed(Input::WorkerEnded);
        }
        if self.hook.as_ref().is_some_and(|hook| hook.is(pid))
            && let Some(hook) = self.hook.take()
        {
            return self.feed(Input::HookOver { failure: hook.over(ending) });
        }
        let heir = self.machine.tree().and_then(Tree::heir);
        self.feed(Input::Buried { pid, ending, heir });
    }

    fn serve(&mut self, slot: usize) {
        match self.server.serve(slot) {
            Some(Said::Asked(client, op)) => self.feed(Input::Asked(client, op)),
            Some(Said::Left(client)) => self.feed(Input::Left(client)),
            None => {}
        }
    }

    fn look_at_clock(&mut self) {
        let now = Instant::now();
        for timer in Timer::ALL {
            if let Some(at) = self.timers.get_mut(timer as usize)
                && at.is_some_and(|at| now >= at)
            {
                *at = None;
                self.feed(Input::Elapsed(timer));
            }
        }
        if self.worker.as_mut().is_some_and(|worker| worker.is_gone(now)) {
            // Its last events may have arrived after the last read.
            self.hear_worker();
            let Some(worker) = self.worker.take() else { return };
            let root_is_ours = self.machine.tree().is_some_and(|tree| process::is_child(tree.outermost()));
            self.feed(Input::WorkerGone { reason: worker.reason(), root_is_ours });
        }
    }
}
