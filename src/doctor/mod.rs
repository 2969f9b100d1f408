//! What works in this container: found out, proven by a small tree of the doctor's own, and said with what to add for more.
//!
//! Must have no effect on a service that runs beside it, and must leave no process and no file behind.

pub mod forecast;
mod neighbours;
pub mod proof;
pub mod remedies;
mod renumber;
mod scratch;
pub mod seccomp;
pub mod subject;
mod verdict;
mod watchdog;

use std::path::Path;

use serde::Serialize;

use crate::privileges::{Abilities, DumpPlan, RestorePlan};
use proof::Proven;
use remedies::Remedy;

/// All that the doctor has to say of a container.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// What the kernel allows.
    pub abilities: Abilities,
    /// What a checkpoint does with it.
    pub checkpoint: DumpPlan,
    /// What a restore does with it.
    pub restore: RestorePlan,
    /// The proof, or why there is none.
    pub proof: Proof,
    /// In words.
    pub verdict: Vec<String>,
    /// What to add for more.
    pub remedies: Vec<Remedy>,
}

/// What became of the proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Proof {
    /// The tree came back as it was.
    Succeeded(Proven),
    /// It did not, or could not be dumped.
    Failed {
        /// One sentence.
        cause: String,
    },
    /// Something else kept it from being carried out.
    NotCarriedOut {
        /// One sentence.
        cause: String,
    },
}

impl Proof {
    /// Whether the tree came back.
    pub fn has_succeeded(&self) -> bool {
        matches!(self, Self::Succeeded(_))
    }
}

/// Finds it all out; takes about a second. The proof's files lie below `runtime_dir`, or wherever there is room.
pub fn diagnose(runtime_dir: Option<&Path>) -> Diagnosis {
    let abilities = Abilities::with_namespaces();
    let proof = match proof::prove(&abilities, runtime_dir) {
        Ok(proven) => Proof::Succeeded(proven),
        Err(error) if error.proves_nothing() => Proof::NotCarriedOut { cause: error.to_string() },
        Err(error) => Proof::Failed { cause: error.to_string() },
    };
    Diagnosis {
        checkpoint: DumpPlan::of(&abilities),
        restore: RestorePlan::of(&abilities),
        verdict: verdict::verdict(&abilities, &proof).into_iter().chain(neighbours::note()).collect(),
        remedies: remedies::remedies(&abilities),
        abilities,
        proof,
    }
}
