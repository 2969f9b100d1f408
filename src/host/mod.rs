//! What a checkpoint records of its container and a restore compares or joins: CPU features, clocks, stdio, environment, PIDs used.
//!
//! Belongs to neither checkpoint nor restore, so that both say the same.

pub mod clock;
pub mod cpu;
pub mod env;
pub mod forecast;
pub mod stdio;
