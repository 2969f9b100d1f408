//! Stops the service for the time in which nobody knows whose it is.
//!
//! CRIU has its tasks in a ptrace stop, in which a SIGSTOP stays pending. Whoever dies then, CRIU or this worker: the kernel lets
//! the tasks go, and they stop at once, instead of running beside the copy that another container may have restored. A SIGCONT
//! throws away a SIGSTOP that is pending (signal(7)), so in the end nobody but a handler of SIGCONT has noticed anything.
//!
//! Which processes its user has stopped is not asked: that may change until CRIU has them. A CRIU that lets them run stops those
//! again that it found stopped (compel_resume_task_sig), which throws the SIGCONT away in its turn.

use crate::checkpoint::tree_of_service::Tree;
use crate::proc::tree::{self, Process};
use crate::sys::process;

/// Processes that were stopped here. Dropped, they stay so: only init, or who knows whose the service is, may continue them.
#[derive(Debug)]
#[must_use]
pub struct Stopped(Vec<i32>);

impl Stopped {
    /// Stops all processes of the tree, while CRIU holds them.
    ///
    /// # Errors
    /// The name of a process that cannot be stopped. Then none is.
    pub fn stop(tree: &Tree) -> Result<Self, String> {
        let mut stopped = Self(Vec::new());
        for process in tree.processes() {
            if process::kill(process.pid, libc::SIGSTOP) {
                stopped.0.push(process.pid);
            } else if tree::read(process.pid).is_some_and(|process| !process.is_zombie()) {
                stopped.go_on();
                return Err(Process::name(process));
            }
        }
        Ok(stopped)
    }

    /// Lets them go on, as far as it is for us: before CRIU lets them go.
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
    fn all_are_stopped_and_go_on() {
        let sleepers = Sleepers::new(2);
        let ours = Stopped::stop(&sleepers.tree()).unwrap();
        assert!((0..2).all(|index| matches!(sleepers.change(index), WaitStatus::Stopped(..))));
        ours.go_on();
        assert!((0..2).all(|index| matches!(sleepers.change(index), WaitStatus::Continued(_))));
    }

    #[test]
    fn one_that_has_ended_needs_no_stop() {
        let mut sleepers = Sleepers::new(2);
        let tree = sleepers.tree();
        let mut gone = sleepers.0.remove(0);
        gone.kill().unwrap();
        gone.wait().unwrap();
        let ours = Stopped::stop(&tree).unwrap();
        assert!(matches!(sleepers.change(0), WaitStatus::Stopped(..)));
        ours.go_on();
        assert!(matches!(sleepers.change(0), WaitStatus::Continued(_)));
    }
}
