//! The loop: signals, children, clients and the worker, one after the other, whenever poll(2) says that there is something.

mod clients;
mod work;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    checkpoint::Checkpoint,
    config::Config,
    forward, say,
    tree::{self, Tree},
    worker::Worker,
};
use crate::{
    control::{
        protocol::Event,
        server::{ClientId, MAX_CLIENTS, Server},
    },
    exit,
    image::Lease,
    sys::{
        process::{self, Ending},
        signals::{Set, Signal, SignalFd},
        tty,
    },
};

/// How long init waits at its end for clients that have their answer to be gone.
const LINGER: Duration = Duration::from_secs(2);

/// What the worker is for.
#[derive(Debug)]
enum Task {
    Restore(Restore),
    Checkpoint(Checkpoint),
}

/// A restore under way.
#[derive(Debug, Default)]
struct Restore {
    /// Root of the tree that is coming, once the worker has named it.
    root: i32,
    /// How that ended, where it did before the worker said that it is there.
    ended: Option<Ending>,
    result: Option<Event>,
    /// It is known whether other containers can see that this one has the application.
    settled: bool,
}

/// Init's whole state.
#[derive(Debug)]
pub struct Supervisor {
    config: Config,
    runtime_dir: PathBuf,
    signals: SignalFd,
    server: Server,
    worker: Option<(Worker, Task)>,
    tree: Option<Tree>,
    /// What this container holds of its application; nothing before the start.
    lease: Lease,
    /// The signal that ended the start, before there was a service to get it.
    cancelled: Option<Signal>,
    /// Signals that came before there was a service to get them.
    waiting: Set,
    /// When the service is killed, if it has not ended upon SIGTERM.
    kill_at: Option<Instant>,
    /// The answer to the client whose checkpoint ends the service, to be sent when it has ended.
    farewell: Option<(ClientId, Event)>,
    /// Init's own end: its exit status, and until when it waits for its clients.
    end: Option<(u8, Instant)>,
}

/// The exit status for a process that a signal killed.
fn killed_by(signal: Signal) -> u8 {
    exit::SIGNAL_BASE.wrapping_add(signal as u8)
}

/// What poll(2) found.
struct Ready {
    signals: bool,
    clients: [bool; MAX_CLIENTS],
    newcomer: bool,
}

impl Supervisor {
    /// Init before its first step.
    pub fn new(config: Config, runtime_dir: PathBuf, signals: SignalFd, server: Server) -> Supervisor {
        Supervisor {
            config,
            runtime_dir,
            signals,
            server,
            worker: None,
            tree: None,
            lease: Lease::default(),
            cancelled: None,
            waiting: Set::default(),
            kill_at: None,
            farewell: None,
            end: None,
        }
    }

    /// Restores or starts the service, and supervises it to its end. Returns init's exit status.
    pub fn run(&mut self) -> u8 {
        self.begin();
        loop {
            if let Some((code, until)) = self.end
                && (self.server.is_idle() || Instant::now() >= until)
            {
                let _ = std::fs::remove_file(self.runtime_dir.join(crate::control::protocol::SOCKET_NAME));
                return code;
            }
            let ready = self.wait();
            // The worker comes first: a commit must be known before the deaths that it causes.
            self.hear_worker();
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

    /// Sleeps until something happens or a deadline passes.
    fn wait(&self) -> Ready {
        let signals = self.signals.fd();
        let slots = self.server.slots();
        // A place without a descriptor watches the signals for nothing.
        let watch = |fd, input| PollFd::new(fd, if input { PollFlags::POLLIN } else { PollFlags::empty() });
        let mut fds: [_; 3 + MAX_CLIENTS] = std::array::from_fn(|_| watch(signals, false));
        let worker = self.worker.as_ref().and_then(|(worker, _)| worker.socket());
        let sources = [Some((signals, true)), Some((self.server.listener(), true)), worker.map(|fd| (fd, true))];
        for (place, source) in fds.iter_mut().zip(sources.into_iter().chain(slots)) {
            if let Some((fd, input)) = source {
                *place = watch(fd, input);
            }
        }
        // Where poll itself fails, signals are all that can be served.
        let failed = poll(&mut fds, self.timeout()).is_err_and(|error| error != nix::errno::Errno::EINTR);
        let mut found = fds.iter().map(|fd| fd.any().unwrap_or(true));
        let mut next = || found.next().unwrap_or_default();
        let (signals, newcomer, _worker) = (next(), next(), next());
        Ready { signals: signals || failed, newcomer, clients: std::array::from_fn(|_| next()) }
    }

    fn timeout(&self) -> PollTimeout {
        let worker = self.worker.as_ref().map(|(worker, _)| worker.deadline());
        let deadlines = [worker, self.kill_at, self.end.map(|(_, until)| until)];
        let Some(first) = deadlines.into_iter().flatten().min() else { return PollTimeout::NONE };
        // One more, as poll(2) counts whole milliseconds.
        let millis = first.saturating_duration_since(Instant::now()).as_millis() + 1;
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
    }

    fn take_signals(&mut self) {
        let mut children = false;
        while let Some(signal) = self.signals.next_signal() {
            children |= signal == libc::SIGCHLD;
            self.forward(signal);
        }
        if children {
            self.hear_worker();
            while let Some((pid, ending)) = process::reap() {
                self.buried(pid, ending);
            }
        }
    }

    /// Passes a signal on, keeps it for later, or lets it end a start that has not come to the service yet.
    fn forward(&mut self, signal: Signal) {
        let Some(translated) = forward::translate(&self.config.rewrites, signal) else { return };
        let Some(tree) = self.tree else {
            if [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT].contains(&signal) {
                self.cancelled.get_or_insert(signal);
                self.worker.iter_mut().for_each(|(worker, _)| worker.kill());
            }
            self.waiting.insert(signal);
            return;
        };
        tree.signal(translated, self.config.to_group);
        if signal == libc::SIGTERM && self.kill_at.is_none() {
            self.kill_at = self.config.kill_timeout.and_then(|limit| Instant::now().checked_add(limit));
        }
        if forward::is_stop(signal) && std::process::id() != 1 {
            tty::stop_self();
        }
    }

    /// A child was reaped.
    fn buried(&mut self, pid: i32, ending: Ending) {
        if let Some((worker, task)) = &mut self.worker {
            if worker.ended(pid, ending) {
                // CRIU lets the service run on when its worker dies, and after a commit it must not.
                if let (Task::Checkpoint(checkpoint), Some(tree)) = (task, self.tree)
                    && checkpoint.ends_service()
                {
                    tree.kill();
                }
                return;
            }
            if let (Task::Restore(restore), None) = (task, self.tree)
                && pid == restore.root
            {
                restore.ended = Some(ending);
            }
        }
        let Some(tree) = &mut self.tree else { return };
        if pid == tree.root && matches!(ending, Ending::Killed(_)) && process::is_child(tree.service) {
            // Someone killed the holder; the service is our own child now, and its orphans are ours to reap.
            tree.root = 0;
        } else if pid == tree.root || (tree.root == 0 && pid == tree.service) {
            self.tree = None;
            self.service_ended(ending);
        }
    }

    fn service_ended(&mut self, ending: Ending) {
        let code = match ending {
            Ending::Exited(code) => code,
            Ending::Killed(signal) => killed_by(signal),
        };
        match &mut self.worker {
            // Its end was the checkpoint's last step.
            Some((worker, Task::Checkpoint(checkpoint))) if checkpoint.ends_service() => return worker.hurry(),
            Some((worker, _)) => worker.kill(),
            None => {}
        }
        if let Some((client, answer)) = self.farewell.take() {
            return self.say_farewell(client, &answer);
        }
        let code = self.config.remapped(code);
        self.finish(code, &format!("the service has ended by itself (exit status {code})"));
    }

    /// The end: whoever still waits is told why.
    fn finish(&mut self, code: u8, reason: &str) {
        self.server.close(reason);
        self.worker = None;
        self.kill_at = None;
        self.end = Some((code, Instant::now() + LINGER));
    }

    fn fail(&mut self, message: &str, code: u8) {
        tree::kill_below(std::process::id() as i32);
        say(message);
        self.finish(code, message);
    }

    fn send_waiting(&mut self) {
        for signal in self.waiting.drain() {
            self.forward(signal);
        }
    }

    fn look_at_clock(&mut self) {
        let now = Instant::now();
        if self.kill_at.is_some_and(|at| now >= at) {
            self.kill_at = None;
            if let Some(tree) = self.tree {
                tree.signal(libc::SIGKILL, self.config.to_group);
            }
        }
        if self.worker.as_mut().is_some_and(|(worker, _)| worker.is_gone(now)) {
            // Its last words may have come after we listened.
            self.hear_worker();
            let Some((worker, task)) = self.worker.take() else { return };
            match task {
                Task::Restore(restore) => self.restore_over(restore, &worker.reason()),
                Task::Checkpoint(checkpoint) => self.checkpoint_over(checkpoint, &worker.reason()),
            }
        }
    }
}
