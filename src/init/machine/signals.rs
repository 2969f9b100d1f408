//! Signals, and timers.

use std::time::Duration;

use super::{Action, Asker, Busy, Machine, Term, Timer, Waiting};
use crate::control::protocol::Reason;
use crate::init::{config::OnTerm, forward};
use crate::sys::signals::Signal;
use crate::worker::Fate;

/// The most of SIGTERM's grace that is left to the service for an orderly end, where its checkpoint fails.
const MARGIN: Duration = Duration::from_secs(5);

impl Machine {
    pub(super) fn signal(&mut self, signal: Signal) {
        if self.config.checkpoint_signal == Some(signal) {
            return self.ask(Waiting { asker: Asker::Init(Reason::Signal), fate: Fate::End });
        }
        if signal == libc::SIGTERM && self.config.on_term == OnTerm::Checkpoint && self.tree.is_some() {
            return self.terminate();
        }
        self.forward(signal);
    }

    /// Passes a signal on, keeps it for later, or lets it end a start that has not come to the service yet.
    fn forward(&mut self, signal: Signal) {
        let Some(translated) = forward::translate(&self.config.rewrites, signal) else { return };
        if self.tree.is_none() {
            if [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT].contains(&signal) {
                self.cancelled.get_or_insert(signal);
                if matches!(self.busy, Busy::Restore(_)) {
                    self.act(Action::KillWorker);
                }
            }
            return self.early.insert(signal);
        }
        self.act(Action::Signal(translated));
        if signal == libc::SIGTERM
            && let Some(limit) = self.config.kill_timeout
            && !std::mem::replace(&mut self.dying, true)
        {
            self.set(Timer::Kill, limit);
        }
        if forward::is_stop(signal) {
            self.act(Action::StopSelf);
        }
    }

    /// The service is there: it gets what came before.
    pub(super) fn send_early(&mut self) {
        for signal in self.early.drain() {
            self.forward(signal);
        }
    }

    /// SIGTERM, where that asks for a checkpoint.
    fn terminate(&mut self) {
        match self.term {
            Term::Trying => {}
            Term::Forwarded => self.forward(libc::SIGTERM),
            // The generation is committed, and whoever takes it has the service; ours is not needed for that.
            Term::None if self.is_offered() => self.leave_offered(),
            Term::None => {
                self.term = Term::Trying;
                let grace = self.config.term_grace;
                self.set(Timer::Term, grace.saturating_sub(MARGIN.min(grace / 5)));
                self.ask(Waiting { asker: Asker::Init(Reason::Term), fate: Fate::End });
            }
        }
    }

    /// There is no checkpoint for SIGTERM, or not in time: the service ends in its own way.
    pub(super) fn end_in_order(&mut self) {
        if std::mem::replace(&mut self.term, Term::Forwarded) == Term::Trying {
            self.act(Action::Clear(Timer::Term));
            self.forward(libc::SIGTERM);
        }
    }

    pub(super) fn elapsed(&mut self, timer: Timer) {
        match timer {
            Timer::Every => {
                if let Some(every) = self.config.every {
                    self.set(Timer::Every, every);
                }
                if matches!(self.busy, Busy::Nothing | Busy::Hold { .. }) {
                    self.ask(Waiting { asker: Asker::Init(Reason::Timer), fate: Fate::Run });
                }
            }
            Timer::Term => self.term_over(),
            Timer::Kill => self.act(Action::Signal(libc::SIGKILL)),
            Timer::Hook => self.act(Action::KillHook),
            Timer::Settle => self.settle_again(),
            Timer::Hold => {
                self.hold_later();
                if matches!(self.busy, Busy::Nothing) && self.tree.is_some() {
                    self.look_whether_ours();
                }
            }
        }
    }

    fn term_over(&mut self) {
        if self.term != Term::Trying || self.is_committed() {
            return;
        }
        self.queue.retain(|waiting| waiting.asker != Asker::Init(Reason::Term));
        self.give_up("could not be finished within the grace time of SIGTERM");
        self.end_in_order();
    }
}
