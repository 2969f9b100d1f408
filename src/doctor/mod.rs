//! What works in this container: found out, proven by a small tree of the doctor's own, and said with what to add for more.
//!
//! Must have no effect on a service that runs beside it, and must leave no process and no file behind.

pub mod proof;
pub mod renumber;
mod scratch;
pub mod subject;
mod watchdog;
