//! Memory that a waiting container has ahead, decoded, in a criu that has started already. The restore then reads the pages
//! that have changed since, and no others.
//!
//! A page counts as there only if all of it was handed to criu, and one of unknown content is never taken for another.
//! Whatever fails, the memory is forgotten, and the restore reads all.

mod process;
mod runs;
mod update;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::criu::ahead::{Ahead, Space};
use crate::criu::command::Criu;
use crate::criu::running::{Running, Start};
use crate::demands;
use crate::host::limits;
use crate::host::memory::{self, Headroom};
use crate::image::{Body, FetchThreads, Fetcher, Manifest, Vault};
use process::Process;
use runs::{Kind, Memory, Run};
use update::{Step, Update};

/// Bytes that stay free beside the memory, and the pages that are on their way.
const RESERVE: u64 = 64 << 20;

/// The memory of a waiting container.
pub(super) struct MemoryAhead {
    /// Which criu; None where none can be used.
    program: Option<Criu>,
    threads: Arc<FetchThreads>,
    /// Bytes for pages on their way.
    on_their_way: u64,
    criu: Option<Ahead>,
    memory: BTreeMap<i32, Memory>,
    update: Option<Update>,
}

/// A criu that goes on, and the images that are to be served to it instead of those of the manifest, by their names.
pub(super) struct GoesOn {
    pub criu: Running,
    pub instead: BTreeMap<String, Body>,
    /// Bytes that it has already.
    pub ahead: u64,
}

impl MemoryAhead {
    /// Nothing yet. `program` is None where the restore will start criu in another way.
    pub(super) fn nothing(program: Option<Criu>, threads: &Arc<FetchThreads>, on_their_way: u64) -> Self {
        let program = program.filter(|_| limits::permit_spare_memory() && memory::is_promised_freely());
        Self { program, threads: threads.clone(), on_their_way, criu: None, memory: BTreeMap::new(), update: None }
    }

    /// Wants the memory of this generation.
    pub(super) fn want(&mut self, vault: &Vault, manifest: &Manifest) {
        self.update = None;
        let Some(program) = self.program else { return };
        if !self.has_room(manifest) {
            self.forget();
            return;
        }
        if self.criu.is_none() {
            limits::raise();
            self.criu = Ahead::start(program).ok();
            // Another one would take another PID.
            self.program = self.criu.as_ref().map(|_| program);
        }
        let on_their_way = demands::for_pages(self.on_their_way, &demands::of(manifest), memory::limit_with_swap());
        self.update = Some(Update::new(Fetcher::on(&self.threads, vault, manifest, on_their_way), manifest.clone()));
    }

    /// Takes it out, for a restore.
    pub(super) fn hand_over(&mut self) -> Self {
        let nothing = Self::nothing(None, &self.threads, self.on_their_way);
        Self { update: None, ..std::mem::replace(self, nothing) }
    }

    /// Whether all that can be had of the generation that is wanted is there.
    pub(super) fn is_settled(&self) -> bool {
        self.update.is_none()
    }

    /// Whether this container, and its host, have the memory.
    fn has_room(&self, manifest: &Manifest) -> bool {
        let pages = manifest.images.iter().filter(|image| image.name.starts_with("pages-"));
        let wanted: u64 = pages.filter_map(|image| image.body.as_ref()).map(Body::data).sum();
        let more = wanted.saturating_sub(self.bytes()) + self.on_their_way + RESERVE;
        let left = [Headroom::now().map(|headroom| headroom.sure()), memory::meminfo("MemAvailable")];
        left.into_iter().flatten().all(|left| more <= left)
    }

    fn bytes(&self) -> u64 {
        self.memory.values().map(Memory::bytes).sum()
    }

    /// Goes on with what is wanted, until then at most.
    pub(super) fn work(&mut self, until: Instant) {
        if self.try_work(until).is_err() {
            self.forget();
        }
    }

    fn try_work(&mut self, until: Instant) -> io::Result<()> {
        while let (Some(criu), Some(update)) = (&mut self.criu, &mut self.update)
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            if !criu.flush()? {
                wait(criu.as_fd(), PollFlags::POLLOUT, left)?;
                continue;
            }
            match update.step(criu, &mut self.memory) {
                Ok(Step::Done) => self.update = None,
                Ok(Step::Pending) => wait(update.wake_fd(), PollFlags::POLLIN, left)?,
                Ok(Step::Queued) => {}
                // What is there stays; the store may deliver the next generation.
                Err(_) => self.update = None,
            }
        }
        Ok(())
    }

    /// Forgets all, for good: another criu would take another PID.
    fn forget(&mut self) {
        if self.criu.take().is_some() {
            self.program = None;
        }
        self.memory.clear();
        self.update = None;
    }

    /// Lets the waiting criu go on with these arguments and what `start` keeps. None if there is none, or it does not.
    pub(super) fn go_on(
        mut self,
        manifest: &Manifest,
        fetcher: &mut Fetcher,
        start: &Start,
        args: &[OsString],
    ) -> Option<GoesOn> {
        let mut criu = self.criu.take()?;
        let mut instead = BTreeMap::new();
        let mut ahead = 0;
        for (pid, memory) in &self.memory {
            let process = Process::read(manifest, fetcher, *pid).ok().flatten();
            let Some(process) = process else {
                criu.forget(*pid);
                continue;
            };
            drop_pages(&mut criu, *pid, &memory.beside(&process.runs));
            let (images, bytes) = process.without(memory);
            instead.extend(images);
            ahead += bytes;
        }
        let criu = criu.go_on(args, start.kept()).ok()?;
        Some(GoesOn { criu, instead, ahead })
    }
}

fn drop_pages(criu: &mut Ahead, pid: i32, runs: &[Run]) {
    runs.iter().for_each(|run| criu.drop_pages(space(pid, run.kind), &run.range()));
}

fn space(pid: i32, kind: Kind) -> Space {
    Space { pid, unreserved: kind == Kind::Unreserved }
}

fn wait(fd: BorrowedFd, events: PollFlags, left: Duration) -> io::Result<()> {
    let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(fd, events)], left) {
        Err(nix::errno::Errno::EINTR) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
