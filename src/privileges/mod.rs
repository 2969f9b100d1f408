//! What this container allows, and what a dump and a restore do with it. The kernel is asked; nothing is
//! configured.
//!
//! [`Abilities`] are probed without any effect on the service. [`DumpPlan`] and [`RestorePlan`] follow from
//! them alone. CRIU (`--rootless`) also probes the kernel and uses what it finds; the plans predict that, and
//! contain the choices that only freeze can make.

mod abilities;
mod answer;
mod facts;
mod namespaces;
mod plan;
mod proc;
pub(crate) mod userns;

pub(crate) use abilities::{Abilities, Ability};
pub(crate) use answer::Answer;
pub(crate) use facts::Facts;
pub(crate) use plan::{DumpPlan, Pids, RestorePlan};
pub(crate) use proc::Proc;
