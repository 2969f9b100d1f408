//! Which generation is restored, and the log line that says why.

use super::look::Found;
use crate::image::Outcome;
use crate::job::Choice;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick {
    /// As the user says.
    Told(Choice),
    /// An earlier generation, as `of` cannot be restored.
    Instead { generation: u64, of: u64 },
}

impl Pick {
    /// None if nothing is to be restored.
    pub(super) fn number(self, newest: u64) -> Option<u64> {
        match self {
            Pick::Told(Choice::Newest) => Some(newest),
            Pick::Told(Choice::Never) => None,
            Pick::Told(Choice::Generation(generation)) | Pick::Instead { generation, .. } => Some(generation),
        }
    }

    /// The log line. `us` is this container.
    pub(super) fn sentence(self, found: &Found, us: &str) -> Option<String> {
        let generation = self.number(found.lease.generation)?;
        let why = match self {
            Pick::Told(Choice::Generation(_)) => "--restore names it".to_owned(),
            Pick::Told(_) => "it is the newest".to_owned(),
            Pick::Instead { of, .. } => format!("generation {of} cannot be restored"),
        };
        let before = match &found.newest.outcome {
            Some(_) if generation != found.lease.generation => String::new(),
            Some(Outcome::Taken { by, .. }) if by.instance == us => ", and this container has already taken it".into(),
            Some(Outcome::Taken { by, .. }) => format!(", and container {} has already taken it", by.instance),
            Some(Outcome::Withdrawn { by }) => format!(", and container {} has withdrawn it", by.instance),
            None => String::new(),
        };
        Some(format!("restoring generation {generation} of {}: {why}{before}", found.vault.url()))
    }
}

/// What a standby does as soon as it may, with `newest` as the store's newest generation.
pub(super) fn plan(choice: Choice, newest: u64) -> String {
    match choice {
        Choice::Newest => format!("restoring generation {newest}"),
        Choice::Generation(generation) => format!("restoring generation {generation}, because --restore names it"),
        Choice::Never => "starting the command, because --restore is never".to_owned(),
    }
}

/// Why the command is started.
pub(super) fn nothing(url: &str, choice: Choice) -> String {
    match choice {
        Choice::Never => "starting the command: --restore is never".to_owned(),
        _ => format!("starting the command: {url} holds no generation"),
    }
}
