//! The SDK's runtime, with all its threads from the start. During an unprivileged restore any new thread or
//! process, ours included, takes a PID that CRIU needs. Never starts or ends a thread later.

use std::io;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// Threads for blocking calls; hardly used, because names are resolved without getaddrinfo(3).
const BLOCKING: usize = 2;
/// More workers gain nothing, because they only do TLS and copying.
const MAX_WORKERS: usize = 4;
const NAME: &str = "s3";
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);
/// A thread that has not started by then was refused by the system.
const START: Duration = Duration::from_secs(10);

pub(super) fn start() -> io::Result<Runtime> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(FOR_EVER)
        .thread_name(NAME)
        .enable_all()
        .build()?;
    fill(&runtime)?;
    Ok(runtime)
}

/// Occupies every blocking thread at once, so that all of them start.
fn fill(runtime: &Runtime) -> io::Result<()> {
    let gate = Arc::new(Mutex::new(()));
    let (begun, count) = mpsc::channel();
    let _closed = gate.lock();
    for _ in 0..BLOCKING {
        let (gate, begun) = (gate.clone(), begun.clone());
        runtime.spawn_blocking(move || {
            let _ = begun.send(());
            drop(gate.lock());
        });
    }
    (0..BLOCKING).try_for_each(|_| count.recv_timeout(START)).map_err(|_| io::ErrorKind::WouldBlock.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of this process's runtime threads; no other test starts a runtime.
    fn threads() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let name = |task: &std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        tasks.filter(|task| name(task.as_ref().unwrap()).trim() == NAME).count()
    }

    #[test]
    fn calls_that_block_start_no_thread() {
        let runtime = start().unwrap();
        let begun = threads();
        assert!(begun > BLOCKING, "{begun}");
        let (sender, receiver) = mpsc::channel();
        for _ in 0..10 * BLOCKING {
            let sender = sender.clone();
            runtime.spawn_blocking(move || sender.send(()));
        }
        (0..10 * BLOCKING).for_each(|_| receiver.recv().unwrap());
        assert_eq!(threads(), begun);
    }
}
