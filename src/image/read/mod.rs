//! Reads the bytes of a generation. Never returns a chunk whose name does not match.

pub(crate) mod audit;
pub(crate) mod chunk_reader;
pub(crate) mod fetcher;
pub(crate) mod index;
pub(crate) mod stream;
