//! Finds by name, while the service runs, what a checkpoint cannot carry or would change. Never changes the
//! service.
//!
//! CRIU would refuse most of it too, but with an errno and a frozen service. It would lose the rest in
//! silence. An experiment backs each rule: a refused object fails or is lost without the rule, and an object
//! that works is not refused (docs/reference/preflight.md).

mod container;
mod descriptors;
mod devices;
mod finding;
mod inet;
mod memory;
mod mounts;
mod own;
mod sockets;
mod system_v;
mod tasks;
mod threads;
mod unix;
mod watches;

pub use container::write_leases;
pub use finding::{Finding, Findings, Place, Severity};

use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::image::Demands;
use crate::privileges::Abilities;
use crate::proc::fd::{self, Descriptor};
use crate::proc::tree::{Process, is_alive};

/// Why the service cannot be checkpointed as it is. Nothing was frozen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{first}{}", and_more(*.more))]
pub struct Refusal {
    first: Box<Finding>,
    /// Number of further refusals.
    more: usize,
}

fn and_more(more: usize) -> String {
    if more == 0 { String::new() } else { format!(" (and {more} more: freeze doctor --service lists them)") }
}

/// Input of the rules, read once per process.
struct Service<'a> {
    abilities: &'a Abilities,
    /// Its namespaces, root and seccomp filters are the container's.
    init: i32,
    /// Includes zombies.
    all: &'a [Process],
    /// Live ones that freeze may inspect.
    processes: Vec<Inspected<'a>>,
}

struct Inspected<'a> {
    process: &'a Process,
    descriptors: Vec<Descriptor>,
}

/// Number of retries while something is refused, and the pause before each. Transient objects disappear
/// meanwhile.
const AGAIN: u32 = 3;
const PAUSE: Duration = Duration::from_millis(20);

/// Returns the processes from `read`, the paths of their files of which CRIU knows the inodes alone (watched files, and
/// sockets and mapped files elsewhere than their names tell), and what a restore will ask. Fails with the first
/// refusal.
pub fn check<T, E>(
    read: impl FnMut() -> Result<T, E>,
    init: i32,
    abilities: &Abilities,
) -> Result<(T, Vec<PathBuf>, Demands), E>
where
    T: AsRef<[Process]>,
    E: From<Refusal>,
{
    let (tree, Looked { findings, paths, demands }) = settle(read, init, abilities)?;
    refuse(findings)?;
    Ok((tree, paths, demands))
}

/// All findings about the processes from `read`, by the same rules, and what a restore will ask.
pub fn look<T: AsRef<[Process]>, E>(
    read: impl FnMut() -> Result<T, E>,
    init: i32,
    abilities: &Abilities,
) -> Result<(Findings, Demands), E> {
    settle(read, init, abilities).map(|(_, looked)| (looked.findings, looked.demands))
}

/// Looks in frozen processes for objects that would be lost in silence and may be newer than [`check`]. Costs
/// a few system calls per thread.
pub fn check_frozen(processes: &[Process], abilities: &Abilities) -> Result<(), Refusal> {
    let mut findings = Findings::default();
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

/// The result of one look.
struct Looked {
    findings: Findings,
    paths: Vec<PathBuf>,
    demands: Demands,
}

/// Looks again while something is refused, and keeps the refusals that last.
fn settle<T: AsRef<[Process]>, E>(
    mut read: impl FnMut() -> Result<T, E>,
    init: i32,
    abilities: &Abilities,
) -> Result<(T, Looked), E> {
    let mut tree = read()?;
    let mut looked = inspect(tree.as_ref(), init, abilities);
    for _ in 0..AGAIN {
        if !looked.findings.has_refused() {
            break;
        }
        thread::sleep(PAUSE);
        tree = read()?;
        let later = inspect(tree.as_ref(), init, abilities);
        looked = Looked { findings: later.findings.staying(&looked.findings), ..later };
    }
    Ok((tree, looked))
}

fn inspect(processes: &[Process], init: i32, abilities: &Abilities) -> Looked {
    let mut findings = Findings::default();
    let mut service = Service { abilities, init, all: processes, processes: Vec::new() };
    for process in processes.iter().filter(|process| !process.is_zombie()) {
        match fd::read(process.pid) {
            Ok(descriptors) => service.processes.push(Inspected { process, descriptors }),
            // A process that has ended needs no inspection.
            Err(error) if is_alive(process.pid) => findings.add(not_inspectable(process, &error)),
            Err(_) => {}
        }
    }
    container::look(&service, &mut findings);
    let objects = system_v::look(&service, &mut findings);
    tasks::look(&service, &mut findings);
    threads::look(processes, abilities, threads::RUNNING, &mut findings);
    let mut paths = descriptors::look(&service, &mut findings);
    paths.extend(memory::look(&service, &mut findings));
    paths.extend(sockets::look(&service, &mut findings));
    let demands = own::look(&service, &objects, &mut findings);
    Looked { findings, paths, demands }
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
    use crate::proc::tree;

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
        let found = inspect(&[process], std::process::id() as i32, &Abilities::with(&[])).findings.sorted().0;
        assert!(found.iter().all(|finding| finding.process.is_none()), "{found:?}");
    }

    /// The tree lacks the process of a pidfd in the first looks.
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
            let found = look(read, us, &Abilities::probe()).unwrap().0.into_refused();
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
