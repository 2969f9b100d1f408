//! The messages of the control socket. Must never hold anything whose size the other side decides.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::image::Lease;

/// Version of the protocol. A peer with another one is refused by name.
pub const VERSION: u32 = 1;

/// Longest line that either side reads, in bytes, its newline included.
pub const MAX_LINE: usize = 8 * 1024;

/// Name of the control socket in its folder.
pub const SOCKET_NAME: &str = "control.sock";

/// What a client asks of init: the first and only line that it sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// What is asked for.
    #[serde(flatten)]
    pub op: Op,
}

/// The operations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Op {
    /// Checkpoint the service. Answered by [`Event::Progress`] lines, then [`Event::Checkpointed`] or [`Event::Failed`].
    Checkpoint {
        /// Let the service run on after the commit instead of ending it.
        #[serde(default)]
        leave_running: bool,
    },
    /// Answered by one [`Event::Status`].
    Status,
}

/// What init answers, and what a worker reports to init, which passes it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A step has begun.
    Progress {
        /// The step.
        phase: Phase,
    },
    /// From a worker to init alone, before [`Event::Checkpointed`]: the generation is committed, and unless the service is left
    /// running it must end now, whatever becomes of the worker.
    Committed {
        /// What this container holds now; its generation is the new one.
        lease: Lease,
    },
    /// Something that does not stop the request, but that the user should know.
    Warning {
        /// One sentence or two.
        message: String,
    },
    /// The checkpoint is committed; the last line of a checkpoint.
    Checkpointed(Report),
    /// The request failed and the service runs on; the last line.
    Failed {
        /// One sentence or two: what happened, to what, what to do.
        message: String,
        /// CRIU's log, where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        log: Option<PathBuf>,
    },
    /// Answer to [`Op::Status`].
    Status {
        /// What init is doing.
        state: State,
        /// PID of the service's first process, 0 where there is none.
        service: i32,
    },
    /// From a restore worker: the store holds no generation, so start the command.
    NothingToRestore {
        /// What this container holds.
        lease: Lease,
    },
    /// From a restore worker: the tree below this process is about to come back.
    Restoring {
        /// Root of the tree (the holder).
        root: i32,
    },
    /// From a restore worker: the service runs again.
    Restored {
        /// Root of the restored tree (the holder).
        root: i32,
        /// The service's first process.
        service: i32,
        /// What this container holds; its generation is the one that was restored.
        lease: Lease,
    },
    /// From a restore worker, after [`Event::Restored`]: other containers can see that this one has the application now.
    Claimed,
}

/// Figures of a committed checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Number of the generation.
    pub generation: u64,
    /// Bytes of memory and files taken from the service, zero pages included.
    pub bytes: u64,
    /// Bytes written to the store for them.
    pub stored: u64,
    /// How long the service stood still, in milliseconds, where it runs on; else until it was ended.
    pub frozen_ms: u64,
    /// From the request to the commit, in milliseconds.
    pub total_ms: u64,
    /// The service was ended.
    pub ended: bool,
}

/// Steps of a checkpoint or a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Looking for what cannot be dumped, while the service runs.
    Preflight,
    /// The service is being frozen and dumped.
    Dump,
    /// The files that it has open are being captured.
    Files,
    /// The rest is being written and the generation made valid.
    Commit,
    /// The manifest is being read and checked.
    Check,
    /// CRIU brings the processes back.
    Restore,
}

/// What init is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Looking for a generation, or restoring it.
    Starting,
    /// The service runs.
    Running,
    /// A checkpoint is under way.
    Checkpointing,
    /// The service has ended, or was checkpointed and ended.
    Ending,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_ignored() {
        let text = r#"{"version":1,"op":"checkpoint","leave_running":true,"since":"later"}"#;
        let request: Request = serde_json::from_str(text).unwrap();
        assert_eq!(request, Request { version: 1, op: Op::Checkpoint { leave_running: true } });
    }

    #[test]
    fn leaving_out_leave_running_means_no() {
        let request: Request = serde_json::from_str(r#"{"version":1,"op":"checkpoint"}"#).unwrap();
        assert_eq!(request.op, Op::Checkpoint { leave_running: false });
    }

    #[test]
    fn an_unknown_operation_is_an_error() {
        assert!(serde_json::from_str::<Request>(r#"{"version":1,"op":"dance"}"#).is_err());
    }

    #[test]
    fn events_are_one_tagged_line() {
        let text = serde_json::to_string(&Event::Progress { phase: Phase::Dump }).unwrap();
        assert_eq!(text, r#"{"event":"progress","phase":"dump"}"#);
    }
}
