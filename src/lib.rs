//! `freeze` is PID 1 of an application's container: it supervises the service, checkpoints it without privileges into a
//! store, and restores it in a fresh container.
//!
//! Data flows one way: [`commands`] → [`init`] → ([`checkpoint`] | [`restore`]) → [`criu`], [`files`], [`image`] → [`store`].
//! Init knows no store, and the store knows no CRIU.

pub mod checkpoint;
pub mod clock;
pub mod commands;
pub mod control;
pub mod criu;
pub mod doctor;
pub mod exit;
pub mod files;
#[cfg(test)]
mod fuzz;
pub mod image;
pub mod init;
pub mod migrate;
pub mod private_folder;
pub mod privileges;
pub mod restore;
pub mod store;
#[allow(unsafe_code)]
pub mod sys;
pub mod tree;
pub mod upkeep;
pub mod worker;
