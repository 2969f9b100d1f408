//! Finds out which side has the service after an answer was lost or unexpected.
//!
//! Never concludes from a lost connection. The target is queried last, and not while the source is busy, as a
//! query takes PIDs that the target's restore needs.

use std::thread;
use std::time::{Duration, Instant};

use super::execute::NoAnswer;
use super::side::Side;
use crate::control::protocol::{State, Status};

/// Pause between two rounds of queries.
const PAUSE: Duration = Duration::from_secs(3);

/// Which side has the service.
pub enum Settled {
    /// The target, with its status.
    Taken(Box<Status>),
    /// The source.
    Back,
    /// Neither side says that it has the service.
    Unknown { source_state: String, target_state: String },
}

/// Queries both sides until one has the service or the limit has passed. The target has it only if it
/// restored a generation newer than `base`.
pub fn settle(source: &Side, target: &Side, base: u64, limit: Duration) -> Settled {
    let begun = Instant::now();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        let source_says = match source.status() {
            // A request whose connection was lost may still be under way.
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

/// Whether the service runs here and was restored from a generation newer than `base`.
pub fn has_it(status: &Status, base: u64) -> bool {
    status.runs() && status.restore.as_ref().is_some_and(|restore| restore.generation > base)
}

/// A side's state, or why it does not answer, as it follows "is" in a sentence.
pub fn word(answer: &Result<Status, NoAnswer>) -> String {
    match answer {
        Ok(status) => status.phrase().to_owned(),
        Err(error) => format!("unreachable: {error}"),
    }
}
