//! Init as a state machine: inputs in, actions out. It makes no system call, so tests try every input in every state.
//!
//! Never panics. Never grows without bound by inputs from outside. Ends the service only if its checkpoint is committed, another
//! container has it, or someone asked for its end.

mod checkpoint;
mod heartbeat;
mod hooks;
mod requests;
mod restore;
mod stage;
#[cfg(test)]
mod tests;
mod timers;
mod types;

pub use types::{Action, HookCall, Input, Now, Task, Timer};

use std::time::Duration;

use super::config::{Config, Moment};
use super::tree::Tree;
use crate::control::protocol::{Awaited, Event, Isolation, Pace, Phase, Reason, State, Status};
use crate::control::server::{ClientId, failed};
use crate::exit;
use crate::files::selection::{Named, Selection};
use crate::image::Lease;
use crate::sys::process::Ending;
use crate::sys::signals::{Set, Signal};
use checkpoint::{Checkpoint, Done};
use heartbeat::{Heartbeats, LeaseCheck};
use restore::Restore;

/// What init is doing. There is one such state and at most one worker at a time. Only the worker of a heartbeat runs beside hooks:
/// a standby must not mistake a long hook for a dead container.
#[derive(Debug, Clone)]
enum Busy {
    /// The service runs, or there is none yet.
    Nothing,
    /// A worker finds a generation, waits for one, or restores it.
    Restore(Restore),
    /// A hook after the start of the service runs; the moments of those that follow.
    Ready(Vec<Moment>),
    /// The hook before a checkpoint runs.
    Before(Checkpoint),
    /// A checkpoint whose worker waits until the worker of a heartbeat has ended.
    WaitingForLeaseCheck(Checkpoint),
    /// A worker takes a checkpoint.
    Checkpoint(Checkpoint),
    /// A worker settles a checkpoint whose own worker died.
    Settle(Checkpoint),
    /// The pause before the next such worker.
    Pause(Checkpoint),
    /// The service ends because its checkpoint is committed.
    Farewell(Done),
    /// The hook after a checkpoint runs; if the service has ended, the exit status that follows.
    After(Option<u8>),
}

/// State of a SIGTERM that asks for a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Term {
    /// No SIGTERM came.
    None,
    /// Its checkpoint is under way or queued.
    Trying,
    /// The service got the SIGTERM.
    Forwarded,
}

/// A queued request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Waiting {
    asker: Asker,
    after_commit: crate::job::AfterCommit,
    pace: Pace,
    named: Named,
}

impl Waiting {
    /// A request of init itself.
    fn of_init(reason: Reason, after_commit: crate::job::AfterCommit) -> Self {
        Self { asker: Asker::Init(reason), after_commit, pace: Pace::DEFAULT, named: Named::NONE }
    }
}

/// Who asked for a checkpoint and gets the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    Client(ClientId),
    Init(Reason),
}

impl Asker {
    fn reason(self) -> Reason {
        match self {
            Asker::Client(_) => Reason::Command,
            Asker::Init(reason) => reason,
        }
    }
}

/// Init's whole state.
#[derive(Debug, Clone)]
pub struct Machine {
    config: Config,
    busy: Busy,
    lease_check: LeaseCheck,
    heartbeats: Heartbeats,
    tree: Option<Tree>,
    /// This container's lease; the default before the start.
    lease: Lease,
    /// The signal that cancelled the start.
    cancelled: Option<Signal>,
    /// Signals that wait until the service exists and is not frozen.
    early: Set,
    term: Term,
    /// When the time for SIGTERM's checkpoint is over, in milliseconds of [`Now::ms`].
    term_until_ms: u64,
    /// The service got SIGTERM.
    dying: bool,
    /// Bounded: one request for each client, and one of each other kind.
    queue: Vec<Waiting>,
    waiters: Vec<(ClientId, Awaited)>,
    subscribers: Vec<ClientId>,
    /// The state that subscribers know.
    told: State,
    status: Status,
    /// Result of the last checkpoint.
    last: Option<Result<(), String>>,
    /// The exit status, after the end.
    end: Option<u8>,
    now: Now,
    actions: Vec<Action>,
}

impl Machine {
    pub fn new(config: Config) -> Machine {
        let (version, instance) = (env!("CARGO_PKG_VERSION").to_owned(), config.instance.clone());
        let status = Status { version, instance, ..Status::default() };
        Machine {
            config,
            busy: Busy::Nothing,
            lease_check: LeaseCheck::Idle,
            heartbeats: Heartbeats::default(),
            tree: None,
            lease: Lease::default(),
            cancelled: None,
            early: Set::default(),
            term: Term::None,
            term_until_ms: 0,
            dying: false,
            queue: Vec::new(),
            waiters: Vec::new(),
            subscribers: Vec::new(),
            told: State::Starting,
            status,
            last: None,
            end: None,
            now: Now::default(),
            actions: Vec::new(),
        }
    }

    /// Notes the namespaces that init runs in.
    pub fn isolated(mut self, isolation: Option<Isolation>) -> Machine {
        self.status.isolation = isolation;
        self
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The service's processes, while it runs.
    pub fn tree(&self) -> Option<Tree> {
        self.tree
    }

    /// Which files the checkpoint under way captures.
    pub fn files(&self) -> Selection {
        let named = if let Busy::Checkpoint(checkpoint) = &self.busy { &checkpoint.named } else { &Named::NONE };
        self.config.files.clone().with(named)
    }

    /// How short the last step of the checkpoint under way is to be.
    pub fn pace(&self) -> Pace {
        if let Busy::Checkpoint(checkpoint) = &self.busy { checkpoint.pace } else { Pace::DEFAULT }
    }

    /// Seconds by which the service's clocks are ahead of the host's, if they go on in user space.
    pub fn clock_ahead_s(&self) -> Option<u64> {
        self.status.restore.as_ref()?.clocks.clock_ahead_s
    }

    /// How long the checkpoint under way holds the service for a standby that is ready. None if it ends it in any case.
    pub fn hold(&self) -> Option<Duration> {
        match &self.busy {
            Busy::Checkpoint(checkpoint) if checkpoint.may_hand_over() => Some(self.config.restore_timeout),
            _ => None,
        }
    }

    pub fn lease(&self) -> Lease {
        self.lease
    }

    /// Handles one input. Returns the actions to perform, in order.
    pub fn step(&mut self, now: Now, input: Input) -> Vec<Action> {
        self.now = now;
        // After the end only late clients are left.
        if self.end.is_none() || matches!(input, Input::Asked(..)) {
            self.take(input);
            self.tell();
        }
        if self.end.is_some() {
            self.answer_waiters(Some("the service is ending"));
        }
        std::mem::take(&mut self.actions)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Begin => self.begin(),
            Input::Signal(signal) => self.signal(signal),
            Input::Asked(client, op) => self.asked(client, op),
            Input::Left(client) => self.left(client),
            Input::Said(event) => self.hear(event),
            // CRIU resumes the service when its worker dies. After a commit the service must not run.
            Input::WorkerEnded if self.is_committed() => self.act(Action::KillTree),
            Input::WorkerEnded => {}
            Input::WorkerGone { reason, root_is_ours } => self.worker_gone(&reason, root_is_ours),
            Input::NoWorker { error } => self.no_worker(&error),
            Input::Started(tree) => self.started(tree),
            Input::NotStarted { error } => self.fail(&error, exit::FATAL),
            Input::Buried { pid, ending, heir } => self.buried(pid, ending, heir),
            Input::HookOver { failure } => self.hook_over(failure),
            Input::Elapsed(timer) => self.elapsed(timer),
        }
    }

    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn say(&mut self, message: String) {
        self.act(Action::Say(message));
    }

    pub fn state(&self) -> State {
        match &self.busy {
            _ if self.end.is_some() => State::Ending,
            Busy::Farewell(_) | Busy::After(Some(_)) => State::Ending,
            // The service is frozen until the generation is settled.
            Busy::Settle(_) | Busy::Pause(_) => State::HandingOver,
            Busy::Checkpoint(_) if self.status.phase == Some(Phase::Handover) => State::HandingOver,
            Busy::Before(_) | Busy::WaitingForLeaseCheck(_) | Busy::Checkpoint(_) => State::Checkpointing,
            Busy::Restore(restore) if self.tree.is_none() && restore.waits => State::Standby,
            _ if self.tree.is_none() => State::Starting,
            _ => State::Running,
        }
    }

    fn hear(&mut self, event: Event) {
        if let Event::Warning { message } = &event {
            self.say(format!("warning: {message}"));
            self.publish(&event);
        }
        if let Event::Progress { phase, bytes, total } = event {
            (self.status.phase, self.status.bytes, self.status.total) = (Some(phase), bytes, total);
            self.publish(&event);
        }
        if let Event::Round(round) = event {
            self.status.round = Some(round);
            self.publish(&event);
        }
        if self.lease_check.is_under_way() {
            self.hear_heartbeat(&event);
            if let Event::Lost { message } = event {
                self.lease_check = LeaseCheck::Lost(message);
            }
            return;
        }
        match &self.busy {
            Busy::Restore(_) => self.hear_restore(event),
            Busy::Checkpoint(_) | Busy::Settle(_) => self.hear_checkpoint(event),
            _ => {}
        }
    }

    fn worker_gone(&mut self, reason: &str, root_is_ours: bool) {
        (self.status.phase, self.status.bytes, self.status.total) = (None, 0, 0);
        self.status.round = None;
        if self.lease_check.is_under_way() {
            return self.lease_check_over(reason);
        }
        match std::mem::replace(&mut self.busy, Busy::Nothing) {
            Busy::Restore(restore) => self.restore_over(restore, reason, root_is_ours),
            Busy::Checkpoint(checkpoint) => self.checkpoint_over(checkpoint, reason),
            Busy::Settle(checkpoint) => self.settle_over(checkpoint, reason),
            other => self.busy = other,
        }
    }

    /// The worker of a heartbeat is gone.
    fn lease_check_over(&mut self, reason: &str) {
        self.heartbeat_over(reason);
        if let LeaseCheck::Lost(message) = std::mem::replace(&mut self.lease_check, LeaseCheck::Idle) {
            return self.replaced(&message);
        }
        match std::mem::replace(&mut self.busy, Busy::Nothing) {
            Busy::WaitingForLeaseCheck(checkpoint) => self.launch(checkpoint),
            Busy::Nothing => self.idle(),
            other => self.busy = other,
        }
    }

    fn no_worker(&mut self, error: &str) {
        if self.lease_check.is_under_way() {
            return self.lease_check_over(&format!("could not be started: {error}"));
        }
        match std::mem::replace(&mut self.busy, Busy::Nothing) {
            Busy::Restore(_) => {
                let message = format!("cannot start the worker for the restore: {error}");
                self.fail(&message, exit::RESTORE_FAILED);
            }
            Busy::Checkpoint(mut checkpoint) => {
                checkpoint.result = Some(failed(format!(
                    "cannot start a worker for the checkpoint; the service keeps running: {error}"
                )));
                self.checkpoint_over(checkpoint, "");
            }
            Busy::Settle(checkpoint) => self.settle_over(checkpoint, &format!("could not be started: {error}")),
            other => self.busy = other,
        }
    }

    /// Ends the service because another container owns the lease: two running copies would diverge.
    fn replaced(&mut self, message: &str) {
        self.say(message.to_owned());
        self.act(Action::KillTree);
        self.stop_work();
        self.finish(exit::REPLACED, message);
    }

    fn buried(&mut self, pid: i32, ending: Ending, heir: Option<i32>) {
        if let (Busy::Restore(restore), None) = (&mut self.busy, self.tree)
            && pid == restore.root
        {
            restore.ended = Some(ending);
        }
        let Some(tree) = self.tree.filter(|tree| tree.outermost() == pid) else { return };
        self.tree = match (ending, heir) {
            // A tracer was killed, or the subreaper: then the service is a child of init, and init reaps its orphans.
            (Ending::Killed(_), Some(heir)) => Some(tree.below(heir)),
            _ => None,
        };
        match self.tree {
            Some(left) => self.count_tracers(tree, left),
            None => self.service_ended(ending),
        }
    }

    /// The tree has lost processes above the service: says so if they were tracers.
    fn count_tracers(&mut self, before: Tree, now: Tree) {
        if before.tracers == now.tracers {
            return;
        }
        let left = now.tracers_left();
        self.status.tracers = Some(left);
        let message = match left {
            0 => {
                "the last tracer above the service was killed, so no further checkpoint is possible here; the service runs on"
            }
            _ => {
                "a tracer above the service was killed, most often together with CRIU, which ran in it; another is left"
            }
        };
        self.hear(Event::Warning { message: message.to_owned() });
    }

    /// The service runs below these tracers.
    fn note_tracers(&mut self, tree: Tree) {
        self.status.tracers = Some(tree.tracers_left()).filter(|made| *made > 0);
    }

    fn service_ended(&mut self, ending: Ending) {
        let code = match ending {
            Ending::Exited(code) => code,
            Ending::Killed(signal) => killed_by(signal),
        };
        // A committed checkpoint ends the service as its last step.
        match std::mem::replace(&mut self.busy, Busy::Nothing) {
            Busy::Farewell(done) => return self.farewell(done),
            busy => self.busy = busy,
        }
        if self.is_committed() {
            return self.act(Action::HurryWorker);
        }
        self.stop_work();
        let code = self.config.remapped(code);
        self.finish(code, &format!("the service has ended by itself (exit status {code})"));
    }

    /// Kills the worker or hook under way.
    fn stop_work(&mut self) {
        match &self.busy {
            Busy::Ready(_) | Busy::Before(_) | Busy::After(_) => self.act(Action::KillHook),
            Busy::Nothing | Busy::WaitingForLeaseCheck(_) | Busy::Pause(_) | Busy::Farewell(_) => {}
            Busy::Restore(_) | Busy::Checkpoint(_) | Busy::Settle(_) => self.act(Action::KillWorker),
        }
        if self.lease_check.is_under_way() {
            self.act(Action::KillWorker);
        }
    }

    /// The start failed: kills all processes that it left.
    fn fail(&mut self, message: &str, code: u8) {
        self.act(Action::KillBelow);
        self.say(message.to_owned());
        self.finish(code, message);
    }

    /// Ends init. Waiting clients get `reason`.
    fn finish(&mut self, code: u8, reason: &str) {
        self.answer_waiters(Some(reason));
        self.act(Action::Close(reason.to_owned()));
        self.end = Some(code);
        self.act(Action::Exit(code));
    }

    /// Takes the next request from the queue, or rests.
    fn idle(&mut self) {
        self.busy = Busy::Nothing;
        if self.tree.is_none() || self.end.is_some() {
            return;
        }
        if self.dying {
            self.queue.retain(|waiting| waiting.asker != Asker::Init(Reason::Timer));
        }
        if self.queue.is_empty() {
            self.act(Action::Rest);
        } else {
            let waiting = self.queue.remove(0);
            self.start_checkpoint(waiting);
        }
    }

    fn set(&mut self, timer: Timer, after: Duration) {
        self.act(Action::Set(timer, after));
    }
}

/// The exit status of a process that a signal killed, as shells report it.
fn killed_by(signal: Signal) -> u8 {
    exit::SIGNAL_BASE.wrapping_add(signal as u8)
}
