//! Fresh PIDs for a restore in a container that has used the service's.
//!
//! Counts once round all PIDs only if that is faster than being started again, or if the user wants this container to
//! try again; and never for long while another container holds the service still.

use std::os::unix::process::parent_id;
use std::time::Duration;

use super::Restore;
use super::error::Hope;
use super::look::{Found, Right};
use crate::control::protocol::Event;
use crate::demands;
use crate::host::pid_counting::Round;
use crate::image::Manifest;
use crate::job::{Failure, OnFailure};
use crate::sys::pids;

impl Restore<'_> {
    /// The way to fresh PIDs for what was found, if there is one that takes no longer than this container's policy bears.
    pub(super) fn round(&self, found: Option<&Found>) -> Option<Round> {
        let waited_for = found.is_some_and(|found| matches!(found.right, Right::Taking { .. }));
        let patient = self.tries_again() && !waited_for;
        Round::here(parent_id()).filter(|round| round.is_quick() || patient && round.is_bearable())
    }

    /// Whether the policy wants more attempts in this container.
    fn tries_again(&self) -> bool {
        matches!(self.policy.failure, OnFailure::Retry | OnFailure::RetryEarlier)
    }

    /// Goes once round if PIDs of the service have been used here. Without success, the check that follows says why
    /// the service cannot be restored.
    pub(super) fn refresh_pids(&self, found: &Found, manifest: &Manifest) {
        let lowest = demands::of(manifest).lowest_pid;
        let passed = lowest > 0 && pids::newest().is_some_and(|newest| newest >= lowest);
        if !passed || self.plan().can_go_back() {
            return;
        }
        let Some(round) = self.round(Some(found)) else { return };
        let message = format!(
            "this container has used PIDs of the service; counting once round all PIDs takes about {}",
            round.duration()
        );
        self.reporter.send(&Event::Chosen { message });
        if let Err(error) = round.go() {
            self.reporter.warn(format!("cannot count once round all PIDs: {error}"));
        }
    }

    /// Adds what would help this container, if nobody starts another.
    pub(super) fn with_offer(&self, failure: Failure, hope: Hope) -> Failure {
        let slow = |round: &Round| !self.tries_again() && round.is_bearable() && !round.is_quick();
        let round = Round::here(parent_id()).filter(slow);
        match round {
            Some(round) if hope == Hope::FreshPids => {
                let message = format!(
                    "{}. With --restore-failure retry, this container would have tried again with fresh PIDs, after \
                     about {} of counting",
                    failure.message,
                    round.duration()
                );
                Failure { message, ..failure }
            }
            _ => failure,
        }
    }
}

/// When the next attempt follows, in words.
pub(super) fn when(pause: Duration) -> String {
    match pause.as_secs() {
        0 => "at once".to_owned(),
        secs => format!("in {secs} s"),
    }
}
