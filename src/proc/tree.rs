//! The service's process tree, from /proc. Reads only. A process that ends meanwhile is left out, never an
//! error.

use std::collections::BTreeMap;
use std::io;

use super::stat::Stat;
use super::status::Status;

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// PID in our PID namespace.
    pub pid: i32,
    /// Parent.
    pub ppid: i32,
    /// Process group.
    pub pgid: i32,
    /// Session.
    pub sid: i32,
    /// State letter of proc(5): R, S, D, T, t, Z, X…
    pub state: char,
    /// Name; the kernel keeps at most 15 bytes.
    pub comm: String,
    /// Thread IDs in ascending order, including the leader's.
    pub threads: Vec<i32>,
    /// When it was started, in clock ticks after the host's boot. With the PID it names one process.
    pub start: u64,
}

impl Process {
    /// The name in messages: `1004 (nginx)`.
    pub fn name(&self) -> String {
        format!("{} ({})", self.pid, self.comm)
    }

    /// Whether it has ended and only waits to be reaped.
    pub fn is_zombie(&self) -> bool {
        has_ended(self.state)
    }
}

/// All processes in this PID namespace, by PID.
pub fn all() -> io::Result<BTreeMap<i32, Process>> {
    Ok(super::pids()?.filter_map(|pid| Some((pid, read(pid)?))).collect())
}

/// One process; None if it is gone.
pub fn read(pid: i32) -> Option<Process> {
    let stat = Stat::read(pid).ok()?;
    let mut threads: Vec<i32> = super::threads(pid).ok()?.collect();
    threads.sort_unstable();
    Some(Process {
        pid: stat.pid,
        ppid: stat.ppid,
        pgid: stat.pgid,
        sid: stat.sid,
        state: stat.state,
        comm: String::from_utf8_lossy(&stat.comm).into_owned(),
        threads,
        start: stat.start,
    })
}

/// The PID, as seen from here, of the process that init knows as `inner`. It differs if init is in a PID
/// namespace below ours.
pub fn number_here(all: &BTreeMap<i32, Process>, init: i32, inner: i32) -> Option<i32> {
    let depth = numbers(init)?.len();
    if depth == 1 {
        return all.contains_key(&inner).then_some(inner);
    }
    let below = below(all, init).into_iter().map(|process| process.pid);
    below.into_iter().find(|pid| numbers(*pid).is_some_and(|all| all.len() == depth && all.last() == Some(&inner)))
}

/// The PIDs of a process, one for each PID namespace that it is in, from the one of this /proc inwards
/// (proc_pid_status(5)).
pub fn numbers(pid: i32) -> Option<Vec<i32>> {
    Status::read(pid).ok()?.numbers
}

/// The root of the service's tree: the subreaper between init and the service, or the service itself if there
/// is none.
pub fn root(all: &BTreeMap<i32, Process>, init: i32, service: i32) -> Option<i32> {
    let parent = all.get(&service)?.ppid;
    Some(if parent == init { service } else { parent })
}

/// Whether the process is there, and neither has ended nor is about to.
pub fn is_alive(pid: i32) -> bool {
    Stat::read(pid).is_ok_and(|stat| !stat.ending && !has_ended(stat.state))
}

fn has_ended(state: char) -> bool {
    matches!(state, 'Z' | 'X')
}

/// The ancestor of `pid` that is a child of init, or `pid` itself.
pub fn top(all: &BTreeMap<i32, Process>, init: i32, pid: i32) -> Option<i32> {
    let above = std::iter::successors(Some(pid), |pid| Some(all.get(pid)?.ppid));
    // No process is its own ancestor, unless a PID was reused between two reads.
    above.take(all.len()).find(|pid| all.get(pid).is_some_and(|process| process.ppid == init))
}

/// Children of init that are not among `known`. Zombies are left out, because they are about to be reaped.
/// What exec brought in is not a child: its parent here is 0.
pub fn strays<'a>(all: &'a BTreeMap<i32, Process>, init: i32, known: &'a [i32]) -> impl Iterator<Item = &'a Process> {
    all.values().filter(move |process| process.ppid == init && !known.contains(&process.pid) && !process.is_zombie())
}

/// The highest PID or TID of `processes`.
pub fn highest(processes: &[Process]) -> Option<i32> {
    processes.iter().flat_map(|process| &process.threads).copied().max()
}

/// `root` and all its descendants, parents before children.
pub fn below(all: &BTreeMap<i32, Process>, root: i32) -> Vec<Process> {
    let mut children: BTreeMap<i32, Vec<&Process>> = BTreeMap::new();
    for process in all.values().filter(|process| process.pid != root) {
        children.entry(process.ppid).or_default().push(process);
    }
    let mut found: Vec<Process> = all.get(&root).cloned().into_iter().collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|process| process.pid) {
        // Taken out, so this ends even if a PID was reused between two reads.
        found.extend(children.remove(&parent).unwrap_or_default().into_iter().cloned());
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn process(pid: i32, ppid: i32) -> (i32, Process) {
        (pid, Process { pid, ppid, ..Process::default() })
    }

    #[test]
    fn below_takes_the_whole_tree_and_nothing_else() {
        let all = BTreeMap::from([process(1, 0), process(5, 1), process(6, 1), process(7, 5), process(3, 7)]);
        let pids: Vec<i32> = below(&all, 5).iter().map(|process| process.pid).collect();
        assert_eq!(pids, [5, 7, 3]);
        assert!(below(&all, 99).is_empty());
        let turning = BTreeMap::from([process(5, 6), process(6, 5)]);
        assert_eq!(below(&turning, 5).len(), 2);
    }

    #[test]
    fn the_root_is_between_init_and_the_service() {
        assert_eq!(root(&BTreeMap::from([process(1, 0), process(1000, 1), process(1001, 1000)]), 1, 1001), Some(1000));
        assert_eq!(root(&BTreeMap::from([process(1, 0), process(1001, 1)]), 1, 1001), Some(1001));
    }

    #[test]
    fn the_top_is_inits_child() {
        let all = BTreeMap::from([process(1, 0), process(7, 1), process(8, 7), process(1000, 8), process(9, 0)]);
        assert_eq!([1000, 8, 7].map(|pid| top(&all, 1, pid)), [Some(7); 3]);
        assert_eq!([9, 99].map(|pid| top(&all, 1, pid)), [None; 2]);
        let turning = BTreeMap::from([process(5, 6), process(6, 5)]);
        assert_eq!(top(&turning, 1, 5), None);
    }

    #[test]
    fn in_one_namespace_numbers_are_the_same_for_all() {
        let us = std::process::id() as i32;
        let all = BTreeMap::from([process(us, 1), process(7, us)]);
        assert_eq!(numbers(us).map(|numbers| numbers[0]), Some(us));
        assert_eq!(number_here(&all, us, 7), (numbers(us).unwrap().len() == 1).then_some(7));
        assert_eq!([number_here(&all, us, 8), number_here(&all, i32::MAX, 7)], [None; 2]);
    }

    #[test]
    fn a_name_that_is_cut_within_a_character_hides_nobody() {
        let name = format!("/proc/{}/comm", std::process::id());
        let before = fs::read(&name).unwrap();
        fs::write(&name, b"\xd0\xa1\xd0").unwrap();
        let found = read(std::process::id() as i32);
        fs::write(&name, before).unwrap();
        assert!(found.is_some());
    }

    #[test]
    fn this_process_is_found_with_its_threads() {
        let pid = std::process::id() as i32;
        let found = read(pid).unwrap();
        assert!(found.threads.contains(&pid) && !found.is_zombie());
    }
}
