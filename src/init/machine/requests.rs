//! Requests of clients and their answers.

use super::{Action, Asker, Busy, Machine, Waiting};
use crate::control::protocol::{Awaited, Event, MAX_NAMED, Op, State, Wanted};
use crate::control::server::{ClientId, failed};
use crate::job::AfterCommit;

impl Machine {
    pub(super) fn asked(&mut self, client: ClientId, op: Op) {
        match op {
            Op::Checkpoint(wanted) => match waiting(client, wanted) {
                Ok(waiting) => self.ask(waiting),
                Err(message) => self.act(Action::Finish(client, failed(message))),
            },
            Op::Status => {
                let status = self.status();
                self.act(Action::Finish(client, status));
            }
            // Answered at the end of this step if the condition holds already.
            Op::Wait { until } => self.waiters.push((client, until)),
            Op::Cancel => {
                let found = self.give_up("was cancelled by `freeze cancel`") || self.withdraw();
                let answer =
                    if found { Event::Done } else { failed("there is no checkpoint or handover to cancel".to_owned()) };
                self.act(Action::Finish(client, answer));
            }
            Op::Subscribe => {
                self.subscribers.push(client);
                let status = self.status();
                self.act(Action::Send(client, status));
            }
        }
    }

    /// Drops the requests of a client that is gone. A checkpoint that no one waits for is given up.
    pub(super) fn left(&mut self, client: ClientId) {
        self.waiters.retain(|(waiter, _)| *waiter != client);
        self.subscribers.retain(|subscriber| *subscriber != client);
        self.queue.retain(|waiting| waiting.asker != Asker::Client(client));
        let asker = Asker::Client(client);
        if let Some(askers) = self.askers()
            && askers.contains(&asker)
        {
            askers.retain(|other| *other != asker);
            if askers.is_empty() {
                self.give_up("was cancelled because its client disconnected");
            }
        }
    }

    fn status(&self) -> Event {
        let mut status = self.status.clone();
        status.state = self.state();
        status.service = self.tree.map_or(0, |tree| tree.service);
        Event::Status(Box::new(status))
    }

    pub(super) fn publish(&mut self, event: &Event) {
        for subscriber in self.subscribers.clone() {
            self.act(Action::Send(subscriber, event.clone()));
        }
    }

    /// Ends a step: publishes a change of state and answers the waiters whose condition holds.
    pub(super) fn tell(&mut self) {
        let state = self.state();
        if std::mem::replace(&mut self.told, state) != state {
            let status = self.status();
            self.publish(&status);
        }
        self.answer_waiters(None);
    }

    /// Answers waiters whose condition holds; all of them if `end` says why nothing more will happen.
    pub(super) fn answer_waiters(&mut self, end: Option<&str>) {
        let mut waiters = std::mem::take(&mut self.waiters);
        waiters.retain(|(client, until)| {
            let answer = self.reached(*until).or_else(|| end.map(|reason| failed(reason.to_owned())));
            let Some(answer) = answer else { return true };
            self.act(Action::Finish(*client, answer));
            false
        });
        self.waiters = waiters;
    }

    /// The answer to a waiter, if its condition holds.
    fn reached(&self, until: Awaited) -> Option<Event> {
        let runs = self.tree.is_some() && matches!(self.state(), State::Running | State::Checkpointing);
        let quiet = self.queue.is_empty()
            && !matches!(
                self.busy,
                Busy::Before(_)
                    | Busy::WaitingForLeaseCheck(_)
                    | Busy::Checkpoint(_)
                    | Busy::Settle(_)
                    | Busy::Pause(_)
                    | Busy::Farewell(_)
            );
        match until {
            Awaited::Running => runs.then_some(Event::Reached),
            Awaited::Restored if runs && self.status.restore.is_none() => {
                Some(failed("the service was not restored: it was started afresh".to_owned()))
            }
            Awaited::Restored => runs.then_some(Event::Reached),
            Awaited::Checkpointed if !quiet => None,
            Awaited::Checkpointed => self.last.as_ref().map(|last| match last {
                Ok(()) => Event::Reached,
                Err(message) => failed(message.clone()),
            }),
            Awaited::Idle => {
                let idle = self.queue.is_empty() && matches!(self.busy, Busy::Nothing);
                (runs && idle).then_some(Event::Reached)
            }
        }
    }
}

fn waiting(client: ClientId, wanted: Wanted) -> Result<Waiting, String> {
    let after_commit = match (wanted.leave_running, wanted.handover_ms) {
        (true, Some(_)) => return Err("--handover and --leave-running exclude each other".to_owned()),
        (true, None) => AfterCommit::Resume,
        (false, Some(timeout_ms)) => AfterCommit::HandOver { timeout_ms },
        (false, None) => AfterCommit::Stop,
    };
    wanted.named.check(MAX_NAMED).map_err(|error| error.to_string())?;
    Ok(Waiting { asker: Asker::Client(client), after_commit, pace: wanted.pace, named: wanted.named })
}
