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
mod threads;
mod watches;

pub use finding::{Finding, Findings, Place, Severity};

use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::privileges::Abilities;
use crate::proc::fd::{self, Descriptor};
use crate::proc::tree::{self, Process};

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
    /// All, zombies too.
    all: &'a [Process],
    /// Those that can be looked into.
    processes: Vec<Inspected<'a>>,
}

/// One process and its descriptors.
struct Inspected<'a> {
    process: &'a Process,
    descriptors: Vec<Descriptor>,
}

/// How often is looked again, and after what time, while something is refused: what a service has just made, or is making, is not what
/// it holds.
const AGAIN: u32 = 3;
const PAUSE: Duration = Duration::from_millis(20);

/// Fails with the first finding that a checkpoint of the processes that `read` gives is refused for; otherwise gives these and the paths
/// that they watch.
///
/// # Errors
/// [`Refusal`], and those of `read`.
pub fn check<T, E>(read: impl FnMut() -> Result<T, E>, init: i32, abilities: &Abilities) -> Result<(T, Vec<PathBuf>), E>
where
    T: AsRef<[Process]>,
    E: From<Refusal>,
{
    let (tree, findings, watched) = settle(read, init, abilities)?;
    refuse(findings)?;
    Ok((tree, watched))
}

/// The same rules, for all that is found in the processes that `read` gives.
///
/// # Errors
/// Those of `read`.
pub fn look<T: AsRef<[Process]>, E>(
    read: impl FnMut() -> Result<T, E>,
    init: i32,
    abilities: &Abilities,
) -> Result<Findings, E> {
    settle(read, init, abilities).map(|(_, findings, _)| findings)
}

/// What would be lost in silence, looked for once more in processes that stand still: they may have made it since they were checked.
/// Costs a few system calls for each thread.
///
/// # Errors
/// [`Refusal`].
pub fn check_frozen(processes: &[Process], abilities: &Abilities) -> Result<(), Refusal> {
    let mut findings = Findings::default();
    container::lost(&mut findings);
    threads::look(processes, abilities, threads::FROZEN, &mut findings);
    refuse(findings)
}

fn refuse(findings: Findings) -> Result<(), Refusal> {
    let mut refused = findings.into_refused();
    if refused.is_empty() {
        return Ok(());
    }
    let first = Box::new(refused.remove(0));
    Err(Refusal { first, more: refused.len() })
}

/// Looks again while something is refused, and keeps of that what is found each time.
fn settle<T: AsRef<[Process]>, E>(
    mut read: impl FnMut() -> Result<T, E>,
    init: i32,
    abilities: &Abilities,
) -> Result<(T, Findings, Vec<PathBuf>), E> {
    let mut tree = read()?;
    let (mut findings, mut watched) = inspect(tree.as_ref(), init, abilities);
    for _ in 0..AGAIN {
        if !findings.has_refused() {
            break;
        }
        thread::sleep(PAUSE);
        tree = read()?;
        let (later, paths) = inspect(tree.as_ref(), init, abilities);
        findings = later.staying(&findings);
        watched = paths;
    }
    Ok((tree, findings, watched))
}

fn inspect(processes: &[Process], init: i32, abilities: &Abilities) -> (Findings, Vec<PathBuf>) {
    let mut findings = Findings::default();
    let mut service = Service { abilities, init, all: processes, processes: Vec::new() };
    for process in processes.iter().filter(|process| !process.is_zombie()) {
        match fd::read(process.pid) {
            Ok(descriptors) => service.processes.push(Inspected { process, descriptors }),
            // What ends meanwhile cannot be looked at, and need not be.
            Err(error) if is_alive(process.pid) => findings.add(not_inspectable(process, &error)),
            Err(_) => {}
        }
    }
    container::look(&service, &mut findings);
    tasks::look(&service, &mut findings);
    threads::look(processes, abilities, threads::RUNNING, &mut findings);
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
        while std::fs::read_to_string(crate::proc::path(pid, "comm")).is_ok_and(|comm| comm.trim() != "sleep") {
            std::thread::yield_now();
        }
        (child, tree::read(pid).unwrap())
    }

    #[test]
    fn a_process_that_has_ended_meanwhile_is_no_finding() {
        let (child, process) = sleeper();
        drop(child);
        let (found, _) = inspect(&[process], std::process::id() as i32, &Abilities::with(&[])).0.sorted();
        assert!(found.iter().all(|finding| finding.process.is_none()), "{found:?}");
    }

    /// A child of ours for whose pidfd the tree has no process at first.
    #[test]
    fn what_was_made_between_two_looks_is_not_refused() {
        let us = std::process::id() as i32;
        let (child, process) = sleeper();
        let _pidfd = crate::sys::fd::ExitWatch::prepare().unwrap().of(&child.0).unwrap();
        let own = tree::read(us).unwrap();
        let refused_for = |looks: usize| {
            let mut seen = 0;
            let read = || {
                seen += 1;
                let rest = (seen > looks).then(|| process.clone());
                Ok::<_, Refusal>([own.clone()].into_iter().chain(rest).collect::<Vec<_>>())
            };
            let found = look(read, us, &Abilities::probe()).unwrap().into_refused();
            found.iter().any(|finding| finding.what.contains(&format!("pidfd of process {}", process.pid)))
        };
        assert!(refused_for(usize::MAX));
        assert!(!refused_for(0) && !refused_for(1));
    }

    #[test]
    fn the_first_refusal_says_how_many_there_are() {
        let first = || Box::new(Finding::refused(None, "is ill", "cure it"));
        insta::assert_snapshot!(Refusal { first: first(), more: 0 }, @"the container is ill; cure it");
        insta::assert_snapshot!(Refusal { first: first(), more: 2 }, @"the container is ill; cure it (and 2 more: freeze doctor --service lists them)");
    }
}
