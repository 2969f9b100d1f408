//! One side of a move: a container in which freeze is asked. Each question takes PIDs there, which a restore may lack, so there are few, and
//! none while the target restores.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::MigrateError;
use super::execute::{Limit, NoAnswer, Ran, execute};
use super::template::Template;
use crate::control::protocol::{Event, Report, Status, millis};
use crate::doctor::forecast::Forecast;

/// How long a question may take that init or /proc answers, over a slow connection.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a checkpoint may say nothing; init has a limit of its own that is shorter by default.
const CHECKPOINT: Duration = Duration::from_secs(15 * 60);
/// How long starting or stopping a container may take.
const CONTAINER: Duration = Duration::from_secs(15 * 60);

/// The source or the target.
#[derive(Debug)]
pub struct Side {
    /// How it is reached.
    pub template: Template,
    /// Where freeze lies in the container.
    pub program: String,
}

/// What `freeze doctor --service` says.
#[derive(Debug, Deserialize)]
pub struct Findings {
    /// Nothing is refused.
    pub can_be_checkpointed: bool,
    /// In the order of their weight.
    pub findings: Vec<Finding>,
}

/// One thing that a checkpoint is refused for, or changes.
#[derive(Debug, Deserialize)]
pub struct Finding {
    /// `refused` or `changed`.
    pub severity: String,
    /// None for the whole container.
    pub process: Option<Owner>,
    /// Follows the process's name in a sentence.
    pub what: String,
    /// What to do.
    pub advice: String,
}

/// A sentence without its end.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some(Owner { pid, name }) => write!(f, "process {pid} ({name}) {}", self.what),
            None => write!(f, "the container {}", self.what),
        }
    }
}

/// A process.
#[derive(Debug, Deserialize)]
pub struct Owner {
    /// In its container.
    pub pid: i32,
    /// Its name.
    pub name: String,
}

/// How a checkpoint that was asked for ended.
#[derive(Debug)]
pub enum Checkpoint {
    /// It is committed; for a handover, the service has been taken by the container of that name.
    Committed(Report, Option<String>),
    /// It failed. The service runs on, unless init has ended meanwhile.
    Failed(String),
    /// Nobody knows: the command or the connection ended before the answer.
    Lost(NoAnswer),
}

impl Side {
    /// Init's status.
    ///
    /// # Errors
    /// Where there is no container, no init, or no way to it.
    pub fn status(&self) -> Result<Status, NoAnswer> {
        match self.ask(&["status", "--json"])? {
            (_, Some(Event::Status(status))) => Ok(*status),
            (ran, _) => Err(self.no_answer(&["status", "--json"], &ran)),
        }
    }

    /// What a checkpoint of the service would be refused for, or change.
    ///
    /// # Errors
    /// Where there is no answer.
    pub fn findings(&self) -> Result<Findings, NoAnswer> {
        self.answer(&["doctor", "--service", "--json"])
    }

    /// How many milliseconds it would take to restore a generation there.
    ///
    /// # Errors
    /// Where it cannot be restored, or its store holds no such generation.
    pub fn restore_ms(&self, generation: u64) -> Result<u64, MigrateError> {
        let words = ["doctor", "--for", &generation.to_string(), "--json"];
        let found: Forecast = self.answer(&words).map_err(|error| MigrateError::NotSeen { generation, error })?;
        if found.fits { Ok(found.time.total_ms) } else { Err(MigrateError::Unfit(found.missing)) }
    }

    /// Waits until init is there, and gives its status then.
    ///
    /// # Errors
    /// Where it does not get there, or does not answer.
    pub fn wait(&self, state: &str, limit: Duration) -> Result<Status, NoAnswer> {
        let words = ["wait", state, "--timeout", &duration(limit)];
        let ran = execute(&self.words(&words), Limit::Whole(limit + ANSWER), &|_| false)?;
        if ran.status.success() { self.status() } else { Err(self.no_answer(&words, &ran)) }
    }

    /// Asks for a checkpoint with these options, and tells of its progress.
    pub fn checkpoint(&self, option: &str, tell: &dyn Fn(Event)) -> Checkpoint {
        let words = ["checkpoint", option, "--json"];
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
            Some(Event::Checkpointed(report)) => Checkpoint::Committed(report, taker.into_inner()),
            Some(Event::Failed { message, .. }) => Checkpoint::Failed(message),
            _ => Checkpoint::Lost(self.no_answer(&words, &ran)),
        }
    }

    /// Runs one of the template's own commands.
    ///
    /// # Errors
    /// Where it fails.
    pub fn run(words: &[String]) -> Result<(), NoAnswer> {
        let ran = execute(words, Limit::Whole(CONTAINER), &|_| false)?;
        if ran.status.success() { Ok(()) } else { Err(NoAnswer::of(words, &ran)) }
    }

    fn answer<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T, NoAnswer> {
        let (ran, answer) = self.ask(words)?;
        answer.ok_or_else(|| self.no_answer(words, &ran))
    }

    /// What it says counts, whatever the status: that tells good answers from bad ones.
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

/// One word, as whatever passes it on may part words at spaces, as ssh does.
pub fn duration(time: Duration) -> String {
    format!("{}ms", millis(time))
}

fn last_line<T: DeserializeOwned>(ran: &Ran) -> Option<T> {
    serde_json::from_str(ran.stdout.lines().last()?).ok()
}
