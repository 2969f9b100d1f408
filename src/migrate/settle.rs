//! Finds out who has the service where an answer did not come, or was not what it should be: a lost connection says nothing of the
//! service. Asks only what is free to answer, and the target last, as it may be restoring.

use std::thread;
use std::time::{Duration, Instant};

use super::execute::NoAnswer;
use super::side::Side;
use crate::control::protocol::{State, Status};

/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_secs(3);

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

/// Asks both until one has the service, or the time is over. `base` is a generation from before the handover.
pub fn settle(source: &Side, target: &Side, base: u64, limit: Duration) -> Settled {
    let begun = Instant::now();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        let source_says = match source.status() {
            // A request that was cut off may still be under way there.
            Ok(status) if is_busy(&status) || status.state == State::Running => match source.wait("idle", left) {
                Ok(status) if status.state == State::Running => return Settled::Back,
                _ => source.status(),
            },
            answer => answer,
        };
        let target_says = match &source_says {
            Ok(status) if is_busy(status) => None,
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
        thread::sleep(PAUSE.min(left));
    }
}

fn is_busy(status: &Status) -> bool {
    matches!(status.state, State::Checkpointing | State::HandingOver)
}

/// The service runs here, and came by a generation that is newer than `base`.
pub fn has_it(status: &Status, base: u64) -> bool {
    status.runs() && status.restore.as_ref().is_some_and(|restore| restore.generation > base)
}

/// A side's state, or why it does not answer, as what follows `is`.
pub fn word(answer: &Result<Status, NoAnswer>) -> String {
    match answer {
        Ok(status) => status.phrase().to_owned(),
        Err(error) => format!("not to be reached: {error}"),
    }
}
