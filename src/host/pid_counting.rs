//! How long a restore counts PIDs, predicted at the restore and at a checkpoint for a later one; and going once round
//! all of them, where the service's numbers have been used.

use std::io;
use std::process::Command;
use std::time::Duration;

use crate::sys::pids;

/// Less than a runtime and its orchestrator take to start a container again.
const QUICK: Duration = Duration::from_secs(2);
/// As long as a restore that is to be tried again in this container may count. Linux allows no more than 4 million
/// PIDs, which two cores count in some 23 s.
const PATIENT: Duration = Duration::from_secs(60);

/// How long going once round all PIDs takes here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round(Duration);

impl Round {
    /// None where the kernel does not tell, or where this container's first process is not init: others would start
    /// processes meanwhile.
    pub(crate) fn here(init: u32) -> Option<Self> {
        (init == 1).then(pids::millis_round).flatten().map(Duration::from_millis).map(Self)
    }

    /// Whether a restore below `init` gets fresh PIDs quickly, so that used ones are no obstacle.
    pub(crate) fn is_quick_below(init: u32) -> bool {
        Self::here(init).is_some_and(Self::is_quick)
    }

    /// Whether it is faster than to be started again.
    pub(crate) fn is_quick(self) -> bool {
        self.0 <= QUICK
    }

    /// Whether it is worth its time where nobody starts the container again.
    pub(crate) fn is_bearable(self) -> bool {
        self.0 <= PATIENT
    }

    /// In words.
    pub(crate) fn duration(self) -> String {
        seconds(self.0.as_millis() as u64)
    }

    /// Uses up all PIDs. The next process gets one of the lowest.
    ///
    /// # Errors
    /// If no process can be started, or if it fails: one sentence.
    pub(crate) fn go(self) -> io::Result<()> {
        // In a process of its own, which has one thread.
        let output = Command::new(std::env::current_exe()?).arg(VERB).output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }
}

/// The hidden command that counts.
const VERB: &str = "count-pids";

/// The log line if counting up to `highest`, the service's highest PID or TID, takes 100 ms or more.
pub(crate) fn before_restore(highest: i32) -> Option<String> {
    let millis = Some(pids::millis_up_to(highest)).filter(|&millis| millis >= 100)?;
    Some(format!("counting PIDs up to {highest}, the service's highest PID, takes about {}", seconds(millis)))
}

/// The warning if a restore in a container like this one counts for a second or more.
pub fn at_checkpoint(highest: i32) -> Option<String> {
    let millis = Some(pids::millis_up_to(highest)).filter(|&millis| millis >= 1000)?;
    Some(format!(
        "a restore that cannot choose PIDs counts up to PID {highest}, which takes about {}; let freeze choose PIDs \
         (add the capability CHECKPOINT_RESTORE and a seccomp profile that allows clone3), or restart the service, \
         which then has lower PIDs",
        seconds(millis)
    ))
}

fn seconds(millis: u64) -> String {
    format!("{}.{} s", millis / 1000, millis % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_quick_bearable_or_neither() {
        let of = |secs| Round(Duration::from_secs(secs));
        assert_eq!(
            [1, 23, 90].map(|secs| (of(secs).is_quick(), of(secs).is_bearable())),
            [(true, true), (false, true), (false, false)]
        );
        assert!(Round::here(2).is_none() && Round::here(1).is_some());
    }

    #[test]
    fn seconds_have_one_digit_after_the_point() {
        assert_eq!(["0.0 s", "0.9 s", "12.3 s"], [99, 999, 12_345].map(seconds));
    }
}
