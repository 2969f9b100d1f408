//! What a restore will ask of a container, and whether a container has it.
//!
//! A checkpoint records [`Demands`]. [`Means`] is what one container has. [`Demands::missing`] compares them, for a
//! checkpoint, a doctor, a standby, a migration and a restore. docs/reference/demands.md lists the demands.

mod compare;
mod images;
mod inet;
mod means;
mod observe;
mod token;
mod unfit;
mod volumes;

#[cfg(test)]
mod tests;

pub use compare::{for_pages, is_of_a_container};
pub use images::of;
pub use means::Means;
pub use observe::observe;
pub use unfit::Unfit;
