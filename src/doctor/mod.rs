//! Finds out what works in this container, proves it with a small process tree of its own, and says what to
//! add for more.
//!
//! Never affects a service that runs beside it. Leaves no process and no file behind, unless it is killed.

pub(crate) mod candidate;
mod neighbours;
pub(crate) mod proof;
pub(crate) mod remedies;
mod renumber;
mod scratch;
pub(crate) mod seccomp;
pub(crate) mod subject;
mod verdict;
mod watchdog;

use std::path::Path;

use serde::Serialize;

use crate::privileges::{Abilities, DumpPlan, RestorePlan};
use proof::Proven;
use remedies::Remedy;

#[derive(Debug, Serialize)]
pub(crate) struct Diagnosis {
    pub abilities: Abilities,
    pub checkpoint: DumpPlan,
    pub restore: RestorePlan,
    pub proof: Proof,
    /// Sentences; the first one is the answer.
    pub verdict: Vec<String>,
    pub remedies: Vec<Remedy>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub(crate) enum Proof {
    /// The tree was restored intact.
    Succeeded(Proven),
    Failed {
        cause: String,
    },
    /// The cause has nothing to do with checkpoints, so nothing is proven.
    NotCarriedOut {
        cause: String,
    },
}

impl Proof {
    pub fn has_succeeded(&self) -> bool {
        matches!(self, Self::Succeeded(_))
    }
}

/// Takes about a second. The proof's files lie below `runtime_dir`, else in the first usable default folder.
pub(crate) fn diagnose(runtime_dir: Option<&Path>) -> Diagnosis {
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
