//! Heartbeats of `--exclusive`: counted in the status. A warning says when they fail, and a line when they succeed again. A minute
//! passes between two warnings, unless a new outage is about to cost the application.

use std::time::Duration;

use super::{Busy, Machine};
use crate::control::protocol::Event;

/// Shortest time between two warnings, in milliseconds.
const QUIET_MS: u64 = 60_000;
/// A heartbeat counts as late after this time at the earliest: a worker may take as long to start on a busy machine.
const LATE: Duration = Duration::from_secs(1);
/// Intervals of silence after which a waiting container takes the application over.
const SILENT: u32 = 3;

/// State of the heartbeats that the status does not show.
#[derive(Debug, Clone, Default)]
pub(super) struct Heartbeats {
    /// Start of the heartbeat under way.
    began_ms: u64,
    /// Whether the heartbeat under way has a result.
    ended: bool,
    /// Time of the last warning.
    warned_ms: Option<u64>,
    /// The warning has not been taken back yet.
    warned: bool,
}

/// The worker that sends a heartbeat also checks the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LeaseCheck {
    /// There is no such worker.
    Idle,
    UnderWay,
    /// Another container owns the lease, as the worker said; one sentence. The worker is about to end.
    Lost(String),
}

impl LeaseCheck {
    pub(super) fn is_under_way(&self) -> bool {
        *self != LeaseCheck::Idle
    }
}

impl Machine {
    pub(super) fn heartbeat_begins(&mut self) {
        (self.heartbeats.began_ms, self.heartbeats.ended) = (self.now.ms, false);
    }

    /// Counts a heartbeat as failed if the next one is due and it has no result yet.
    pub(super) fn heartbeat_late(&mut self) {
        let taken = Duration::from_millis(self.now.ms.saturating_sub(self.heartbeats.began_ms));
        if !self.heartbeats.ended && taken >= self.interval().max(LATE) {
            self.heartbeat_failed(&format!("the store has not answered for {}", humantime::format_duration(taken)));
        }
    }

    pub(super) fn hear_heartbeat(&mut self, event: &Event) {
        match event {
            Event::StillOwner => self.heartbeat_succeeded(),
            Event::Failed { message, .. } => self.heartbeat_failed(message),
            Event::Lost { .. } => {}
            _ => return,
        }
        self.heartbeats.ended = true;
    }

    /// Counts a heartbeat as failed if its worker is gone without a result, unless init dismissed it for a checkpoint.
    pub(super) fn heartbeat_over(&mut self, reason: &str) {
        if !self.heartbeats.ended && !matches!(self.busy, Busy::WaitingForLeaseCheck(_)) {
            self.heartbeat_failed(&format!("the worker that renews the lease {reason}"));
        }
    }

    fn heartbeat_succeeded(&mut self) {
        let report = self.status.heartbeat.get_or_insert_default();
        report.at_ms = Some(self.now.wall_ms);
        let failed = std::mem::take(&mut report.in_a_row);
        if std::mem::take(&mut self.heartbeats.warned) {
            let failures = if failed == 1 { "1 failure".to_owned() } else { format!("{failed} failures in a row") };
            self.say(format!("the heartbeat reaches the store again, after {failures}"));
        }
    }

    fn heartbeat_failed(&mut self, why: &str) {
        let report = self.status.heartbeat.get_or_insert_default();
        report.failures += 1;
        report.in_a_row += 1;
        let in_a_row = report.in_a_row;
        let quiet = self.heartbeats.warned_ms.is_some_and(|at| self.now.ms.saturating_sub(at) < QUIET_MS);
        // Warns of a new outage before another container takes the application over.
        if quiet && (self.heartbeats.warned || in_a_row != u64::from(SILENT) - 1) {
            return;
        }
        (self.heartbeats.warned_ms, self.heartbeats.warned) = (Some(self.now.ms), true);
        let silence = humantime::format_duration(self.interval().saturating_mul(SILENT));
        let message = format!(
            "the heartbeat does not reach the store ({in_a_row} in a row): {why}. After {silence} of silence a \
             standby takes over the application, and this service runs at the same time until the store answers"
        );
        self.say(format!("warning: {message}"));
        self.publish(&Event::Warning { message });
    }

    fn interval(&self) -> Duration {
        self.config.exclusive.unwrap_or_default()
    }
}
