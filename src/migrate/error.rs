//! Errors of a move: why it failed, and where the service runs.

use super::execute::NoAnswer;
use crate::control::protocol::Status;
use crate::exit;

/// Where the service runs, according to both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runs {
    Source,
    Target,
    /// In a third container that stood by.
    Elsewhere,
    /// Neither side says that it runs the service.
    Unknown,
}

/// A failed move.
#[derive(Debug, thiserror::Error)]
#[error("{error}. {}", sentence(*runs))]
pub struct Failure {
    pub error: MigrateError,
    pub runs: Runs,
}

fn sentence(runs: Runs) -> &'static str {
    match runs {
        Runs::Source => "The service keeps running in the source",
        Runs::Target => "The service runs in the target",
        Runs::Elsewhere => "The service runs there",
        Runs::Unknown => "It is unknown where the service runs; the committed generations are in the store",
    }
}

impl Failure {
    /// The exit status of `freeze migrate`.
    pub fn status(&self) -> u8 {
        match self.runs {
            Runs::Source => exit::FAILED,
            Runs::Target => exit::UNFINISHED,
            Runs::Elsewhere | Runs::Unknown => exit::UNKNOWN,
        }
    }
}

/// Why a move failed.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(
        "the source does not answer: {0}. Run `freeze status` there by hand; --source must execute it in the service's container, as the service's user"
    )]
    NoSource(NoAnswer),
    #[error("neither side runs the service: the source is {source_state}, the target is {target_state}")]
    NoService { source_state: String, target_state: String },
    #[error("the source is {0}, so nothing was moved. Run this command again when `freeze status` there says running")]
    Busy(&'static str),
    #[error("the target cannot be started: {0}")]
    Start(NoAnswer),
    #[error(
        "the target is not a standby: {0}. Start its container with FREEZE_STANDBY=1 and the source's FREEZE_STORE, or use --start-target"
    )]
    NoTarget(NoAnswer),
    #[error(
        "the target already runs a service of its own (generation {0}). Start it with FREEZE_STANDBY=1, so that it waits for this service"
    )]
    TargetRuns(u64),
    #[error("the target is not a standby: it is {0}. Run this command again when `freeze status` there says standby")]
    TargetIs(&'static str),
    /// The start command started the target without standby.
    #[error(
        "the target started without standby, so a second copy of the service runs in {0} now. Stop it, and start it with FREEZE_STANDBY=1; if the source now refuses checkpoints, start the source again"
    )]
    StartedASecond(String),
    /// The store cannot tell instances of the same name apart.
    #[error("source and target are both named {0:?}. Give the target another host name, or FREEZE_INSTANCE")]
    SameInstance(String),
    #[error("the service cannot be checkpointed: {}", .0.join("; "))]
    Refused(Vec<String>),
    #[error("the source cannot run the preflight: {0}")]
    NoFindings(NoAnswer),
    #[error("the checkpoint before the move failed: {0}")]
    Base(String),
    /// The sides do not share a store and key, or the store is unreachable.
    #[error(
        "the target cannot read generation {generation} of the source: {error}. Both containers need the same FREEZE_STORE and key in their environment"
    )]
    NotSeen { generation: u64, error: NoAnswer },
    #[error("the target cannot be asked whether it could restore the service: {0}")]
    NotAsked(NoAnswer),
    #[error("the target cannot restore the service: {}", .0.join("; "))]
    Unfit(Vec<String>),
    #[error("the handover failed: {0}")]
    NotTaken(String),
    /// The answer to the handover was lost, and the source has the service.
    #[error(
        "could not follow the handover to its end ({0}), and the target did not take the service. Run this command again"
    )]
    LostAndBack(NoAnswer),
    /// The answer to the handover was lost, and neither side says that it has the service.
    #[error(
        "could not follow the handover to its end ({lost}): the source is {source_state}, the target is {target_state}. Run this command again when both can be reached"
    )]
    OutOfSight { lost: NoAnswer, source_state: String, target_state: String },
    #[error("another standby of this application, {0}, has taken the service")]
    TakenByAnother(String),
    /// The target has `--restore-failure retry-earlier`.
    #[error(
        "the target could not restore the handed-over generation and restored generation {0} instead, so the service has lost its later state"
    )]
    Earlier(u64),
}

impl MigrateError {
    /// For a target that is up but not in standby.
    pub fn not_standing_by(status: &Status) -> Self {
        if status.runs() { Self::TargetRuns(status.generation) } else { Self::TargetIs(status.phrase()) }
    }
}
