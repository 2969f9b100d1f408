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

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::Pid;

    use super::*;

    /// Children that sleep, and are killed in the end.
    struct Sleepers(Vec<Child>);

    impl Sleepers {
        fn new(count: usize) -> Self {
            Self((0..count).map(|_| Command::new("sleep").arg("600").spawn().unwrap()).collect())
        }

        fn tree(&self) -> Tree {
            Tree::of_processes(self.0.iter().map(|child| tree::read(child.id() as i32).unwrap()).collect())
        }

        /// What the next change of a child's state is.
        fn change(&self, index: usize) -> WaitStatus {
            let flags = WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED;
            waitpid(Pid::from_raw(self.0[index].id() as i32), Some(flags)).unwrap()
        }
    }

    impl Drop for Sleepers {
        fn drop(&mut self) {
            for child in &mut self.0 {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    #[test]
    fn what_was_stopped_here_goes_on_and_nothing_else_does() {
        let sleepers = Sleepers::new(2);
        process::kill(sleepers.0[1].id() as i32, libc::SIGSTOP);
        assert!(matches!(sleepers.change(1), WaitStatus::Stopped(..)));
        let before = stopped(&sleepers.tree());
        assert_eq!(before, BTreeSet::from([sleepers.0[1].id() as i32]));

        let ours = Stopped::stop(&sleepers.tree(), &before).unwrap();
        assert!(matches!(sleepers.change(0), WaitStatus::Stopped(..)));
        assert_eq!(stopped(&sleepers.tree()).len(), 2);
        ours.go_on();
        assert!(matches!(sleepers.change(0), WaitStatus::Continued(_)));
        assert_eq!(stopped(&sleepers.tree()), before);
    }

    #[test]
    fn one_that_has_ended_needs_no_stop() {
        let mut sleepers = Sleepers::new(2);
        let tree = sleepers.tree();
        let mut gone = sleepers.0.remove(0);
        gone.kill().unwrap();
        gone.wait().unwrap();
        let ours = Stopped::stop(&tree, &BTreeSet::new()).unwrap();
        assert!(matches!(sleepers.change(0), WaitStatus::Stopped(..)));
        ours.go_on();
        assert!(matches!(sleepers.change(0), WaitStatus::Continued(_)));
    }
}
