//! The checkpoint worker: preflight, dump, files, commit, and only then the end of the service.
//!
//! Never kills the service: only CRIU does, when ordered after the commit. Every failure before the commit
//! leaves the service running. Once an offered generation may count, the service stays stopped unless the
//! generation is withdrawn.

mod announce;
mod describe;
mod dump;
mod dump_error;
mod ending;
mod fence;
mod handover;
mod heartbeat;
mod memory;
mod meter;
pub(crate) mod outlook;
pub mod pid_order;
pub(crate) mod preflight;
mod receive;
mod room;
mod rounds;
mod seen;
mod standbys;
mod take;
mod tree_of_service;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::control::protocol::{Event, Pace, Phase, Report};
use crate::criu::command;
use crate::criu::tracer::Tracer;
use crate::fail_points::{Point, reach};
use crate::files::capture::CaptureError;
use crate::files::complete::Incomplete;
use crate::files::ephemeral::Ephemeral;
use crate::files::selection::Selection;
use crate::files::used::LookupError;
use crate::image::{Hex, ImageError, Lease, Standby, Vault};
use crate::job::reporter::Reporter;
use crate::job::work_folder::Work;
use crate::job::{AfterCommit, Common, Failure};
use crate::store::{self, StoreError};
pub(crate) use dump::{Dump, Verdict};
pub(crate) use dump_error::DumpError;
use handover::{Complaints, Offer};
use memory::Kept;
pub(crate) use meter::Meter;
use pid_order::Disorder;
use preflight::Refusal;
use room::TooLittle;
pub(crate) use room::Victim;
use rounds::Rounds;
use seen::Seen;
pub(crate) use standbys::Standbys;
use take::{Part, Taken, Turn, take};
use tree_of_service::NotWhole;

#[derive(Debug, thiserror::Error)]
enum CheckpointError {
    #[error(transparent)]
    Refusal(#[from] Refusal),
    #[error(transparent)]
    NotWhole(#[from] NotWhole),
    #[error(transparent)]
    Disorder(#[from] Disorder),
    #[error(transparent)]
    TooLittle(#[from] TooLittle),
    #[error(transparent)]
    Dump(#[from] DumpError),
    #[error(transparent)]
    Files(#[from] CaptureError),
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("the folder {path} cannot be used ({error}); set FREEZE_RUNTIME_DIR to a writable folder")]
    RuntimeDir { path: PathBuf, error: io::Error },
    #[error(
        "the server of {0} ignores conditional writes, so a handover is refused: two containers could take the same \
         generation. Use a server that supports If-None-Match and If-Match, or checkpoint without --handover"
    )]
    NotFenced(String),
    #[error(
        "the store {url} is {place} and is deleted with the container, so a checkpoint that ends the service is \
         refused. Mount a volume there, or use a bucket (--store). To save this service, checkpoint with \
         --leave-running and take the generation out with `freeze copy`. If this same container will be started again, \
         FREEZE_EPHEMERAL_STORE=1 allows the checkpoint"
    )]
    Ephemeral { url: String, place: Ephemeral },
    /// Without the fence a fault could run the service twice.
    #[error(
        "freeze cannot stop process {0}, so a fault during this checkpoint could leave the service running twice; run all processes of the service as one user"
    )]
    NotStopped(String),
    /// The commit was in doubt, and no container has taken the generation.
    #[error(
        "{error}. No container has taken generation {generation}, so freeze has withdrawn it, and the service keeps running"
    )]
    Withdrawn {
        generation: u64,
        /// Cause of the doubt.
        error: ImageError,
    },
    #[error("no container took generation {generation} within {}, so the service keeps running", humantime::format_duration(*.time))]
    NotTaken { generation: u64, time: Duration },
    /// Every standby that answers.
    #[error("{}", standbys::unfit(.0))]
    Unfit(Vec<Standby>),
    #[error(
        "the standby {standby} could not restore generation {generation}, so freeze has withdrawn it, and the service keeps \
         running here. The log of the standby says why"
    )]
    NotRestored { generation: u64, standby: String },
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

impl CheckpointError {
    /// Whether CRIU's log has more. Of other failures it has the consequence alone: that CRIU had to give up.
    fn is_of_criu(&self) -> bool {
        matches!(self, Self::Dump(DumpError::Refused(_) | DumpError::Broken { .. }))
    }
}

/// The service to checkpoint, and how.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// PID of the subreaper, the root of the tree.
    pub root: i32,
    /// PID of the service's first process.
    pub service: i32,
    /// Where CRIU runs, if not beside the service.
    pub tracer: Option<Tracer>,
    pub lease: Lease,
    pub after_commit: AfterCommit,
    /// How long a service that would be stopped is held for a standby that is ready. None to stop it in any case.
    pub hold: Option<Duration>,
    /// When init gives the checkpoint up, as SIGTERM's grace is over.
    pub until: Option<Instant>,
    /// The standbys whose failure ends the hold.
    pub standbys: Standbys,
    /// The question that the standbys have answered, if they were asked.
    pub asked: Option<Hex<8>>,
    /// How short the last step of a move is to be.
    pub pace: Pace,
    /// Which files are captured beside those that the service uses.
    pub files: Selection,
    /// Lets the service end into a store that vanishes with the container.
    pub ephemeral_store: bool,
    /// Seconds by which the service's clocks are ahead of the kernel's, if they go on in user space.
    pub clock_ahead_s: Option<u64>,
}

/// Takes a checkpoint, in rounds if it is a move that gains by them.
pub(crate) fn run(common: &Common, target: &Target, reporter: &Reporter) -> Result<Report, Failure> {
    let attempt = |target: &Target, part, copies, before| attempt(common, target, reporter, (part, copies), before);
    let again = |given_up: &DumpError| {
        reporter.warn(format!("{given_up}, so freeze takes the checkpoint again, while the service stands still"));
        // Without copies none are given up.
        attempt(target, Part::Alone, false, None)?.map_err(|error| failure(&error, None, None))
    };
    let (mut rounds, mut target, mut before, mut part) =
        (Rounds::of(common, target), target.clone(), None, Part::First);
    while rounds.go_on() {
        match attempt(&target, part, true, before.take())? {
            Ok(mut taken) => {
                rounds.take_in(&mut taken, common, reporter);
                (before, part) = (taken.kept, Part::Further);
                target = taken.target;
            }
            Err(given_up) => {
                reporter.warn(format!("{given_up}, so freeze saves the rest in one step"));
                break;
            }
        }
    }
    if let Some(too_slow) = rounds.give_up() {
        return Err(failure(&too_slow, None, Some(Phase::Handover)));
    }
    let part = if part == Part::First { Part::Alone } else { Part::Last };
    let copies = target.after_commit == AfterCommit::Resume;
    let last = match attempt(&target, part, copies, before)? {
        Ok(taken) => taken,
        Err(given_up) => again(&given_up)?,
    };
    rounds.end();
    Ok(last.report)
}

/// The inner error: copies were given up, and the service runs on.
fn attempt(
    common: &Common,
    target: &Target,
    reporter: &Reporter,
    (part, copies): (Part, bool),
    before: Option<Kept>,
) -> Result<Result<Taken, DumpError>, Failure> {
    let work = if before.is_some() { Work::beside } else { Work::new };
    let work = work(&common.runtime_dir, command::DUMP_LOG).map_err(|error| {
        failure(&CheckpointError::RuntimeDir { path: common.runtime_dir.clone(), error }, None, None)
    })?;
    let (meter, log) = (Meter::new(reporter), work.log_to_be());
    match take(Turn { common, target, reporter, meter: &meter, work, copies, part }, before) {
        Err(CheckpointError::Dump(given_up @ (DumpError::CopiesGivenUp | DumpError::NotCopied(_)))) => {
            Ok(Err(given_up))
        }
        Err(error) => {
            let log = (error.is_of_criu() && log.exists()).then_some(log);
            Err(failure(&error, log, meter.phase()))
        }
        Ok(taken) => Ok(Ok(taken)),
    }
}

fn failure(error: &dyn std::error::Error, log: Option<PathBuf>, phase: Option<Phase>) -> Failure {
    Failure { message: error.to_string(), log, phase }
}

/// Finds out who has a generation that may have been offered. See [`Job::Settle`](crate::job::Job::Settle).
pub(crate) fn settle(
    common: &Common,
    generation: u64,
    remaining: Duration,
    lease: &Lease,
    reporter: &Reporter,
) -> Event {
    reach(Point::SettleBegun);
    let begun = Instant::now();
    let mut complaints = Complaints::new(generation, reporter);
    let vault = complaints.until_done(|| Vault::create(store::open(&common.store)?, &common.keys));
    let (withdrawal, standbys) = (handover::withdrawal(common, lease), Standbys::default());
    let offer = Offer { vault: &vault, generation, withdrawal, standbys: &standbys };
    let taken_by = offer.settle(remaining.saturating_sub(begun.elapsed()), reporter);
    reach(Point::SettleDecided);
    Event::Settled { taken_by }
}
