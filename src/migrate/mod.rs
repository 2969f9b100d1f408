//! `freeze migrate`: moves a running service between two containers that share a store, from outside, by
//! commands that execute freeze in both.
//!
//! Stateless: a run that was interrupted is repeated, asks both sides and continues from there. The outcome
//! in the store decides who has the service, so migrate never stops a container that may have the only copy.

mod error;
mod execute;
mod rehearsal;
mod settle;
mod side;
mod template;

use std::thread;
use std::time::{Duration, Instant};

pub(crate) use error::{Failure, MigrateError, Runs};
pub(crate) use execute::NoAnswer;
pub(crate) use rehearsal::{Rehearsal, rehearse};
pub(crate) use side::Side;
pub(crate) use template::{Template, words};

use crate::control::protocol::{Event, Report, State, Status};
use settle::{Settled, has_it, settle, word};
use side::{Checkpoint, Finding, duration};

/// Limit for a container to start, until its init answers and is no longer `starting`.
const START: Duration = Duration::from_secs(300);
/// Limit for a standby to prefetch a generation. The rest is fetched during the downtime.
const PREPARE: Duration = Duration::from_secs(600);
/// Limit for a taken service to run in the target.
const TAKEN: Duration = Duration::from_secs(60);
/// First and longest pause of the back-off between queries. Each query takes PIDs that a standby needs for
/// its restore.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// Parameters of a move.
#[derive(Debug)]
pub(crate) struct Migration {
    pub source: Side,
    pub target: Side,
    /// How long the source holds the service for the target.
    pub timeout: Duration,
    /// More options for the handover.
    pub pace: Vec<String>,
}

/// Progress of a move.
#[derive(Debug)]
pub(crate) enum Note<'a> {
    /// A step begins.
    Step(Step),
    /// An event of a checkpoint in the source.
    Event(Event),
    /// The service will notice this change.
    Changed(&'a Finding),
    /// What the target says of the restore.
    Remark(String),
    Warning(String),
}

/// Steps of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub(crate) enum Step {
    /// Query both sides.
    Looking,
    /// Start the target's container.
    Starting,
    /// Checkpoint the running service, as a base that makes the next checkpoint small.
    Preparing,
    /// Wait until the target has prefetched the base.
    Fetching { generation: u64 },
    /// Checkpoint the service and hand it over. It is frozen for about `predicted_ms` from here on.
    HandingOver { predicted_ms: u64 },
    /// Wait until the service runs in the target.
    Verifying,
    /// Stop the source's container.
    Stopping,
}

/// Result of a move.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "event", rename = "moved")]
pub(crate) struct Moved {
    /// The generation that the target restored.
    pub generation: u64,
    /// Instance that the service came from.
    pub from: String,
    /// Instance that has the service.
    pub to: String,
    /// How long the service was frozen, in ms, by the source's clock. `None` if unknown: an earlier run moved
    /// the service, or the connection to the source was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_ms: Option<u64>,
    /// Duration of the restore in the target, in ms.
    pub restore_ms: u64,
    /// Why the source could not be stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unstopped: Option<String>,
}

type Result<T> = std::result::Result<T, Failure>;

/// Moves the service, or finishes a move that an earlier run began.
///
/// # Errors
/// Why the service was not moved, and where it runs.
pub(crate) fn migrate(migration: &Migration, tell: &dyn Fn(Note<'_>)) -> Result<Moved> {
    let Migration { source, target, timeout, pace } = migration;
    Mover { source, target, timeout: *timeout, pace, tell }.run()
}

struct Mover<'a> {
    source: &'a Side,
    target: &'a Side,
    timeout: Duration,
    pace: &'a [String],
    tell: &'a dyn Fn(Note<'_>),
}

impl Mover<'_> {
    fn run(&self) -> Result<Moved> {
        self.step(Step::Looking);
        let answer = match self.source.status() {
            // A checkpoint of another client or trigger, or a handover that an earlier run began.
            Ok(Status { state: State::Checkpointing | State::HandingOver | State::Starting, .. }) => {
                self.source.wait("idle", self.timeout + TAKEN).or_else(|_| self.source.status())
            }
            answer => answer,
        };
        match answer {
            Ok(status) if status.runs() => Ok(self.stop(self.move_from(&status)?)),
            Ok(status) if matches!(status.state, State::Standby | State::Ending) => {
                Ok(self.stop(self.moved_earlier(&status)?))
            }
            Ok(status) => Err(Failure { error: MigrateError::Busy(status.phrase()), runs: Runs::Unknown }),
            Err(error) => self.source_is_gone(error),
        }
    }

    fn move_from(&self, source: &Status) -> Result<Moved> {
        let instance = self.standby(source)?.instance;
        let demands = look_for_refusals(self.source, self.timeout, self.tell);
        let suits = demands.and_then(|demands| ask_target(self.target, demands.as_deref(), self.tell));
        suits.map_err(|error| self.failed(error, 0))?;
        let base = self.prepare()?;
        let failed = |error| self.failed(error, base.generation);
        let restore_ms = self.target.restore_ms(base.generation).map_err(failed)?;
        self.wait_until_fetched(base.generation)?;
        self.step(Step::HandingOver { predicted_ms: base.frozen_ms.saturating_add(restore_ms) });
        let options = [&[format!("--handover={}", duration(self.timeout))], self.pace].concat();
        let (restored, downtime_ms) = match self.source.checkpoint(&options, &|event| (self.tell)(Note::Event(event))) {
            Checkpoint::Failed(message) => return Err(failed(MigrateError::NotTaken(message))),
            Checkpoint::Committed(report, taker) => {
                (self.taken(&instance, base.generation, taker)?, Some(report.frozen_ms).filter(|&ms| ms > 0))
            }
            Checkpoint::Lost(lost) => (self.settled(base.generation, lost)?, None),
        };
        Ok(moved(source.instance.clone(), &restored, downtime_ms))
    }

    /// The source has no service. Finds out whether an earlier run moved it.
    fn moved_earlier(&self, source: &Status) -> Result<Moved> {
        let no_service = |target_state| {
            let error = MigrateError::NoService { source_state: source.phrase().to_owned(), target_state };
            Failure { error, runs: Runs::Unknown }
        };
        match settle(self.source, self.target, 0, self.timeout + TAKEN) {
            Settled::Taken(status) => {
                let from = came_from(&status);
                // A target that was started again since then may have restored a checkpoint of its own.
                if from == source.instance || from == status.instance {
                    Ok(moved(from, &status, None))
                } else {
                    Err(no_service(format!("running a service that came from {from}")))
                }
            }
            Settled::Back => Err(Failure { error: MigrateError::Busy("running a service again"), runs: Runs::Source }),
            Settled::Unknown { target_state, .. } => Err(no_service(target_state)),
        }
    }

    /// An unreachable source may still run the service, so it is left alone.
    fn source_is_gone(&self, error: NoAnswer) -> Result<Moved> {
        match self.target.status() {
            Ok(status) if has_it(&status, 0) => {
                let warning = format!("the source does not answer, so it was not changed: {error}");
                (self.tell)(Note::Warning(warning));
                Ok(moved(came_from(&status), &status, None))
            }
            answer => {
                let error = MigrateError::NoService { source_state: word(&Err(error)), target_state: word(&answer) };
                Err(Failure { error, runs: Runs::Unknown })
            }
        }
    }

    /// Waits for the target to stand by. Starts it if it does not answer and has a start command.
    fn standby(&self, source: &Status) -> Result<Status> {
        let mut answer = self.target.status();
        let mut started = false;
        if let (Err(_), Some(start)) = (&answer, &self.target.template.start) {
            self.step(Step::Starting);
            Side::run(start).map_err(|error| self.failed(MigrateError::Start(error), 0))?;
            started = true;
        }
        if started || answer.as_ref().is_ok_and(|status| status.state == State::Starting) {
            let will_do = |answer: &Answer| answer.as_ref().is_ok_and(|status| status.state != State::Starting);
            answer = patiently(START, || self.target.status(), will_do);
        }
        let error = match answer {
            Ok(status) if status.instance == source.instance => MigrateError::SameInstance(status.instance),
            Ok(status) if status.state == State::Standby => return Ok(status),
            Ok(status) if started && status.runs() => MigrateError::StartedASecond(status.instance),
            Ok(status) => MigrateError::not_standing_by(&status),
            Err(error) => MigrateError::NoTarget(error),
        };
        Err(self.failed(error, 0))
    }

    /// Takes the base generation while the service runs.
    fn prepare(&self) -> Result<Report> {
        self.step(Step::Preparing);
        let error =
            match self.source.checkpoint(&["--leave-running".to_owned()], &|event| (self.tell)(Note::Event(event))) {
                Checkpoint::Committed(report, _) => return Ok(report),
                Checkpoint::Failed(message) => MigrateError::Base(message),
                Checkpoint::Lost(lost) => MigrateError::Base(lost.to_string()),
            };
        Err(self.failed(error, 0))
    }

    /// Waits until the standby has prefetched the base. Fails if the target is gone, as a handover would then
    /// cost a downtime for nothing.
    fn wait_until_fetched(&self, generation: u64) -> Result<()> {
        self.step(Step::Fetching { generation });
        let stands_by = |status: &Status| status.state == State::Standby;
        let will_do = |answer: &Answer| match answer {
            Ok(status) => !stands_by(status) || status.generation >= generation,
            Err(_) => true,
        };
        let error = match patiently(PREPARE, || self.target.status(), will_do) {
            Ok(status) if stands_by(&status) && status.generation >= generation => return Ok(()),
            Ok(status) if stands_by(&status) => {
                let warning = format!(
                    "the target has not fetched generation {generation} ahead, so the handover will take longer"
                );
                (self.tell)(Note::Warning(warning));
                return Ok(());
            }
            Ok(status) => MigrateError::not_standing_by(&status),
            Err(error) => MigrateError::NoTarget(error),
        };
        Err(self.failed(error, generation))
    }

    /// Waits until the taken service runs in the target. The target was not queried since the handover began,
    /// as its restore needs the PIDs.
    fn taken(&self, instance: &str, base: u64, taker: Option<String>) -> Result<Status> {
        self.step(Step::Verifying);
        // The pod of a Deployment may have been replaced, under another instance name.
        if let Some(taker) = taker.filter(|taker| taker != instance)
            && !self.target.status().is_ok_and(|status| status.instance == taker)
        {
            return Err(Failure { error: MigrateError::TakenByAnother(taker), runs: Runs::Elsewhere });
        }
        match self.target.wait("restored", TAKEN) {
            Ok(status) if has_it(&status, base) => Ok(status),
            Ok(status) if status.runs() => {
                Err(Failure { error: MigrateError::Earlier(status.generation), runs: Runs::Target })
            }
            Ok(status) => self.settled(base, NoAnswer::of_state(status.phrase())),
            Err(lost) => self.settled(base, lost),
        }
    }

    /// Finds out how a handover ended after its answer was lost.
    fn settled(&self, base: u64, lost: NoAnswer) -> Result<Status> {
        match settle(self.source, self.target, base, self.timeout + TAKEN) {
            Settled::Taken(status) => Ok(*status),
            Settled::Back => Err(Failure { error: MigrateError::LostAndBack(lost), runs: Runs::Source }),
            Settled::Unknown { source_state, target_state } => {
                let error = MigrateError::OutOfSight { lost, source_state, target_state };
                Err(Failure { error, runs: Runs::Unknown })
            }
        }
    }

    /// Adds to an error where the service runs now: the source may have ended or been drained in the
    /// meantime.
    fn failed(&self, error: MigrateError, base: u64) -> Failure {
        let runs = match self.source.status() {
            Ok(status) if status.runs() => Runs::Source,
            _ => match settle(self.source, self.target, base, TAKEN) {
                Settled::Taken(_) => Runs::Target,
                Settled::Back => Runs::Source,
                Settled::Unknown { .. } => Runs::Unknown,
            },
        };
        Failure { error, runs }
    }

    fn stop(&self, moved: Moved) -> Moved {
        let Some(stop) = &self.source.template.stop else { return moved };
        self.step(Step::Stopping);
        Moved { unstopped: Side::run(stop).err().map(|error| error.to_string()), ..moved }
    }

    fn step(&self, step: Step) {
        (self.tell)(Note::Step(step));
    }
}

type Answer = std::result::Result<Status, NoAnswer>;

/// Polls with exponential back-off until an answer will do or the limit has passed. Returns the last answer.
fn patiently(limit: Duration, ask: impl Fn() -> Answer, will_do: impl Fn(&Answer) -> bool) -> Answer {
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

/// Reports what a restore would change, and fails if a checkpoint would be refused. Returns what a restore will ask, if
/// the source says that.
fn look_for_refusals(
    source: &Side,
    timeout: Duration,
    tell: &dyn Fn(Note<'_>),
) -> std::result::Result<Option<String>, MigrateError> {
    // The service cannot be inspected while a checkpoint is under way, such as that of a timer.
    let found = source.findings().or_else(|_| source.wait("idle", timeout + TAKEN).and_then(|_| source.findings()));
    let found = found.map_err(MigrateError::NoFindings)?;
    let of = |severity| found.findings.iter().filter(move |finding| finding.severity == severity);
    of("changed").for_each(|finding| tell(Note::Changed(finding)));
    if found.can_be_checkpointed {
        return Ok(found.demands);
    }
    Err(MigrateError::Refused(of("refused").map(|finding| format!("{finding} ({})", finding.advice)).collect()))
}

/// Fails if the target cannot restore a service with these demands, and tells what else it says. Asks nothing without
/// demands.
fn ask_target(target: &Side, demands: Option<&str>, tell: &dyn Fn(Note<'_>)) -> std::result::Result<(), MigrateError> {
    let remarks = demands.map_or(Ok(Vec::new()), |demands| target.suits(demands))?;
    remarks.into_iter().for_each(|remark| tell(Note::Remark(remark)));
    Ok(())
}

fn came_from(status: &Status) -> String {
    status.restore.as_ref().map(|restore| restore.from.clone()).unwrap_or_default()
}

fn moved(from: String, restored: &Status, downtime_ms: Option<u64>) -> Moved {
    let restore = restored.restore.clone().unwrap_or_default();
    let (generation, restore_ms) = (restore.generation, restore.total_ms);
    Moved { generation, from, to: restored.instance.clone(), downtime_ms, restore_ms, unstopped: None }
}

#[cfg(test)]
mod tests;
