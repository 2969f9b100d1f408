//! Ends whatever the proof has started: at its end, and when it takes too long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;
use std::{io, thread};

use nix::errno::Errno;
use nix::sys::wait;

use crate::sys::process;
use crate::tree;

/// Kills all that is below this process once the time is over. Nothing where it is dropped before.
#[derive(Debug)]
pub struct Watchdog {
    barked: Arc<AtomicBool>,
    /// Its end tells the thread.
    _rest: Sender<()>,
}

impl Watchdog {
    /// Begins to watch.
    pub fn start(limit: Duration) -> io::Result<Self> {
        let barked = Arc::new(AtomicBool::new(false));
        let (rest, over) = mpsc::channel::<()>();
        let flag = barked.clone();
        thread::Builder::new().spawn(move || {
            if over.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                flag.store(true, Ordering::Relaxed);
                kill_all();
            }
        })?;
        Ok(Self { barked, _rest: rest })
    }

    /// Whether the time is over.
    pub fn has_barked(&self) -> bool {
        self.barked.load(Ordering::Relaxed)
    }
}

/// Kills and reaps all that is below this process, which must be the parent of its descendants' orphans.
pub fn end_all() {
    while kill_all() {
        match wait::wait() {
            Err(Errno::ECHILD) => return,
            _ => while process::reap().is_some() {},
        }
    }
}

/// Children before their parents. False where there is nothing.
fn kill_all() -> bool {
    let us = std::process::id() as i32;
    let below = tree::all().map(|all| tree::below(&all, us)).unwrap_or_default();
    for process in below.iter().skip(1).rev() {
        process::kill(process.pid, libc::SIGKILL);
    }
    below.len() > 1
}
