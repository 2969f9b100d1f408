//! The service's processes: the holder at the root, the service's first process below it, and whatever they made.

use crate::sys::{process, signals::Signal};

/// Passes over /proc before a tree that keeps growing while it is killed is left to the end of its root.
const PASSES: usize = 100;
/// Ancestors looked at: more than the kernel has processes would be a loop, from a PID used again in between.
const MAX_DEPTH: usize = 1 << 16;

/// The two that init knows by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tree {
    /// The holder; 0 once it was killed and the service is init's own child.
    pub root: i32,
    /// The service's first process.
    pub service: i32,
}

impl Tree {
    /// Sends a signal to the service's first process, or to its process group.
    pub fn signal(self, signal: Signal, to_group: bool) {
        process::kill(if to_group { -self.service } else { self.service }, signal);
        // A `kill -STOP -1` in the service stops the holder as well, which then would reap no more.
        if signal == libc::SIGCONT && self.root > 0 {
            process::kill(self.root, signal);
        }
    }

    /// Whichever is the root of what is there.
    pub fn top(self) -> i32 {
        if self.root > 0 { self.root } else { self.service }
    }

    /// Kills every process of the tree, the root last, so that orphans cannot leave it meanwhile.
    pub fn kill(self) {
        kill_below(self.top());
        process::kill(self.top(), libc::SIGKILL);
    }
}

/// Kills every descendant of a process, children before their parents: a stopped process group of which the last parent outside it
/// ends is continued by the kernel, after a SIGHUP (setpgid(2)), and would run once more.
pub fn kill_below(top: i32) {
    for _ in 0..PASSES {
        if each_below(top, |pid, _| process::kill(pid, libc::SIGKILL)) == 0 {
            break;
        }
    }
}

/// Whether a process is stopped, by SIGSTOP or the like.
pub fn is_stopped(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| state == b'T')
}

/// Continues every process of the tree, `but` for one that its user has stopped. Not only those that are stopped: a SIGSTOP may be
/// pending still (see `checkpoint::stop`), and is thrown away by this.
pub fn continue_all(top: i32, but: Option<i32>) {
    each_below(top, |pid, _| but != Some(pid) && process::kill(pid, libc::SIGCONT));
    process::kill(top, libc::SIGCONT);
}

/// Calls `visit` with the PID and the state of every process below `top` that has not ended, the deepest first; returns how often it
/// said yes.
fn each_below(top: i32, mut visit: impl FnMut(i32, u8) -> bool) -> usize {
    let Ok(entries) = std::fs::read_dir("/proc") else { return 0 };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found: Vec<(usize, i32)> = pids.filter_map(|pid| Some((depth(pid, top)?, pid))).collect();
    found.sort_unstable_by_key(|(depth, _)| std::cmp::Reverse(*depth));
    found
        .into_iter()
        .filter(|(_, pid)| stat(*pid).is_some_and(|(state, _)| state != b'Z' && visit(*pid, state)))
        .count()
}

/// How many generations a process is below `top`, less one; nothing if it is not.
fn depth(pid: i32, top: i32) -> Option<usize> {
    std::iter::successors(stat(pid), |(_, parent)| stat(*parent)).take(MAX_DEPTH).position(|(_, parent)| parent == top)
}

/// State letter and parent of a process, from /proc/PID/stat (proc(5)).
fn stat(pid: i32) -> Option<(u8, i32)> {
    parse_stat(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The command's name, in parentheses, may hold any byte: what follows the last one is plain.
fn parse_stat(stat: &[u8]) -> Option<(u8, i32)> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?.split_ascii_whitespace();
    Some((*fields.next()?.as_bytes().first()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_name_cannot_pretend_to_be_another_field() {
        assert_eq!(parse_stat(b"7 (a) T 1 (\xff) S 42 7 7 0"), Some((b'S', 42)));
        for text in [&b""[..], b"7 (a", b"7 (a)", b"7 (a) S", b"7 (a) S x"] {
            assert_eq!(parse_stat(text), None);
        }
    }

    #[test]
    fn children_come_before_their_parents() {
        let script = "sh -c 'sleep 600 & echo $$ $!; wait' & wait";
        let mut top = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(top.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut pids: Vec<i32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        pids.reverse();
        let mut visited = Vec::new();
        each_below(top.id() as i32, |pid, _| {
            visited.push(pid);
            true
        });
        assert_eq!(visited, pids);
        kill_below(top.id() as i32);
        top.wait().unwrap();
    }

    #[test]
    fn this_process_is_below_its_parent_and_not_below_itself() {
        let us = std::process::id() as i32;
        let parent = stat(us).unwrap().1;
        assert_eq!(depth(us, parent), Some(0));
        assert_eq!([depth(us, us), depth(us, i32::MAX)], [None; 2]);
    }
}
