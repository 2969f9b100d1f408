//! What goes into the machine and what comes out.

use std::time::Duration;

use crate::control::protocol::{Event, Op};
use crate::control::server::ClientId;
use crate::init::tree::Tree;
use crate::job::Fate;
use crate::sys::process::Ending;
use crate::sys::signals::Signal;

/// The clocks, as they are read before each step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since init began; never goes back.
    pub ms: u64,
    /// Milliseconds since 1970, UTC.
    pub wall_ms: u64,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Init is ready.
    Begin,
    /// Init got a signal.
    Signal(Signal),
    /// A client asks for something.
    Asked(ClientId, Op),
    /// A client went away before it had its answer.
    Left(ClientId),
    /// The worker says something.
    Said(Event),
    /// The worker's process has ended; what it started may still be there.
    WorkerEnded,
    /// The worker and all that it started are gone.
    WorkerGone {
        /// Why it left no result, where it left none; continues "the worker …".
        reason: String,
        /// The root of the service's tree, where there is one, is init's child.
        root_is_ours: bool,
    },
    /// The worker could not be started.
    NoWorker {
        /// Why.
        error: String,
    },
    /// The command was started.
    Started(Tree),
    /// It could not be.
    NotStarted {
        /// One sentence.
        error: String,
    },
    /// A child was reaped that is neither the worker nor a hook.
    Buried {
        /// Its PID.
        pid: i32,
        /// How it ended.
        ending: Ending,
        /// The service's first process is init's own child.
        service_is_ours: bool,
    },
    /// The hook has ended, or could not be started.
    HookOver {
        /// Why it failed, where it did; continues "the hook …".
        failure: Option<String>,
    },
    /// A timer that was set has run out. It is not set any more.
    Elapsed(Timer),
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// The next checkpoint of `--every`.
    Every,
    /// The end of the time that SIGTERM leaves for a checkpoint.
    Term,
    /// The end of the service's time to end by itself.
    Kill,
    /// A hook's time limit.
    Hook,
    /// The next look at the outcome of a checkpoint whose worker died.
    Settle,
    /// The next heartbeat.
    Heartbeat,
}

impl Timer {
    /// How many there are.
    pub const COUNT: usize = 6;
    /// All of them.
    pub const ALL: [Timer; Self::COUNT] =
        [Timer::Every, Timer::Term, Timer::Kill, Timer::Hook, Timer::Settle, Timer::Heartbeat];
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start a worker. Where that fails, [`Input::NoWorker`] is next.
    StartWorker(Task),
    /// The worker's time limit begins anew.
    LimitWorker,
    /// The worker has no time limit any more.
    UnlimitWorker,
    /// The worker has nothing left to do and should end.
    HurryWorker,
    /// The worker's result is not wanted any more. What it started clears up behind itself.
    DismissWorker,
    /// The worker and all that it started end at once.
    KillWorker,
    /// The worker takes back the generation that it hands over, unless somebody has it.
    Withdraw,
    /// Start the command; [`Input::Started`] or [`Input::NotStarted`] is next.
    StartService,
    /// The service's first process, or its group, gets a signal.
    Signal(Signal),
    /// Init stops itself, as a terminal asked for.
    StopSelf,
    /// All processes of the service are killed.
    KillTree,
    /// All processes of the service that a checkpoint stopped go on.
    ContinueTree,
    /// All processes below init are killed.
    KillBelow,
    /// Run a hook's command; [`Input::HookOver`] is next.
    RunHook(HookCall),
    /// The hook and all that it started end at once.
    KillHook,
    /// A timer runs out after this time, and not when it was to before.
    Set(Timer, Duration),
    /// A timer does not run out.
    Clear(Timer),
    /// A client gets a line that is not the last.
    Send(ClientId, Event),
    /// A client gets its last line.
    Finish(ClientId, Event),
    /// All clients that wait are told why there is no answer.
    Close(String),
    /// The user reads this on standard error.
    Say(String),
    /// Init gives back what only the start or a worker needed.
    Rest,
    /// Init ends with this status, once its clients have gone.
    Exit(u8),
}

/// What a worker is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Look for a generation and restore it.
    Restore,
    /// Take a checkpoint.
    Checkpoint(Fate),
    /// Find out what became of one.
    Settle {
        /// The generation.
        generation: u64,
        /// How long it is left to be taken, in milliseconds.
        remaining_ms: u64,
    },
    /// Send a heartbeat, and check that this container still owns the lease.
    Heartbeat,
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the service is frozen.
    BeforeCheckpoint,
    /// When a checkpoint has succeeded or failed.
    AfterCheckpoint,
    /// When the service was restored.
    OnRestore,
    /// When the service runs.
    OnAppReady,
}

impl Moment {
    /// As in the option's name.
    pub fn name(self) -> &'static str {
        match self {
            Moment::BeforeCheckpoint => "before-checkpoint",
            Moment::AfterCheckpoint => "after-checkpoint",
            Moment::OnRestore => "on-restore",
            Moment::OnAppReady => "on-app-ready",
        }
    }
}

/// One run of a hook's command, and what it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookCall {
    /// Which hook.
    pub moment: Moment,
    /// The newest generation that this container restored or committed; 0 for none.
    pub generation: u64,
    /// Who or what asked for it.
    pub reason: &'static str,
    /// How the checkpoint ended; empty before that is known.
    pub result: &'static str,
    /// The container that the service went to, or came from; empty where there is none.
    pub peer: String,
    /// PID of the service's first process; 0 where it has ended.
    pub service: i32,
}
