//! Decides which generation counts, and which container may write the next one.

pub(crate) mod generation;
pub(crate) mod head;
pub(crate) mod heartbeat;
pub(crate) mod lease;
pub(crate) mod manifest;
pub(crate) mod outcome;
pub(crate) mod standby;
pub(crate) mod whereabouts;
