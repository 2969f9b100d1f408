//! What several commands have in common: arguments, and how they speak to the user.

use std::path::PathBuf;

use clap::Args;

use super::text::{self, say};
use crate::control::client::ClientError;
use crate::control::protocol::Event;
use crate::exit;
use crate::image::{ImageError, KeyFiles, Vault};
use crate::store::{self, Location};
use crate::upkeep::UpkeepError;

/// Where a client finds init.
#[derive(Debug, Args)]
pub(super) struct Folder {
    /// Folder of init's control socket [default: the first of /run/freeze, /dev/shm/freeze, /tmp/freeze with one]
    #[arg(long, env = "FREEZE_RUNTIME_DIR", value_name = "FOLDER")]
    pub(super) runtime_dir: Option<PathBuf>,
}

/// A store that is looked after from anywhere.
#[derive(Debug, Args)]
pub(super) struct StoreArguments {
    #[command(flatten)]
    pub(super) location: Location,
    #[command(flatten)]
    pub(super) keys: KeyFiles,
}

impl StoreArguments {
    /// None where nothing was ever written to the store.
    pub(super) fn open(&self) -> Result<Option<Vault>, ImageError> {
        Vault::open(store::open(&self.location)?, &self.keys)
    }

    /// One that holds something.
    pub(super) fn open_full(&self) -> Result<Vault, UpkeepError> {
        self.open()?.ok_or_else(|| UpkeepError::Empty { url: self.location.url.clone() })
    }
}

/// Prints what a command that looks after a store found, and gives its exit status.
pub(super) fn finish(result: Result<String, UpkeepError>) -> u8 {
    match result {
        Ok(found) => text::print(&found),
        Err(error) => {
            say(&error.to_string());
            exit::FAILED
        }
    }
}

/// The exit status for a request that got no answer.
pub(super) fn status_of(error: &ClientError) -> u8 {
    if matches!(error, ClientError::NoInit(_)) { exit::NO_INIT } else { exit::FAILED }
}

/// Says why init did not do what it was asked for, and gives the exit status for that.
pub(super) fn refused(answer: &Event) -> u8 {
    match answer {
        Event::Failed { message, .. } => say(message),
        _ => say("init gave another answer than was asked for"),
    }
    exit::FAILED
}

/// An event as init sent it.
pub(super) fn json(event: &Event) -> String {
    serde_json::to_string(event).unwrap_or_default()
}
