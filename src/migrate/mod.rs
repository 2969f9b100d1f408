//! `freeze migrate`: moves a running service from one container into another that shares its store, from outside, by commands that execute
//! freeze in both. It keeps nothing: whatever ends it, running it again looks at both sides and goes on from there.
//!
//! Must never end, nor start, what may be the only copy: the store's outcome decides who has the service. This asks, waits, and says.

mod error;
mod execute;
mod rehearsal;
mod settle;
mod side;
mod template;

use std::thread;
use std::time::{Duration, Instant};

pub use error::{Failure, MigrateError, Runs};
pub use execute::NoAnswer;
pub use rehearsal::{Rehearsal, rehearse};
pub use side::Side;
pub use template::{Template, words};

use crate::control::protocol::{Event, Report, State, Status};
use settle::{Settled, state};
use side::{Checkpoint, Finding};

/// How long a container may take to start and to come so far that its init answers.
const START: Duration = Duration::from_secs(300);
/// How long a standby may fetch a generation ahead; after that it is fetched in the downtime.
const PREPARE: Duration = Duration::from_secs(600);
/// How long a service that was taken may take until it runs.
const TAKEN: Duration = Duration::from_secs(60);
/// The first and the longest pause between two questions: each takes PIDs from a standby that will need them.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// What is to be moved where.
#[derive(Debug)]
pub struct Migration {
    /// Where the service runs.
    pub source: Side,
    /// Where it is to run.
    pub target: Side,
    /// How long the source holds the service for the target.
    pub timeout: Duration,
}

/// What a move does, for whoever watches.
#[derive(Debug)]
pub enum Note<'a> {
    /// The next step begins.
    Step(Step),
    /// From the source, in a checkpoint.
    Event(Event),
    /// What the service will notice of the move.
    Changed(&'a Finding),
    /// What does not stop the move.
    Warning(String),
}

/// The steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum Step {
    /// At both sides.
    Looking,
    /// The target's container.
    Starting,
    /// A generation is taken while the service runs, so that the next one is small.
    Preparing,
    /// The target fetches that ahead.
    Fetching {
        /// Its number.
        generation: u64,
    },
    /// The service stands still from here on.
    HandingOver {
        /// For about so long.
        predicted_ms: u64,
    },
    /// The target has it.
    Verifying,
    /// The source's container.
    Stopping,
}

/// A service that has moved.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "event", rename = "moved")]
pub struct Moved {
    /// The generation that it was moved by.
    pub generation: u64,
    /// The container that it came from.
    pub from: String,
    /// The one that has it.
    pub to: String,
    /// How long it stood still, in milliseconds, by the source's clock; none where an earlier run, or a lost connection, has moved it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_ms: Option<u64>,
    /// What of it the target took to restore it, in milliseconds.
    pub restore_ms: u64,
}

type Result<T> = std::result::Result<T, Failure>;

/// Moves the service, or finishes what an earlier run has begun.
///
/// # Errors
/// Says why not, and where the service runs.
pub fn migrate(migration: &Migration, tell: &dyn Fn(Note<'_>)) -> Result<Moved> {
    Mover { migration, source: &migration.source, target: &migration.target, tell }.run()
}

struct Mover<'a> {
    migration: &'a Migration,
    source: &'a Side,
    target: &'a Side,
    tell: &'a dyn Fn(Note<'_>),
}

/// Nothing has happened to the service.
fn here(error: MigrateError) -> Failure {
    Failure { error, runs: Runs::Source }
}

impl Mover<'_> {
    fn run(&self) -> Result<Moved> {
        self.step(Step::Looking);
        let moved = match self.at_rest()? {
            Ok(source) => self.move_from(&source)?,
            Err(away) => self.moved_earlier(away)?,
        };
        if let Some(stop) = &self.source.template.stop {
            self.step(Step::Stopping);
            Side::run(stop).map_err(|error| Failure { error: MigrateError::Stop(error), runs: Runs::Target })?;
        }
        Ok(moved)
    }

    fn move_from(&self, source: &Status) -> Result<Moved> {
        let target = self.standby(source)?;
        self.look_for_refusals()?;
        let base = self.prepare()?;
        let restore_ms = self.look_ahead(base.generation)?;
        self.wait_until_fetched(base.generation);
        self.step(Step::HandingOver { predicted_ms: base.frozen_ms.saturating_add(restore_ms) });
        let timeout = format!("--handover={}", humantime::format_duration(self.migration.timeout));
        let (restored, downtime_ms) = match self.source.checkpoint(&timeout, &|event| (self.tell)(Note::Event(event))) {
            Checkpoint::Failed(message) => return Err(here(MigrateError::NotTaken(message))),
            Checkpoint::Committed(report) => {
                self.step(Step::Verifying);
                // Nobody asks the target before: it needs its PIDs for the restore.
                match self.target.wait("restored", TAKEN) {
                    Ok(restored) => (restored, Some(report.frozen_ms)),
                    Err(lost) => (self.settled(base.generation, lost)?, Some(report.frozen_ms)),
                }
            }
            Checkpoint::Lost(lost) => (self.settled(base.generation, lost)?, None),
        };
        Ok(moved(source.instance.clone(), target.instance, &restored, downtime_ms))
    }

    /// The source's status when nothing is under way there; or what it says where it has no service.
    fn at_rest(&self) -> Result<std::result::Result<Status, String>> {
        match self.source.status() {
            Ok(status) if status.state == State::Running => Ok(Ok(status)),
            Ok(Status { state: State::Standby, .. }) => Ok(Err("standing by".to_owned())),
            Err(error) => Ok(Err(format!("not to be reached: {error}"))),
            // Somebody's checkpoint, or a handover that an earlier run has begun.
            Ok(_) => match self.source.wait("idle", self.migration.timeout + TAKEN) {
                Ok(status) => Ok(Ok(status)),
                Err(busy) => match self.source.status() {
                    Ok(Status { state: State::Checkpointing | State::HandingOver | State::Starting, .. }) => {
                        Err(Failure { error: MigrateError::Busy(busy), runs: Runs::Unknown })
                    }
                    Ok(status) => Ok(Err(state(&status))),
                    Err(error) => Ok(Err(format!("not to be reached: {error}"))),
                },
            },
        }
    }

    /// The source has no service: has an earlier run moved it?
    fn moved_earlier(&self, source_state: String) -> Result<Moved> {
        match self.target.status() {
            Ok(status) if settle::has_it(&status, 0) => {
                let from = status.restore.as_ref().map(|restore| restore.from.clone()).unwrap_or_default();
                Ok(moved(from, status.instance.clone(), &status, None))
            }
            answer => {
                let target_state = answer.as_ref().map_or_else(|error| format!("not to be reached: {error}"), state);
                let error = MigrateError::NoService { source_state, target_state };
                Err(Failure { error, runs: Runs::Unknown })
            }
        }
    }

    /// The target, standing by; it is started where it does not answer and there is a command for that.
    fn standby(&self, source: &Status) -> Result<Status> {
        let mut answer = self.target.status();
        if let (Err(_), Some(start)) = (&answer, &self.target.template.start) {
            self.step(Step::Starting);
            Side::run(start).map_err(|error| here(MigrateError::Start(error)))?;
            answer = self.patiently(
                START,
                || self.target.status(),
                |answer| matches!(answer, Ok(status) if status.state != State::Starting),
            );
        } else if matches!(&answer, Ok(status) if status.state == State::Starting) {
            answer = self.patiently(
                START,
                || self.target.status(),
                |answer| !matches!(answer, Ok(status) if status.state == State::Starting),
            );
        }
        let status = answer.map_err(|error| here(MigrateError::NoTarget(error)))?;
        if status.instance == source.instance {
            return Err(here(MigrateError::SameInstance(status.instance)));
        }
        match status.state {
            State::Standby => Ok(status),
            _ => Err(here(MigrateError::TargetRuns { generation: status.generation })),
        }
    }

    fn look_for_refusals(&self) -> Result<()> {
        let found = self.source.findings().map_err(|error| here(MigrateError::NoFindings(error)))?;
        refusals(&found, self.tell).map_err(here)
    }

    /// A generation while the service runs.
    fn prepare(&self) -> Result<Report> {
        self.step(Step::Preparing);
        match self.source.checkpoint("--leave-running", &|event| (self.tell)(Note::Event(event))) {
            Checkpoint::Committed(report) => Ok(report),
            Checkpoint::Failed(message) => Err(here(MigrateError::Base(message))),
            Checkpoint::Lost(lost) => Err(match self.source.status() {
                Ok(_) => here(MigrateError::Base(lost.to_string())),
                Err(error) => Failure { error: MigrateError::NoSource(error), runs: Runs::Unknown },
            }),
        }
    }

    /// Milliseconds that the target would take to restore it.
    fn look_ahead(&self, generation: u64) -> Result<u64> {
        let found = self.target.forecast(&generation.to_string());
        let found = found.map_err(|error| here(MigrateError::NotSeen { generation, error }))?;
        if found.fits { Ok(found.time.total_ms) } else { Err(here(MigrateError::Unfit(found.missing))) }
    }

    fn wait_until_fetched(&self, generation: u64) {
        self.step(Step::Fetching { generation });
        let is_there = |status: &Status| status.state == State::Standby && status.generation >= generation;
        let answer = self.patiently(PREPARE, || self.target.status(), |answer| answer.as_ref().is_ok_and(is_there));
        if !answer.is_ok_and(|status| is_there(&status)) {
            let warning =
                format!("the target has not fetched generation {generation} ahead, so the handover takes longer");
            (self.tell)(Note::Warning(warning));
        }
    }

    /// What became of a handover whose answer did not come.
    fn settled(&self, base: u64, lost: NoAnswer) -> Result<Status> {
        match settle::settle(self.source, self.target, base, self.migration.timeout + TAKEN) {
            Settled::Taken(status) => Ok(*status),
            Settled::Back => Err(here(MigrateError::LostAndBack(lost))),
            Settled::Unknown { source_state, target_state } => {
                let error = MigrateError::OutOfSight { lost, source_state, target_state };
                Err(Failure { error, runs: Runs::Unknown })
            }
        }
    }

    /// Asks again, less and less often, until the answer will do or the time is over; gives the last one.
    fn patiently<T>(&self, limit: Duration, ask: impl Fn() -> T, will_do: impl Fn(&T) -> bool) -> T {
        let (begun, mut pause) = (Instant::now(), PAUSES.0);
        loop {
            let answer = ask();
            if will_do(&answer) || begun.elapsed() >= limit {
                return answer;
            }
            thread::sleep(pause);
            pause = PAUSES.1.min(pause * 2);
        }
    }

    fn step(&self, step: Step) {
        (self.tell)(Note::Step(step));
    }
}

/// Tells what the service will notice, and fails for what a checkpoint would be refused for.
fn refusals(found: &side::Findings, tell: &dyn Fn(Note<'_>)) -> std::result::Result<(), MigrateError> {
    found
        .findings
        .iter()
        .filter(|finding| finding.severity == "changed")
        .for_each(|finding| tell(Note::Changed(finding)));
    if found.can_be_checkpointed {
        return Ok(());
    }
    let refused = found.findings.iter().filter(|finding| finding.severity == "refused");
    Err(MigrateError::Refused(refused.map(|finding| format!("{finding} ({})", finding.advice)).collect()))
}

fn moved(from: String, to: String, restored: &Status, downtime_ms: Option<u64>) -> Moved {
    let restore = restored.restore.clone().unwrap_or_default();
    Moved { generation: restore.generation, from, to, downtime_ms, restore_ms: restore.total_ms }
}

#[cfg(test)]
mod tests;
