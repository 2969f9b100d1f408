//! How far a checkpoint has come, as signals and requests ask: does the service run?

use crate::control::protocol::Phase;

/// How far a checkpoint's worker has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// There is no worker yet.
    NotStarted,
    /// The service runs.
    Preflight,
    /// The service may be frozen: what happens from now on is not in the checkpoint.
    Frozen,
}

impl Stage {
    /// After the worker has begun `phase`. A round begins with the service running again.
    pub(super) fn at(self, phase: Phase) -> Self {
        match phase {
            Phase::Preflight | Phase::Read | Phase::Follow => Self::Preflight,
            Phase::Dump | Phase::Files => Self::Frozen,
            _ => self,
        }
    }
}
