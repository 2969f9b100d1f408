//! The clocks of the service in this container. A restore that would send them back is refused before anything is
//! taken, or at the latest before the tasks run.

use std::time::Duration;

use super::Restore;
use super::criu::RestoreGate;
use super::error::RestoreError;
use crate::control::protocol::{Clock, ClockReport, Event, now_ms};
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

    /// Says what the clocks do, and puts it into the report.
    pub(super) fn tell_clocks(&self, plan: Plan, gate: &RestoreGate, manifest: &Manifest) -> ClockReport {
        let Some((jump, before)) = gate.clock_jump().zip(manifest.clocks) else { return ClockReport::default() };
        let away_ms = now_ms().saturating_sub(manifest.created_ms);
        match clock::said(plan, jump, away_ms) {
            Some(Said::Warning(message)) => self.reporter.warn(message),
            Some(Said::Note(message)) => self.reporter.send(&Event::Chosen { message }),
            None => {}
        }
        let Ok(jump) = *jump else { return ClockReport::default() };
        let hides = matches!(plan, Plan::Hide | Plan::Keep);
        let clock = match plan {
            _ if hides => Clock::UserSpace,
            Plan::Continue if jump == 0 => Clock::TimeNamespace,
            _ => Clock::Host,
        };
        let behind_s = jump.min(0).unsigned_abs().div_ceil(1000);
        ClockReport {
            clock: Some(clock),
            clock_jump_ms: Some(if hides { 0 } else { jump }),
            clock_ahead_s: (hides || before.in_user_space).then_some(behind_s),
        }
    }
}
