//! Memory for a checkpoint: what it needs beside the service, before the freeze and during it.
//!
//! With the oom_score_adj of a Kubernetes pod (some 990) the kernel kills the service, which is larger, rather than the
//! worker, and a lower value needs a privilege. So the limit must not be reached: a checkpoint takes less memory for
//! pages if there is little, is refused if there is too little, and is given up if the rest goes while the service is
//! frozen.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::host::memory::Headroom;
use crate::image::ImageWriter;
use crate::store;
use crate::sys::process;

/// CRIU, its copy in the service, pipes, page tables. Measured: 3 MiB with one process.
const CRIU: u64 = 4 << 20;
/// For each byte in use, this part of one for page tables and CRIU's lists of pages. Measured: 1/95 at 400 MiB.
const PART: u64 = 64;
/// What must stay free. A watch looks each [`INTERVAL`], in which CRIU and the worker have taken up to 2 MiB.
const FLOOR: u64 = 4 << 20;
const INTERVAL: Duration = Duration::from_millis(3);

/// How often the memory for page data is halved before it is the least.
const STEPS: u32 = 6;

/// A checkpoint has too little memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the container has {} MiB left below its memory limit of {} MiB, and a checkpoint needs {} MiB; raise the limit by {} MiB, or let the service use less",
    .left >> 20, .limit >> 20, mib(*.needed), mib(.needed - .left)
)]
pub struct TooLittle {
    limit: u64,
    left: u64,
    needed: u64,
}

/// The memory for page data: `wanted` or, where that is too much, half of it again and again.
///
/// # Errors
/// If the least is too much.
pub fn fit(wanted: u64, here: Option<Headroom>) -> Result<u64, TooLittle> {
    let Some(here) = here else { return Ok(wanted) };
    let left = here.sure();
    let needed = |pages: u64| ImageWriter::most(pages) + CRIU + here.used / PART + FLOOR;
    let mut steps = (0..STEPS).map(|step| wanted >> step).chain([0]);
    let fits = steps.find(|pages| needed(*pages) <= left);
    fits.ok_or(TooLittle { limit: here.limit, left, needed: needed(0) })
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Kills CRIU when the memory is nearly gone, so that the service runs on. The second line behind [`fit`]: a process
/// that takes memory fast enough outruns it. Must end before CRIU is reaped.
#[derive(Debug)]
pub struct Watch {
    /// The end of this channel ends the thread.
    stop: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Watch {
    /// None if there is no limit, or no thread to be had.
    pub fn start(criu: i32) -> Option<Self> {
        Headroom::now()?;
        Self::until(criu, || Headroom::now().is_some_and(|here| here.last() < FLOOR))
    }

    fn until(criu: i32, gone: impl Fn() -> bool + Send + 'static) -> Option<Self> {
        let (stop, stopped) = mpsc::channel();
        let watch = move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                if gone() {
                    return process::kill(criu, libc::SIGKILL);
                }
            }
            false
        };
        let thread = thread::Builder::new().name("memory".into()).stack_size(store::STACK).spawn(watch).ok()?;
        Some(Self { stop, thread })
    }

    /// Ends the watch. Returns whether it has killed CRIU.
    pub fn stop(self) -> bool {
        drop(self.stop);
        self.thread.join().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const MIB: u64 = 1 << 20;

    /// 100 MiB in use, and so much left.
    fn left(bytes: u64) -> Option<Headroom> {
        Some(Headroom::with(100 * MIB + bytes, 100 * MIB))
    }

    #[test]
    fn the_less_there_is_the_less_it_takes_until_it_is_refused() {
        let wanted = 64 * MIB;
        assert_eq!(fit(wanted, None), Ok(wanted));
        assert_eq!(fit(wanted, left(500 * MIB)), Ok(wanted));
        assert_eq!(fit(wanted, left(60 * MIB)), Ok(wanted / 2));
        let TooLittle { needed, .. } = fit(wanted, left(0)).unwrap_err();
        assert_eq!(fit(wanted, left(needed)), Ok(0));
        assert_eq!(fit(wanted, left(needed - 1)).unwrap_err().left, needed - 1);
    }

    #[test]
    fn a_refusal_has_the_numbers() {
        let short = TooLittle { limit: 150 * MIB, left: 28 * MIB + 5, needed: 35 * MIB - 9 };
        insta::assert_snapshot!(short, @"the container has 28 MiB left below its memory limit of 150 MiB, and a checkpoint needs 35 MiB; raise the limit by 7 MiB, or let the service use less");
    }

    #[test]
    fn criu_is_killed_once_the_memory_is_gone_and_not_before() {
        let mut criu = Command::new("sleep").arg("60").spawn().unwrap();
        let gone = Arc::new(AtomicBool::new(false));
        let look = gone.clone();
        assert!(!Watch::until(criu.id() as i32, || false).unwrap().stop());
        let watch = Watch::until(criu.id() as i32, move || look.load(Ordering::Relaxed)).unwrap();
        assert_eq!(criu.try_wait().unwrap(), None);
        gone.store(true, Ordering::Relaxed);
        assert_eq!(criu.wait().unwrap().signal(), Some(9));
        assert!(watch.stop());
    }
}
