//! Named steps of a checkpoint, a handover, a restore and a prune, for crash tests. A test stops a process at
//! exactly one step and kills the process of its choice. Only the feature `fail-points` compiles them in, and
//! only test builds enable it.
//!
//! `FREEZE_FAIL_POINT` names a file that contains the [name](Point::name) of a point. A process reads it when
//! it starts. At that point it removes the file, so that no other process stops there, and sends itself
//! SIGSTOP.

use clap::ValueEnum;

/// A step that the current process has just completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Point {
    /// The checkpoint worker has its job.
    CheckpointBegun,
    /// The preflight found no obstacle, and the store is writable.
    CheckpointChecked,
    /// CRIU has sent its first image.
    CheckpointDumping,
    /// CRIU has sent all images, but for what it reads from copies, and holds the frozen tasks.
    CheckpointHeld,
    /// The service's files are captured.
    CheckpointFiles,
    /// The service runs again, and CRIU reads copies of its processes.
    CheckpointCopied,
    /// CRIU has ended, before the commit.
    CheckpointReleased,
    /// The last pack is in the store.
    CheckpointPacked,
    /// The fence is set: a SIGSTOP is pending for each process.
    CheckpointStopped,
    /// The manifest is in the store.
    CheckpointManifest,
    /// The put of head is next. Init knows the generation's number if the service does not resume after the
    /// commit.
    CheckpointCommitting,
    /// The put of head has returned.
    CheckpointHead,
    /// Init knows that the generation is committed.
    CheckpointCommitted,
    /// The service has ended.
    CheckpointEnded,
    /// The generation is offered, and init knows it.
    HandoverOffered,
    /// The outcome is decided.
    HandoverDecided,
    /// Init knows the outcome.
    HandoverSettled,
    /// The service has ended, or runs again.
    HandoverReleased,
    /// A second worker starts to find out the outcome.
    SettleBegun,
    /// The second worker knows the outcome.
    SettleDecided,
    /// The restore worker has its job.
    RestoreBegun,
    /// A standby waits.
    RestoreWaiting,
    /// The newest generation is known, and it is this container's turn.
    RestoreFound,
    /// If the generation is another container's offer, the store records that this container does not own it
    /// yet.
    RestoreRemembered,
    /// The checks before the restore have passed.
    RestoreChecked,
    /// The service's files are in place.
    RestoreFiles,
    /// CRIU has started.
    RestoreCriu,
    /// CRIU holds all restored processes.
    RestoreHeld,
    /// This container has the right to run the service.
    RestoreTaken,
    /// CRIU has the order to let the processes run.
    RestoreLetGo,
    /// The processes run, and CRIU has ended.
    RestoreRunning,
    /// Init knows that the service runs.
    RestoreReported,
    /// The claim in head is done, or has failed with a warning.
    RestoreClaimed,
    /// The store's time is known.
    PruneBegun,
    /// All manifests are read.
    PruneMarked,
    /// Packs that a manifest names are no longer condemned.
    PruneLifted,
    /// The first manifest is removed.
    PruneRemoving,
    /// All manifests that are not kept are removed.
    PruneRemoved,
    /// Unreferenced packs are condemned.
    PruneCondemned,
    /// All manifests and condemnations are read once more.
    PruneMarkedAgain,
    /// The first pack is removed.
    PruneSweeping,
    /// All packs that were due are removed.
    PruneSwept,
    /// Condemnations that have no pack left are removed.
    PruneCleaned,
}

impl Point {
    /// The name to write into the file.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// The environment variable that names the file.
pub const VARIABLE: &str = "FREEZE_FAIL_POINT";

/// The environment variable that stands for `kernel.yama.ptrace_scope`, so that a kernel without Yama can show what
/// freeze does under it.
pub const YAMA: &str = "FREEZE_FAIL_YAMA";

/// The scope that a test asks for.
pub(crate) fn yama() -> Option<u32> {
    asked(YAMA)
}

/// The environment variable with the KiB of memory from which on a process is copied, so that small ones are as well.
pub const SNAPSHOT: &str = "FREEZE_FAIL_SNAPSHOT";

/// The KiB that a test asks for.
pub(crate) fn snapshot() -> Option<u32> {
    asked(SNAPSHOT)
}

/// The environment variable with the bytes of memory from which on a move takes rounds, so that small services take them as
/// well.
pub const ROUNDS: &str = "FREEZE_FAIL_ROUNDS";

/// The bytes that a test asks for.
pub(crate) fn rounds() -> Option<u32> {
    asked(ROUNDS)
}

#[cfg(feature = "fail-points")]
fn asked(variable: &str) -> Option<u32> {
    std::env::var(variable).ok()?.parse().ok()
}

#[cfg(not(feature = "fail-points"))]
fn asked(_: &str) -> Option<u32> {
    None
}

/// Arms the point that the file names. Does nothing without a file.
#[cfg(feature = "fail-points")]
pub(crate) fn arm() {
    use nix::sys::signal::{Signal, raise};
    let Some(file) = std::env::var_os(VARIABLE) else { return };
    let Ok(name) = std::fs::read_to_string(&file) else { return };
    let stop = move || {
        if std::fs::remove_file(&file).is_ok() {
            let _ = raise(Signal::SIGSTOP);
        }
    };
    fail::cfg_callback(name, stop).expect("a callback needs no syntax");
}

#[cfg(feature = "fail-points")]
pub(crate) fn reach(point: Point) {
    fail::fail_point!(&point.name());
}

#[cfg(not(feature = "fail-points"))]
pub(crate) fn arm() {}

#[cfg(not(feature = "fail-points"))]
#[inline]
pub(crate) fn reach(_: Point) {}
