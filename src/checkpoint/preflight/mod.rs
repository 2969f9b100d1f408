//! What a checkpoint cannot carry, or changes, found by name while the service runs. Must change nothing in the service.
//!
//! CRIU would refuse most of it too, but with an errno and while the service stands still; the rest it would lose in silence.
//! Each rule stands for an experiment: what is refused here fails or is lost without the refusal, and what works is not refused
//! (docs/preflight.md).

mod container;
mod descriptors;
mod devices;
mod finding;
mod inet;
mod memory;
mod mounts;
mod sock_diag;
mod sockets;
mod tasks;
mod watches;

pub use finding::{Finding, Findings, Place, Severity};

use std::io;
use std::path::PathBuf;

use crate::privileges::Abilities;
use crate::tree::{self, Process};
use descriptors::Descriptor;

/// The service cannot be checkpointed as it is. Nothing was frozen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{first}{}", and_more(*.more))]
pub struct Refusal {
    first: Box<Finding>,
    /// How many more are refused.
    more: usize,
}

fn and_more(more: usize) -> String {
    if more == 0 { String::new() } else { format!(" (and {more} more: freeze doctor --service lists them)") }
}

/// Everything that the rules look at, read once for each process.
struct Service<'a> {
    abilities: &'a Abilities,
    /// Whose namespaces, root and seccomp filters are the container's: init.
    init: i32,
    processes: Vec<Inspected<'a>>,
}

/// One process and its descriptors.
struct Inspected<'a> {
    process: &'a Process,
    descriptors: Vec<Descriptor>,
}

/// Fails with the first finding that a checkpoint is refused for; otherwise gives the paths of what the service watches.
///
/// # Errors
/// [`Refusal`].
pub fn check(processes: &[Process], init: i32, abilities: &Abilities) -> Result<Vec<PathBuf>, Refusal> {
    let (findings, watched) = inspect(processes, init, abilities);
    let mut refused = findings.into_refused();
    if refused.is_empty() {
        return Ok(watched);
    }
    let first = Box::new(refused.remove(0));
    Err(Refusal { first, more: refused.len() })
}

/// Everything that is found in these processes of a container with this init, of which a dump with these abilities is to be taken.
pub fn look(processes: &[Process], init: i32, abilities: &Abilities) -> Findings {
    inspect(processes, init, abilities).0
}

fn inspect(processes: &[Process], init: i32, abilities: &Abilities) -> (Findings, Vec<PathBuf>) {
    let mut findings = Findings::default();
    let mut service = Service { abilities, init, processes: Vec::new() };
    for process in processes.iter().filter(|process| !process.is_zombie()) {
        match descriptors::of(process.pid) {
            Ok(descriptors) => service.processes.push(Inspected { process, descriptors }),
            // What ends meanwhile cannot be looked at, and need not be.
            Err(error) if is_alive(process.pid) => findings.add(not_inspectable(process, &error)),
            Err(_) => {}
        }
    }
    container::look(&service, &mut findings);
    tasks::look(processes, &service, &mut findings);
    let watched = descriptors::look(&service, &mut findings);
    memory::look(&service, &mut findings);
    sockets::look(&service, &mut findings);
    (findings, watched)
}

fn is_alive(pid: i32) -> bool {
    tree::read(pid).is_some_and(|process| !process.is_zombie())
}

fn not_inspectable(process: &Process, error: &io::Error) -> Finding {
    Finding::refused(
        Some(process),
        &format!("cannot be inspected ({error}): it runs as another user or has made itself non-dumpable"),
        "run the service as one user, or add the capability SYS_PTRACE",
    )
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn sleeper() -> (Running, Process) {
        let child = Running(Command::new("sleep").arg("60").stdin(std::process::Stdio::null()).spawn().unwrap());
        let pid = child.0.id() as i32;
        while std::fs::read_to_string(tree::proc_path(pid, "comm")).is_ok_and(|comm| comm.trim() != "sleep") {
            std::thread::yield_now();
        }
        (child, tree::read(pid).unwrap())
    }

    #[test]
    fn a_process_that_has_ended_meanwhile_is_no_finding() {
        let (child, process) = sleeper();
        drop(child);
        let (found, _) = look(&[process], std::process::id() as i32, &Abilities::with(&[])).sorted();
        assert!(found.iter().all(|finding| finding.process.is_none()), "{found:?}");
    }

    #[test]
    fn the_first_refusal_says_how_many_there_are() {
        let first = || Box::new(Finding::refused(None, "is ill", "cure it"));
        insta::assert_snapshot!(Refusal { first: first(), more: 0 }, @"the container is ill; cure it");
        insta::assert_snapshot!(Refusal { first: first(), more: 2 }, @"the container is ill; cure it (and 2 more: freeze doctor --service lists them)");
    }
}
