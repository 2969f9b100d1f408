//! Our CRIU: where it is, how it is called, its stream protocol, and what its log says. Must know no store.

pub mod command;
pub mod images;
pub mod log;
pub mod stats;
pub mod stream;
