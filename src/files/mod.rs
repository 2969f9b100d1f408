//! The service's files. A CRIU image names files without their content, so the files that the service needs
//! and a fresh container lacks travel beside it.
//!
//! Never captures a file on a volume that outlives the container, unless the user includes it.

pub(crate) mod ahead;
mod attributes;
pub(crate) mod bound;
mod build_id;
pub(crate) mod capture;
pub(crate) mod complete;
mod entry;
pub(crate) mod ephemeral;
mod folders;
pub(crate) mod groups;
pub(crate) mod half_done;
mod how_used;
pub(crate) mod identity;
mod leftovers;
mod lookup_error;
pub(crate) mod mapped;
pub(crate) mod mounts;
pub(crate) mod names;
pub(crate) mod put_back;
pub(crate) mod resolve;
mod search;
pub(crate) mod selection;
mod start;
pub(crate) mod survey;
pub(crate) mod swapped;
mod times;
pub(crate) mod used;
pub(crate) mod user;
pub(crate) mod volume_changes;
pub(crate) mod watched;
pub(crate) mod written_back;

#[cfg(test)]
mod tests;
