//! Inputs and actions of the machine.

use std::time::Duration;

use crate::control::protocol::{Event, Op};
use crate::control::server::ClientId;
use crate::init::config::Moment;
use crate::init::tree::Tree;
use crate::job::AfterCommit;
use crate::sys::process::Ending;
use crate::sys::signals::Signal;

/// Clock readings for one step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since init started, monotonic.
    pub ms: u64,
    /// Milliseconds since 1970, UTC.
    pub wall_ms: u64,
}

/// An event that the machine handles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The first input.
    Begin,
    Signal(Signal),
    Asked(ClientId, Op),
    /// A client disconnected before its answer.
    Left(ClientId),
    /// An event from the worker's socket.
    Said(Event),
    /// The worker's process has ended; its children may still run.
    WorkerEnded,
    /// The worker and all its children are gone.
    WorkerGone {
        /// Why it left no result, if it left none; continues "the worker …".
        reason: String,
        /// Whether the outermost process above the service is a child of init.
        root_is_ours: bool,
    },
    /// The worker could not be started.
    NoWorker {
        error: String,
    },
    /// The command was started.
    Started(Tree),
    /// The command could not be started.
    NotStarted {
        error: String,
    },
    /// Init reaped a child that is neither the worker nor a hook.
    Buried {
        pid: i32,
        ending: Ending,
        /// What became init's child when the outermost process above the service was killed, if anything did.
        heir: Option<i32>,
    },
    /// The hook has ended, or could not be started.
    HookOver {
        /// Why it failed, if it did; continues "the hook …".
        failure: Option<String>,
    },
    /// A timer expired.
    Elapsed(Timer),
}

/// One timer of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// The next checkpoint of `--every`.
    Every,
    /// The end of the time that SIGTERM gives a checkpoint.
    Term,
    /// The end of `--kill-timeout` after a forwarded SIGTERM.
    Kill,
    /// A hook's time limit.
    Hook,
    /// The next attempt to settle a checkpoint whose worker died.
    Settle,
    /// The next heartbeat.
    Heartbeat,
}

impl Timer {
    pub const COUNT: usize = 6;
    pub const ALL: [Timer; Self::COUNT] =
        [Timer::Every, Timer::Term, Timer::Kill, Timer::Hook, Timer::Settle, Timer::Heartbeat];
}

/// A side effect that the supervisor performs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Starts a worker. [`Input::NoWorker`] follows if that fails.
    StartWorker(Task),
    /// Restarts the worker's time limit.
    LimitWorker,
    /// Removes the worker's time limit.
    UnlimitWorker,
    /// The worker has given its result: it gets a short time to end.
    HurryWorker,
    /// Ends the worker whose result is no longer needed. Its CRIU releases the service and cleans up.
    DismissWorker,
    /// Kills the worker and all its children.
    KillWorker,
    /// Tells the worker to withdraw the generation that it offers, unless another container has taken it.
    Withdraw,
    /// Starts the command. [`Input::Started`] or [`Input::NotStarted`] follows.
    StartService,
    /// Sends a signal to the service's first process, or its group.
    Signal(Signal),
    /// Gives up the terminal, for the session that is being restored.
    GiveUpTerminal,
    /// Stops init for job control of a terminal.
    StopSelf,
    KillTree,
    /// Continues the processes that a checkpoint stopped.
    ContinueTree,
    /// Kills all descendants of init.
    KillBelow,
    /// Runs a hook's command. [`Input::HookOver`] follows.
    RunHook(HookCall),
    /// Kills the hook and all its children.
    KillHook,
    /// Sets a timer, which replaces its former time.
    Set(Timer, Duration),
    Clear(Timer),
    /// Sends a client a line; more follow.
    Send(ClientId, Event),
    /// Sends a client its last line.
    Finish(ClientId, Event),
    /// Tells all waiting clients why they get no answer.
    Close(String),
    /// Writes a line to standard error.
    Say(String),
    /// Gives back memory that only the start or a worker needed.
    Rest,
    /// Ends init with this status after its clients have gone.
    Exit(u8),
}

/// The job of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Finds a generation and restores it.
    Restore,
    Checkpoint(AfterCommit),
    /// Finds out what became of an offered generation.
    Settle {
        generation: u64,
        /// How long another container may still take it, in milliseconds.
        remaining_ms: u64,
    },
    /// Sends a heartbeat and checks that this container still owns the lease.
    Heartbeat,
}

/// One run of a hook's command, with the values of its environment variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookCall {
    pub moment: Moment,
    /// The newest generation that this container restored or committed; 0 for none.
    pub generation: u64,
    pub reason: &'static str,
    /// Result of the checkpoint; empty before it is known.
    pub result: &'static str,
    /// The instance that the service went to or came from; empty for none.
    pub peer: String,
    /// PID of the service's first process; 0 after its end.
    pub service: i32,
}
