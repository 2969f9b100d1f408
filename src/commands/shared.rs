//! Arguments, output and exit statuses that several verbs share.

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
    /// Folder of the control socket [default: the first usable of /run/freeze, /dev/shm/freeze, /tmp/freeze]
    #[arg(long, env = "FREEZE_RUNTIME_DIR", value_name = "FOLDER")]
    pub(super) runtime_dir: Option<PathBuf>,
}

/// The store and key of a verb that needs no init.
#[derive(Debug, Args)]
pub(super) struct StoreArguments {
    #[command(flatten)]
    pub(super) location: Location,
    #[command(flatten)]
    pub(super) keys: KeyFiles,
}

impl StoreArguments {
    /// `None` if nothing was ever written to the store.
    pub(super) fn open(&self) -> Result<Option<Vault>, ImageError> {
        Vault::open(store::open(&self.location)?, &self.keys)
    }

    /// Fails if nothing was ever written to the store.
    pub(super) fn open_full(&self) -> Result<Vault, UpkeepError> {
        self.open()?.ok_or_else(|| UpkeepError::Empty { url: self.location.url.clone() })
    }
}

/// Prints the result or the error, and returns the exit status.
pub(super) fn finish(result: Result<String, UpkeepError>) -> u8 {
    match result {
        Ok(found) => text::print(&found),
        Err(error) => {
            say(&error.to_string());
            exit::FAILED
        }
    }
}

/// Exit status for a request without an answer.
pub(super) fn status_of(error: &ClientError) -> u8 {
    if matches!(error, ClientError::NoInit(_)) { exit::NO_INIT } else { exit::FAILED }
}

/// Prints why init refused a request, and returns the exit status.
pub(super) fn refused(answer: &Event) -> u8 {
    match answer {
        Event::Failed { message, .. } => say(message),
        _ => say("init sent an unexpected answer"),
    }
    exit::FAILED
}

/// An event as init sent it, without a newline.
pub(super) fn json(event: &Event) -> String {
    serde_json::to_string(event).unwrap_or_default()
}
