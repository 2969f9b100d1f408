//! Stops the service for the time in which nobody knows whose it is.
//!
//! CRIU has its tasks in a ptrace stop, in which a SIGSTOP stays pending. Whoever dies then, CRIU or this worker: the kernel lets
//! the tasks go, and they stop at once, instead of running beside the copy that another container may have restored. A SIGCONT
//! throws away a SIGSTOP that is pending (signal(7)), so in the end nobody but a handler of SIGCONT has noticed anything.

use std::collections::BTreeSet;

use super::tree_of_service::Tree;
use crate::sys::process;
use crate::tree::{self, Process};

/// Stopped processes, by `kill -STOP` or a shell.
pub fn stopped(tree: &Tree) -> BTreeSet<i32> {
    tree.processes().iter().filter(|process| process.state == 'T').map(|process| process.pid).collect()
}

/// Processes that were stopped here. Dropped, they stay so: only init, or who knows whose the service is, may continue them.
#[derive(Debug)]
#[must_use]
pub struct Stopped(Vec<i32>);

impl Stopped {
    /// Stops all processes of the tree, but for those that were stopped `before`.
    ///
    /// # Errors
    /// The name of a process that cannot be stopped. Then none is.
    pub fn stop(tree: &Tree, before: &BTreeSet<i32>) -> Result<Self, String> {
        let mut stopped = Self(Vec::new());
        for process in tree.processes().iter().filter(|process| !before.contains(&process.pid)) {
            if process::kill(process.pid, libc::SIGSTOP) {
                stopped.0.push(process.pid);
            } else if tree::read(process.pid).is_some_and(|process| !process.is_zombie()) {
                stopped.go_on();
                return Err(Process::name(process));
            }
        }
        Ok(stopped)
    }

    /// Lets them go on, as far as it is for us.
    pub fn go_on(self) {
        for pid in self.0 {
            process::kill(pid, libc::SIGCONT);
        }
    }
}
