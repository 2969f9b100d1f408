//! A worker: a short-lived process of the same executable that does what can fail, one job each, such as a
//! checkpoint or a restore.
//!
//! Init starts `freeze worker` with a socket on descriptor [`SOCKET_FD`], sends the [`Job`] as one line, and
//! reads events, one a line, until the worker ends. A worker may die or be killed at any time: the service
//! must keep running unless the generation was committed.

pub(crate) mod reporter;
pub(crate) mod work_folder;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::control::protocol::{Pace, Phase};
use crate::files::selection::{Scope, Selection};
use crate::host::clock::Policy;
use crate::image::{KeyFiles, Lease};
use crate::store::Location;

/// Descriptor of a worker's socket to init.
pub const SOCKET_FD: i32 = 3;
/// Descriptor of init's end of the channel to the tracer of a checkpoint. A restore has the ends of the tracers that it
/// makes there, and after it.
pub const TRACER_FD: i32 = 4;

/// The task of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// Take one checkpoint.
    Checkpoint {
        /// Parameters of every job.
        common: Common,
        /// PID of the subreaper, the root of the tree to dump.
        root: i32,
        /// PID of the service's first process.
        service: i32,
        /// PID of the tracer to run CRIU in.
        tracer: Option<i32>,
        /// This container's lease.
        lease: Lease,
        /// What happens to the service after the commit.
        after_commit: AfterCommit,
        /// Milliseconds for which a service that would be stopped is held for a standby that is ready. None to stop it in
        /// any case.
        hold_ms: Option<u64>,
        /// Milliseconds until init gives the checkpoint up, as SIGTERM's grace is over. None if there is no limit.
        within_ms: Option<u64>,
        /// How short the last step of a move is to be.
        pace: Pace,
        /// Which files to capture.
        files: Selection,
        /// Let the service stop even if the store is lost with the container.
        ephemeral_store: bool,
        /// Seconds by which the service's clocks are ahead of the host's, if they go on in user space.
        clock_ahead_s: Option<u64>,
    },
    /// Decide a generation whose worker died while committing it or handing it over: withdraw it, unless
    /// another container takes it. Retries until the store answers, then ends with `Event::Settled`.
    Settle {
        /// Parameters of every job.
        common: Common,
        /// Number of the generation.
        generation: u64,
        /// Milliseconds for which another container may still take it.
        remaining_ms: u64,
        /// This container's lease.
        lease: Lease,
    },
    /// Restore a generation, now or when one is handed over.
    Restore {
        /// Parameters of every job.
        common: Common,
        /// Which generation.
        choice: Choice,
        /// What to do if it cannot be restored.
        failure: OnFailure,
        /// What to do if a volume has changed since.
        volume_changed: VolumeChanged,
        /// What to do if the clocks would go back.
        clock: Policy,
        /// How to wait for a generation.
        standby: Standby,
        /// Which files the checkpoints of this container will carry.
        files: Scope,
        /// Make tracers above the service.
        tracers: bool,
    },
    /// Check that this container still owns the lease, and write the heartbeat. Ends with `Event::StillOwner` or
    /// `Event::Lost`.
    Heartbeat {
        /// Parameters of every job.
        common: Common,
        /// This container's lease.
        lease: Lease,
    },
}

impl Job {
    /// Parameters of every job.
    pub fn common(&self) -> &Common {
        match self {
            Self::Checkpoint { common, .. }
            | Self::Settle { common, .. }
            | Self::Restore { common, .. }
            | Self::Heartbeat { common, .. } => common,
        }
    }
}

/// A line that init sends to a running worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// Withdraw the generation that is being handed over, unless another container has taken it.
    Withdraw,
}

/// What happens to the service after the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfterCommit {
    /// It is stopped. Any container may take the generation.
    Stop,
    /// It keeps running.
    Resume,
    /// It stays frozen until another container has taken it, and resumes if none does.
    HandOver {
        /// How long it stays frozen at most, in milliseconds.
        timeout_ms: u64,
    },
}

/// Which generation to restore.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// The newest, if there is one.
    #[default]
    Newest,
    /// Exactly this one.
    Generation(u64),
    /// None: start the command.
    Never,
}

/// What to do if a generation cannot be restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Exit with status 171
    #[default]
    Fail,
    /// Start the command: the service's state is lost
    Start,
    /// Try the same generation again
    Retry,
    /// Try the same generation again, then earlier ones: later state is lost
    RetryEarlier,
}

/// What to do if files on a volume have changed since the checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeChanged {
    /// Exit with status 175
    #[default]
    Refuse,
    /// Start the command with the volume as it is: the service's state is lost
    Start,
    /// Restore the generation anyway: the service may damage its data
    Restore,
}

/// How a container waits for a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    /// Wait even if the store is empty or another container owns the application. A container whose service
    /// has moved away waits without this.
    pub always: bool,
    /// Milliseconds between two polls of the store.
    pub poll_ms: u64,
    /// Folder for prefetched packs.
    pub cache: PathBuf,
    /// Most bytes of prefetched packs.
    pub cache_bytes: u64,
}

/// Parameters of every job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Common {
    /// Location of the store.
    pub store: Location,
    /// Files with the store's key.
    pub keys: KeyFiles,
    /// Folder for sockets and logs; exists.
    pub runtime_dir: PathBuf,
    /// Most bytes of memory that page data may take in the worker.
    pub memory: u64,
    /// Name of this container, which it keeps when it is restarted.
    pub instance: String,
    /// Milliseconds between heartbeats with `--exclusive`; None without.
    pub exclusive_ms: Option<u64>,
    /// File for a trace of each checkpoint and restore; None without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<PathBuf>,
}

/// Why a job failed, in words for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One or two sentences.
    pub message: String,
    /// CRIU's log, if there is one.
    pub log: Option<PathBuf>,
    /// The step that failed, if one had begun.
    pub phase: Option<Phase>,
}

/// Number of threads that process page data.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
