//! The control socket: clients such as `freeze checkpoint` send requests to init. Workers report to init in
//! the same format, over a socket of their own.
//!
//! Each line is one JSON object of at most [`protocol::MAX_LINE`] bytes. Requests carry a version; unknown
//! fields are ignored.

pub mod client;
pub(crate) mod folder;
pub mod lines;
pub mod pace;
pub mod protocol;
pub(crate) mod server;
pub mod status;
pub(crate) mod trace;
