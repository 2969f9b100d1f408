//! Memory for a checkpoint: what it needs beside the service, before the freeze and during it.
//!
//! With the oom_score_adj of a Kubernetes pod (some 990) the kernel kills the service, which is larger, rather than the
//! worker, and a lower value needs a privilege. So the limit must not be reached: a checkpoint takes less memory for
//! pages if there is little, is refused if there is too little, and is given up if the rest goes before everything is
//! stored.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::host::memory::Headroom;
use crate::image::ImageWriter;
use crate::proc::tree::Process;
use crate::store;
use crate::sys::process;

/// CRIU, its copy in the service, pipes, page tables. Measured: 3 MiB with one process.
const CRIU: u64 = 4 << 20;
/// For each process, and for each further thread of one. Measured: 82 to 88 KiB, with 16 to 400 processes, and 33 to 39 KiB,
/// with 64 and 256 threads.
const PROCESS: u64 = 96 << 10;
const THREAD: u64 = 48 << 10;
/// For each byte in use, this part of one for page tables and CRIU's lists of pages. Measured: 1/95 at 400 MiB.
const PART: u64 = 64;
/// What must stay free. A watch looks each [`INTERVAL`], in which CRIU and the worker have taken up to 2 MiB.
const FLOOR: u64 = 4 << 20;
const INTERVAL: Duration = Duration::from_millis(3);
/// The same while there are copies of processes: each page that the service writes takes memory.
const FLOOR_WITH_COPIES: u64 = 32 << 20;
/// Time in which a killed CRIU gives its memory back.
const GIVE_BACK: Duration = Duration::from_millis(50);

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
pub fn fit(wanted: u64, processes: &[Process], here: Option<Headroom>) -> Result<u64, TooLittle> {
    let Some(here) = here else { return Ok(wanted) };
    let left = here.sure();
    let tasks: u64 = processes.iter().map(|one| PROCESS + THREAD * (one.threads.len() as u64).saturating_sub(1)).sum();
    let needed = |pages: u64| ImageWriter::most(pages) + CRIU + tasks + here.used / PART + FLOOR;
    let mut steps = (0..STEPS).map(|step| wanted >> step).chain([0]);
    let fits = steps.find(|pages| needed(*pages) <= left);
    fits.ok_or(TooLittle { limit: here.limit, left, needed: needed(0) })
}

/// Whether so much more may be taken. Others may have taken memory since [`fit`].
pub fn is_left(bytes: u64) -> bool {
    Headroom::now().is_none_or(|here| here.sure() >= FLOOR + bytes)
}

/// Whether CRIU can read memory, after what it has taken before.
pub fn is_left_for_reading() -> bool {
    is_left(CRIU)
}

/// Whether processes may be copied: the service may write some of its memory meanwhile, and the worker take `pages`.
pub fn is_left_for_copies(pages: u64) -> bool {
    Headroom::now().is_none_or(|here| here.sure() >= 2 * FLOOR_WITH_COPIES + ImageWriter::most(pages))
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Whom the [`Watch`] kills: each CRIU beside the service, which lets the service run on.
#[derive(Debug, Clone, Default)]
pub struct Victim(Arc<Mutex<Prey>>);

#[derive(Debug, Default)]
struct Prey {
    crius: BTreeSet<i32>,
    killed: BTreeSet<i32>,
}

impl Victim {
    /// This CRIU, a child of this process, may be killed until it is spared.
    pub fn is(&self, pid: i32) {
        let mut prey = self.lock();
        prey.killed.remove(&pid);
        prey.crius.insert(pid);
    }

    /// This CRIU may end by itself, or be reaped. Returns whether it was killed before.
    pub fn spare(&self, criu: Option<i32>) -> bool {
        if let Some(pid) = criu {
            self.lock().crius.remove(&pid);
        }
        self.has_died(criu)
    }

    pub fn has_died(&self, criu: Option<i32>) -> bool {
        criu.is_some_and(|pid| self.lock().killed.contains(&pid))
    }

    /// Returns whether there was one.
    fn kill(&self) -> bool {
        let mut prey = self.lock();
        let crius = std::mem::take(&mut prey.crius);
        prey.killed.extend(crius.iter().filter(|pid| process::kill(**pid, libc::SIGKILL)));
        !crius.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Prey> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends what takes memory when that is nearly gone, so that the service runs on: CRIU, or else this worker. A CRIU in a
/// tracer is not killed, as that would cost the tracer: it gives up when the worker is gone. The second line behind
/// [`fit`]: a process that takes memory fast enough outruns it. Runs from the first read until everything is stored;
/// then the worker takes no more.
#[derive(Debug)]
pub struct Watch {
    victim: Victim,
    /// What must stay free.
    floor: Arc<AtomicU64>,
    /// The end of this channel ends the thread. None without a limit.
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Watch {
    /// `end` ends this worker.
    pub fn start(end: impl FnOnce() + Send + 'static) -> Self {
        let floor = Arc::new(AtomicU64::new(FLOOR));
        let least = Arc::clone(&floor);
        let is_gone = move || Headroom::now().is_some_and(|here| here.last() < least.load(Ordering::Relaxed));
        let mut watch = match Headroom::now() {
            Some(_) => Self::until(is_gone, end),
            None => Self::none(),
        };
        watch.floor = floor;
        watch
    }

    /// One that looks at nothing.
    pub fn none() -> Self {
        Self { victim: Victim::default(), floor: Arc::default(), thread: None }
    }

    /// Whether there are copies of processes.
    pub fn copies(&self, there_are: bool) {
        self.floor.store(if there_are { FLOOR_WITH_COPIES } else { FLOOR }, Ordering::Relaxed);
    }

    pub fn victim(&self) -> &Victim {
        &self.victim
    }

    fn until(gone: impl Fn() -> bool + Send + 'static, end: impl FnOnce() + Send + 'static) -> Self {
        let (victim, (stop, stopped)) = (Victim::default(), mpsc::channel());
        let prey = victim.clone();
        let watch = move || {
            let mut pause = INTERVAL;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                pause = match gone() {
                    false => INTERVAL,
                    true if prey.kill() => GIVE_BACK,
                    true => return end(),
                };
            }
        };
        // Without a thread to be had there is no second line.
        let thread = thread::Builder::new().name("memory".into()).stack_size(store::STACK).spawn(watch).ok();
        Self { victim, floor: Arc::default(), thread: thread.map(|thread| (stop, thread)) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::TryRecvError;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// 100 MiB in use, and so much left.
    fn left(bytes: u64) -> Option<Headroom> {
        Some(Headroom::with(100 * MIB + bytes, 100 * MIB))
    }

    #[test]
    fn the_less_there_is_the_less_it_takes_until_it_is_refused() {
        let wanted = 64 * MIB;
        assert_eq!(fit(wanted, &[], None), Ok(wanted));
        assert_eq!(fit(wanted, &[], left(500 * MIB)), Ok(wanted));
        assert_eq!(fit(wanted, &[], left(60 * MIB)), Ok(wanted / 2));
        let TooLittle { needed, .. } = fit(wanted, &[], left(0)).unwrap_err();
        assert_eq!(fit(wanted, &[], left(needed)), Ok(0));
        assert_eq!(fit(wanted, &[], left(needed - 1)).unwrap_err().left, needed - 1);
    }

    #[test]
    fn each_process_and_each_thread_needs_more() {
        let needed = |processes: &[Process]| fit(0, processes, left(0)).unwrap_err().needed;
        let of = |threads| Process { threads: vec![1; threads], ..Process::default() };
        assert_eq!(needed(&[of(1), of(1)]) - needed(&[]), 2 * PROCESS);
        assert_eq!(needed(&[of(3)]) - needed(&[of(1)]), 2 * THREAD);
    }

    #[test]
    fn a_refusal_has_the_numbers() {
        let short = TooLittle { limit: 150 * MIB, left: 28 * MIB + 5, needed: 35 * MIB - 9 };
        insta::assert_snapshot!(short, @"the container has 28 MiB left below its memory limit of 150 MiB, and a checkpoint needs 35 MiB; raise the limit by 7 MiB, or let the service use less");
    }

    #[test]
    fn criu_is_killed_once_the_memory_is_gone_and_then_the_worker() {
        let mut criu = Command::new("sleep").arg("60").spawn().unwrap();
        let gone = Arc::new(AtomicBool::new(false));
        let look = gone.clone();
        let (ended, end) = mpsc::channel();
        let watch = Watch::until(move || look.load(Ordering::Relaxed), move || ended.send(()).unwrap());
        watch.victim().is(criu.id() as i32);
        assert_eq!((criu.try_wait().unwrap(), end.try_recv()), (None, Err(TryRecvError::Empty)));
        gone.store(true, Ordering::Relaxed);
        assert_eq!(criu.wait().unwrap().signal(), Some(9));
        assert!(watch.victim().spare(Some(criu.id() as i32)));
        assert_eq!(end.recv_timeout(Duration::from_secs(60)), Ok(()));
    }

    #[test]
    fn while_there_is_memory_nothing_ends_and_a_spared_criu_never_does() {
        let mut criu = Command::new("sleep").arg("60").spawn().unwrap();
        let (ended, end) = mpsc::channel();
        let watch = Watch::until(|| false, move || ended.send(()).unwrap());
        watch.victim().is(criu.id() as i32);
        assert!(!watch.victim().spare(Some(criu.id() as i32)));
        assert!(!watch.victim().kill());
        drop(watch);
        assert_eq!((criu.try_wait().unwrap(), end.try_recv()), (None, Err(TryRecvError::Disconnected)));
        criu.kill().unwrap();
        criu.wait().unwrap();
    }
}
