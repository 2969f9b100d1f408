//! The tree to dump, and the proof that it is whole.

use std::os::unix::process::parent_id;

use crate::proc::tree::{self, Process};

/// Why the service's processes are not one whole tree. Nothing was frozen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWhole {
    #[error("the processes of the container cannot be listed ({0}); freeze needs /proc mounted")]
    NoProc(String),
    /// The subreaper is gone, most often by a `kill -9 -1` in the service.
    #[error(
        "the service's subreaper, process {0}, has ended, so freeze cannot find all processes of the service; restart the container to be able to checkpoint again"
    )]
    RootGone(i32),
    #[error("the service has just ended")]
    ServiceGone,
    /// The process would be lost in silence.
    #[error(
        "process {process} is a child of init and outside the service's tree, so it would be lost; if an exec left it behind, end it; if it belongs to the service, restart the container"
    )]
    Outside { process: String },
}

/// The processes of the service, parents before their children.
#[derive(Debug)]
pub struct Tree(Vec<Process>);

impl Tree {
    /// The tree below `root`, proven whole: init's only other child is this worker. Tracers may stand above the root. The
    /// processes in `left_out` are copies of freeze's.
    pub fn of_service(root: i32, service: i32, left_out: &[i32]) -> Result<Self, NotWhole> {
        let all = tree::all().map_err(|error| NotWhole::NoProc(error.to_string()))?;
        let mut processes = tree::below(&all, root);
        processes.retain(|process| !left_out.contains(&process.pid));
        if processes.first().is_none_or(Process::is_zombie) {
            return Err(NotWhole::RootGone(root));
        }
        if processes.iter().all(|process| process.pid != service || process.is_zombie()) {
            return Err(NotWhole::ServiceGone);
        }
        let init = parent_id() as i32;
        let top = tree::top(&all, init, root).ok_or(NotWhole::RootGone(root))?;
        match tree::strays(&all, init, &[top, std::process::id() as i32]).next() {
            Some(process) => Err(NotWhole::Outside { process: process.name() }),
            None => Ok(Self(processes)),
        }
    }

    #[cfg(test)]
    pub fn of_processes(processes: Vec<Process>) -> Self {
        Self(processes)
    }

    pub fn processes(&self) -> &[Process] {
        &self.0
    }
}

impl AsRef<[Process]> for Tree {
    fn as_ref(&self) -> &[Process] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_root_that_never_was_is_gone() {
        assert_eq!(Tree::of_service(i32::MAX, 1, &[]).unwrap_err(), NotWhole::RootGone(i32::MAX));
    }

    #[test]
    fn a_service_outside_the_tree_is_gone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let found = Tree::of_service(child.id() as i32, i32::MAX, &[]).unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, NotWhole::ServiceGone);
    }
}
