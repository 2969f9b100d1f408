//! Signals and timers.

use std::time::Duration;

use crate::control::protocol::{Reason, millis};
use crate::init::config::OnTerm;
use crate::init::forward;
use crate::init::machine::heartbeat::LeaseCheck;
use crate::init::machine::{Action, Asker, Busy, Machine, Task, Term, Timer, Waiting};
use crate::job::AfterCommit;
use crate::sys::signals::Signal;

/// Part of SIGTERM's grace time that is kept for the service to end by itself if its checkpoint fails.
const MARGIN: Duration = Duration::from_secs(5);

impl Machine {
    pub(super) fn signal(&mut self, signal: Signal) {
        let ends = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT].contains(&signal);
        match self.tree {
            None if ends => self.cancel_start(signal),
            _ if self.config.checkpoint_signal == Some(signal) => {
                self.ask(Waiting::of_init(Reason::Signal, AfterCommit::Stop));
            }
            Some(_) if signal == libc::SIGTERM && self.config.on_term == OnTerm::Checkpoint => self.terminate(),
            _ => self.forward(signal),
        }
    }

    /// Ends the container on a signal that comes before there is a service.
    fn cancel_start(&mut self, signal: Signal) {
        self.cancelled.get_or_insert(signal);
        if matches!(self.busy, Busy::Restore(_)) {
            self.act(Action::KillWorker);
        }
        self.early.insert(signal);
    }

    /// Forwards a signal, or keeps it until the service exists and is not frozen. CRIU dumps pending signals, so a restored service
    /// would otherwise end by a SIGTERM that was meant for this container.
    fn forward(&mut self, signal: Signal) {
        if self.tree.is_none() || self.is_frozen() {
            return self.early.insert(signal);
        }
        self.deliver(signal);
    }

    fn deliver(&mut self, signal: Signal) {
        let Some(translated) = forward::translate(&self.config.rewrites, signal) else { return };
        self.act(Action::Signal(translated));
        if signal == libc::SIGTERM
            && !std::mem::replace(&mut self.dying, true)
            && let Some(limit) = self.config.kill_timeout
        {
            self.set(Timer::Kill, limit);
        }
        if forward::is_stop(signal) {
            self.act(Action::StopSelf);
        }
    }

    /// Delivers the signals that were kept.
    pub(super) fn send_early(&mut self) {
        for signal in self.early.drain() {
            self.deliver(signal);
        }
    }

    /// Handles a SIGTERM that asks for a checkpoint.
    fn terminate(&mut self) {
        match self.term {
            Term::Trying => {}
            Term::Forwarded => self.forward(libc::SIGTERM),
            // The generation is committed, so another container can take it without this one.
            Term::None if self.is_offered() => self.leave_offered(),
            Term::None => {
                self.term = Term::Trying;
                let grace = self.config.term_grace;
                let within = grace.saturating_sub(MARGIN.min(grace / 5));
                self.term_until_ms = self.now.ms.saturating_add(millis(within));
                self.set(Timer::Term, within);
                self.ask(Waiting::of_init(Reason::Term, AfterCommit::Stop));
            }
        }
    }

    /// Time until SIGTERM's checkpoint is given up, if one is to be taken.
    pub fn within(&self) -> Option<Duration> {
        let left_ms = self.term_until_ms.saturating_sub(self.now.ms);
        (self.term == Term::Trying).then(|| Duration::from_millis(left_ms))
    }

    /// Forwards SIGTERM because its checkpoint failed or was not in time.
    pub(super) fn end_in_order(&mut self) {
        if self.term == Term::Trying {
            self.term = Term::Forwarded;
            self.act(Action::Clear(Timer::Term));
            self.deliver(libc::SIGTERM);
        }
    }

    pub(super) fn elapsed(&mut self, timer: Timer) {
        match timer {
            Timer::Every => {
                if let Some(every) = self.config.every {
                    self.set(Timer::Every, every);
                }
                // A service that is about to end must not become the newest generation.
                if matches!(self.busy, Busy::Nothing) && !self.dying {
                    self.ask(Waiting::of_init(Reason::Timer, AfterCommit::Resume));
                }
            }
            Timer::Term => self.term_over(),
            Timer::Kill => self.act(Action::Signal(libc::SIGKILL)),
            Timer::Hook => self.act(Action::KillHook),
            Timer::Settle => self.settle_again(),
            Timer::Heartbeat => {
                self.schedule_heartbeat();
                if self.lease_check.is_under_way() {
                    self.heartbeat_late();
                }
                let beside = matches!(self.busy, Busy::Nothing | Busy::Ready(_) | Busy::Before(_) | Busy::After(None));
                if beside && !self.lease_check.is_under_way() && self.tree.is_some() {
                    self.lease_check = LeaseCheck::UnderWay;
                    self.heartbeat_begins();
                    self.act(Action::StartWorker(Task::Heartbeat));
                }
            }
        }
    }

    fn term_over(&mut self) {
        if self.term != Term::Trying || self.is_committed() {
            return;
        }
        self.queue.retain(|waiting| waiting.asker != Asker::Init(Reason::Term));
        self.give_up("was cancelled because it exceeded the grace time of SIGTERM");
        self.end_in_order();
    }
}
