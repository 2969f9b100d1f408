//! The clocks of the service in this container. A restore that would send them back is refused before anything is
//! taken, or at the latest before the tasks run.

use std::time::Duration;

use super::Restore;
use super::criu::RestoreGate;
use super::error::RestoreError;
use crate::control::protocol::{Clock, Event, now_ms};
use crate::demands::Unfit;
use crate::host::clock::{self, Means, Plan, Policy, Said, TOLERANCE};
use crate::image::Manifest;

impl Restore<'_> {
    /// This container's, as they are now. The kernel is asked whether they can go on.
    pub(super) fn clock(&self) -> Option<Means> {
        Means::here(self.policy.clock).ok()
    }

    /// Which clocks the service will see.
    pub(super) fn plan_clocks(manifest: &Manifest, here: Option<Means>) -> Result<Plan, RestoreError> {
        match manifest.clocks.zip(here).map_or(Plan::Host, |(before, here)| here.plan(&before)) {
            Plan::Refuse(behind) => Err(RestoreError::Clock(Unfit::Clock { behind })),
            plan => Ok(plan),
        }
    }

    /// Refuses a jump back although a time namespace was planned: a host limits their number.
    pub(super) fn check_clocks(&self, plan: Plan, gate: &RestoreGate) -> Result<(), RestoreError> {
        let Some(Ok(jump)) = gate.clock_jump() else { return Ok(()) };
        let behind = Duration::from_millis(jump.min(&0).unsigned_abs());
        match behind > TOLERANCE && plan == Plan::Continue && self.policy.clock != Policy::Host {
            true => Err(RestoreError::Clock(Unfit::Clock { behind })),
            false => Ok(()),
        }
    }

    /// Says what the clocks do. Returns which they are, and their jump in ms.
    pub(super) fn tell_clocks(
        &self,
        plan: Plan,
        gate: &RestoreGate,
        manifest: &Manifest,
    ) -> (Option<Clock>, Option<i64>) {
        let Some(jump) = gate.clock_jump() else { return (None, None) };
        let away_ms = now_ms().saturating_sub(manifest.created_ms);
        match clock::said(plan, jump, away_ms) {
            Some(Said::Warning(message)) => self.reporter.warn(message),
            Some(Said::Note(message)) => self.reporter.send(&Event::Chosen { message }),
            None => {}
        }
        match (plan, jump) {
            (Plan::Hide, _) => (Some(Clock::UserSpace), Some(0)),
            (Plan::Continue, Ok(0)) => (Some(Clock::TimeNamespace), Some(0)),
            (_, Ok(jump)) => (Some(Clock::Host), Some(*jump)),
            (_, Err(_)) => (None, None),
        }
    }
}
