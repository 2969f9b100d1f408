//! The messages of the control socket. Must never hold anything whose size the other side decides.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    Checkpoint(Wanted),
    /// Answered by one [`Event::Status`].
    Status,
    /// Answered by [`Event::Reached`] once init is there, or [`Event::Failed`] where that cannot be any more.
    Wait {
        /// What is waited for.
        until: Awaited,
    },
    /// Give up the checkpoint that is under way, or take back a handover that nobody has taken. Answered by [`Event::Done`] or
    /// [`Event::Failed`]; whoever asked for the checkpoint gets its own answer.
    Cancel,
    /// Answered by an [`Event::Status`] at once and at every change of state, and by all progress and warnings between, until the
    /// client closes.
    Subscribe,
}

/// What kind of checkpoint is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Let the service run on after the commit instead of ending it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub leave_running: bool,
    /// Hand the service over: hold it frozen after the commit until another container has taken it, so many milliseconds at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover_ms: Option<u64>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Awaited {
    /// The service runs, started or restored.
    Running,
    /// It runs and was restored; fails where it was started afresh.
    Restored,
    /// No checkpoint is under way or waits, and the last one was committed; fails where the last one failed.
    Checkpointed,
    /// The service runs, and nothing is under way or waits: no checkpoint, no hook, no restore.
    Idle,
}

/// What init answers, and what a worker reports to init, which passes it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A step has begun, or has come so far.
    Progress {
        /// The step.
        phase: Phase,
        /// Bytes of memory and files so far.
        #[serde(default)]
        bytes: u64,
        /// Bytes there will be; 0 where that is not known.
        #[serde(default)]
        total: u64,
    },
    /// From a checkpoint worker to init alone: the manifest is written, and head comes next. From here on only the outcome of
    /// this generation tells whether it counts.
    Committing {
        /// Its number.
        generation: u64,
    },
    /// What became of a generation that was offered.
    Settled {
        /// The container that has taken the service; none where it was withdrawn, and the service runs on here.
        taken_by: Option<String>,
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
        /// The step that failed, where one had begun.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phase: Option<Phase>,
    },
    /// Answer to [`Op::Status`], and to [`Op::Subscribe`].
    Status(Box<Status>),
    /// What [`Op::Wait`] waited for is there; the last line.
    Reached,
    /// [`Op::Cancel`] was carried out; the last line.
    Done,
    /// From a restore worker: what it is going to do, and why, in one line for the log.
    Chosen {
        /// One sentence.
        message: String,
    },
    /// From a restore worker: it waits for a generation to be handed over, and has no time limit until the next
    /// [`Event::Progress`].
    Waiting {
        /// The newest generation that is prepared for; 0 for none.
        generation: u64,
    },
    /// From a restore worker, as its last word: another container has taken the generation, or has the application.
    Lost {
        /// One sentence.
        message: String,
    },
    /// From a restore worker that waits, as its last word: the PIDs of this container are nearly used up, so only a new one can
    /// restore the service.
    WornOut {
        /// One sentence.
        message: String,
    },
    /// From a worker that looked: this container still has the application.
    Held,
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
        /// What this container holds.
        lease: Lease,
        /// The restore, for whoever asks later.
        restore: RestoreReport,
    },
    /// From a restore worker, after [`Event::Restored`]: other containers can see that this one has the application now.
    Claimed,
}

/// Answer to [`Op::Status`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of freeze.
    pub version: String,
    /// Names this container, also after it was started again.
    #[serde(default)]
    pub instance: String,
    /// The namespaces that init has made for itself and the service; none where it was not told to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// What init is doing.
    pub state: State,
    /// PID of the service's first process, 0 where there is none.
    pub service: i32,
    /// The newest generation that this container restored or committed; 0 for none.
    pub generation: u64,
    /// The step of a checkpoint or restore that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Bytes of memory and files that it has come to.
    pub bytes: u64,
    /// Bytes there will be; 0 where that is not known.
    pub total: u64,
    /// How the service came here; none where it was started afresh, or is not there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreReport>,
    /// The last checkpoint that was committed here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointReport>,
    /// Checkpoints that were committed here.
    pub checkpoints: u64,
    /// Checkpoints that failed here.
    pub failures: u64,
    /// The last one that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureReport>,
    /// The heartbeats of `--exclusive`; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<HeartbeatReport>,
}

/// Heartbeats beside checkpoints, which have their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReport {
    /// When the last one reached the store: milliseconds since 1970, UTC; none where none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
    /// How many failed or were late here.
    pub failures: u64,
    /// How many of these since the last one that reached the store.
    pub in_a_row: u64,
}

/// A committed checkpoint, and when that was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointReport {
    /// Milliseconds since 1970, UTC.
    pub at_ms: u64,
    /// Who or what asked for it.
    pub reason: Reason,
    /// Its figures.
    #[serde(flatten)]
    pub report: Report,
}

/// A checkpoint that failed, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReport {
    /// Milliseconds since 1970, UTC.
    pub at_ms: u64,
    /// Who or what asked for it.
    pub reason: Reason,
    /// One sentence or two.
    pub message: String,
}

/// A restore that brought the service here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// The generation.
    pub generation: u64,
    /// When the service ran: milliseconds since 1970, UTC.
    pub at_ms: u64,
    /// From the decision to restore to the service's first instruction, in milliseconds.
    pub total_ms: u64,
    /// Bytes of memory and files.
    pub bytes: u64,
    /// The container that it came from.
    pub from: String,
    /// By how many milliseconds the service's CLOCK_MONOTONIC was set forward (negative: back); 0 where it goes on from where it was,
    /// none where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_jump_ms: Option<i64>,
}

/// What `--isolate auto` has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// A user, PID and mount namespace.
    Processes,
    /// A user namespace.
    Users,
    /// The container allows none.
    Nothing,
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
    /// One word, as messages and hooks have it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Command => "command",
            Reason::Signal => "signal",
            Reason::Term => "term",
            Reason::Timer => "timer",
        }
    }
}

/// The present time as the protocol counts it: milliseconds since 1970, UTC.
pub fn now_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A time as the protocol counts it, in milliseconds.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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
    /// Of `bytes`, those that the store did not hold yet, before compression.
    #[serde(default)]
    pub new: u64,
    /// Of `bytes`, those that it held already.
    #[serde(default)]
    pub shared: u64,
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
    /// The generation is committed, and the service is held until another container has taken it.
    Handover,
    /// The manifest is being read and checked.
    Check,
    /// CRIU brings the processes back.
    Restore,
}

/// What init is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Looking for a generation, or restoring it.
    #[default]
    Starting,
    /// Waiting for a generation to be handed over.
    Standby,
    /// The service runs.
    Running,
    /// A checkpoint is under way.
    Checkpointing,
    /// The service is held, as its newest generation waits for another container to take it.
    HandingOver,
    /// The service has ended, or was checkpointed and ended.
    Ending,
}

impl Status {
    /// Whether the service runs here.
    pub fn runs(&self) -> bool {
        matches!(self.state, State::Running | State::Checkpointing)
    }

    /// The state, as what follows "is" in a sentence.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_ignored() {
        let text = r#"{"version":1,"op":"checkpoint","leave_running":true,"since":"later"}"#;
        let request: Request = serde_json::from_str(text).unwrap();
        assert_eq!(
            request,
            Request { version: 1, op: Op::Checkpoint(Wanted { leave_running: true, handover_ms: None }) }
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
        // As long as a worker's message can be, of what takes the most room in JSON.
        let message = "\0".repeat(MAX_LINE / 8);
        let status = Status {
            version: "100.100.100".into(),
            instance: name.clone(),
            isolation: Some(Isolation::Processes),
            state: State::Checkpointing,
            service: i32::MAX,
            generation: n,
            phase: Some(Phase::Preflight),
            bytes: n,
            total: n,
            restore: Some(RestoreReport {
                generation: n,
                at_ms: n,
                total_ms: n,
                bytes: n,
                from: name,
                clock_jump_ms: Some(i64::MIN),
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
