//! What init does, as a machine: inputs in, actions out. Knows no process, socket, signal or clock itself, so that every pair of
//! inputs in every state can be tried. Must never panic, never grow by what comes from outside, and never let the service end
//! unless its checkpoint is committed, another container has it, or somebody asked for its end.

mod checkpoint;
mod heartbeat;
mod hooks;
mod requests;
mod restore;
#[cfg(test)]
mod tests;
mod timers;
mod types;

pub use types::{Action, HookCall, Input, Moment, Now, Task, Timer};

use std::time::Duration;

use super::{config::Config, tree::Tree};
use crate::control::protocol::{Awaited, Event, Isolation, Phase, Reason, State, Status};
use crate::control::server::{ClientId, failed};
use crate::exit;
use crate::image::Lease;
use crate::sys::process::Ending;
use crate::sys::signals::{Set, Signal};
use checkpoint::{Checkpoint, Done};
use heartbeat::{Heartbeats, LeaseCheck};
use restore::Restore;

/// What init is busy with. There is one of these at a time, and one worker; only the worker that looks whether the application is
/// still ours works beside hooks, as whoever waits for our death must not take a long hook for that.
#[derive(Debug, Clone)]
enum Busy {
    /// Nothing: the service just runs, or there is none yet.
    Nothing,
    /// A worker that looks for a generation, waits for one, or restores it.
    Restore(Restore),
    /// A hook that follows the start of the service; those that are still to come.
    Ready(Vec<Moment>),
    /// The hook before a checkpoint.
    Before(Checkpoint),
    /// A checkpoint whose worker waits until the worker of a heartbeat has ended.
    WaitingForLeaseCheck(Checkpoint),
    /// A worker that takes a checkpoint.
    Checkpoint(Checkpoint),
    /// A worker that finds out what became of a checkpoint whose own worker died.
    Settle(Checkpoint),
    /// The same, and the next such worker is not due yet.
    Pause(Checkpoint),
    /// A service that ends, as its checkpoint is committed.
    Farewell(Done),
    /// The hook after a checkpoint; the exit status that follows, where the service has ended.
    After(Option<u8>),
}

/// What became of a SIGTERM that asks for a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Term {
    /// There was none.
    None,
    /// Its checkpoint is under way, or waits for its turn.
    Trying,
    /// It was sent on to the service.
    Forwarded,
}

/// A checkpoint that waits for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    asker: Asker,
    fate: crate::job::Fate,
}

/// Who wants to know how a checkpoint ends.
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
    /// What this container holds of its application; nothing before the start.
    lease: Lease,
    /// The signal that ended the start, before there was a service to get it.
    cancelled: Option<Signal>,
    /// Signals that came before there was a service to get them.
    early: Set,
    term: Term,
    /// The service was sent SIGTERM.
    dying: bool,
    /// Checkpoints that wait for their turn: no more than one a client, and one of each other kind.
    queue: Vec<Waiting>,
    waiters: Vec<(ClientId, Awaited)>,
    subscribers: Vec<ClientId>,
    /// What subscribers were told last.
    told: State,
    status: Status,
    /// The last checkpoint failed, and why, or was committed.
    last: Option<Result<(), String>>,
    /// The exit status, once all is over.
    end: Option<u8>,
    now: Now,
    actions: Vec<Action>,
}

impl Machine {
    /// Init before its first step.
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

    /// The same in these namespaces.
    pub fn isolated(mut self, isolation: Option<Isolation>) -> Machine {
        self.status.isolation = isolation;
        self
    }

    /// What init was told at its start.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The service's processes, while there are any.
    pub fn tree(&self) -> Option<Tree> {
        self.tree
    }

    /// What this container holds of its application.
    pub fn lease(&self) -> Lease {
        self.lease
    }

    /// Takes what has happened; returns what is to be done, in this order.
    pub fn step(&mut self, now: Now, input: Input) -> Vec<Action> {
        self.now = now;
        // After the end there are only clients left, who come too late.
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
            // CRIU lets the service run on when its worker dies, and after a commit it must not.
            Input::WorkerEnded if self.is_committed() => self.act(Action::KillTree),
            Input::WorkerEnded => {}
            Input::WorkerGone { reason, root_is_ours } => self.worker_gone(&reason, root_is_ours),
            Input::NoWorker { error } => self.no_worker(&error),
            Input::Started(tree) => self.started(tree),
            Input::NotStarted { error } => self.fail(&error, exit::FATAL),
            Input::Buried { pid, ending, service_is_ours } => self.buried(pid, ending, service_is_ours),
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

    /// What init is doing, in one word.
    pub fn state(&self) -> State {
        match &self.busy {
            _ if self.end.is_some() => State::Ending,
            Busy::Farewell(_) | Busy::After(Some(_)) => State::Ending,
            // It stands still until somebody has told.
            Busy::Settle(_) | Busy::Pause(_) => State::HandingOver,
            Busy::Checkpoint(_) if self.status.phase == Some(Phase::Handover) => State::HandingOver,
            Busy::Before(_) | Busy::WaitingForLeaseCheck(_) | Busy::Checkpoint(_) => State::Checkpointing,
            Busy::Restore(restore) if self.tree.is_none() && restore.waits => State::Standby,
            _ if self.tree.is_none() => State::Starting,
            _ => State::Running,
        }
    }

    /// A worker's event.
    fn hear(&mut self, event: Event) {
        if let Event::Warning { message } = &event {
            self.say(format!("warning: {message}"));
            self.publish(&event);
        }
        if let Event::Progress { phase, bytes, total } = event {
            (self.status.phase, self.status.bytes, self.status.total) = (Some(phase), bytes, total);
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

    /// The worker that looked whether the application is still ours is gone.
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
                let message = format!("cannot start the worker that looks for a checkpoint: {error}");
                self.fail(&message, exit::RESTORE_FAILED);
            }
            Busy::Checkpoint(mut checkpoint) => {
                checkpoint.result =
                    Some(failed(format!("cannot start a worker for the checkpoint; the service runs on: {error}")));
                self.checkpoint_over(checkpoint, "");
            }
            Busy::Settle(checkpoint) => self.settle_over(checkpoint, &format!("could not be started: {error}")),
            other => self.busy = other,
        }
    }

    /// Another container has the application: a copy that runs on would answer clients with what nobody else knows.
    fn replaced(&mut self, message: &str) {
        self.say(message.to_owned());
        self.act(Action::KillTree);
        self.stop_work();
        self.finish(exit::REPLACED, message);
    }

    /// A child was reaped.
    fn buried(&mut self, pid: i32, ending: Ending, service_is_ours: bool) {
        if let (Busy::Restore(restore), None) = (&mut self.busy, self.tree)
            && pid == restore.root
        {
            restore.ended = Some(ending);
        }
        let Some(tree) = &mut self.tree else { return };
        if pid == tree.root && matches!(ending, Ending::Killed(_)) && service_is_ours {
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
        // Its end was the checkpoint's last step.
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

    /// Ends the worker or hook that is under way.
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

    /// The start has failed: whatever is left of it goes.
    fn fail(&mut self, message: &str, code: u8) {
        self.act(Action::KillBelow);
        self.say(message.to_owned());
        self.finish(code, message);
    }

    /// The end: whoever still waits is told why.
    fn finish(&mut self, code: u8, reason: &str) {
        self.answer_waiters(Some(reason));
        self.act(Action::Close(reason.to_owned()));
        self.end = Some(code);
        self.act(Action::Exit(code));
    }

    /// Nothing is under way any more: what waits for its turn has it.
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

/// The exit status for a process that a signal killed.
fn killed_by(signal: Signal) -> u8 {
    exit::SIGNAL_BASE.wrapping_add(signal as u8)
}
