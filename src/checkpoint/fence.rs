//! The fence: keeps the service stopped while its owner is unknown.
//!
//! CRIU holds the tasks in a ptrace stop, where SIGSTOP stays pending. If CRIU or this worker dies, the
//! kernel releases the tasks and they stop at once, so they never run beside a copy that another container
//! may have restored. SIGCONT discards a pending SIGSTOP (signal(7)), so only a handler of SIGCONT notices
//! the fence.
//!
//! The fence does not ask which tasks the user has stopped, since that may change until CRIU holds them. CRIU
//! stops those again when it releases them (compel_resume_task_sig), which discards the SIGCONT. Where CRIU is
//! dead, [`StoppedByUser`] does so, as far as preflight saw them stopped.

use crate::checkpoint::tree_of_service::Tree;
use crate::proc::tree::{self, Process};
use crate::sys::process;

/// Fenced processes. They stay stopped if this is dropped: only init, or the code that knows the outcome, may
/// continue them.
#[derive(Debug)]
#[must_use]
pub struct Stopped(Vec<i32>);

impl Stopped {
    /// Fences all processes of the tree while CRIU holds them. On failure fences none, and returns the name
    /// of the process that cannot be stopped.
    pub fn stop(tree: &Tree) -> Result<Self, String> {
        let mut stopped = Self(Vec::new());
        for process in tree.processes() {
            if process::kill(process.pid, libc::SIGSTOP) {
                stopped.0.push(process.pid);
            } else if tree::is_alive(process.pid) {
                stopped.go_on();
                return Err(Process::name(process));
            }
        }
        Ok(stopped)
    }

    /// Lifts the fence. Must come before CRIU releases the tasks.
    pub fn go_on(self) {
        for pid in self.0 {
            process::kill(pid, libc::SIGCONT);
        }
    }
}

/// Processes that the user had stopped before the dump.
#[derive(Debug)]
pub struct StoppedByUser(Vec<i32>);

impl StoppedByUser {
    pub fn of(tree: &Tree) -> Self {
        Self(tree.processes().iter().filter(|process| process.state == 'T').map(|process| process.pid).collect())
    }

    /// Stops them again where CRIU is dead and the fence is lifted.
    pub fn stop_again(&self) {
        for pid in &self.0 {
            process::kill(*pid, libc::SIGSTOP);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::Pid;

    use super::*;

    /// Sleeping children, killed on drop.
    struct Sleepers(Vec<Child>);

    impl Sleepers {
        fn new(count: usize) -> Self {
            Self((0..count).map(|_| Command::new("sleep").arg("600").spawn().unwrap()).collect())
        }

        fn tree(&self) -> Tree {
            Tree::of_processes(self.0.iter().map(|child| tree::read(child.id() as i32).unwrap()).collect())
        }

        /// The next state change of a child.
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
