//! Threads with a descriptor table, working directory, root or umask of their own. A restore would give them
//! their process's, in silence.
//!
//! kcmp is exact. Where it is filtered, the visible state is compared, which misses a fresh copy that is
//! still equal.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::{Finding, Findings, Place};
use crate::privileges::{Abilities, Ability};
use crate::proc::status::Status;
use crate::proc::{self, fd, tree::Process};
use crate::sys::probe::{self, Shared};

/// Number of thread descriptors that are compared by target, at some 8 µs each. For the rest, their number
/// and the size of their table are compared.
pub const RUNNING: usize = 10_000;
pub const FROZEN: usize = 250;

pub fn look(processes: &[Process], abilities: &Abilities, mut budget: usize, findings: &mut Findings) {
    let can_compare = abilities.has(Ability::Kcmp);
    for process in processes.iter().filter(|process| !process.is_zombie()) {
        let first = process.pid;
        for tid in process.threads.iter().copied().filter(|tid| *tid != first) {
            let kcmp = |what| if can_compare { probe::share(first, tid, what).ok() } else { None };
            let mut add = |what: &str| {
                let finding = Finding::refused(Some(process), what, "use a process instead of a thread for this");
                findings.add(finding.at(Place::Thread(tid)));
            };
            if !kcmp(Shared::Files).unwrap_or_else(|| share_files(first, tid, &mut budget)) {
                add("has a thread with descriptors of its own (unshare(CLONE_FILES)), which a restore would lose");
            }
            if !kcmp(Shared::Places).unwrap_or_else(|| share_places(first, tid)) {
                let folder = fs::read_link(proc::path(tid, "cwd")).unwrap_or_default();
                add(&format!(
                    "has a thread with a working directory, root or umask of its own (it is in {}), which a restore would lose",
                    folder.display()
                ));
            }
        }
    }
}

/// Whether two tasks have the same descriptors. Both may open and close some meanwhile, so each must have
/// what the other has all the time. A task that has ended has nothing of its own.
fn share_files(one: i32, other: i32, budget: &mut usize) -> bool {
    let sizes = |task| (count(task), Status::read(task).ok().and_then(|status| status.fd_size));
    let (number, size): (Option<usize>, Option<usize>) = sizes(other);
    let cost = number.or(size).unwrap_or(0);
    if cost > *budget {
        return (0..3).any(|_| sizes(one) == sizes(other));
    }
    *budget -= cost;
    let all = |task| fd::links(task).map(|all| all.into_iter().collect::<BTreeSet<_>>());
    let (Ok(first), Ok(then), Ok(first_later), Ok(then_later)) = (all(one), all(other), all(one), all(other)) else {
        return true;
    };
    are_one_table([&first, &first_later], [&then, &then_later])
}

/// Compares tables that were read alternately: this, that, this, that.
fn are_one_table<T: Ord>(this: [&BTreeSet<T>; 2], that: [&BTreeSet<T>; 2]) -> bool {
    let has =
        |all: &BTreeSet<T>, [before, after]: [&BTreeSet<T>; 2]| before.intersection(after).all(|one| all.contains(one));
    has(that[0], this) && has(this[1], that)
}

/// Number of descriptors: the size of the folder, since Linux 6.2.
fn count(task: i32) -> Option<usize> {
    let size = fs::metadata(proc::path(task, "fd")).ok()?.size();
    (size > 0).then_some(size as usize)
}

/// Whether two tasks share working directory, root and umask.
fn share_places(one: i32, other: i32) -> bool {
    let places = |task| {
        let link = |name| fs::read_link(proc::path(task, name)).ok();
        let umask = Status::read(task).ok().and_then(|status| status.umask);
        let places: (Option<PathBuf>, _, _) = (link("cwd"), link("root"), umask);
        places
    };
    let other = places(other);
    other.0.is_none() || places(one) == other
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use nix::sched::{CloneFlags, unshare};
    use nix::unistd::gettid;

    use super::*;

    /// Findings about a thread that has run `does`. With a budget and without kcmp, the comparison would find
    /// the descriptors of its own reading.
    fn found(does: impl FnOnce() + Send + 'static, abilities: &[Ability]) -> Vec<String> {
        let (ready, is_ready) = channel();
        let (end, ended) = channel::<()>();
        let thread = std::thread::spawn(move || {
            does();
            ready.send(gettid().as_raw()).unwrap();
            let _ = ended.recv();
        });
        let tid = is_ready.recv().unwrap();
        let pid = std::process::id() as i32;
        let process = Process { pid, threads: vec![pid, tid], ..Process::default() };
        let mut findings = Findings::default();
        look(&[process], &Abilities::with(abilities), 0, &mut findings);
        drop(end);
        thread.join().unwrap();
        findings.into_refused().into_iter().map(|finding| finding.what).collect()
    }

    const WAYS: [&[Ability]; 2] = [&[Ability::Kcmp], &[]];

    #[test]
    fn an_ordinary_thread_has_nothing_of_its_own() {
        assert_eq!(found(|| (), &[Ability::Kcmp]), Vec::<String>::new());
    }

    #[test]
    fn descriptors_of_its_own_are_found() {
        let other_files = || {
            unshare(CloneFlags::CLONE_FILES).unwrap();
            (0..1000).for_each(|_| std::mem::forget(std::fs::File::open("/etc/passwd").unwrap()));
        };
        for way in WAYS {
            assert_eq!(
                found(other_files, way),
                ["has a thread with descriptors of its own (unshare(CLONE_FILES)), which a restore would lose"]
            );
        }
    }

    #[test]
    fn a_folder_of_its_own_is_found() {
        let other_folder = || {
            unshare(CloneFlags::CLONE_FS).unwrap();
            std::env::set_current_dir("/proc").unwrap();
        };
        for way in WAYS {
            let found = found(other_folder, way);
            assert!(
                found.iter().any(|what| what
                    .starts_with("has a thread with a working directory, root or umask of its own (it is in /proc)")),
                "{found:?}"
            );
        }
    }

    #[test]
    fn what_comes_and_goes_makes_no_second_table() {
        let set = |all: &[i32]| all.iter().copied().collect::<BTreeSet<_>>();
        let alike = |all: [&[i32]; 4]| {
            let [this, that, this_later, that_later] = all.map(set);
            are_one_table([&this, &this_later], [&that, &that_later])
        };
        assert!(alike([&[1, 2], &[1, 3], &[1, 4], &[1, 5]]));
        assert!(!alike([&[1, 2], &[1], &[1, 2], &[1]]) && !alike([&[1], &[1, 3], &[1], &[1, 3]]));
    }
}
