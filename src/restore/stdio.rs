//! Connects the restored service to the new container's stdin, stdout and stderr.
//!
//! Every container has new pipes. The service's `pipe:[N]` is replaced by the worker's descriptor 0, 1 or 2,
//! which are init's. This works for any number of generations. Some engines (Mesos, Nomad) give a container
//! files or named pipes on mounts that the container does not have. CRIU calls them `file[MOUNT:INODE]`, and
//! they are replaced in the same way.
//!
//! The container's terminal becomes the service's. It may control one session, which is init's until the
//! restore.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use crate::criu::command::Inherit;
use crate::host::stdio::{OUTSIDE, TERMINAL, is_terminal};
use crate::image::Stdio as Recorded;
use crate::proc::stat::Stat;

/// How long init may take to give up the terminal.
const PATIENCE: Duration = Duration::from_secs(5);
/// What CRIU appends to the name of a terminal that is not here, for its descriptors 1 and 2.
const LOG: [&str; 2] = [".1", ".2"];

/// Replacements for the old container's stdio.
pub struct Stdio<'a> {
    inherit: Vec<Inherit>,
    /// Keeps a descriptor for CRIU, and returns its number there.
    keep: &'a mut dyn FnMut(BorrowedFd) -> io::Result<i32>,
    /// /dev/null, in place of a stdin pipe or a terminal that this container does not have.
    null: Option<i32>,
}

impl<'a> Stdio<'a> {
    /// Determines the replacements for what the checkpoint recorded. CRIU needs descriptors 0, 1 and 2, and what
    /// `keep` is given.
    pub fn join(
        recorded: &[Recorded],
        keep: &'a mut dyn FnMut(BorrowedFd) -> io::Result<i32>,
    ) -> io::Result<Vec<Inherit>> {
        Self::joined(recorded, [0, 1, 2].map(Here::of), keep)
    }

    fn joined(
        recorded: &[Recorded],
        here: [Here; 3],
        keep: &'a mut dyn FnMut(BorrowedFd) -> io::Result<i32>,
    ) -> io::Result<Vec<Inherit>> {
        let mut stdio = Self { inherit: Vec::new(), keep, null: None };
        let mut seen = BTreeSet::new();
        for old in recorded {
            let key = String::from_utf8_lossy(&old.target);
            if !replaceable(&key) || !seen.insert(key.to_string()) {
                continue;
            }
            let fd = if key.starts_with(TERMINAL) {
                match here.iter().position(|here| *here == Here::Terminal) {
                    Some(fd) => fd as i32,
                    None => stdio.without_terminal(&key)?,
                }
            } else if old.fd == 0 && here[0] == Here::Other {
                stdio.null_fd()?
            } else {
                old.fd as i32
            };
            // CRIU names a file by its path without the first character, and takes this name for a path.
            let key = if key.starts_with(OUTSIDE) { key[1..].to_owned() } else { key.into_owned() };
            stdio.inherit.push(Inherit { fd, key });
        }
        Ok(stdio.inherit)
    }

    /// The log takes the place of a terminal, and /dev/null that of descriptor 0.
    fn without_terminal(&mut self, key: &str) -> io::Result<i32> {
        for (fd, suffix) in [1, 2].into_iter().zip(LOG) {
            self.inherit.push(Inherit { fd, key: format!("{key}{suffix}") });
        }
        self.null_fd()
    }

    fn null_fd(&mut self) -> io::Result<i32> {
        if let Some(null) = self.null {
            return Ok(null);
        }
        let null = File::options().read(true).write(true).open("/dev/null")?;
        Ok(*self.null.insert((self.keep)(null.as_fd())?))
    }
}

/// A warning if the service had a terminal and this container has none.
pub fn lost_terminal(recorded: &[Recorded]) -> Option<String> {
    let lost = had_terminal(recorded) && !has_terminal();
    lost.then(|| {
        "the service had a terminal, and this container has none: it reads from /dev/null and writes to the log; \
         start the container with a terminal (docker run -t, tty: true)"
            .to_owned()
    })
}

/// Waits until no session has this container's terminal, if the service had one. `init` gives it up when the
/// restore begins.
pub fn await_terminal(recorded: &[Recorded], init: i32) {
    let until = Instant::now() + PATIENCE;
    let is_taken = || Stat::read(init).is_ok_and(|stat| stat.terminal != 0);
    while had_terminal(recorded) && has_terminal() && is_taken() && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
}

fn had_terminal(recorded: &[Recorded]) -> bool {
    recorded.iter().any(|old| old.target.starts_with(TERMINAL.as_bytes()))
}

fn has_terminal() -> bool {
    (0..3).any(is_terminal)
}

/// Whether the target has no path by which CRIU can open it again.
fn replaceable(target: &str) -> bool {
    target.starts_with("pipe:[") || target.starts_with(OUTSIDE) || target.starts_with(TERMINAL)
}

/// What a descriptor of this container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Here {
    Pipe,
    Terminal,
    Other,
}

impl Here {
    fn of(fd: u32) -> Self {
        let target = fs::read_link(format!("/proc/self/fd/{fd}"));
        match target {
            _ if is_terminal(fd) => Self::Terminal,
            Ok(target) if target.to_string_lossy().starts_with("pipe:[") => Self::Pipe,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(fd: u32, target: &str) -> Recorded {
        Recorded { fd, target: target.into() }
    }

    #[test]
    fn pipes_are_replaced_and_files_are_not() {
        let inherit = Stdio::join(&[recorded(1, "pipe:[7]"), recorded(2, "/dev/null")], &mut null).unwrap();
        assert_eq!(inherit, [Inherit { fd: 1, key: "pipe:[7]".into() }]);
    }

    #[test]
    fn files_of_the_engine_are_replaced() {
        let stdio = Stdio::join(&[recorded(1, "file[1a:7b]"), recorded(2, "file[1a:7c]")], &mut null).unwrap();
        let inherit = [Inherit { fd: 1, key: "ile[1a:7b]".into() }, Inherit { fd: 2, key: "ile[1a:7c]".into() }];
        assert_eq!(stdio, inherit);
    }

    /// Keeps /dev/null under this number.
    fn null(_: BorrowedFd) -> io::Result<i32> {
        Ok(-1)
    }

    fn joined(recorded: &[Recorded], here: [Here; 3]) -> Vec<(i32, String)> {
        let inherit = Stdio::joined(recorded, here, &mut null).unwrap();
        inherit.into_iter().map(|one| (one.fd, one.key)).collect()
    }

    #[test]
    fn a_terminal_is_joined_once_or_replaced_by_the_log() {
        let had = [0, 1, 2].map(|fd| recorded(fd, "tty[8800:66]"));
        let key = |suffix: &str| format!("tty[8800:66]{suffix}");
        assert_eq!(joined(&had, [Here::Terminal; 3]), [(0, key(""))]);
        assert_eq!(joined(&had, [Here::Other, Here::Pipe, Here::Terminal]), [(2, key(""))]);
        assert_eq!(
            joined(&had, [Here::Other, Here::Pipe, Here::Pipe]),
            [(1, key(".1")), (2, key(".2")), (-1, key(""))]
        );
    }

    #[test]
    fn a_stdin_pipe_becomes_what_there_is_to_read_from() {
        let had = [recorded(0, "pipe:[7]")];
        let of = |here| joined(&had, [here, Here::Pipe, Here::Pipe])[0].0;
        assert_eq!([Here::Pipe, Here::Terminal, Here::Other].map(of), [0, 0, -1]);
    }

    #[test]
    fn one_pipe_for_both_is_joined_once() {
        let stdio = Stdio::join(&[recorded(1, "pipe:[7]"), recorded(2, "pipe:[7]")], &mut null).unwrap();
        assert_eq!(stdio.len(), 1);
    }
}
