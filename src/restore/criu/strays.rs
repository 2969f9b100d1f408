//! Processes that an abandoned restore leaves behind. They wait for a CRIU that is gone. None has run, and
//! none may stay, as the next attempt needs their PIDs.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use crate::proc::tree::{self, Process};
use crate::sys::process;

/// How long killed processes may take to disappear.
const BURIAL: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

/// The processes below init that a restore has created. What is executed from outside the container is not
/// below init.
#[derive(Debug)]
pub(super) struct Strays {
    init: i32,
    /// PIDs from before the restore. None: unknown, and nothing is killed.
    before: Option<BTreeSet<i32>>,
}

impl Strays {
    /// Must be called before the restore creates processes. `init` is the parent of this process, or this
    /// process itself where there is no worker.
    pub(super) fn from_now_on(init: i32) -> Self {
        let pids = |processes: Vec<Process>| processes.iter().map(|process| process.pid).collect();
        Self { init, before: below(init).map(pids) }
    }

    /// Kills them all, and waits up to [`BURIAL`] until they are reaped.
    pub(super) fn end(&self) {
        let begun = Instant::now();
        loop {
            let pids = self.find();
            // Without a worker, as in the doctor's proof, only this process can reap them.
            if self.init == std::process::id() as i32 {
                while process::reap().is_some() {}
            }
            if pids.is_empty() || begun.elapsed() >= BURIAL {
                return;
            }
            for pid in pids {
                process::kill(pid, libc::SIGKILL);
            }
            thread::sleep(LOOK);
        }
    }

    fn find(&self) -> Vec<i32> {
        let (Some(before), Some(now)) = (&self.before, below(self.init)) else { return Vec::new() };
        // Children before their parents: an orphan may move out of this subtree.
        now.iter().rev().map(|process| process.pid).filter(|pid| !before.contains(pid)).collect()
    }
}

/// A process and its descendants; None if it does not exist.
fn below(init: i32) -> Option<Vec<Process>> {
    tree::all().ok().map(|all| tree::below(&all, init)).filter(|found| !found.is_empty())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_came_later_is_killed_with_what_it_has_made_and_nothing_else_is() {
        let script = "sleep 601 & echo $!; read go; sleep 602 & sh -c 'sleep 603 & echo; sleep 604; :' & wait";
        let mut top = Command::new("sh");
        top.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut top = top.spawn().unwrap();
        let mut lines = BufReader::new(top.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap().parse().unwrap();
        let pid = top.id() as i32;
        let strays = Strays::from_now_on(pid);
        assert!(strays.find().is_empty());
        top.stdin.take().unwrap().write_all(b"\n").unwrap();
        lines.next().unwrap().unwrap();
        assert!(strays.find().len() >= 3);

        strays.end();
        let left = below(pid).unwrap().iter().map(|process| process.pid).collect::<Vec<_>>();
        assert_eq!(left, [pid, first]);
        process::kill(first, libc::SIGKILL);
        top.wait().unwrap();
        assert!(strays.find().is_empty(), "there is nothing below one that has ended");
    }
}
