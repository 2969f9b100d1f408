//! Named steps of a checkpoint, a handover, a restore and a prune. A test stops a process at exactly one of them and kills what it wants to
//! see dead there. Only the feature `fail-points` compiles them in, and only test builds have it.
//!
//! `FREEZE_FAIL_POINT` names a file that holds the [name](Point::name) of a point. A process reads it when it starts. When it reaches that
//! point it removes the file, so that no other process stops there, and sends itself SIGSTOP.

use clap::ValueEnum;

/// A step that has just been done, in the process that does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Point {
    /// The checkpoint's worker knows its job.
    CheckpointBegun,
    /// The preflight found nothing, and the store can be written.
    CheckpointChecked,
    /// CRIU has sent the first image.
    CheckpointDumping,
    /// CRIU has sent everything and holds the frozen tasks.
    CheckpointHeld,
    /// The service's files are captured.
    CheckpointFiles,
    /// The service runs on, before the commit.
    CheckpointReleased,
    /// The last pack is in the store.
    CheckpointPacked,
    /// A SIGSTOP is pending for each process.
    CheckpointStopped,
    /// The manifest is in the store.
    CheckpointManifest,
    /// Init knows the generation's number, where the service does not run on.
    CheckpointCommitting,
    /// Head names the generation.
    CheckpointHead,
    /// Init knows that the generation is committed.
    CheckpointCommitted,
    /// The service has ended.
    CheckpointEnded,
    /// The generation can be taken, and init knows it.
    HandoverOffered,
    /// The outcome decides who has the service.
    HandoverDecided,
    /// Init knows who has the service.
    HandoverSettled,
    /// The service has ended, or runs on.
    HandoverReleased,
    /// A second worker looks for what became of the generation.
    SettleBegun,
    /// The second worker knows it.
    SettleDecided,
    /// The restore's worker knows its job.
    RestoreBegun,
    /// A standby waits.
    RestoreWaiting,
    /// It is known what to restore, and that it is this container's turn.
    RestoreFound,
    /// The store says that this container does not have what it is about to take.
    RestoreRemembered,
    /// This container can take the generation.
    RestoreChecked,
    /// The service's files are put back.
    RestoreFiles,
    /// CRIU has started.
    RestoreCriu,
    /// CRIU holds all processes.
    RestoreHeld,
    /// This container has the right to let the service run.
    RestoreTaken,
    /// CRIU may let the processes run.
    RestoreLetGo,
    /// The processes run, and CRIU has ended.
    RestoreRunning,
    /// Init knows that the service runs.
    RestoreReported,
    /// Head says that this container has the application.
    RestoreClaimed,
    /// The store's time is known.
    PruneBegun,
    /// All manifests are read.
    PruneMarked,
    /// What is named is condemned no more.
    PruneLifted,
    /// The first manifest is removed.
    PruneRemoving,
    /// All manifests are removed that are not kept.
    PruneRemoved,
    /// What nothing names is condemned.
    PruneCondemned,
    /// All manifests and condemnations are read once more.
    PruneMarkedAgain,
    /// The first pack is removed.
    PruneSweeping,
    /// All packs are removed that were due.
    PruneSwept,
    /// Condemnations of which no pack is left are removed.
    PruneCleaned,
}

impl Point {
    /// What the file holds.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// The variable that names the file.
pub const VARIABLE: &str = "FREEZE_FAIL_POINT";

/// Has this process stop at the point that the file names, where there is a file.
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
