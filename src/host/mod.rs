//! The container as a checkpoint records it and a restore compares it: CPU, clocks, stdio, environment, PIDs,
//! cgroups.
//!
//! Checkpoint and restore share this code, so that they agree.

pub(crate) mod cgroup;
pub(crate) mod clock;
pub(crate) mod cpu;
pub(crate) mod env;
pub(crate) mod limits;
pub(crate) mod memory;
pub(crate) mod oom;
pub(crate) mod pid_counting;
pub(crate) mod stdio;
