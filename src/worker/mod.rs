//! A worker: a short-lived process of the same executable that does what can fail, for one checkpoint or restore.
//!
//! Init starts it as `freeze worker` with a socket on descriptor [`SOCKET_FD`], sends it one line, the [`Job`], and reads
//! [`Event`] lines until it ends. Init may kill a worker at any time, and a worker may die at any time: the service must
//! go on running unless the generation was committed.

pub mod report;
pub mod work;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Target};
use crate::control::protocol::Event;
use crate::image::{KeyFiles, Lease};
use crate::store::Location;
use crate::{exit, restore};
use report::Reporter;

/// The descriptor on which a worker finds its socket to init.
pub const SOCKET_FD: i32 = 3;

/// What a worker is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// Take one checkpoint.
    Checkpoint {
        /// What both kinds of job need to know.
        common: Common,
        /// Root of the tree to dump: the holder.
        root: i32,
        /// The service's first process.
        service: i32,
        /// What this container holds of the application.
        lease: Lease,
        /// Let the service run on after the commit.
        leave_running: bool,
        /// Files and folders to capture beside those that the service has open.
        include: Vec<PathBuf>,
    },
    /// Restore the newest generation, if there is one.
    Restore {
        /// What both kinds of job need to know.
        common: Common,
    },
}

/// What both kinds of job need to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Common {
    /// Where the store is.
    pub store: Location,
    /// Where its key is.
    pub keys: KeyFiles,
    /// Folder for sockets and logs; exists.
    pub runtime_dir: PathBuf,
    /// The most memory that page data may take in the worker, in bytes.
    pub memory: u64,
}

/// Why a job failed, in words for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One sentence or two.
    pub message: String,
    /// CRIU's log, where there is one.
    pub log: Option<PathBuf>,
}

/// How many threads share the work on page data.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The worker process, from its job to its last event.
pub fn main() -> u8 {
    let (reporter, job) = match Reporter::receive_job() {
        Ok(received) => received,
        Err(error) => {
            eprintln!("freeze: a worker is started by init alone, as part of `freeze run` ({error})");
            return exit::FATAL;
        }
    };
    let result = match job {
        Job::Checkpoint { common, root, service, lease, leave_running, include } => {
            checkpoint::run(&common, &Target { root, service, lease, leave_running, include }, &reporter)
                .map(Event::Checkpointed)
        }
        Job::Restore { common } => restore::run(&common, &reporter),
    };
    let failed = result.is_err();
    reporter.send(&result.unwrap_or_else(|Failure { message, log }| Event::Failed { message, log }));
    if failed { exit::FAILED } else { exit::OK }
}
