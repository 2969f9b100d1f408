//! The threads behind a [`Fetcher`](super::Fetcher): each fetches a range of a pack, decodes its chunks and checks their
//! hashes.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::body::ChunkRef;
use super::codec::Decoder;
use super::error::{Flaw, ImageError};
use super::queue::Queue;
use super::vault::Vault;
use super::{Result, pack};

/// Chunks that lie side by side in one pack.
pub(super) struct Unit {
    pub stream: u64,
    pub number: u64,
    pub chunks: Vec<ChunkRef>,
}

/// A unit's chunks decoded, in order.
pub(super) struct Done {
    pub stream: u64,
    pub number: u64,
    pub chunks: Result<Vec<Vec<u8>>>,
}

/// The threads. They end after the drop, by themselves: a request that hangs must not hold anybody.
pub(super) struct Decoders(Arc<Shared>);

struct Shared {
    vault: Vault,
    packs: Vec<String>,
    asked: Queue<Unit>,
    done: Mutex<VecDeque<Done>>,
    changed: Condvar,
    /// Readable exactly while `done` holds something; changed under its lock alone.
    wake: EventFd,
}

impl Decoders {
    /// Starts all threads. `packs` are the keys that [`ChunkRef::pack`] counts.
    pub(super) fn start(vault: Vault, packs: Vec<String>, threads: usize) -> Result<Self> {
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let shared = Arc::new(Shared {
            vault,
            packs,
            asked: Queue::new(),
            done: Mutex::default(),
            changed: Condvar::new(),
            wake: wake.map_err(|e| ImageError::Start(e.into()))?,
        });
        let decoders = Self(shared);
        for _ in 0..threads.max(1) {
            let decoder = Decoder::new().map_err(ImageError::Start)?;
            let shared = decoders.0.clone();
            let thread = thread::Builder::new().name("decode".into()).stack_size(256 << 10);
            thread.spawn(move || work(&shared, decoder)).map_err(ImageError::Start)?;
        }
        Ok(decoders)
    }

    pub(super) fn ask(&self, unit: Unit) {
        self.0.asked.push(unit);
    }

    /// All that was done since the last call.
    pub(super) fn take(&self) -> VecDeque<Done> {
        let mut done = self.0.done();
        if !done.is_empty() {
            let _ = self.0.wake.read();
        }
        std::mem::take(&mut done)
    }

    /// Waits until there is something to take.
    pub(super) fn wait(&self) {
        let mut done = self.0.done();
        while done.is_empty() {
            done = self.0.changed.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }
}

impl Drop for Decoders {
    fn drop(&mut self) {
        self.0.asked.abort();
    }
}

impl Shared {
    fn done(&self) -> MutexGuard<'_, VecDeque<Done>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetch(&self, decoder: &mut Decoder, chunks: &[ChunkRef]) -> Result<Vec<Vec<u8>>> {
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else { return Ok(Vec::new()) };
        let range = u64::from(first.offset)..u64::from(last.offset) + u64::from(last.encoded);
        let key = &self.packs[first.pack as usize];
        let data = self.vault.store().get_range(key, range)?;
        let damaged = |flaw| ImageError::Damaged { url: self.vault.url().into(), object: key.clone(), flaw };
        let decode = |chunk: &ChunkRef| {
            let start = (chunk.offset - first.offset) as usize;
            let encoded = &data[start..start + chunk.encoded as usize];
            let raw = decoder.decode(encoded, chunk.raw as usize);
            let raw = raw.ok_or_else(|| damaged(Flaw::ChunkCompression(chunk.offset.into())))?;
            if blake3::hash(&raw) != chunk.hash {
                return Err(damaged(Flaw::Chunk(chunk.offset.into())));
            }
            Ok(raw)
        };
        chunks.iter().map(decode).collect()
    }
}

fn work(shared: &Shared, mut decoder: Decoder) {
    while let Some(unit) = shared.asked.pop() {
        let chunks = shared.fetch(&mut decoder, &unit.chunks);
        let mut done = shared.done();
        if done.is_empty() {
            // Only a full counter could fail, and it is 0 while nothing is done.
            let _ = shared.wake.write(1);
        }
        done.push_back(Done { stream: unit.stream, number: unit.number, chunks });
        shared.changed.notify_one();
    }
}

/// The keys of a manifest's packs, in its order.
pub(super) fn keys(packs: &[super::PackInfo]) -> Vec<String> {
    packs.iter().map(|pack| pack::key(&pack.id)).collect()
}
