//! Ends whatever the proof has started: at its end, when it takes too long, and when the doctor is told to end.

use std::collections::BTreeSet;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::proc::tree;
use crate::sys::{process, signals};

/// What asks the doctor to end.
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
/// After how many milliseconds all is killed again once the time is over: between listing and killing a process may have made another one.
const AGAIN: u8 = 200;
/// How long killed processes may take to end. One that waits in the kernel for a lost file server never does.
const DYING: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);
/// No signal has this number.
const TIME: i32 = -1;

/// Why the proof was ended before it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It took too long.
    Time,
    /// The doctor got this signal.
    Signal(i32),
}

/// Kills all that has come below this process, again and again, from when the time is over or a signal comes until it is dropped.
#[derive(Debug)]
pub struct Watchdog {
    why: Arc<AtomicI32>,
    /// What was below this process before, of a shell that has executed the doctor: none of the proof's.
    before: Arc<BTreeSet<i32>>,
    /// The signals that were blocked before.
    mask: SigSet,
    /// Its end tells the thread.
    rest: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Begins to watch. This process must be the parent of its descendants' orphans, and have no other thread.
    ///
    /// # Errors
    /// Where no thread or descriptor is to be had.
    pub fn start(limit: Duration) -> io::Result<Self> {
        let before = Arc::new(below(&BTreeSet::new()).into_iter().collect());
        let signals: SigSet = SIGNALS.into_iter().filter(|signal| !signals::is_ignored(*signal as i32)).collect();
        let asked = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let (over, rest) = io::pipe()?;
        let mask = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let why = Arc::new(AtomicI32::new(0));
        let mut dog = Self { why: why.clone(), before: Arc::clone(&before), mask, rest: Some(rest), thread: None };
        let watch = move || watch(limit, &asked, &over, &why, &before);
        dog.thread = Some(thread::Builder::new().spawn(watch)?);
        Ok(dog)
    }

    /// Whether the proof was ended, and why.
    pub fn ended(&self) -> Option<Why> {
        match self.why.load(Ordering::Relaxed) {
            0 => None,
            TIME => Some(Why::Time),
            signal => Some(Why::Signal(signal)),
        }
    }

    /// Kills and reaps all that has come below this process.
    pub fn end_all(&self) {
        let until = Instant::now() + DYING;
        while kill_all(&self.before) && Instant::now() < until {
            while process::reap().is_some() {}
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.rest.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = self.mask.thread_set_mask();
    }
}

fn watch(limit: Duration, asked: &SignalFd, over: &PipeReader, why: &AtomicI32, before: &BTreeSet<i32>) {
    let until = Instant::now() + limit;
    let reason = loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [over.as_fd(), asked.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        if fds[0].any() == Some(true) {
            return;
        }
        if let Ok(Some(signal)) = asked.read_signal() {
            break signal.ssi_signo as i32;
        }
        if left.is_zero() {
            break TIME;
        }
    };
    why.store(reason, Ordering::Relaxed);
    loop {
        kill_all(before);
        let mut fds = [PollFd::new(over.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, AGAIN).is_ok_and(|ready| ready > 0) {
            return;
        }
    }
}

/// Children before their parents. False where there is nothing.
fn kill_all(before: &BTreeSet<i32>) -> bool {
    let below = below(before);
    for pid in below.iter().rev() {
        process::kill(*pid, libc::SIGKILL);
    }
    !below.is_empty()
}

/// All below this process but these, parents before their children.
fn below(but: &BTreeSet<i32>) -> Vec<i32> {
    let mut all = tree::all().unwrap_or_default();
    all.retain(|pid, _| !but.contains(pid));
    tree::below(&all, std::process::id() as i32).iter().skip(1).map(|process| process.pid).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    use super::*;

    /// Other tests have children and threads, so each of these is a process of its own.
    fn alone(name: &str) -> bool {
        if std::env::var_os("ALONE").is_some() {
            return true;
        }
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", &format!("doctor::watchdog::tests::{name}")]).env("ALONE", "1");
        assert!(again.status().unwrap().success());
        false
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").spawn().unwrap()
    }

    #[test]
    fn all_is_killed_once_the_time_is_over_but_what_was_there_before() {
        if !alone("all_is_killed_once_the_time_is_over_but_what_was_there_before") {
            return;
        }
        let mut before = sleeper();
        let dog = Watchdog::start(Duration::ZERO).unwrap();
        // The second one comes when it has killed already.
        for _ in 0..2 {
            assert_eq!(sleeper().wait().unwrap().signal(), Some(libc::SIGKILL));
        }
        assert_eq!(dog.ended(), Some(Why::Time));
        dog.end_all();
        drop(dog);
        assert!(before.try_wait().unwrap().is_none());
        before.kill().unwrap();
    }

    #[test]
    fn what_is_left_is_ended_without_a_signal() {
        if !alone("what_is_left_is_ended_without_a_signal") {
            return;
        }
        let dog = Watchdog::start(Duration::from_secs(600)).unwrap();
        let mut child = sleeper();
        dog.end_all();
        assert!(tree::read(child.id() as i32).is_none());
        // Reaped already.
        assert!(child.wait().is_err());
    }
}
