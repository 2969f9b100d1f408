//! What this container allows, found out by asking the kernel, never configured; and what a dump and a restore do with it.
//!
//! [`Abilities`] are facts, asked for without any effect on the service; [`DumpPlan`] and [`RestorePlan`] follow from them alone. CRIU asks
//! the kernel itself as well and uses what it gets (`--rootless`); the plans say the same beforehand, and what only freeze can choose.

mod abilities;
mod answer;
mod facts;
mod namespaces;
mod plan;
mod proc;
pub mod userns;

pub use abilities::{Abilities, Ability};
pub use answer::Answer;
pub use facts::Facts;
pub use plan::{DumpPlan, Pids, RestorePlan};
pub use proc::Proc;
