//! Why a service was not moved, and on which side it runs.

use super::execute::NoAnswer;
use crate::control::protocol::Status;
use crate::exit;

/// Where the service runs, as far as both sides say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runs {
    /// Where it was.
    Source,
    /// It has moved.
    Target,
    /// In a third container.
    Elsewhere,
    /// Neither side says that it runs the service.
    Unknown,
}

/// A move that did not come to its end.
#[derive(Debug, thiserror::Error)]
#[error("{error}. {}", sentence(*runs))]
pub struct Failure {
    /// Why.
    pub error: MigrateError,
    /// Where the service runs now.
    pub runs: Runs,
}

fn sentence(runs: Runs) -> &'static str {
    match runs {
        Runs::Source => "The service runs on in the source",
        Runs::Target => "The service runs in the target",
        Runs::Elsewhere => "The service runs there",
        Runs::Unknown => {
            "Where the service runs is not known, as neither side says that it has it; what was committed is in the store"
        }
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

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// Nothing to move.
    #[error(
        "the source does not answer: {0}. Try `freeze status` there by hand; --source is what executes it in the service's container, as its user"
    )]
    NoSource(NoAnswer),
    /// There is an init and no service.
    #[error("neither side has a service that runs: the source is {source_state}, the target is {target_state}")]
    NoService {
        /// In a word.
        source_state: String,
        /// In a word, or why it does not answer.
        target_state: String,
    },
    /// It was to be moved, and is busy.
    #[error("the source is {0}, and did not come to rest. Run this again when `freeze status` there says running")]
    Busy(&'static str),
    /// The target could not be started.
    #[error("the target cannot be started: {0}")]
    Start(NoAnswer),
    /// Nothing to move to.
    #[error(
        "the target does not stand by: {0}. Start its container with FREEZE_STANDBY=1 and the source's FREEZE_STORE, or let --start-target do so"
    )]
    NoTarget(NoAnswer),
    /// It has a service already.
    #[error(
        "the target runs a service of its own already (generation {0}). Start it with FREEZE_STANDBY=1, so that it waits for this one"
    )]
    TargetRuns(u64),
    /// It ends, or is on its way.
    #[error("the target does not stand by: it is {0}. Run this again when `freeze status` there says standby")]
    TargetIs(&'static str),
    /// What was started by this was no standby.
    #[error(
        "the target, which was just started, is no standby: a second copy of the service runs in {0} now. Stop it, and start it with FREEZE_STANDBY=1; where the source's checkpoints are refused from now on, start the source again"
    )]
    StartedASecond(String),
    /// Each would take the other for itself.
    #[error("source and target are both named {0:?}. Give the target another host name, or FREEZE_INSTANCE")]
    SameInstance(String),
    /// A checkpoint would be refused.
    #[error("the service cannot be checkpointed: {}", .0.join("; "))]
    Refused(Vec<String>),
    /// What the service has could not be looked at.
    #[error("the source cannot say what a checkpoint of the service would be refused for: {0}")]
    NoFindings(NoAnswer),
    /// The base generation failed.
    #[error("the checkpoint before the move failed: {0}")]
    Base(String),
    /// The two do not share a store, or it is away.
    #[error(
        "the target cannot read generation {generation} of the source: {error}. Both need the same FREEZE_STORE and key, as variables of their containers"
    )]
    NotSeen {
        /// Its number.
        generation: u64,
        /// What it said instead.
        error: NoAnswer,
    },
    /// The target lacks something.
    #[error("the target cannot restore the service: {}", .0.join("; "))]
    Unfit(Vec<String>),
    /// Nobody took it.
    #[error("the handover failed: {0}")]
    NotTaken(String),
    /// The connection was lost in the handover and the service came back.
    #[error("the handover was lost sight of ({0}), and ended with the service where it was. Run this again")]
    LostAndBack(NoAnswer),
    /// Nobody answers.
    #[error(
        "the handover was lost sight of ({lost}); the source is {source_state}, the target is {target_state}. Run this again when both can be reached"
    )]
    OutOfSight {
        /// What ended the connection.
        lost: NoAnswer,
        /// In a word, or why it does not answer.
        source_state: String,
        /// In a word, or why it does not answer.
        target_state: String,
    },
    /// Somebody else stood by.
    #[error("another container, {0}, stood by for this application as well and has taken the service")]
    TakenByAnother(String),
    /// It has `--restore-failure retry-earlier`.
    #[error(
        "the target could not restore what was handed over, and went back to generation {0}: what happened since is lost"
    )]
    Earlier(u64),
}

impl MigrateError {
    /// Of a target that has another state than it should.
    pub fn not_standing_by(status: &Status) -> Self {
        if status.runs() { Self::TargetRuns(status.generation) } else { Self::TargetIs(status.phrase()) }
    }
}
