//! `freeze migrate --dry-run`: what a move would find, and how long the service would stand still. Changes nothing on either side: it
//! starts no container and takes no checkpoint, so it can only go by what was measured before.

use super::error::{Failure, MigrateError, Runs};
use super::settle::word;
use super::side::Side;
use super::{Migration, Note, look_for_refusals};
use crate::control::protocol::{State, Status};

/// What a move would be like.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "event", rename = "rehearsed")]
pub struct Rehearsal {
    /// The source's name.
    pub from: String,
    /// The target's name; none where it does not run yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// How long the source's last checkpoint held the service still, in milliseconds; none where it has taken none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen_ms: Option<u64>,
    /// How long the target would take to restore the newest generation, in milliseconds; none where there is none, or no target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_ms: Option<u64>,
    /// Both together, where both are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_ms: Option<u64>,
}

/// Looks at both sides.
///
/// # Errors
/// Says why the move would fail.
pub fn rehearse(migration: &Migration, tell: &dyn Fn(Note<'_>)) -> Result<Rehearsal, Failure> {
    let Migration { source: side, target, timeout } = migration;
    let source = match side.status() {
        Ok(status) if status.runs() => status,
        Ok(status) => {
            let (source_state, target_state) = (status.phrase().to_owned(), word(&target.status()));
            let error = MigrateError::NoService { source_state, target_state };
            return Err(Failure { error, runs: Runs::Unknown });
        }
        Err(error) => return Err(Failure { error: MigrateError::NoSource(error), runs: Runs::Unknown }),
    };
    // Nothing has happened to the service.
    let here = |error| Failure { error, runs: Runs::Source };
    look_for_refusals(side, *timeout, tell).map_err(here)?;
    let standby = standby(target, &source).map_err(here)?;
    let frozen_ms = source.checkpoint.as_ref().map(|last| last.report.frozen_ms);
    let restore_ms = match (&standby, source.generation) {
        (Some(_), generation @ 1..) => Some(target.restore_ms(generation).map_err(here)?),
        _ => None,
    };
    let predicted_ms = frozen_ms.zip(restore_ms).map(|(frozen, restore)| frozen.saturating_add(restore));
    let to = standby.map(|status| status.instance);
    Ok(Rehearsal { from: source.instance, to, frozen_ms, restore_ms, predicted_ms })
}

/// One that does not answer may be started by the move.
fn standby(side: &Side, source: &Status) -> Result<Option<Status>, MigrateError> {
    match side.status() {
        Ok(status) if status.instance == source.instance => Err(MigrateError::SameInstance(status.instance)),
        Ok(status) if matches!(status.state, State::Standby | State::Starting) => Ok(Some(status)),
        Ok(status) => Err(MigrateError::not_standing_by(&status)),
        Err(_) if side.template.start.is_some() => Ok(None),
        Err(error) => Err(MigrateError::NoTarget(error)),
    }
}
