//! Finds out what became of a handover whose answer did not come: a lost connection says nothing of the service. Asks only what is
//! free to answer, and the target last, as it may be restoring.

use std::thread;
use std::time::{Duration, Instant};

use super::execute::NoAnswer;
use super::side::Side;
use crate::control::protocol::{State, Status};

/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_secs(2);

/// Who has the service.
pub enum Settled {
    /// The target.
    Taken(Box<Status>),
    /// The source still, or again.
    Back,
    /// Neither says so.
    Unknown {
        /// In a word, or why it does not answer.
        source_state: String,
        /// In a word, or why it does not answer.
        target_state: String,
    },
}

/// Asks both until one has the service, or the time is over. `base` is the newest generation from before the handover.
pub fn settle(source: &Side, target: &Side, base: u64, limit: Duration) -> Settled {
    let begun = Instant::now();
    loop {
        let source_says = source.status();
        let target_says = match &source_says {
            Ok(status) if status.state == State::Running => return Settled::Back,
            Ok(status) if matches!(status.state, State::Checkpointing | State::HandingOver) => None,
            _ => Some(target.status()),
        };
        if let Some(Ok(status)) = &target_says
            && has_it(status, base)
        {
            return Settled::Taken(Box::new(status.clone()));
        }
        if begun.elapsed() >= limit {
            let target_state = target_says.as_ref().map_or_else(|| "not asked".to_owned(), word);
            return Settled::Unknown { source_state: word(&source_says), target_state };
        }
        thread::sleep(PAUSE);
    }
}

/// The service runs here, and came by a generation that is newer than `base`.
pub fn has_it(status: &Status, base: u64) -> bool {
    matches!(status.state, State::Running | State::Checkpointing)
        && status.restore.as_ref().is_some_and(|restore| restore.generation > base)
}

fn word(answer: &Result<Status, NoAnswer>) -> String {
    answer.as_ref().map_or_else(|error| format!("not to be reached: {error}"), state)
}

/// A state, as what follows `is`.
pub fn state(status: &Status) -> String {
    let word = match status.state {
        State::Starting => "starting",
        State::Standby => "standing by",
        State::Running => "running a service",
        State::Checkpointing => "checkpointing",
        State::HandingOver => "handing over",
        State::Ending => "ending",
    };
    word.to_owned()
}
