//! The private memory of the service, which this worker reads: CRIU says where it is.
//!
//! Each process is read from a copy of it, or while it stands still. What a copy of an earlier round shows to be as it
//! was then is not read: the body refers to the pages of that generation.

mod changes;
mod listed;
mod moved;
mod read;
mod take;

pub(super) use listed::{LIMIT, Listed};
pub(super) use take::{Kept, Pages, Take};
