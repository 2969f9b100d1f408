//! `freeze` is PID 1 of an application's container: it supervises the service, checkpoints it into a store
//! without privileges, and restores it in a fresh container.
//!
//! Each module is a layer and imports only from the layers below it. docs/explanation/architecture.md has their order,
//! and `tests/layers` enforces it.

pub mod checkpoint;
pub mod commands;
pub mod control;
pub mod criu;
pub(crate) mod demands;
pub mod doctor;
pub mod exit;
pub mod fail_points;
pub mod files;
#[cfg(test)]
mod fuzz;
pub mod host;
pub mod image;
pub mod init;
pub mod job;
pub mod migrate;
pub mod privileges;
pub mod proc;
pub mod restore;
pub mod store;
#[allow(unsafe_code)]
pub mod sys;
pub mod upkeep;
