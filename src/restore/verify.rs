//! Compares the restored process tree with the dumped one. A process outside it would be lost at the next
//! checkpoint.

use std::collections::BTreeMap;

use crate::image::Manifest;
use crate::proc::tree::{self, Process};

/// One sentence per process whose parent has changed. Ignores processes that have ended since.
pub fn differences(manifest: &Manifest) -> Vec<String> {
    tree::all().map(|now| compare(manifest, &now)).unwrap_or_default()
}

fn compare(manifest: &Manifest, now: &BTreeMap<i32, Process>) -> Vec<String> {
    let alive = |pid: i32| now.get(&pid).filter(|process| !process.is_zombie());
    let mut found = Vec::new();
    for then in manifest.processes.iter().filter(|process| process.pid != manifest.root_pid) {
        // If the parent has ended since, the process was rightly reparented.
        if let (Some(process), Some(_)) = (alive(then.pid), alive(then.ppid))
            && process.ppid != then.ppid
        {
            let (name, now, then) = (process.name(), process.ppid, then.ppid);
            found.push(format!("process {name} is a child of process {now}, and was a child of process {then}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image;

    fn manifest() -> Manifest {
        let process = |pid, ppid| image::Process { pid, ppid, ..image::Process::default() };
        Manifest {
            root_pid: 1000,
            processes: vec![process(1000, 1), process(1001, 1000), process(1002, 1000)],
            ..Manifest::default()
        }
    }

    fn now(parents: &[(i32, i32)]) -> BTreeMap<i32, Process> {
        let process = |&(pid, ppid)| (pid, Process { pid, ppid, state: 'S', comm: "app".into(), ..Process::default() });
        parents.iter().map(process).collect()
    }

    #[test]
    fn the_same_tree_has_no_differences() {
        assert!(compare(&manifest(), &now(&[(1000, 50), (1001, 1000), (1002, 1000)])).is_empty());
    }

    #[test]
    fn a_process_that_moved_to_init_is_named() {
        let found = compare(&manifest(), &now(&[(1000, 1), (1001, 1000), (1002, 1)]));
        assert_eq!(found, ["process 1002 (app) is a child of process 1, and was a child of process 1000"]);
    }

    #[test]
    fn one_that_has_ended_is_no_difference() {
        assert!(compare(&manifest(), &now(&[(1000, 1), (1001, 1000)])).is_empty());
    }
}
