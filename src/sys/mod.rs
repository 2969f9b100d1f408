//! Every `unsafe` of the crate, each with its reason. Must never decide anything: what to do is the callers' affair.

mod clone3;
pub mod cpuid;
pub mod fd;
pub mod memory;
pub mod namespace;
pub mod pids;
pub mod private_folder;
pub mod probe;
pub mod process;
pub mod random;
pub mod signals;
pub mod socket;
pub mod stderr;
pub mod tty;
