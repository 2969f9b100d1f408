//! `freeze doctor`: what works in this container, proven by a round trip of a small tree; and what to add for more.

use std::path::PathBuf;

use super::say;
use super::text::{json, print};
use crate::doctor::{proof, subject};
use crate::exit;

/// Arguments of `freeze doctor`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Folder for the proof's files [default: the first of /run, /dev/shm, /tmp that can be written]
    #[arg(long, env = "FREEZE_RUNTIME_DIR", value_name = "FOLDER")]
    runtime_dir: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `freeze doctor-subject`.
#[derive(Debug, clap::Args)]
pub struct Subject {
    role: subject::Role,
    folder: PathBuf,
}

/// Returns the exit status.
pub fn main(arguments: &Arguments) -> u8 {
    match proof::prove(arguments.runtime_dir.as_deref()) {
        Ok(proven) => print(&if arguments.json { json(&proven) } else { format!("{proven:?}\n") }),
        Err(error) => {
            say(&error.to_string());
            exit::FAILED
        }
    }
}

/// One process of the proof's tree.
pub fn subject(arguments: &Subject) -> u8 {
    if subject::main(arguments.role, &arguments.folder).is_ok() { exit::OK } else { exit::FAILED }
}
