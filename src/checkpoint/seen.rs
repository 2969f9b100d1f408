//! What the preflight looks at before anything is frozen: it refuses what cannot be carried, and warns.

use std::os::unix::process::parent_id;
use std::path::PathBuf;

use super::pid_order::{self, Disorder};
use super::tree_of_service::Tree;
use super::{CheckpointError, Target, preflight};
use crate::files::ephemeral::Ephemeral;
use crate::files::selection::Scope;
use crate::files::survey::Survey;
use crate::files::used::{LookupError, Rules};
use crate::files::user::User;
use crate::host::pid_counting;
use crate::image::Demands;
use crate::job::AfterCommit;
use crate::job::reporter::Reporter;
use crate::privileges::{Abilities, RestorePlan};
use crate::proc::tree;
use crate::store::{Fencing, Location, Store};

/// What the preflight has seen.
pub struct Seen {
    pub tree: Tree,
    /// Files that only the preflight finds.
    pub watched: Vec<PathBuf>,
    pub demands: Demands,
    /// What is wrong with the order of the PIDs, if the processes can be restored in spite of it.
    disorder: Option<Disorder>,
}

/// Refuses what cannot be carried.
pub fn check(
    read: &impl Fn() -> Result<Tree, CheckpointError>,
    abilities: &Abilities,
) -> Result<Seen, CheckpointError> {
    let (tree, watched, demands) = preflight::check(read, parent_id() as i32, abilities)?;
    match pid_order::check(tree.processes()) {
        Err(disorder) if disorder.is_final() || !RestorePlan::of(abilities).can_go_back() => Err(disorder.into()),
        ordered => Ok(Seen { tree, watched, demands, disorder: ordered.err() }),
    }
}

impl Seen {
    /// Warns of what makes the checkpoint worth less than it could be.
    pub fn warn(&self, target: &Target, abilities: &Abilities, reporter: &Reporter) {
        match &self.disorder {
            Some(disorder) => reporter.warn(disorder.to_string()),
            None if RestorePlan::of(abilities).can_go_back() => {}
            None => tree::highest(self.tree.processes())
                .and_then(pid_counting::at_checkpoint)
                .into_iter()
                .for_each(|message| reporter.warn(message)),
        }
        if let Some(uid) = User::ours().does_not_reach(self.tree.processes()) {
            reporter.warn(unreached(uid));
        }
        for path in target.files.named.include.iter().filter(|path| !path.exists()) {
            // The file may come later, but a misspelt path must not go unnoticed.
            reporter.warn(format!("--include {}: there is no such file at the moment", path.display()));
        }
    }
}

/// Looks at what was changed in the container, if that travels.
pub fn survey(rules: &Rules, limit: u64) -> Result<Option<Survey>, LookupError> {
    if rules.scope() == Scope::Open {
        return Ok(None);
    }
    let survey = Survey::look(rules)?;
    survey.check(limit)?;
    Ok(Some(survey))
}

/// Refuses a store that cannot fence what needs a fence, and warns of others.
pub fn check_fencing(
    store: &dyn Store,
    fencing: Fencing,
    target: &Target,
    reporter: &Reporter,
) -> Result<(), CheckpointError> {
    match (fencing, target.after_commit) {
        (Fencing::Enforced, _) => Ok(()),
        (Fencing::Ignored, AfterCommit::HandOver { .. }) => Err(CheckpointError::NotFenced(store.url().to_owned())),
        (Fencing::Ignored, _) => {
            reporter.warn(unfenced(store.url()));
            Ok(())
        }
    }
}

/// Refuses to end the service if the store vanishes with the container.
pub fn check_lasting(store: &Location, target: &Target) -> Result<(), CheckpointError> {
    if target.after_commit == AfterCommit::Resume || target.ephemeral_store {
        return Ok(());
    }
    let Ok(folder) = store.folder() else { return Ok(()) };
    match Ephemeral::of(&folder).map_err(LookupError::Proc)? {
        Some(place) => Err(CheckpointError::Ephemeral { url: store.url.clone(), place }),
        None => Ok(()),
    }
}

fn unreached(uid: u32) -> String {
    format!(
        "the service has a process of uid {uid}, and freeze may not read that user's files, so those that were changed \
         may stay behind; run the service as one user, or add the capability DAC_OVERRIDE"
    )
}

fn unfenced(url: &str) -> String {
    format!(
        "the server of {url} ignores conditional writes, so two containers that use this store can overwrite each \
         other's checkpoints unnoticed. Run one container at a time, or use a server that supports If-None-Match and \
         If-Match"
    )
}
