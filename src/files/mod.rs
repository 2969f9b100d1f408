//! The service's files: they are not in a CRIU image, so those that the service depends on and that a fresh container lacks travel beside it.
//!
//! Must never touch a file that lies on a volume: what outlives the container is not ours to copy.

mod bound;
pub mod capture;
mod entry;
pub mod ephemeral;
pub mod mounts;
pub mod put_back;
pub mod resolve;
pub mod used;
pub mod watched;

#[cfg(test)]
mod tests;
