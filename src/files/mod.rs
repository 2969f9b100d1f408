//! The service's files. A CRIU image names files without their content, so the files that the service needs
//! and a fresh container lacks travel beside it.
//!
//! Never captures a file on a volume unless the user includes it: a volume outlives the container.

pub(crate) mod bound;
pub(crate) mod capture;
mod entry;
pub(crate) mod ephemeral;
mod folders;
pub(crate) mod mapped;
pub(crate) mod mounts;
pub(crate) mod put_back;
pub(crate) mod resolve;
mod search;
pub(crate) mod swapped;
pub(crate) mod used;
pub(crate) mod watched;

#[cfg(test)]
mod tests;
