//! The control socket: how `freeze checkpoint` and its like talk to init, and how a worker reports to it.
//!
//! One JSON object a line, versioned. Unknown fields are ignored; lines are bounded by [`protocol::MAX_LINE`].

pub mod client;
pub mod folder;
pub mod lines;
pub mod protocol;
pub mod server;
