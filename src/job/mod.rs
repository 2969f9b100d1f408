//! A worker: a short-lived process of the same executable that does what can fail, for one checkpoint or restore.
//!
//! Init starts it as `freeze worker` with a socket on descriptor [`SOCKET_FD`], sends it one line, the [`Job`], and reads
//! [`Event`] lines until it ends. Init may kill a worker at any time, and a worker may die at any time: the service must
//! go on running unless the generation was committed.

pub mod reporter;
pub mod work_folder;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::control::protocol::Phase;
use crate::image::{KeyFiles, Lease};
use crate::store::Location;

/// The descriptor on which a worker finds its socket to init.
pub const SOCKET_FD: i32 = 3;

/// What a worker is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// Take one checkpoint.
    Checkpoint {
        /// What all kinds of job need to know.
        common: Common,
        /// Root of the tree to dump: the holder.
        root: i32,
        /// The service's first process.
        service: i32,
        /// What this container holds of the application.
        lease: Lease,
        /// What becomes of the service after the commit.
        fate: Fate,
        /// Files and folders to capture beside those that the service has open.
        include: Vec<PathBuf>,
        /// The service may end into a store that goes with the container.
        ephemeral_store: bool,
    },
    /// Find out what became of a generation whose worker died while it was being committed or handed over: withdraw it, unless
    /// another container has taken it. Ends with [`Event::Settled`], and tries until the store answers.
    Settle {
        /// What all kinds of job need to know.
        common: Common,
        /// The generation.
        generation: u64,
        /// How long it is still left to be taken, in milliseconds.
        remaining_ms: u64,
        /// What this container holds of the application.
        lease: Lease,
    },
    /// Restore a generation, now or when one is handed over.
    Restore {
        /// What all kinds of job need to know.
        common: Common,
        /// Which one.
        choice: Choice,
        /// What to do where that cannot be restored.
        failure: OnFailure,
        /// How to wait for one.
        standby: Standby,
    },
    /// Look whether this container still has the application, and tell those that wait that it is alive. Ends with
    /// [`Event::Held`] or [`Event::Lost`].
    Hold {
        /// What all kinds of job need to know.
        common: Common,
        /// What this container holds of the application.
        lease: Lease,
    },
}

/// What init tells a worker that is at work, in one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// Take back the generation that is handed over, unless somebody has it.
    Withdraw,
}

/// What becomes of the service after the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It ends, and any container may take the generation.
    End,
    /// It runs on.
    Run,
    /// It is held until another container has taken it, and runs on where none has.
    Handover {
        /// How long it is held, in milliseconds.
        timeout_ms: u64,
    },
}

/// Which generation to restore.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// The newest; none where there is none.
    #[default]
    Newest,
    /// This one, and no other.
    Generation(u64),
    /// None.
    Never,
}

/// What to do where a generation cannot be restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// End with status 171.
    #[default]
    Fail,
    /// Start the command afresh: the service's state is lost
    Start,
    /// Try the same generation again
    Retry,
    /// Try the same generation again, then earlier ones: what happened since is lost
    RetryEarlier,
}

/// How a container waits for a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    /// Wait whatever the store holds. A container waits in any case where its own service has moved away.
    pub always: bool,
    /// Milliseconds between two looks at the store.
    pub poll_ms: u64,
    /// Folder for packs that are fetched ahead.
    pub cache: PathBuf,
    /// The most bytes of them.
    pub cache_bytes: u64,
}

/// What all kinds of job need to know.
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
    /// Names this container, also after it was started again.
    pub instance: String,
    /// Only one container may have the application, and looks so often whether it still has, in milliseconds.
    pub exclusive_ms: Option<u64>,
}

/// Why a job failed, in words for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One sentence or two.
    pub message: String,
    /// CRIU's log, where there is one.
    pub log: Option<PathBuf>,
    /// The step that failed, where one had begun.
    pub phase: Option<Phase>,
}

/// How many threads share the work on page data.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
