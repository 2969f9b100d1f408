//! Messages of the control socket, and of the socket between init and a worker.
//!
//! A message is one line of at most [`MAX_LINE`] bytes, so no peer decides how much memory it takes.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use super::pace::{NotConverging, Pace, RoundReport};
pub use super::status::{
    CheckpointReport, Clock, ClockReport, FailureReport, HeartbeatReport, Isolation, Phase, Reason, Report,
    RestoreReport, State, Status,
};
use crate::criu::tracer;
pub use crate::files::selection::Named;
use crate::image::Lease;

/// Protocol version. Init refuses a request of any other version and names both.
pub const VERSION: u32 = 1;

/// Maximum length of a line in bytes, its newline included.
pub const MAX_LINE: usize = 8 * 1024;

/// File name of the control socket.
pub const SOCKET_NAME: &str = "control.sock";

/// A client's request: the only line that it sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// The operation.
    #[serde(flatten)]
    pub op: Op,
}

/// Operations of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Op {
    /// Checkpoint the service. Answered by progress, warnings and, for a handover, [`Event::Settled`], then
    /// by [`Event::Checkpointed`] or [`Event::Failed`].
    Checkpoint(Wanted),
    /// Report the status. Answered by one [`Event::Status`].
    Status,
    /// Wait for a condition. Answered by [`Event::Reached`] when it holds, or by [`Event::Failed`] if it can
    /// no longer hold.
    Wait {
        /// The condition.
        until: Awaited,
    },
    /// Abort the checkpoint under way, or withdraw a handover that no container has taken. Answered by
    /// [`Event::Done`] or [`Event::Failed`]; the client that asked for the checkpoint gets its own answer.
    Cancel,
    /// Follow init. Answered by [`Event::Status`] at once and at every change of state, and by all progress
    /// and warnings, until the client closes.
    Subscribe,
}

/// Options of a checkpoint. The first two exclude each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Resume the service after the dump instead of stopping it after the commit.
    #[serde(default, skip_serializing_if = "is_false")]
    pub leave_running: bool,
    /// Hand the service over: after the commit, hold it frozen until another container takes it, for at most
    /// this many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover_ms: Option<u64>,
    /// How short the last step of a handover is to be.
    #[serde(flatten)]
    pub pace: Pace,
    /// Files of this checkpoint, beside those that the container's options name.
    #[serde(flatten)]
    pub named: Named,
}

/// Most bytes of a text in a message, of which JSON may make six times as many.
pub(crate) const MAX_MESSAGE: usize = 960;

/// Most bytes of the paths and patterns in a request.
pub const MAX_NAMED: usize = MAX_LINE / 8;

fn is_false(value: &bool) -> bool {
    !value
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Awaited {
    /// The service runs, started or restored.
    Running,
    /// It runs and was restored; fails if it was started afresh.
    Restored,
    /// No checkpoint is in progress or queued, and the last one was committed; fails if the last one failed.
    Checkpointed,
    /// The service runs, and no checkpoint, hook or restore is in progress or queued.
    Idle,
}

/// Init's answers to clients, and a worker's reports to init. Init relays some reports to clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A step has begun or progressed.
    Progress {
        /// The step.
        phase: Phase,
        /// Bytes of memory and files processed so far.
        #[serde(default)]
        bytes: u64,
        /// Expected final number of bytes; 0 if unknown.
        #[serde(default)]
        total: u64,
    },
    /// From a checkpoint worker, for init only: the manifest is written and head comes next. From here on
    /// only this generation's outcome tells who has the service.
    Committing {
        /// The proposed generation.
        generation: u64,
    },
    /// The outcome of an offered generation.
    Settled {
        /// The container that took the service. If `None`, the generation was withdrawn and the service runs
        /// on here.
        taken_by: Option<String>,
    },
    /// A standby can restore the service, so a checkpoint that would end it hands it over.
    HandingOver {
        /// The standby that said so. Another one may be faster.
        to: String,
        /// How long the service stays frozen until a container has taken it, in milliseconds.
        timeout_ms: u64,
    },
    /// From a checkpoint worker, for init only: the generation is committed. Unless the service is resumed or
    /// handed over, it must end from here on, even if the worker dies.
    Committed {
        /// This container's lease, with the new generation.
        lease: Lease,
    },
    /// From a checkpoint worker, for init only: a round of a move is committed, and the service runs on.
    Saved {
        /// This container's lease, with the new generation.
        lease: Lease,
    },
    /// A round of a move is committed, and the service runs on.
    Round(RoundReport),
    /// Something that the user should know. The request goes on.
    Warning {
        /// One sentence or two.
        message: String,
    },
    /// The checkpoint is committed; the last line.
    Checkpointed(Report),
    /// The request or a worker's job failed; the last line. A running service runs on unless init is ending.
    Failed {
        /// One sentence or two: what happened, to what, what to do.
        message: String,
        /// Path of CRIU's log, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        log: Option<PathBuf>,
        /// The step that failed, if one had begun.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phase: Option<Phase>,
    },
    /// Answer to [`Op::Status`] and [`Op::Subscribe`].
    Status(Box<Status>),
    /// The condition of [`Op::Wait`] holds; the last line.
    Reached,
    /// [`Op::Cancel`] was carried out; the last line.
    Done,
    /// From a restore worker, for the log: what it restores, and why.
    Chosen {
        /// One sentence.
        message: String,
    },
    /// From a restore worker: it waits for its turn to restore. Init suspends the worker's time limit until
    /// the next [`Event::Progress`].
    Waiting {
        /// The newest generation that is prefetched; 0 for none.
        generation: u64,
    },
    /// From a restore or heartbeat worker, as its result: another container took the generation or has the
    /// lease.
    Lost {
        /// One sentence.
        message: String,
    },
    /// From a restore worker that waits, as its result: this container's PIDs are nearly used up, so only a
    /// new container can restore the service.
    PidsExhausted {
        /// One sentence.
        message: String,
    },
    /// From a restore worker, as its result: files on a volume have changed since the checkpoint.
    VolumeChanged {
        /// One or two sentences.
        message: String,
    },
    /// From a restore worker, as its result: the service's clocks would go back here.
    ClockBack {
        /// One or two sentences.
        message: String,
    },
    /// From a heartbeat worker, as its result: this container still has the lease.
    StillOwner,
    /// From a restore worker, as its result: there is no generation to restore, so init starts the command.
    NothingToRestore {
        /// This container's lease.
        lease: Lease,
    },
    /// From a restore worker: CRIU is about to recreate the process tree below this PID.
    Restoring {
        /// Root of the tree: the subreaper.
        root: i32,
    },
    /// From a restore worker: the service runs again.
    Restored {
        /// Root of the tree: the subreaper.
        root: i32,
        /// The service's first process.
        service: i32,
        /// The tracers above the root, outermost first; 0 for none.
        #[serde(default)]
        tracers: [i32; tracer::COUNT],
        /// This container's lease.
        lease: Lease,
        /// Figures of the restore, for [`Status`].
        restore: RestoreReport,
    },
    /// From a restore worker, after [`Event::Restored`]: head names this container as the lease owner.
    Claimed,
}

impl Event {
    /// The event's text, if it has one. Other programs decide its length.
    pub(crate) fn text_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Warning { message }
            | Self::Failed { message, .. }
            | Self::Chosen { message }
            | Self::Lost { message }
            | Self::PidsExhausted { message }
            | Self::VolumeChanged { message }
            | Self::ClockBack { message } => Some(message),
            Self::Settled { taken_by } => taken_by.as_mut(),
            Self::HandingOver { to, .. } => Some(to),
            Self::Restored { restore, .. } => Some(&mut restore.from),
            Self::Progress { .. }
            | Self::Committing { .. }
            | Self::Committed { .. }
            | Self::Saved { .. }
            | Self::Round(_)
            | Self::Checkpointed(_)
            | Self::Status(_)
            | Self::Reached
            | Self::Done
            | Self::Waiting { .. }
            | Self::StillOwner
            | Self::NothingToRestore { .. }
            | Self::Restoring { .. }
            | Self::Claimed => None,
        }
    }
}

/// The current time in ms since 1970, UTC.
pub fn now_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A duration in ms, saturating.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_ignored() {
        let text = r#"{"version":1,"op":"checkpoint","leave_running":true,"since":"later"}"#;
        let request: Request = serde_json::from_str(text).unwrap();
        assert_eq!(
            request,
            Request { version: 1, op: Op::Checkpoint(Wanted { leave_running: true, ..Wanted::default() }) }
        );
    }

    #[test]
    fn leaving_out_leave_running_means_no() {
        let request: Request = serde_json::from_str(r#"{"version":1,"op":"checkpoint"}"#).unwrap();
        assert_eq!(request.op, Op::Checkpoint(Wanted::default()));
    }

    #[test]
    fn an_unknown_operation_is_an_error() {
        assert!(serde_json::from_str::<Request>(r#"{"version":1,"op":"dance"}"#).is_err());
    }

    #[test]
    fn events_are_one_tagged_line() {
        let text = serde_json::to_string(&Event::Progress { phase: Phase::Dump, bytes: 7, total: 0 }).unwrap();
        assert_eq!(text, r#"{"event":"progress","phase":"dump","bytes":7,"total":0}"#);
    }

    #[test]
    fn the_longest_status_is_a_line() {
        let (n, name) = (u64::MAX, "\"".repeat(253));
        let report =
            Report { generation: n, bytes: n, stored: n, new: n, shared: n, frozen_ms: n, total_ms: n, ended: false };
        // The longest message of a worker, in characters that take the most room in JSON.
        let message = "\0".repeat(MAX_MESSAGE);
        let status = Status {
            version: "100.100.100".into(),
            instance: name.clone(),
            tracers: None,
            isolation: Some(Isolation::Processes),
            state: State::Checkpointing,
            service: i32::MAX,
            generation: n,
            phase: Some(Phase::Preflight),
            bytes: n,
            total: n,
            round: Some(RoundReport {
                round: u32::MAX,
                generation: n,
                read: n,
                changes: n,
                frozen_ms: n,
                predicted_ms: Some(n),
            }),
            restore: Some(RestoreReport {
                generation: n,
                at_ms: n,
                total_ms: n,
                bytes: n,
                ahead: n,
                from: name,
                clocks: ClockReport {
                    clock_jump_ms: Some(i64::MIN),
                    clock: Some(Clock::TimeNamespace),
                    clock_ahead_s: Some(n),
                },
            }),
            checkpoint: Some(CheckpointReport { at_ms: n, reason: Reason::Command, report }),
            checkpoints: n,
            failures: n,
            failure: Some(FailureReport { at_ms: n, reason: Reason::Command, message }),
            heartbeat: Some(HeartbeatReport { at_ms: Some(n), failures: n, in_a_row: n }),
        };
        assert!(serde_json::to_string(&Event::Status(Box::new(status))).unwrap().len() < MAX_LINE);
    }
}
