//! `freeze migrate --dry-run`: what a move would find, and how long the service would stand still. Changes nothing on either side: it
//! starts no container and takes no checkpoint, so it can only go by what was measured before.

use super::error::{Failure, MigrateError, Runs};
use super::settle::state;
use super::side::Side;
use super::{Migration, Note, here, refusals};
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
    let source = match migration.source.status() {
        Ok(status) if status.state == State::Running => status,
        Ok(status) => {
            let target_state = "not asked".to_owned();
            let error = MigrateError::NoService { source_state: state(&status), target_state };
            return Err(Failure { error, runs: Runs::Unknown });
        }
        Err(error) => return Err(Failure { error: MigrateError::NoSource(error), runs: Runs::Unknown }),
    };
    let found = migration.source.findings().map_err(|error| here(MigrateError::NoFindings(error)))?;
    refusals(&found, tell).map_err(here)?;
    let target = target(&migration.target, &source)?;
    let frozen_ms = source.checkpoint.as_ref().map(|last| last.report.frozen_ms);
    let restore_ms = match (&target, source.generation) {
        (Some(_), generation @ 1..) => restore_ms(&migration.target, generation)?,
        _ => None,
    };
    let predicted_ms = frozen_ms.zip(restore_ms).map(|(frozen, restore)| frozen.saturating_add(restore));
    Ok(Rehearsal {
        from: source.instance,
        to: target.map(|status| status.instance),
        frozen_ms,
        restore_ms,
        predicted_ms,
    })
}

/// One that does not answer may be started by the move.
fn target(side: &Side, source: &Status) -> Result<Option<Status>, Failure> {
    match side.status() {
        Ok(status) if status.instance == source.instance => Err(here(MigrateError::SameInstance(status.instance))),
        Ok(status) if matches!(status.state, State::Standby | State::Starting) => Ok(Some(status)),
        Ok(status) => Err(here(MigrateError::TargetRuns { generation: status.generation })),
        Err(_) if side.template.start.is_some() => Ok(None),
        Err(error) => Err(here(MigrateError::NoTarget(error))),
    }
}

fn restore_ms(side: &Side, generation: u64) -> Result<Option<u64>, Failure> {
    let found =
        side.forecast(&generation.to_string()).map_err(|error| here(MigrateError::NotSeen { generation, error }))?;
    if found.fits { Ok(Some(found.time.total_ms)) } else { Err(here(MigrateError::Unfit(found.missing))) }
}
