//! What init says of itself: what it is doing, and how the last checkpoint, failure and restore went. Also the words and
//! figures that events share with it.
//!
//! It fits into one line of the protocol.

use serde::{Deserialize, Serialize};

use super::pace::RoundReport;

/// Answer to [`Op::Status`](super::protocol::Op::Status).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of freeze.
    pub version: String,
    /// Name of this container. It stays the same when the container is started again.
    #[serde(default)]
    pub instance: String,
    /// Namespaces that init created for itself and the service; `None` without `--isolate auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// Number of tracers that are left above the service; `None` where none is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracers: Option<usize>,
    /// What init is doing.
    pub state: State,
    /// PID of the service's first process; 0 if there is none.
    pub service: i32,
    /// The newest generation that this container restored or committed, or prefetched as a standby; 0 for
    /// none.
    pub generation: u64,
    /// Current step of the checkpoint or restore under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Bytes of memory and files processed so far.
    pub bytes: u64,
    /// Expected final number of bytes; 0 if unknown.
    pub total: u64,
    /// The last round of the move under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<RoundReport>,
    /// The restore that brought the service here; `None` if it was started afresh or does not run yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreReport>,
    /// The last checkpoint committed here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointReport>,
    /// Number of checkpoints committed here.
    pub checkpoints: u64,
    /// Number of checkpoints that failed here.
    pub failures: u64,
    /// The last failed checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureReport>,
    /// Heartbeats of `--exclusive`; `None` before the first result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<HeartbeatReport>,
}

/// Heartbeats between checkpoints. A checkpoint sends its own, which do not count here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReport {
    /// When the last one reached the store, in ms since 1970, UTC; `None` before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
    /// Number of heartbeats that failed or were late here.
    pub failures: u64,
    /// Number of these since the last one that reached the store.
    pub in_a_row: u64,
}

/// A committed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointReport {
    /// Milliseconds since 1970, UTC.
    pub at_ms: u64,
    /// Who or what asked for it.
    pub reason: Reason,
    /// Figures of the checkpoint.
    #[serde(flatten)]
    pub report: Report,
}

/// A failed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReport {
    /// Milliseconds since 1970, UTC.
    pub at_ms: u64,
    /// Who or what asked for it.
    pub reason: Reason,
    /// One sentence or two.
    pub message: String,
}

/// The restore that brought the service here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// The restored generation.
    pub generation: u64,
    /// When the service ran again, in ms since 1970, UTC.
    pub at_ms: u64,
    /// Time from the decision to restore to the service's first instruction, in ms.
    pub total_ms: u64,
    /// Bytes of memory and files restored.
    pub bytes: u64,
    /// Of these, bytes of memory that a waiting container had already.
    #[serde(default)]
    pub ahead: u64,
    /// The container that took the checkpoint.
    pub from: String,
    /// The service's clocks.
    #[serde(flatten)]
    pub clocks: ClockReport,
}

/// What became of the service's clocks in a restore. `None` if that is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockReport {
    /// Jump of the service's CLOCK_MONOTONIC in ms (negative: backwards); 0 if the clock continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_jump_ms: Option<i64>,
    /// Which clocks it sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
    /// Seconds by which its clocks are ahead of the host's, if it has code that lets them go on in user space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ahead_s: Option<u64>,
}

/// The clocks that a restored service sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// Its own, in a time namespace.
    TimeNamespace,
    /// Its own, in user space. Programs that it executes see the host's.
    UserSpace,
    /// The host's.
    Host,
}

/// Result of `--isolate auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// User, PID and mount namespace.
    Processes,
    /// User namespace only.
    Users,
    /// No namespace: none is possible or useful here.
    Nothing,
}

/// What init is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Init looks for a generation or restores it.
    #[default]
    Starting,
    /// Init waits for a generation to be handed over.
    Standby,
    /// The service runs.
    Running,
    /// A checkpoint is under way.
    Checkpointing,
    /// The service is frozen while its newest generation waits to be taken.
    HandingOver,
    /// The service has ended, or was checkpointed and ended.
    Ending,
}

impl Status {
    /// Whether the service runs here, also while a checkpoint is under way.
    pub fn runs(&self) -> bool {
        matches!(self.state, State::Running | State::Checkpointing)
    }

    /// The state as it follows "is" in a sentence.
    pub fn phrase(&self) -> &'static str {
        match self.state {
            State::Starting => "starting",
            State::Standby => "standing by",
            State::Running => "running a service",
            State::Checkpointing => "checkpointing",
            State::HandingOver => "handing over",
            State::Ending => "ending",
        }
    }
}

/// Who or what asks for a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// `freeze checkpoint`.
    Command,
    /// The checkpoint signal.
    Signal,
    /// SIGTERM, with `--on-term checkpoint`.
    Term,
    /// `--every`.
    Timer,
}

impl Reason {
    /// The word used in messages and for hooks.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Command => "command",
            Reason::Signal => "signal",
            Reason::Term => "term",
            Reason::Timer => "timer",
        }
    }
}

/// Figures of a committed checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The committed generation.
    pub generation: u64,
    /// Bytes of memory and files read from the service, zero pages included.
    pub bytes: u64,
    /// Bytes written to the store for them.
    pub stored: u64,
    /// Part of `bytes` that was new to the store, before compression.
    #[serde(default)]
    pub new: u64,
    /// Part of `bytes` that the store already had.
    #[serde(default)]
    pub shared: u64,
    /// How long the service was frozen until it was resumed or ended, in ms; 0 if unknown.
    pub frozen_ms: u64,
    /// Duration of the checkpoint in ms, a handover's wait included.
    pub total_ms: u64,
    /// The service was ended.
    pub ended: bool,
}

/// Steps of a checkpoint or restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Checkpoint: look for obstacles to a dump, while the service runs.
    Preflight,
    /// Checkpoint: freeze and dump the service.
    Dump,
    /// Checkpoint: capture files that a fresh container lacks.
    Files,
    /// Checkpoint: read memory, beside the service that runs again.
    Read,
    /// Checkpoint: write the last packs, the manifest and head.
    Commit,
    /// Checkpoint: wait until a standby has this round of a move. The service runs.
    Follow,
    /// Checkpoint: hold the service until its generation is taken or withdrawn.
    Handover,
    /// Restore: read the manifest and check this container against it.
    Check,
    /// Restore: CRIU recreates the processes.
    Restore,
}
