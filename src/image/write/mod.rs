//! Cuts bytes into pages, stores those that are new, and builds bodies.

pub(crate) mod base;
pub(crate) mod buffers;
pub(crate) mod dedup;
pub(crate) mod effort;
pub(crate) mod feeder;
pub(crate) mod packer;
pub(crate) mod page_index;
pub(crate) mod pipeline;
pub(crate) mod segment;
pub(crate) mod writer;
