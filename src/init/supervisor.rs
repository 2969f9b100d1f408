//! The loop: signals, children, clients and the worker, one after the other, whenever poll(2) says that there is something.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    checkpoint::Checkpoint,
    config::{Config, is_missing},
    forward, say, service,
    tree::{self, Tree},
    worker::Worker,
};
use crate::{
    control::{
        protocol::{Event, Op, State},
        server::{ClientId, MAX_CLIENTS, Server, failed},
    },
    exit,
    sys::{
        memory,
        process::{self, Ending},
        signals::{Set, Signal, SignalFd},
        tty,
    },
    worker::{Common, Job},
};

/// How long init waits at its end for clients that have their answer to be gone.
const LINGER: Duration = Duration::from_secs(2);

/// What the worker is for.
#[derive(Debug)]
enum Task {
    Restore { result: Option<Event> },
    Checkpoint(Checkpoint),
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

/// Holds nothing any more that only the start needed: the folder it was made in, and memory.
fn settle() {
    let _ = std::env::set_current_dir("/");
    memory::give_back();
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

    fn begin(&mut self) {
        self.take_signals();
        if let Some(signal) = self.cancelled {
            return self.finish(killed_by(signal), "init was told to end");
        }
        if is_missing(&self.config.store) {
            return self.start();
        }
        let job = Job::Restore { common: self.common() };
        match Worker::start(&job, self.config.restore_timeout) {
            Ok(worker) => self.worker = Some((worker, Task::Restore { result: None })),
            Err(error) => self
                .fail(&format!("cannot start the worker that looks for a checkpoint: {error}"), exit::RESTORE_FAILED),
        }
    }

    fn common(&self) -> Common {
        Common { store: self.config.store.clone(), runtime_dir: self.runtime_dir.clone(), memory: self.config.memory }
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
        let _ = poll(&mut fds, self.timeout());
        let mut found = fds.iter().map(|fd| fd.any().unwrap_or(true));
        let mut next = || found.next().unwrap_or_default();
        let (signals, newcomer, _worker) = (next(), next(), next());
        Ready { signals, newcomer, clients: std::array::from_fn(|_| next()) }
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
            self.kill_at = self.config.kill_timeout.map(|limit| Instant::now() + limit);
        }
        if forward::is_stop(signal) && std::process::id() != 1 {
            tty::stop_self();
        }
    }

    /// A child was reaped.
    fn buried(&mut self, pid: i32, ending: Ending) {
        if self.worker.as_mut().is_some_and(|(worker, _)| worker.ended(pid, ending)) {
            return;
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
        say(message);
        tree::kill_below(std::process::id() as i32);
        self.finish(code, message);
    }

    fn hear_worker(&mut self) {
        while let Some((worker, task)) = &mut self.worker
            && let Some(event) = worker.next_event()
        {
            match task {
                Task::Restore { result } => {
                    if let Event::Restored { root, service, .. } = event {
                        self.tree = Some(Tree { root, service });
                    }
                    *result = Some(event);
                    worker.hurry();
                }
                Task::Checkpoint(checkpoint) => {
                    if let Some(progress) = checkpoint.take(event) {
                        self.server.send(checkpoint.client, &progress);
                    }
                    if checkpoint.has_result() {
                        worker.hurry();
                    }
                }
            }
        }
        if self.tree.is_some() {
            self.send_waiting();
        }
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
                Task::Restore { result } => self.restore_over(result, &worker.reason()),
                Task::Checkpoint(checkpoint) => self.checkpoint_over(checkpoint, &worker.reason()),
            }
        }
    }

    fn restore_over(&mut self, result: Option<Event>, reason: &str) {
        match (self.cancelled, result) {
            (_, Some(Event::Restored { root, .. })) if self.tree.is_none() || process::is_child(root) => settle(),
            (_, Some(Event::Restored { .. })) => {
                self.fail(
                    "the restored service is not there: it ended before init could take it over",
                    exit::RESTORE_FAILED,
                );
            }
            (Some(signal), _) => {
                tree::kill_below(std::process::id() as i32);
                self.finish(killed_by(signal), "init was told to end");
            }
            (None, Some(Event::NothingToRestore)) => self.start(),
            (None, Some(Event::Failed { message, log })) => {
                let log = log.map(|path| format!(" (log: {})", path.display())).unwrap_or_default();
                self.fail(&format!("{message}{log}"), exit::RESTORE_FAILED);
            }
            (None, _) => self.fail(&format!("the restore failed: its worker {reason}"), exit::RESTORE_FAILED),
        }
    }

    fn start(&mut self) {
        match service::start(&self.config) {
            Ok(tree) => {
                self.tree = Some(tree);
                self.send_waiting();
                settle();
            }
            Err(error) => self.fail(&error.to_string(), exit::FATAL),
        }
    }

    fn checkpoint_over(&mut self, checkpoint: Checkpoint, reason: &str) {
        let Checkpoint { client, was_stopped, .. } = checkpoint;
        let ends = checkpoint.ends_service();
        let answer = checkpoint.answer(reason);
        match self.tree {
            Some(tree) if ends => {
                self.farewell = Some((client, answer));
                tree.kill();
            }
            None if ends => self.say_farewell(client, &answer),
            tree => {
                // A worker that died may have left the service standing still.
                if let (Some(tree), false) = (tree, was_stopped) {
                    tree::continue_below(tree.root);
                }
                self.server.finish(client, &answer);
                memory::give_back();
            }
        }
    }

    /// The service was checkpointed and has ended: so does init.
    fn say_farewell(&mut self, client: ClientId, answer: &Event) {
        self.server.finish(client, answer);
        self.finish(self.config.checkpointed_status, "the service was checkpointed and has ended");
    }

    fn serve(&mut self, slot: usize) {
        match self.server.serve(slot) {
            Some((client, Op::Status)) => {
                let service = self.tree.map_or(0, |tree| tree.service);
                self.server.finish(client, &Event::Status { state: self.state(), service });
            }
            Some((client, Op::Checkpoint { leave_running })) => {
                if let Err(message) = self.checkpoint(client, leave_running) {
                    self.server.finish(client, &failed(message));
                }
            }
            None => {}
        }
    }

    fn state(&self) -> State {
        match (&self.worker, self.tree) {
            _ if self.end.is_some() || self.farewell.is_some() => State::Ending,
            (Some((_, Task::Checkpoint(_))), _) => State::Checkpointing,
            (Some((_, Task::Restore { .. })), _) | (None, None) => State::Starting,
            (None, Some(_)) => State::Running,
        }
    }

    fn checkpoint(&mut self, client: ClientId, leave_running: bool) -> Result<(), String> {
        let tree = match (self.state(), self.tree) {
            (State::Running, Some(tree)) => tree,
            (State::Checkpointing, _) => return Err("a checkpoint is already under way: wait for its end".to_owned()),
            (State::Ending, _) => return Err("the service is ending".to_owned()),
            _ => return Err("the service is still starting: try again when `freeze status` says running".to_owned()),
        };
        if tree.root == 0 {
            return Err("the holder of the service's processes was killed, so not all of them can be found: \
                        restart the container to be able to checkpoint again"
                .to_owned());
        }
        let include = self.config.include.clone();
        let job =
            Job::Checkpoint { common: self.common(), root: tree.root, service: tree.service, leave_running, include };
        let worker = Worker::start(&job, self.config.checkpoint_timeout)
            .map_err(|error| format!("cannot start a worker for the checkpoint; the service runs on: {error}"))?;
        let was_stopped = tree::is_stopped(tree.service);
        self.worker = Some((worker, Task::Checkpoint(Checkpoint::new(client, leave_running, was_stopped))));
        Ok(())
    }
}
