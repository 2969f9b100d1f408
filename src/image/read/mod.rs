//! Gives the bytes of a generation back, every chunk checked against its hash.

pub(crate) mod audit;
pub(crate) mod chunk_reader;
pub(crate) mod fetcher;
pub(crate) mod index;
pub(crate) mod stream;
