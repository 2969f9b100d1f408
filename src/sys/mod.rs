//! System calls, and every `unsafe` of the crate with its reason. This layer never decides anything.

pub(crate) mod arm64;
mod clone3;
pub(crate) mod cpuid;
pub(crate) mod fd;
pub(crate) mod glob;
pub(crate) mod memory;
pub(crate) mod mode;
pub(crate) mod namespace;
pub(crate) mod pids;
pub(crate) mod private_folder;
pub(crate) mod probe;
pub mod process;
pub(crate) mod random;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod stderr;
pub(crate) mod system_v;
pub(crate) mod tty;
pub(crate) mod writeback;
pub(crate) mod xattr;
