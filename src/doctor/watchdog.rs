//! Kills every process of the proof: at its end, after its time limit, and when a signal asks the doctor to
//! end.

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

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
/// Milliseconds between two rounds of kills: a process may fork between the listing and the kill.
const AGAIN: u8 = 200;
/// How long killed processes may take to end. One that waits in the kernel for a lost file server never ends.
const DYING: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);
/// Stands for [`Why::Time`]: no signal has this number.
const TIME: i32 = -1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The time limit has passed.
    Time,
    Signal(i32),
}

/// Once the time limit passes or a signal comes, kills all new descendants of this process, again and again
/// until it is dropped.
#[derive(Debug)]
pub struct Watchdog {
    why: Arc<AtomicI32>,
    /// Descendants from before the start, of a shell that executed the doctor. They are spared.
    before: Arc<BTreeSet<i32>>,
    /// Signal mask from before the start, restored on drop.
    mask: SigSet,
    /// Closing it ends the thread.
    rest: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Begins to watch. This process must be a subreaper and have no other thread.
    ///
    /// # Errors
    /// If a thread or a descriptor cannot be made.
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

    /// Why the proof was ended, if it was.
    pub fn ended(&self) -> Option<Why> {
        match self.why.load(Ordering::Relaxed) {
            0 => None,
            TIME => Some(Why::Time),
            signal => Some(Why::Signal(signal)),
        }
    }

    /// Kills and reaps all new descendants of this process.
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

/// Kills children before their parents. False if there was no process.
fn kill_all(before: &BTreeSet<i32>) -> bool {
    let below = below(before);
    for pid in below.iter().rev() {
        process::kill(*pid, libc::SIGKILL);
    }
    !below.is_empty()
}

/// All descendants of this process except `but`, parents before their children.
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

    /// Runs the test again in a process of its own: other tests have children and threads.
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
        // The second one starts after the first round of kills.
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
