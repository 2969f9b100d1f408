//! The threads behind a [`Fetcher`](super::Fetcher): each fetches a range of a pack, decodes its chunks, checks what they
//! are called, and gives the slices that were asked for. Many wait for the store at once; few decode.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::body::Slice;
use super::codec::Decoder;
use super::error::{Flaw, ImageError};
use super::manifest::{Manifest, PackInfo};
use super::queue::Queue;
use super::table::{ChunkRef, ChunkTable};
use super::vault::Vault;
use super::{Result, chunk, pack};
use crate::store::STACK;
use crate::sys::memory;

/// Slices of chunks of one pack, in the order of these.
pub(super) struct Unit {
    pub stream: u64,
    pub number: u64,
    pub slices: Vec<Slice>,
}

/// A unit's slices decoded, in order.
pub(super) struct Done {
    pub stream: u64,
    pub number: u64,
    pub slices: Result<Vec<Vec<u8>>>,
}

/// The threads. They end after the drop, by themselves: a request that hangs must not hold anybody.
pub(super) struct Decoders(Arc<Shared>);

struct Shared {
    reader: Reader,
    /// As many as may decode at once.
    decoders: Queue<Decoder>,
    asked: Queue<Unit>,
    done: Mutex<VecDeque<Done>>,
    changed: Condvar,
    /// Readable exactly while `done` holds something; changed under its lock alone.
    wake: EventFd,
}

impl Decoders {
    /// Starts all threads: so many to fetch, of which so many may decode at once.
    pub(super) fn start(vault: &Vault, manifest: &Manifest, threads: usize, cores: usize) -> Result<Self> {
        memory::share_one_heap();
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let decoders = (0..cores.max(1)).map(|_| Decoder::new()).collect::<Result<Vec<_>, _>>();
        let shared = Arc::new(Shared {
            reader: Reader::new(vault, manifest),
            decoders: Queue::from_iter(decoders.map_err(ImageError::Start)?),
            asked: Queue::new(),
            done: Mutex::default(),
            changed: Condvar::new(),
            wake: wake.map_err(|e| ImageError::Start(e.into()))?,
        });
        let decoders = Self(shared);
        for _ in 0..threads.max(1) {
            let shared = decoders.0.clone();
            let thread = thread::Builder::new().name("decode".into()).stack_size(STACK);
            thread.spawn(move || work(&shared)).map_err(ImageError::Start)?;
        }
        Ok(decoders)
    }

    pub(super) fn chunks(&self) -> &ChunkTable {
        &self.0.reader.chunks
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
        self.0.decoders.abort();
    }
}

impl Shared {
    fn done(&self) -> MutexGuard<'_, VecDeque<Done>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetch(&self, slices: &[Slice]) -> Result<Vec<Vec<u8>>> {
        let fetched = self.reader.fetch(slices)?;
        let mut decoder = self.decoders.pop().ok_or(ImageError::Ended)?;
        let decoded = self.reader.decode(fetched, slices, &mut decoder);
        self.decoders.push_first(decoder);
        decoded
    }
}

fn work(shared: &Shared) {
    while let Some(Unit { stream, number, slices }) = shared.asked.pop() {
        let slices = shared.fetch(&slices);
        let mut done = shared.done();
        if done.is_empty() {
            // Only a full counter could fail, and it is 0 while nothing is done.
            let _ = shared.wake.write(1);
        }
        done.push_back(Done { stream, number, slices });
        shared.changed.notify_one();
    }
}

/// Reads chunks of a manifest, one request at a time.
struct Reader {
    vault: Vault,
    packs: Vec<PackInfo>,
    chunks: ChunkTable,
}

/// Bytes of a pack, from `start` on.
struct Fetched<'a> {
    pack: &'a PackInfo,
    start: u32,
    data: Vec<u8>,
}

impl Reader {
    fn new(vault: &Vault, manifest: &Manifest) -> Self {
        Self { vault: vault.clone(), packs: manifest.packs.clone(), chunks: manifest.chunks.clone() }
    }

    fn damaged(&self, pack: &PackInfo, flaw: Flaw) -> ImageError {
        ImageError::Damaged { url: self.vault.url().into(), object: pack::key(&pack.id), flaw }
    }

    fn chunk(&self, slice: &Slice) -> Result<ChunkRef> {
        self.chunks.get(slice.chunk).ok_or(ImageError::Ended)
    }

    /// Fetches the chunks of slices of one pack, in its order.
    fn fetch(&self, slices: &[Slice]) -> Result<Fetched<'_>> {
        let first = self.chunk(slices.first().ok_or(ImageError::Ended)?)?;
        let pack = self.packs.get(first.pack as usize).ok_or(ImageError::Ended)?;
        let overhead = self.vault.seal().overhead() as u64;
        let mut end = 0;
        for slice in slices {
            let chunk = self.chunk(slice)?;
            end = end.max(u64::from(chunk.offset) + u64::from(chunk.encoded) + overhead);
        }
        Flaw::bound("end of a chunk", end, pack.size).map_err(|flaw| self.damaged(pack, flaw))?;
        let data = self.vault.store().get_range(&pack::key(&pack.id), first.offset.into()..end)?;
        Ok(Fetched { pack, start: first.offset, data })
    }

    /// Decodes each chunk once, and takes the slices out.
    fn decode(&self, mut fetched: Fetched<'_>, slices: &[Slice], decoder: &mut Decoder) -> Result<Vec<Vec<u8>>> {
        let mut decoded = Vec::with_capacity(slices.len());
        for slices in slices.chunk_by(|a, b| a.chunk == b.chunk) {
            let chunk = self.chunk(&slices[0])?;
            let raw = self.decode_chunk(&mut fetched, &chunk, decoder)?;
            if let [Slice { first: 0, length, .. }] = slices
                && *length == chunk.raw
            {
                decoded.push(raw);
                continue;
            }
            decoded.extend(slices.iter().map(|slice| raw[slice.start()..][..slice.length as usize].to_vec()));
        }
        Ok(decoded)
    }

    fn decode_chunk(&self, fetched: &mut Fetched<'_>, chunk: &ChunkRef, decoder: &mut Decoder) -> Result<Vec<u8>> {
        let Fetched { pack, start, data } = fetched;
        let seal = self.vault.seal();
        let damaged = |flaw| self.damaged(pack, flaw);
        let sealed = &mut data[(chunk.offset - *start) as usize..][..chunk.encoded as usize + seal.overhead()];
        let encoded = seal.open_chunk(&pack.id, chunk.offset, sealed);
        let encoded = encoded.ok_or_else(|| damaged(Flaw::Chunk(chunk.offset.into())))?;
        let raw = decoder.decode(encoded, chunk.raw as usize);
        let raw = raw.ok_or_else(|| damaged(Flaw::ChunkCompression(chunk.offset.into())))?;
        if chunk::chunk_name(seal, &chunk::page_names(seal, &raw)) != chunk.name {
            return Err(damaged(Flaw::Chunk(chunk.offset.into())));
        }
        Ok(raw)
    }
}

/// Reads and checks one chunk of a manifest, given by its index in [`Manifest::chunks`].
pub fn read_chunk(vault: &Vault, manifest: &Manifest, index: u32) -> Result<Vec<u8>> {
    let reader = Reader::new(vault, manifest);
    let length = manifest.chunks.get(index).map_or(0, |chunk| chunk.raw);
    let slice = [Slice { chunk: index, first: 0, length }];
    let fetched = reader.fetch(&slice)?;
    let mut decoder = Decoder::new().map_err(ImageError::Start)?;
    reader.decode(fetched, &slice, &mut decoder).map(|raw| raw.concat())
}
