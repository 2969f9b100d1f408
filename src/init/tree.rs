//! The service's processes: the subreaper at the root, the service's first process below it, and their
//! descendants.

use crate::criu::tracer;
use crate::proc::{self, stat::Stat};
use crate::sys::{process, signals::Signal};

/// Most passes over /proc to kill a tree that keeps growing. The end of its root must do the rest.
const PASSES: usize = 100;
/// Most ancestors to follow: a PID that is reused between two reads could make a loop.
const MAX_DEPTH: usize = 1 << 16;

/// The processes that init knows by PID.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tree {
    /// The tracers above the root, outermost first; 0 for one that is lost, or was never made.
    pub tracers: [i32; tracer::COUNT],
    /// The subreaper; 0 once it was killed and the service is init's own child.
    pub root: i32,
    /// The service's first process.
    pub service: i32,
}

impl Tree {
    /// Sends a signal to the service's first process, or to its process group.
    pub fn signal(self, signal: Signal, to_group: bool) {
        process::kill(if to_group { -self.service } else { self.service }, signal);
        // A `kill -STOP -1` in the service also stops those above, which then reap no more.
        if signal == libc::SIGCONT {
            for pid in self.above() {
                process::kill(pid, signal);
            }
        }
    }

    /// The tracers and the subreaper, as far as they are there, outermost first.
    fn above(self) -> impl Iterator<Item = i32> {
        self.tracers.into_iter().chain([self.root]).filter(|pid| *pid > 0)
    }

    /// Number of tracers that are there.
    pub fn tracers_left(self) -> usize {
        self.tracers.into_iter().filter(|pid| *pid > 0).count()
    }

    /// Init's own child, whose end is the service's.
    pub fn outermost(self) -> i32 {
        self.above().next().unwrap_or(self.service)
    }

    /// What became init's child when the outermost was killed, if anything did.
    pub fn heir(self) -> Option<i32> {
        self.above().chain([self.service]).skip(1).find(|pid| process::is_child(*pid))
    }

    /// The tree whose outermost process is this one of its.
    #[must_use]
    pub fn below(mut self, heir: i32) -> Self {
        for pid in self.tracers.iter_mut().chain([&mut self.root]) {
            if *pid == heir {
                break;
            }
            *pid = 0;
        }
        self
    }

    /// The topmost process that is still there.
    pub fn top(self) -> i32 {
        if self.root > 0 { self.root } else { self.service }
    }

    /// Kills every process of the tree, the root last, so that orphans cannot leave it meanwhile. Tracers end with it,
    /// unless they are stopped.
    pub fn kill(self) {
        kill_below(self.top());
        process::kill(self.top(), libc::SIGKILL);
        for tracer in self.tracers.into_iter().filter(|pid| *pid > 0) {
            process::kill(tracer, libc::SIGCONT);
        }
    }
}

/// Kills every descendant of a process, children before their parents. If a parent died first, a stopped
/// process group could become orphaned: the kernel would send it SIGHUP and SIGCONT (setpgid(2)), and the
/// group would run again.
pub fn kill_below(top: i32) {
    for _ in 0..PASSES {
        if each_below(top, |pid| process::kill(pid, libc::SIGKILL)) == 0 {
            break;
        }
    }
}

/// Whether a process is stopped by SIGSTOP or another stop signal.
pub fn is_stopped(pid: i32) -> bool {
    Stat::read(pid).is_ok_and(|stat| stat.state == 'T')
}

/// Sends SIGCONT to every process of the tree except `but`, which its user has stopped. Also to those that
/// run, as SIGCONT discards a SIGSTOP that is still pending (see `checkpoint::fence`).
pub fn continue_all(top: i32, but: Option<i32>) {
    each_below(top, |pid| but != Some(pid) && process::kill(pid, libc::SIGCONT));
    process::kill(top, libc::SIGCONT);
}

/// Calls `visit` with the PID of every process below `top` that has not ended, the deepest first. Returns how
/// often `visit` returned true.
fn each_below(top: i32, mut visit: impl FnMut(i32) -> bool) -> usize {
    let Ok(pids) = proc::pids() else { return 0 };
    let mut found: Vec<(usize, i32)> = pids.filter_map(|pid| Some((depth(pid, top)?, pid))).collect();
    found.sort_unstable_by_key(|(depth, _)| std::cmp::Reverse(*depth));
    found.into_iter().filter(|(_, pid)| Stat::read(*pid).is_ok_and(|stat| stat.state != 'Z' && visit(*pid))).count()
}

/// Number of processes between `top` and `pid`; `None` if `pid` is not below `top`.
fn depth(pid: i32, top: i32) -> Option<usize> {
    std::iter::successors(parent(pid), |pid| parent(*pid)).take(MAX_DEPTH).position(|parent| parent == top)
}

fn parent(pid: i32) -> Option<i32> {
    Some(Stat::read(pid).ok()?.ppid)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn children_come_before_their_parents() {
        let script = "sh -c 'sleep 600 & echo $$ $!; wait' & wait";
        let mut top = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(top.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut pids: Vec<i32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        pids.reverse();
        let mut visited = Vec::new();
        each_below(top.id() as i32, |pid| {
            visited.push(pid);
            true
        });
        assert_eq!(visited, pids);
        kill_below(top.id() as i32);
        top.wait().unwrap();
    }

    #[test]
    fn an_heir_has_nothing_above_it() {
        let tree = Tree { tracers: [5, 6], root: 1000, service: 1001 };
        assert_eq!(tree.outermost(), 5);
        assert_eq!(tree.below(6), Tree { tracers: [0, 6], ..tree });
        assert_eq!(tree.below(1000), Tree { tracers: [0; 2], ..tree });
        assert_eq!(tree.below(1001), Tree { tracers: [0; 2], root: 0, service: 1001 });
        assert_eq!([6, 1000, 1001].map(|heir| tree.below(heir).outermost()), [6, 1000, 1001]);
    }

    #[test]
    fn this_process_is_below_its_parent_and_not_below_itself() {
        let us = std::process::id() as i32;
        let parent = parent(us).unwrap();
        assert_eq!(depth(us, parent), Some(0));
        assert_eq!([depth(us, us), depth(us, i32::MAX)], [None; 2]);
    }
}
