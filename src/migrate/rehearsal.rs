//! `freeze migrate --dry-run`: checks whether a move would work, and predicts its downtime.
//!
//! Changes neither side. It starts no container and takes no checkpoint, so the prediction uses earlier
//! measurements.

use super::error::{Failure, MigrateError, Runs};
use super::settle::word;
use super::side::Side;
use super::{Migration, Note, ask_target, look_for_refusals};
use crate::control::protocol::{State, Status};

/// Result of a dry run.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "event", rename = "rehearsed")]
pub struct Rehearsal {
    /// Instance name of the source.
    pub from: String,
    /// Instance name of the target; `None` if it does not run yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// How long the source's last checkpoint froze the service, in ms; `None` before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen_ms: Option<u64>,
    /// Predicted duration in ms to restore the source's newest generation; `None` without a generation or a
    /// target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_ms: Option<u64>,
    /// Sum of both, if both are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_ms: Option<u64>,
}

/// Checks both sides.
///
/// # Errors
/// Why the move would fail.
pub fn rehearse(migration: &Migration, tell: &dyn Fn(Note<'_>)) -> Result<Rehearsal, Failure> {
    let Migration { source: side, target, timeout, .. } = migration;
    let source = match side.status() {
        Ok(status) if status.runs() => status,
        Ok(status) => {
            let (source_state, target_state) = (status.phrase().to_owned(), word(&target.status()));
            let error = MigrateError::NoService { source_state, target_state };
            return Err(Failure { error, runs: Runs::Unknown });
        }
        Err(error) => return Err(Failure { error: MigrateError::NoSource(error), runs: Runs::Unknown }),
    };
    // A dry run does not touch the service.
    let here = |error| Failure { error, runs: Runs::Source };
    let demands = look_for_refusals(side, *timeout, tell).map_err(here)?;
    let standby = standby(target, &source).map_err(here)?;
    ask_target(target, demands.as_deref().filter(|_| standby.is_some()), tell).map_err(here)?;
    let frozen_ms = source.checkpoint.as_ref().map(|last| last.report.frozen_ms);
    let restore_ms = match (&standby, source.generation) {
        (Some(_), generation @ 1..) => Some(target.restore_ms(generation).map_err(here)?),
        _ => None,
    };
    let predicted_ms = frozen_ms.zip(restore_ms).map(|(frozen, restore)| frozen.saturating_add(restore));
    let to = standby.map(|status| status.instance);
    Ok(Rehearsal { from: source.instance, to, frozen_ms, restore_ms, predicted_ms })
}

/// The target's status; `None` if it does not answer and the move would start it.
fn standby(side: &Side, source: &Status) -> Result<Option<Status>, MigrateError> {
    match side.status() {
        Ok(status) if status.instance == source.instance => Err(MigrateError::SameInstance(status.instance)),
        Ok(status) if matches!(status.state, State::Standby | State::Starting) => Ok(Some(status)),
        Ok(status) => Err(MigrateError::not_standing_by(&status)),
        Err(_) if side.template.start.is_some() => Ok(None),
        Err(error) => Err(MigrateError::NoTarget(error)),
    }
}
