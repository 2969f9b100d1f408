//! One side of a move: a container that is queried by executing freeze in it.
//!
//! Each query takes PIDs in the container that a restore may need, so queries are few.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::MigrateError;
use super::execute::{Limit, NoAnswer, Ran, execute};
use super::template::Template;
use crate::control::protocol::{Event, Report, Status, millis};
use crate::doctor::candidate::{Candidate, Suited};
use crate::exit;

/// Limit for a query that init or /proc answers, over a slow connection.
const ANSWER: Duration = Duration::from_secs(60);
/// Limit for the silence of a checkpoint. Init's own limit is shorter by default.
const CHECKPOINT: Duration = Duration::from_secs(15 * 60);
/// Limit for starting or stopping a container.
const CONTAINER: Duration = Duration::from_secs(15 * 60);

/// The source or the target.
#[derive(Debug)]
pub struct Side {
    pub template: Template,
    /// Path of freeze in the container.
    pub program: String,
}

/// Output of `freeze doctor --service`.
#[derive(Debug, Deserialize)]
pub struct Findings {
    pub can_be_checkpointed: bool,
    /// In descending order of severity.
    pub findings: Vec<Finding>,
    /// What a restore will ask. Older versions of freeze do not say.
    #[serde(default)]
    pub demands: Option<String>,
}

/// Something that a checkpoint is refused for, or that a restore changes.
#[derive(Debug, Deserialize)]
pub struct Finding {
    /// `refused` or `changed`.
    pub severity: String,
    /// `None` if it concerns the whole container.
    pub process: Option<Owner>,
    /// A predicate: follows the process's name in a sentence.
    pub what: String,
    pub advice: String,
}

/// A sentence without its full stop.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some(Owner { pid, name }) => write!(f, "process {pid} ({name}) {}", self.what),
            None => write!(f, "the container {}", self.what),
        }
    }
}

#[derive(Debug, Deserialize)]
pub struct Owner {
    pub pid: i32,
    pub name: String,
}

/// Result of a requested checkpoint.
#[derive(Debug)]
pub enum Checkpoint {
    /// It is committed. After a handover, the name is that of the instance that took the service.
    Committed(Report, Option<String>),
    /// It failed. The service runs on, unless init has ended meanwhile.
    Failed(String),
    /// Unknown: the command or its connection ended before the answer.
    Lost(NoAnswer),
}

impl Side {
    /// Queries init's status.
    ///
    /// # Errors
    /// The container or its init cannot be reached.
    pub fn status(&self) -> Result<Status, NoAnswer> {
        match self.ask(&["status", "--json"])? {
            (_, Some(Event::Status(status))) => Ok(*status),
            (ran, _) => Err(self.no_answer(&["status", "--json"], &ran)),
        }
    }

    /// Queries what a checkpoint would be refused for, and what a restore would change.
    ///
    /// # Errors
    /// There is no answer.
    pub fn findings(&self) -> Result<Findings, NoAnswer> {
        self.answer(&["doctor", "--service", "--json"])
    }

    /// Asks whether a service with these demands can be restored there. An older freeze does not understand the
    /// question, and is asked about a generation later. Returns what else the side says of such a restore.
    ///
    /// # Errors
    /// The side lacks something, or does not answer.
    pub fn suits(&self, demands: &str) -> Result<Vec<String>, MigrateError> {
        let words = ["doctor", "--for", demands, "--json"];
        match self.ask::<Suited>(&words).map_err(MigrateError::NotAsked)? {
            (_, Some(found)) if found.fits => Ok(found.remarks),
            (_, Some(found)) => Err(MigrateError::Unfit(found.missing)),
            (ran, None) if ran.status.code() == Some(exit::USAGE.into()) => Ok(Vec::new()),
            (ran, None) => Err(MigrateError::NotAsked(self.no_answer(&["doctor", "--for", "demands:…"], &ran))),
        }
    }

    /// Predicts how long a restore of `generation` would take there, in ms.
    ///
    /// # Errors
    /// The side cannot restore the generation, or cannot read it from its store.
    pub fn restore_ms(&self, generation: u64) -> Result<u64, MigrateError> {
        let words = ["doctor", "--for", &generation.to_string(), "--json"];
        let found: Candidate = self.answer(&words).map_err(|error| MigrateError::NotSeen { generation, error })?;
        if found.fits { Ok(found.time.total_ms) } else { Err(MigrateError::Unfit(found.missing)) }
    }

    /// Waits until init has reached `state`, and returns its status.
    ///
    /// # Errors
    /// Init did not reach the state in time, or does not answer.
    pub fn wait(&self, state: &str, limit: Duration) -> Result<Status, NoAnswer> {
        let words = ["wait", state, "--timeout", &duration(limit)];
        let ran = execute(&self.words(&words), Limit::Whole(limit + ANSWER), &|_| false)?;
        if ran.status.success() { self.status() } else { Err(self.no_answer(&words, &ran)) }
    }

    /// Requests a checkpoint with these options, and passes on its events.
    pub fn checkpoint(&self, options: &[String], tell: &dyn Fn(Event)) -> Checkpoint {
        let words: Vec<&str> =
            ["checkpoint"].into_iter().chain(options.iter().map(String::as_str)).chain(["--json"]).collect();
        let taker = RefCell::new(None);
        let hear = |line: &str| match serde_json::from_str(line) {
            Ok(Event::Settled { taken_by }) => {
                *taker.borrow_mut() = taken_by;
                true
            }
            Ok(event) => {
                tell(event);
                true
            }
            Err(_) => false,
        };
        let ran = match execute(&self.words(&words), Limit::Silence(CHECKPOINT), &hear) {
            Ok(ran) => ran,
            Err(error) => return Checkpoint::Lost(error),
        };
        match last_line(&ran) {
            Some(Event::Checkpointed(report)) => {
                tell(Event::Checkpointed(report));
                Checkpoint::Committed(report, taker.into_inner())
            }
            Some(Event::Failed { message, .. }) => Checkpoint::Failed(message),
            _ => Checkpoint::Lost(self.no_answer(&words, &ran)),
        }
    }

    /// Runs a start or stop command of a template.
    ///
    /// # Errors
    /// The command fails.
    pub fn run(words: &[String]) -> Result<(), NoAnswer> {
        let ran = execute(words, Limit::Whole(CONTAINER), &|_| false)?;
        if ran.status.success() { Ok(()) } else { Err(NoAnswer::of(words, &ran)) }
    }

    fn answer<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T, NoAnswer> {
        let (ran, answer) = self.ask(words)?;
        answer.ok_or_else(|| self.no_answer(words, &ran))
    }

    /// Ignores the exit status, as freeze also answers with a nonzero one.
    fn ask<T: DeserializeOwned>(&self, words: &[&str]) -> Result<(Ran, Option<T>), NoAnswer> {
        let ran = execute(&self.words(words), Limit::Whole(ANSWER), &|_| false)?;
        let answer = last_line(&ran);
        Ok((ran, answer))
    }

    fn no_answer(&self, words: &[&str], ran: &Ran) -> NoAnswer {
        NoAnswer::of(&self.words(words), ran)
    }

    fn words(&self, words: &[&str]) -> Vec<String> {
        let ours = std::iter::once(self.program.as_str()).chain(words.iter().copied()).map(str::to_owned);
        self.template.exec.iter().cloned().chain(ours).collect()
    }
}

/// A duration as one word without spaces, since ssh and the like split arguments at spaces.
pub fn duration(time: Duration) -> String {
    format!("{}ms", millis(time))
}

fn last_line<T: DeserializeOwned>(ran: &Ran) -> Option<T> {
    serde_json::from_str(ran.stdout.lines().last()?).ok()
}
