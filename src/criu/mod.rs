//! freeze's CRIU: its executables, command lines, stream protocol, images and log. Never knows a store.

pub(crate) mod ahead;
pub(crate) mod clocks;
pub(crate) mod command;
pub mod images;
pub(crate) mod log;
pub(crate) mod named;
mod reasons;
pub(crate) mod running;
pub(crate) mod stats;
pub(crate) mod stream;
pub(crate) mod tracer;
