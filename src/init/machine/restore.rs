//! Start of the service: restored from a generation, or the command executed.

use std::time::Duration;

use crate::control::protocol::Event;
use crate::exit;
use crate::init::machine::{Action, Busy, Machine, Moment, Task, Timer, killed_by};
use crate::init::tree::Tree;
use crate::sys::process::Ending;

/// A restore under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Restore {
    /// PID of the root of the restored tree, once the worker has named it.
    pub(super) root: i32,
    /// Exit of that root, if it ended before the worker reported the restore.
    pub(super) ended: Option<Ending>,
    /// Whether the worker waits for a handover.
    pub(super) waits: bool,
    result: Option<Event>,
    /// The worker has said whether head names this container as the owner of the lease.
    claim_is_known: bool,
}

impl Machine {
    pub(super) fn begin(&mut self) {
        if let Some(signal) = self.cancelled {
            return self.finish(killed_by(signal), "a signal ended init");
        }
        self.busy = Busy::Restore(Restore::default());
        self.act(Action::StartWorker(Task::Restore));
    }

    pub(super) fn hear_restore(&mut self, event: Event) {
        let Busy::Restore(restore) = &mut self.busy else { return };
        match event {
            Event::Progress { .. } if restore.waits => {
                restore.waits = false;
                self.act(Action::LimitWorker);
            }
            Event::Waiting { generation } => {
                restore.waits = true;
                self.status.generation = generation;
                self.act(Action::UnlimitWorker);
            }
            Event::Chosen { message } => self.say(message),
            Event::Restoring { root } => {
                (restore.root, restore.ended) = (root, None);
                self.act(Action::GiveUpTerminal);
            }
            Event::Claimed => restore.claim_is_known = true,
            // A warning after the result says why head could not be claimed.
            Event::Warning { .. } => restore.claim_is_known = restore.result.is_some(),
            Event::Restored { root, service, tracers, lease, restore: report } => {
                let ended = restore.ended;
                restore.result = Some(Event::Claimed);
                let tree = Tree { tracers, root, service };
                self.tree = Some(tree);
                self.note_tracers(tree);
                self.lease = lease;
                self.status.generation = report.generation;
                self.status.restore = Some(report);
                self.act(Action::HurryWorker);
                self.send_early();
                if let Some(ending) = ended {
                    self.tree = None;
                    self.service_ended(ending);
                }
            }
            Event::NothingToRestore { .. }
            | Event::Failed { .. }
            | Event::Lost { .. }
            | Event::PidsExhausted { .. }
            | Event::VolumeChanged { .. }
            | Event::ClockBack { .. } => {
                restore.result = Some(event);
                self.act(Action::HurryWorker);
            }
            _ => {}
        }
    }

    pub(super) fn restore_over(&mut self, restore: Restore, reason: &str, root_is_ours: bool) {
        match (self.cancelled, restore.result) {
            _ if self.tree.is_some() && !root_is_ours => {
                self.fail("the restored service ended before init could take it over", exit::RESTORE_FAILED)
            }
            _ if self.tree.is_some() => {
                if !restore.claim_is_known {
                    self.say(format!(
                        "warning: the service runs, but its worker {reason} before it claimed the lease. If another \
                         container restores the same generation, freeze notices only at the next checkpoint"
                    ));
                }
                self.ready(vec![Moment::OnRestore, Moment::OnAppReady]);
            }
            (Some(signal), _) => {
                self.act(Action::KillBelow);
                self.finish(killed_by(signal), "a signal ended init");
            }
            (None, Some(Event::NothingToRestore { lease })) => {
                self.lease = lease;
                self.act(Action::StartService);
            }
            (None, Some(Event::Lost { message })) => self.fail(&message, exit::REPLACED),
            (None, Some(Event::PidsExhausted { message })) => self.fail(&message, exit::PIDS_EXHAUSTED),
            (None, Some(Event::VolumeChanged { message })) => self.fail(&message, exit::VOLUME_CHANGED),
            (None, Some(Event::ClockBack { message })) => self.fail(&message, exit::CLOCK_BACK),
            (None, Some(Event::Failed { message, log, .. })) => {
                let log = log.map(|path| format!(" (log: {})", path.display())).unwrap_or_default();
                self.fail(&format!("{message}{log}"), exit::RESTORE_FAILED);
            }
            (None, _) => self.fail(&format!("the restore failed: its worker {reason}"), exit::RESTORE_FAILED),
        }
    }

    pub(super) fn started(&mut self, tree: Tree) {
        self.tree = Some(tree);
        self.note_tracers(tree);
        // A standby may have prepared for a generation that it does not run.
        self.status.generation = 0;
        self.send_early();
        self.ready(vec![Moment::OnAppReady]);
    }

    /// The service runs: starts timers and hooks.
    fn ready(&mut self, hooks: Vec<Moment>) {
        if let Some(every) = self.config.every {
            self.set(Timer::Every, every);
        }
        self.schedule_heartbeat();
        self.run_ready_hooks(hooks);
    }

    /// Sets the timer of the next heartbeat, if `--exclusive` is given. Their counters begin at 0, so the first failure is an increase.
    pub(super) fn schedule_heartbeat(&mut self) {
        if let Some(interval) = self.config.exclusive {
            self.status.heartbeat.get_or_insert_default();
            self.set(Timer::Heartbeat, interval.max(Duration::from_millis(10)));
        }
    }
}
