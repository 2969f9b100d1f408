//! A checkpoint as init sees it: what its worker has reported, and what follows when the worker is gone.
//!
//! The commit decides. Before the commit, every failure leaves the service running. After the commit the service ends, unless the
//! checkpoint leaves it running or a handover finds no taker. If a worker dies in between, a second worker settles the question.

use std::time::Duration;

use super::stage::Stage;
use super::{Action, Asker, Busy, HookCall, Machine, Moment, Task, Term, Timer, Waiting};
use crate::control::protocol::{CheckpointReport, Event, FailureReport, Pace, Phase, Reason, Report};
use crate::control::server::failed;
use crate::files::selection::Named;
use crate::image::Lease;
use crate::job::AfterCommit;

/// Pause between two workers that settle the same generation.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A checkpoint under way.
#[derive(Debug, Clone)]
pub(super) struct Checkpoint {
    /// Who gets the answer.
    askers: Vec<Asker>,
    /// Why the first of them asked.
    reason: Reason,
    after_commit: AfterCommit,
    /// How short the first of them wants the last step to be.
    pub(super) pace: Pace,
    /// Files that the first of them named.
    pub(super) named: Named,
    began_ms: u64,
    stage: Stage,
    /// A round is committed.
    saved: bool,
    /// The generation whose commit has begun.
    committing: Option<u64>,
    /// The lease since the commit, and when the commit was, in milliseconds of [`Now::ms`](super::Now::ms).
    committed: Option<(Lease, u64)>,
    settlement: Settlement,
    pub(super) result: Option<Event>,
    /// Why the checkpoint was given up; continues "the checkpoint …".
    given_up: Option<String>,
    offer: Offer,
}

/// What became of a generation that was offered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Settlement {
    Unknown,
    /// The instance that has it.
    TakenBy(String),
    Withdrawn,
}

/// What this container does with a generation that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offer {
    /// Waits until another container takes it.
    Open,
    /// Takes it back, unless another container was faster.
    Withdrawing,
    /// Ends, and leaves it to the container that takes it.
    Left,
}

/// A checkpoint that is over.
#[derive(Debug, Clone)]
pub(super) struct Done {
    askers: Vec<Asker>,
    reason: Reason,
    answer: Event,
    peer: Option<String>,
}

impl Checkpoint {
    fn new(waiting: Waiting, began_ms: u64) -> Checkpoint {
        Checkpoint {
            askers: vec![waiting.asker],
            reason: waiting.asker.reason(),
            after_commit: waiting.after_commit,
            pace: waiting.pace,
            named: waiting.named,
            began_ms,
            stage: Stage::NotStarted,
            saved: false,
            committing: None,
            committed: None,
            settlement: Settlement::Unknown,
            result: None,
            given_up: None,
            offer: Offer::Open,
        }
    }

    fn is_handover(&self) -> bool {
        matches!(self.after_commit, AfterCommit::HandOver { .. })
    }

    /// Whether a standby that is ready gets the service. After SIGTERM the container ends in any case, so that its checkpoint
    /// waits for nobody.
    pub(super) fn may_hand_over(&self) -> bool {
        self.is_handover() || (self.after_commit == AfterCommit::Stop && self.reason != Reason::Term)
    }

    fn is_settled(&self) -> bool {
        self.settlement != Settlement::Unknown
    }

    fn is_left(&self) -> bool {
        self.offer == Offer::Left
    }

    /// Whether the service is frozen until another container takes it.
    pub(super) fn is_offered(&self) -> bool {
        self.is_handover() && self.committed.is_some() && !self.is_settled() && !self.is_left()
    }

    /// Whether the service must end, because another container may run it from now on.
    pub(super) fn ends_service(&self) -> bool {
        let ends = self.after_commit == AfterCommit::Stop || self.is_left();
        (self.committed.is_some() && ends) || matches!(self.settlement, Settlement::TakenBy(_))
    }

    /// Whether this checkpoint also answers a request that comes now.
    fn serves(&self, waiting: &Waiting) -> bool {
        let ends_alike = self.after_commit == waiting.after_commit
            || (self.is_handover() && matches!(waiting.after_commit, AfterCommit::HandOver { .. }));
        let alike = ends_alike && self.pace == waiting.pace && self.named == waiting.named;
        // SIGTERM only needs the service to end. Requests that the service answered before SIGTERM are in the checkpoint.
        let suits_term = waiting.asker == Asker::Init(Reason::Term) && self.after_commit != AfterCommit::Resume;
        self.given_up.is_none() && self.result.is_none() && ((alike && self.stage != Stage::Frozen) || suits_term)
    }

    /// How long another container may still take the generation, in milliseconds.
    fn remaining_ms(&self, now_ms: u64) -> u64 {
        match (self.after_commit, self.committed) {
            (AfterCommit::HandOver { timeout_ms }, Some((_, at))) if self.offer != Offer::Withdrawing => {
                timeout_ms.saturating_sub(now_ms.saturating_sub(at))
            }
            _ => 0,
        }
    }

    /// The answer after the worker is gone. `reason` says why the worker left no result, if it left none.
    fn answer(self, reason: &str, now_ms: u64) -> Event {
        let ended = self.ends_service();
        let generation = self.committed.map(|(lease, _)| lease.generation).or(self.committing).unwrap_or(0);
        let counts = ended || (self.committed.is_some() && !self.is_handover());
        let withdrawn = self.is_handover() && self.settlement == Settlement::Withdrawn;
        match self.result {
            Some(Event::Checkpointed(report)) if counts => Event::Checkpointed(Report { ended, ..report }),
            // The worker died after the commit, so its figures are lost.
            _ if counts => Event::Checkpointed(Report {
                generation,
                bytes: 0,
                stored: 0,
                new: 0,
                shared: 0,
                frozen_ms: 0,
                total_ms: now_ms.saturating_sub(self.began_ms),
                ended,
            }),
            Some(Event::Failed { message, log, phase }) => {
                Event::Failed { message, log, phase: if withdrawn { Some(Phase::Handover) } else { phase } }
            }
            _ if self.is_settled() => Event::Failed {
                message: format!(
                    "the checkpoint's worker {reason}; generation {generation} was withdrawn, and the service keeps running"
                ),
                log: None,
                phase: withdrawn.then_some(Phase::Handover),
            },
            _ => {
                let why = self.given_up.map_or_else(|| format!("'s worker {reason}"), |why| format!(" {why}"));
                let what = if self.committing.is_some() {
                    "`freeze list` shows whether the generation was committed, and the service keeps running"
                } else if self.saved {
                    "what its rounds have saved is committed, and the service keeps running"
                } else {
                    "nothing was committed, and the service keeps running"
                };
                failed(format!("the checkpoint{why}; {what}"))
            }
        }
    }
}

impl Machine {
    /// Handles a request: it joins the checkpoint under way, starts one, or is queued.
    pub(super) fn ask(&mut self, waiting: Waiting) {
        if let Some(message) = self.refusal() {
            return self.refuse(waiting.asker, message);
        }
        match &mut self.busy {
            Busy::Nothing => self.start_checkpoint(waiting),
            Busy::Before(checkpoint) | Busy::WaitingForLeaseCheck(checkpoint) | Busy::Checkpoint(checkpoint)
                if checkpoint.serves(&waiting) =>
            {
                if !checkpoint.askers.contains(&waiting.asker) {
                    checkpoint.askers.push(waiting.asker);
                }
            }
            _ if self.queue.iter().any(|other| other.asker == waiting.asker) => {}
            // The grace time of SIGTERM runs, so its checkpoint is next.
            _ if waiting.asker == Asker::Init(Reason::Term) => self.queue.insert(0, waiting),
            _ => self.queue.push(waiting),
        }
    }

    fn refusal(&self) -> Option<&'static str> {
        use crate::control::protocol::State;
        match (self.state(), self.tree) {
            (State::Ending, _) => Some("the service is ending"),
            (State::Standby, _) => Some("there is no service here yet: this container is a standby"),
            (_, None) => Some("the service is still starting: try again when `freeze status` says running"),
            (_, Some(tree)) if tree.root == 0 => Some(
                "the service's subreaper was killed, so freeze cannot find all processes of the service: restart the \
                 container to be able to checkpoint again",
            ),
            _ => None,
        }
    }

    fn refuse(&mut self, asker: Asker, message: &str) {
        self.answer(asker, &failed(message.to_owned()));
        if asker == Asker::Init(Reason::Term) {
            self.end_in_order();
        }
    }

    pub(super) fn start_checkpoint(&mut self, waiting: Waiting) {
        if let Some(message) = self.refusal() {
            self.refuse(waiting.asker, message);
            return self.idle();
        }
        let call = HookCall {
            moment: Moment::BeforeCheckpoint,
            generation: self.status.generation,
            reason: waiting.asker.reason().name(),
            result: "",
            peer: String::new(),
            service: self.tree.map_or(0, |tree| tree.service),
        };
        let checkpoint = Checkpoint::new(waiting, self.now.ms);
        if self.run_hook(call) {
            self.busy = Busy::Before(checkpoint);
        } else {
            self.launch(checkpoint);
        }
    }

    pub(super) fn launch(&mut self, checkpoint: Checkpoint) {
        if checkpoint.given_up.is_some() {
            return self.checkpoint_over(checkpoint, "");
        }
        if self.lease_check.is_under_way() {
            // The checkpoint's worker checks the lease itself.
            self.act(Action::DismissWorker);
            self.busy = Busy::WaitingForLeaseCheck(checkpoint);
            return;
        }
        self.act(Action::StartWorker(Task::Checkpoint(checkpoint.after_commit)));
        self.busy = Busy::Checkpoint(Checkpoint { stage: Stage::Preflight, ..checkpoint });
    }

    pub(super) fn before_over(&mut self, mut checkpoint: Checkpoint, failure: Option<String>) {
        match failure {
            _ if checkpoint.given_up.is_some() => self.checkpoint_over(checkpoint, ""),
            Some(failure) if !self.config.hooks.may_fail => {
                let message = format!(
                    "the hook before the checkpoint {failure}; nothing was frozen, and the service keeps running"
                );
                let phase = Some(Phase::Preflight);
                checkpoint.result = Some(Event::Failed { message, log: None, phase });
                self.checkpoint_over(checkpoint, "");
            }
            failure => {
                self.warn_of_hook("before the checkpoint", failure);
                self.launch(checkpoint);
            }
        }
    }

    pub(super) fn hear_checkpoint(&mut self, event: Event) {
        let now_ms = self.now.ms;
        let settling = matches!(self.busy, Busy::Settle(_));
        let (Busy::Checkpoint(checkpoint) | Busy::Settle(checkpoint)) = &mut self.busy else { return };
        match event {
            Event::Progress { phase, .. } => {
                checkpoint.stage = checkpoint.stage.at(phase);
                let runs = checkpoint.stage == Stage::Preflight
                    || (phase == Phase::Commit && checkpoint.after_commit == AfterCommit::Resume);
                self.tell_askers(&event);
                if runs {
                    self.send_early();
                }
            }
            Event::Warning { .. } | Event::Round(_) => self.tell_askers(&event),
            Event::Saved { lease } => {
                (checkpoint.stage, checkpoint.saved) = (Stage::Preflight, true);
                (self.lease, self.status.generation) = (lease, lease.generation);
                self.send_early();
            }
            Event::HandingOver { timeout_ms, .. } if checkpoint.after_commit == AfterCommit::Stop && !settling => {
                checkpoint.after_commit = AfterCommit::HandOver { timeout_ms };
                self.tell_askers(&event);
            }
            Event::Committing { generation } => checkpoint.committing = Some(generation),
            Event::Committed { lease } => {
                checkpoint.committing = Some(lease.generation);
                checkpoint.committed = Some((lease, now_ms));
                (self.lease, self.status.generation) = (lease, lease.generation);
                if checkpoint.is_offered() {
                    let leaves = checkpoint.askers.contains(&Asker::Init(Reason::Term));
                    self.act(Action::UnlimitWorker);
                    self.hear(Event::Progress { phase: Phase::Handover, bytes: 0, total: 0 });
                    if leaves || self.term == Term::Trying {
                        self.leave_offered();
                    }
                }
            }
            Event::Settled { ref taken_by } => {
                checkpoint.settlement = taken_by.clone().map_or(Settlement::Withdrawn, Settlement::TakenBy);
                self.tell_askers(&event);
                if settling {
                    self.act(Action::HurryWorker);
                }
            }
            Event::Checkpointed(_) | Event::Failed { .. } if !settling => {
                checkpoint.result = Some(event);
                self.act(Action::HurryWorker);
            }
            _ => {}
        }
    }

    pub(super) fn checkpoint_over(&mut self, checkpoint: Checkpoint, reason: &str) {
        let unknown = checkpoint.is_offered()
            || (!checkpoint.is_settled() && checkpoint.result.is_none() && !checkpoint.is_left());
        let open = match checkpoint.after_commit {
            AfterCommit::HandOver { .. } => true,
            AfterCommit::Stop => checkpoint.committed.is_none(),
            AfterCommit::Resume => false,
        };
        match checkpoint.committing {
            Some(generation) if unknown && open && self.tree.is_some() => self.settle(checkpoint, generation),
            _ => self.conclude(checkpoint, reason),
        }
    }

    fn settle(&mut self, checkpoint: Checkpoint, generation: u64) {
        let remaining_ms = checkpoint.remaining_ms(self.now.ms);
        self.act(Action::StartWorker(Task::Settle { generation, remaining_ms }));
        self.busy = Busy::Settle(checkpoint);
    }

    pub(super) fn settle_over(&mut self, checkpoint: Checkpoint, reason: &str) {
        if checkpoint.is_settled() || checkpoint.is_left() {
            return self.conclude(checkpoint, reason);
        }
        self.set(Timer::Settle, LOOK_AGAIN);
        self.busy = Busy::Pause(checkpoint);
    }

    pub(super) fn settle_again(&mut self) {
        match std::mem::replace(&mut self.busy, Busy::Nothing) {
            Busy::Pause(checkpoint) => {
                let generation = checkpoint.committing.unwrap_or_default();
                self.settle(checkpoint, generation);
            }
            other => self.busy = other,
        }
    }

    /// The outcome is known: ends the service or lets it run on, and answers.
    fn conclude(&mut self, checkpoint: Checkpoint, reason: &str) {
        let ends = checkpoint.ends_service();
        let died = checkpoint.result.is_none() && checkpoint.stage != Stage::NotStarted;
        let may_hand_over = checkpoint.may_hand_over();
        let done = Done {
            askers: checkpoint.askers.clone(),
            reason: checkpoint.reason,
            peer: match &checkpoint.settlement {
                Settlement::TakenBy(instance) => Some(instance.clone()),
                Settlement::Unknown | Settlement::Withdrawn => None,
            },
            answer: checkpoint.answer(reason, self.now.ms),
        };
        if ends {
            if self.tree.is_none() {
                return self.farewell(done);
            }
            self.busy = Busy::Farewell(done);
            return self.act(Action::KillTree);
        }
        if died {
            // The dead worker may have left the service fenced by SIGSTOP.
            self.act(Action::ContinueTree);
        }
        self.send_early();
        let call = self.record(done);
        if self.last.as_ref().is_some_and(Result::is_err) {
            let term = Waiting::of_init(Reason::Term, AfterCommit::Stop);
            let waits = self.queue.iter().any(|waiting| waiting.asker == term.asker);
            if may_hand_over && self.term == Term::Trying && !waits {
                // SIGTERM gets a checkpoint of its own: the state is kept even if no container could take it over.
                self.queue.insert(0, term);
            } else if !waits {
                self.end_in_order();
            }
            if self.config.exclusive.is_some() {
                // The checkpoint may have failed because another container owns the lease, so check it now.
                self.set(Timer::Heartbeat, Duration::ZERO);
            }
        }
        if self.run_hook(call) {
            self.busy = Busy::After(None);
        } else {
            self.idle();
        }
    }

    /// Ends init after the checkpointed service has ended.
    pub(super) fn farewell(&mut self, done: Done) {
        let call = self.record(done);
        let code = self.config.checkpointed_status;
        if self.run_hook(call) {
            self.busy = Busy::After(Some(code));
        } else {
            self.finish(code, "the service was checkpointed and has ended");
        }
    }

    /// Answers all requests and updates the status. Returns the call of the hook that follows.
    fn record(&mut self, done: Done) -> HookCall {
        let reason = done.reason;
        let at_ms = self.now.wall_ms;
        let result = match &done.answer {
            Event::Checkpointed(report) => {
                self.status.checkpoints += 1;
                self.status.checkpoint = Some(CheckpointReport { at_ms, reason, report: *report });
                self.last = Some(Ok(()));
                if done.peer.is_some() { "handed-over" } else { "committed" }
            }
            Event::Failed { message, .. } => {
                self.status.failures += 1;
                self.status.failure = Some(FailureReport { at_ms, reason, message: message.clone() });
                self.last = Some(Err(message.clone()));
                "failed"
            }
            _ => "",
        };
        for asker in done.askers {
            self.answer(asker, &done.answer);
        }
        HookCall {
            moment: Moment::AfterCheckpoint,
            generation: self.status.generation,
            reason: reason.name(),
            result,
            peer: done.peer.unwrap_or_default(),
            service: self.tree.map_or(0, |tree| tree.service),
        }
    }

    fn answer(&mut self, asker: Asker, answer: &Event) {
        let reason = match asker {
            Asker::Client(client) => return self.act(Action::Finish(client, answer.clone())),
            Asker::Init(Reason::Signal) => "the checkpoint signal",
            Asker::Init(Reason::Term) => "SIGTERM",
            Asker::Init(Reason::Timer) => "--every",
            Asker::Init(Reason::Command) => "a command",
        };
        match answer {
            Event::Checkpointed(report) => {
                let what_follows = if report.ended { "the service has ended" } else { "the service keeps running" };
                self.say(format!(
                    "generation {} is committed, requested by {reason}; {what_follows}",
                    report.generation
                ));
            }
            Event::Failed { message, log, .. } => {
                let log = log.as_ref().map(|path| format!(" (log: {})", path.display())).unwrap_or_default();
                self.say(format!("the checkpoint requested by {reason} failed: {message}{log}"));
            }
            _ => {}
        }
    }

    fn tell_askers(&mut self, event: &Event) {
        let (Busy::Checkpoint(checkpoint) | Busy::Settle(checkpoint)) = &self.busy else { return };
        for asker in checkpoint.askers.clone() {
            if let Asker::Client(client) = asker {
                self.act(Action::Send(client, event.clone()));
            }
        }
    }

    /// Who gets the answer of the checkpoint under way, if there is one.
    pub(super) fn askers(&mut self) -> Option<&mut Vec<Asker>> {
        match &mut self.busy {
            Busy::Before(checkpoint)
            | Busy::WaitingForLeaseCheck(checkpoint)
            | Busy::Checkpoint(checkpoint)
            | Busy::Settle(checkpoint)
            | Busy::Pause(checkpoint) => Some(&mut checkpoint.askers),
            Busy::Farewell(done) => Some(&mut done.askers),
            _ => None,
        }
    }

    /// Gives up the checkpoint under way unless it is committed. Returns whether there was one.
    pub(super) fn give_up(&mut self, why: &str) -> bool {
        match &mut self.busy {
            Busy::Before(checkpoint) => {
                checkpoint.given_up.get_or_insert_with(|| why.to_owned());
                self.act(Action::KillHook);
            }
            Busy::WaitingForLeaseCheck(checkpoint) => {
                checkpoint.given_up.get_or_insert_with(|| why.to_owned());
            }
            Busy::Checkpoint(checkpoint) if checkpoint.committed.is_none() => {
                checkpoint.given_up.get_or_insert_with(|| why.to_owned());
                self.act(Action::DismissWorker);
            }
            _ => return false,
        }
        true
    }

    /// Whether the service is frozen until another container takes it.
    pub(super) fn is_offered(&self) -> bool {
        match &self.busy {
            Busy::Checkpoint(checkpoint) | Busy::Settle(checkpoint) | Busy::Pause(checkpoint) => {
                checkpoint.is_offered()
            }
            _ => false,
        }
    }

    /// Whether the service is about to end because its checkpoint is committed.
    pub(super) fn is_committed(&self) -> bool {
        match &self.busy {
            Busy::Checkpoint(checkpoint) | Busy::Settle(checkpoint) => checkpoint.ends_service(),
            Busy::Farewell(_) | Busy::After(Some(_)) => true,
            _ => false,
        }
    }

    /// Ends the offered service without withdrawing the generation: the container that restores it has the service.
    pub(super) fn leave_offered(&mut self) {
        let worker = !matches!(self.busy, Busy::Pause(_));
        let (Busy::Checkpoint(checkpoint) | Busy::Settle(checkpoint) | Busy::Pause(checkpoint)) = &mut self.busy else {
            return;
        };
        checkpoint.offer = Offer::Left;
        if worker {
            self.act(Action::KillTree);
            self.act(Action::KillWorker);
        } else if let Busy::Pause(checkpoint) = std::mem::replace(&mut self.busy, Busy::Nothing) {
            self.act(Action::Clear(Timer::Settle));
            self.conclude(checkpoint, "");
        }
    }

    /// Withdraws the offered generation unless another container has taken it. Returns whether one was offered.
    pub(super) fn withdraw(&mut self) -> bool {
        let (Busy::Checkpoint(checkpoint) | Busy::Settle(checkpoint) | Busy::Pause(checkpoint)) = &mut self.busy else {
            return false;
        };
        if !checkpoint.is_offered() {
            return false;
        }
        checkpoint.offer = Offer::Withdrawing;
        if !matches!(self.busy, Busy::Pause(_)) {
            self.act(Action::Withdraw);
        }
        true
    }

    /// Whether the service may be frozen: signals must wait.
    pub(super) fn is_frozen(&self) -> bool {
        match &self.busy {
            Busy::Checkpoint(checkpoint) => {
                let released =
                    checkpoint.after_commit == AfterCommit::Resume && self.status.phase == Some(Phase::Commit);
                checkpoint.stage == Stage::Frozen && !released
            }
            Busy::Settle(_) | Busy::Pause(_) => true,
            _ => false,
        }
    }
}
