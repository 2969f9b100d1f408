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
use settle::{Settled, has_it, settle, word};
use side::{Checkpoint, Finding, duration};

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
    /// How long it stood still, in milliseconds, by the source's clock; none where that is not known, as an earlier run, or a lost
    /// connection, has moved it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_ms: Option<u64>,
    /// What of it the target took to restore it, in milliseconds.
    pub restore_ms: u64,
    /// Why the source could not be stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unstopped: Option<String>,
}

type Result<T> = std::result::Result<T, Failure>;

/// Moves the service, or finishes what an earlier run has begun.
///
/// # Errors
/// Says why not, and where the service runs.
pub fn migrate(migration: &Migration, tell: &dyn Fn(Note<'_>)) -> Result<Moved> {
    let Migration { source, target, timeout } = migration;
    Mover { source, target, timeout: *timeout, tell }.run()
}

struct Mover<'a> {
    source: &'a Side,
    target: &'a Side,
    timeout: Duration,
    tell: &'a dyn Fn(Note<'_>),
}

impl Mover<'_> {
    fn run(&self) -> Result<Moved> {
        self.step(Step::Looking);
        let answer = match self.source.status() {
            // Somebody's checkpoint, or a handover that an earlier run has begun.
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
        look_for_refusals(self.source, self.timeout, self.tell).map_err(|error| self.failed(error, 0))?;
        let base = self.prepare()?;
        let failed = |error| self.failed(error, base.generation);
        let restore_ms = self.target.restore_ms(base.generation).map_err(failed)?;
        self.wait_until_fetched(base.generation)?;
        self.step(Step::HandingOver { predicted_ms: base.frozen_ms.saturating_add(restore_ms) });
        let option = format!("--handover={}", duration(self.timeout));
        let (restored, downtime_ms) = match self.source.checkpoint(&option, &|event| (self.tell)(Note::Event(event))) {
            Checkpoint::Failed(message) => return Err(failed(MigrateError::NotTaken(message))),
            Checkpoint::Committed(report, taker) => {
                (self.taken(&instance, base.generation, taker)?, Some(report.frozen_ms).filter(|&ms| ms > 0))
            }
            Checkpoint::Lost(lost) => (self.settled(base.generation, lost)?, None),
        };
        Ok(moved(source.instance.clone(), &restored, downtime_ms))
    }

    /// The source has no service: has an earlier run moved it?
    fn moved_earlier(&self, source: &Status) -> Result<Moved> {
        let no_service = |target_state| {
            let error = MigrateError::NoService { source_state: source.phrase().to_owned(), target_state };
            Failure { error, runs: Runs::Unknown }
        };
        match settle(self.source, self.target, 0, self.timeout + TAKEN) {
            Settled::Taken(status) => {
                let from = came_from(&status);
                // It may have been started again since.
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

    /// A source that does not answer may have a service all the same, so nothing is done to it.
    fn source_is_gone(&self, error: NoAnswer) -> Result<Moved> {
        match self.target.status() {
            Ok(status) if has_it(&status, 0) => {
                let warning = format!("the source does not answer, so it was left as it is: {error}");
                (self.tell)(Note::Warning(warning));
                Ok(moved(came_from(&status), &status, None))
            }
            answer => {
                let error = MigrateError::NoService { source_state: word(&Err(error)), target_state: word(&answer) };
                Err(Failure { error, runs: Runs::Unknown })
            }
        }
    }

    /// The target, standing by; it is started where it does not answer and there is a command for that.
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

    /// A generation while the service runs.
    fn prepare(&self) -> Result<Report> {
        self.step(Step::Preparing);
        let error = match self.source.checkpoint("--leave-running", &|event| (self.tell)(Note::Event(event))) {
            Checkpoint::Committed(report, _) => return Ok(report),
            Checkpoint::Failed(message) => MigrateError::Base(message),
            Checkpoint::Lost(lost) => MigrateError::Base(lost.to_string()),
        };
        Err(self.failed(error, 0))
    }

    /// Handing over to a target that is not there any more would cost a downtime for nothing.
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
                let warning =
                    format!("the target has not fetched generation {generation} ahead, so the handover takes longer");
                (self.tell)(Note::Warning(warning));
                return Ok(());
            }
            Ok(status) => MigrateError::not_standing_by(&status),
            Err(error) => MigrateError::NoTarget(error),
        };
        Err(self.failed(error, generation))
    }

    /// The target's status when the service that it has taken runs. It was not asked before: it needs its PIDs for the restore.
    fn taken(&self, instance: &str, base: u64, taker: Option<String>) -> Result<Status> {
        self.step(Step::Verifying);
        // A Deployment may have another pod by now.
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

    /// What became of a handover whose answer did not come.
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

    /// Says where the service runs now: the source may have ended, or been drained, in the meantime.
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

/// Asks again, less and less often, until the answer will do or the time is over; gives the last one.
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

/// Tells what the service will notice, and fails for what a checkpoint would be refused for.
fn look_for_refusals(
    source: &Side,
    timeout: Duration,
    tell: &dyn Fn(Note<'_>),
) -> std::result::Result<(), MigrateError> {
    // While a timer's checkpoint is under way, the service cannot be looked at.
    let found = source.findings().or_else(|_| source.wait("idle", timeout + TAKEN).and_then(|_| source.findings()));
    let found = found.map_err(MigrateError::NoFindings)?;
    let of = |severity| found.findings.iter().filter(move |finding| finding.severity == severity);
    of("changed").for_each(|finding| tell(Note::Changed(finding)));
    if found.can_be_checkpointed {
        return Ok(());
    }
    Err(MigrateError::Refused(of("refused").map(|finding| format!("{finding} ({})", finding.advice)).collect()))
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
