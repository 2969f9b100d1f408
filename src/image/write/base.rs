//! Reads the base, the newest generation, before the service is frozen: its chunks, and an index of their pages.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::page_index::PageIndex;
use crate::image::crypto::vault::Vault;
use crate::image::error::{ImageError, Result};
use crate::image::format::body::{Extent, Slice};
use crate::image::format::chunk::{self, Name, PAGE};
use crate::image::format::chunk_table::ChunkRef;
use crate::image::format::manifest::Manifest;
use crate::image::format::pack::{Entry, PackInfo};
use crate::image::read::index::read_index;
use crate::store::{STACK, StoreError};

/// A chunk is stored anew if less than 1 in `CHUNK_ONE_IN` of its bytes is used: a restore decodes a whole
/// chunk. A pack is stored anew if the used bytes of its kept chunks are less than 1 in `PACK_ONE_IN`: an old
/// pack costs space. So over many generations freeze writes at most twice what changes, and decodes at most
/// three times what it restores.
const CHUNK_ONE_IN: u64 = 3;
const PACK_ONE_IN: u64 = 4;
/// If more than `SMALL_MAX` packs are smaller than `SMALL` bytes, they are stored anew as one. Otherwise a
/// service that changes little adds one small pack per generation.
const SMALL_MAX: usize = 64;
const SMALL: u64 = 1 << 20;
/// Most indexes that may be read ahead of the slowest one.
const AHEAD: usize = 32;

/// The base, as far as its chunks are worth keeping.
pub(crate) struct Base {
    pub(crate) index: PageIndex,
    pub(crate) packs: Vec<PackInfo>,
    pub(crate) chunks: BaseChunks,
}

/// The chunks of a base in the page index: bodies can refer to those without reading a page.
#[derive(Debug, Default)]
pub struct BaseChunks {
    /// 0 without a base.
    generation: u64,
    /// The number in the index of each chunk of the manifest that is kept.
    numbers: Vec<Option<u32>>,
}

impl BaseChunks {
    /// Whether they are those of this generation.
    pub fn are_of(&self, generation: u64) -> bool {
        self.generation == generation
    }

    /// A slice of the base's manifest as one of the index. None if its chunk is not kept.
    pub(crate) fn slice(&self, slice: Slice) -> Option<Slice> {
        let chunk = (*self.numbers.get(slice.chunk as usize)?)?;
        Some(Slice { chunk, ..slice })
    }
}

/// The base with a page index of about `memory` bytes.
///
/// Damaged parts count as not stored, so the next generation is intact.
pub(crate) fn load(vault: &Vault, memory: u64) -> Result<Base> {
    let known = PageIndex::new(memory);
    let manifest = match Manifest::load(vault, None) {
        Ok(Some(manifest)) => manifest,
        Ok(None) | Err(ImageError::Damaged { .. } | ImageError::NoManifest { .. }) => {
            return Ok(Base { index: known, packs: Vec::new(), chunks: BaseChunks::default() });
        }
        Err(error) => return Err(error),
    };
    let zero = chunk::page_name(vault.seal(), &[0; PAGE]);
    let numbers = vec![None; manifest.chunks.len()];
    let sink = Mutex::new(Sink { known, numbers, zero, next: 0, early: BTreeMap::new(), failed: false });
    let work = Work {
        vault,
        manifest: &manifest,
        used: used(&manifest),
        next: AtomicUsize::new(0),
        sink,
        turn: Condvar::new(),
    };
    let threads = vault.store().concurrency().clamp(1, manifest.packs.len().max(1));
    thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || work.run());
        let threads: Vec<_> = (0..threads).map(spawn).collect::<Result<_, _>>().map_err(ImageError::Start)?;
        let errors = threads.into_iter().filter_map(|thread| thread.join().unwrap_or(Err(ImageError::Ended)).err());
        // A thread that another one's failure has ended does not know the cause.
        errors.min_by_key(|error| matches!(error, ImageError::Ended)).map_or(Ok(()), Err)
    })?;
    let sink = work.sink.into_inner().unwrap_or_else(PoisonError::into_inner);
    let chunks = BaseChunks { generation: manifest.generation, numbers: sink.numbers };
    Ok(Base { index: sink.known, packs: manifest.packs, chunks })
}

/// A chunk of the manifest, and the bytes that bodies use of it. Repeated uses count, up to its size.
struct Used {
    /// Its index there.
    at: u32,
    chunk: ChunkRef,
    bytes: u64,
}

/// The used chunks of each pack, by offset.
fn used(manifest: &Manifest) -> Vec<Vec<Used>> {
    let mut bytes = vec![0; manifest.chunks.len()];
    for extent in manifest.bodies().flat_map(|body| body.extents()) {
        if let Extent::Slice(slice) = extent {
            bytes[slice.chunk as usize] += u64::from(slice.length);
        }
    }
    let mut packs: Vec<Vec<Used>> = manifest.packs.iter().map(|_| Vec::new()).collect();
    for (at, (chunk, bytes)) in (0..).zip(manifest.chunks.iter().zip(bytes)) {
        packs[chunk.pack as usize].push(Used { at, chunk, bytes: bytes.min(chunk.raw.into()) });
    }
    packs.iter_mut().for_each(|pack| pack.sort_by_key(|used| used.chunk.offset));
    packs
}

struct Work<'a> {
    vault: &'a Vault,
    manifest: &'a Manifest,
    used: Vec<Vec<Used>>,
    next: AtomicUsize,
    sink: Mutex<Sink>,
    turn: Condvar,
}

impl Work<'_> {
    fn run(&self) -> Result<()> {
        loop {
            let number = self.next.fetch_add(1, Relaxed);
            let Some(info) = self.manifest.packs.get(number) else { return Ok(()) };
            self.wait_for_turn(number)?;
            let chunks = if self.forgets(info) { Ok(Vec::new()) } else { self.chunks(number, info) };
            let mut sink = self.sink();
            sink.failed |= chunks.is_err();
            self.turn.notify_all();
            sink.add(number, chunks?);
        }
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bounds the lead over the slowest thread: early results are kept in memory.
    fn wait_for_turn(&self, number: usize) -> Result<()> {
        let mut sink = self.sink();
        while number >= sink.next + AHEAD && !sink.failed {
            sink = self.turn.wait(sink).unwrap_or_else(PoisonError::into_inner);
        }
        if sink.failed { Err(ImageError::Ended) } else { Ok(()) }
    }

    fn forgets(&self, info: &PackInfo) -> bool {
        let is_small = |info: &PackInfo| info.size < SMALL;
        is_small(info) && self.manifest.packs.iter().filter(|info| is_small(info)).count() > SMALL_MAX
    }

    fn chunks(&self, number: usize, info: &PackInfo) -> Result<Vec<Kept>> {
        match read_index(self.vault, info) {
            Ok(entries) => Ok(self.genuine(entries, &self.used[number])),
            Err(error) if is_damage(&error) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The chunks worth keeping whose names match the manifest.
    fn genuine(&self, entries: Vec<Entry>, used: &[Used]) -> Vec<Kept> {
        let mut worth = worth_keeping(entries, used);
        worth.retain(|(_, chunk, pages)| chunk::chunk_name(self.vault.seal(), pages) == chunk.name);
        worth
    }
}

fn is_damage(error: &ImageError) -> bool {
    use StoreError::{NotFound, OutOfRange};
    matches!(error, ImageError::Damaged { .. } | ImageError::Store(NotFound { .. } | OutOfRange { .. }))
}

/// Adds packs in the manifest's order, so of equal pages always the same one is found.
struct Sink {
    known: PageIndex,
    numbers: Vec<Option<u32>>,
    zero: Name,
    next: usize,
    early: BTreeMap<usize, Vec<Kept>>,
    /// A thread has failed, so a turn may never come.
    failed: bool,
}

impl Sink {
    fn add(&mut self, number: usize, chunks: Vec<Kept>) {
        self.early.insert(number, chunks);
        while let Some(chunks) = self.early.remove(&self.next) {
            self.next += 1;
            for (at, chunk, pages) in chunks {
                self.numbers[at as usize] = Some(self.known.add(chunk, &pages, &self.zero));
            }
        }
    }
}

/// A chunk's index in the manifest, its place, and the names of its pages.
type Kept = (u32, ChunkRef, Vec<Name>);

/// The chunks of a pack that are worth keeping; none if too little of the pack is used.
fn worth_keeping(entries: Vec<Entry>, used: &[Used]) -> Vec<Kept> {
    let all: u64 = entries.iter().map(|entry| u64::from(entry.raw)).sum();
    let mut kept_bytes = 0;
    let keep = |entry: Entry| {
        let at = used.binary_search_by_key(&entry.offset, |used| used.chunk.offset).ok()?;
        let Used { at, chunk, bytes } = &used[at];
        let same = chunk.encoded == entry.encoded && chunk.raw == entry.raw;
        let enough = bytes * CHUNK_ONE_IN >= u64::from(chunk.raw);
        kept_bytes += if same && enough { *bytes } else { 0 };
        (same && enough).then_some((*at, *chunk, entry.pages))
    };
    let kept: Vec<_> = entries.into_iter().filter_map(keep).collect();
    if kept_bytes * PACK_ONE_IN < all { Vec::new() } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets of the kept chunks of a pack, given raw and used bytes of each.
    fn kept(chunks: &[(u32, u64)]) -> Vec<u32> {
        let chunk = |at: usize, raw| ChunkRef { pack: 0, offset: at as u32, encoded: 1, raw, name: [0; 16] };
        let entry = |(at, (raw, _)): (usize, &(u32, u64))| Entry {
            offset: at as u32,
            encoded: 1,
            raw: *raw,
            pages: Vec::new(),
        };
        let used =
            |(at, (raw, bytes)): (usize, &(u32, u64))| Used { at: at as u32, chunk: chunk(at, *raw), bytes: *bytes };
        let entries: Vec<_> = chunks.iter().enumerate().map(entry).collect();
        let used: Vec<_> = chunks.iter().enumerate().filter(|(_, (_, bytes))| *bytes > 0).map(used).collect();
        worth_keeping(entries, &used).iter().map(|(_, chunk, _)| chunk.offset).collect()
    }

    #[test]
    fn what_is_mostly_unused_is_stored_anew() {
        assert_eq!(kept(&[(9, 9), (9, 3), (9, 2), (9, 8)]), [0, 1, 3]);
        assert_eq!(kept(&[(9, 9), (9, 0), (9, 2), (9, 0)]), [0]);
        assert!(kept(&[(9, 8), (9, 2), (9, 2), (9, 0)]).is_empty() && kept(&[]).is_empty());
    }
}
