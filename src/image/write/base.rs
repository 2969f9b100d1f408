//! Finds out, before anything is frozen, which pages the newest generation has stored already.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::page_index::Known;
use crate::image::crypto::vault::Vault;
use crate::image::error::{ImageError, Result};
use crate::image::format::body::Extent;
use crate::image::format::chunk::{self, Name, PAGE};
use crate::image::format::chunk_table::ChunkRef;
use crate::image::format::manifest::Manifest;
use crate::image::format::pack::{Entry, PackInfo};
use crate::image::read::index::read_index;
use crate::store::{STACK, StoreError};

/// A chunk of which less than one in so many bytes is used, and a pack of which less is in such chunks, is stored anew as far
/// as it is used: each old chunk costs its whole decoding at a restore, and each old pack its space. So over many generations
/// no more than twice what changes is written, and no more than three times what comes out is decoded.
const CHUNK_ONE_IN: u64 = 3;
const PACK_ONE_IN: u64 = 4;
/// Where more than so many packs are smaller than this, they are stored anew, as one: a service of which little changes would
/// else gather one for each generation.
const SMALL_MAX: usize = 64;
const SMALL: u64 = 1 << 20;
/// Packs whose indexes may be read before that of an earlier one is there.
const AHEAD: usize = 32;

/// The pages of the newest generation, as far as they fit into `memory` bytes, and its packs.
///
/// Where that generation is damaged, what is damaged counts as not stored: the next one will be whole.
pub(crate) fn recall(vault: &Vault, memory: u64) -> Result<(Known, Vec<PackInfo>)> {
    let known = Known::new(memory);
    let manifest = match Manifest::load(vault, None) {
        Ok(Some(manifest)) => manifest,
        Ok(None) | Err(ImageError::Damaged { .. } | ImageError::NoManifest { .. }) => return Ok((known, Vec::new())),
        Err(error) => return Err(error),
    };
    let zero = chunk::page_name(vault.seal(), &[0; PAGE]);
    let sink = Mutex::new(Sink { known, zero, next: 0, early: BTreeMap::new(), failed: false });
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
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Err(ImageError::Ended)))
    })?;
    let sink = work.sink.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((sink.known, manifest.packs))
}

/// A chunk that the manifest refers to, and how many of its bytes it uses.
struct Used {
    chunk: ChunkRef,
    bytes: u64,
}

/// All used chunks, by pack and offset.
fn used(manifest: &Manifest) -> Vec<Vec<Used>> {
    let mut bytes = vec![0; manifest.chunks.len()];
    for extent in manifest.bodies().flat_map(|body| body.extents()) {
        if let Extent::Slice(slice) = extent {
            bytes[slice.chunk as usize] += u64::from(slice.length);
        }
    }
    let mut packs: Vec<Vec<Used>> = manifest.packs.iter().map(|_| Vec::new()).collect();
    for (chunk, bytes) in manifest.chunks.iter().zip(bytes) {
        packs[chunk.pack as usize].push(Used { chunk, bytes: bytes.min(chunk.raw.into()) });
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

    /// Lets nobody read far ahead of the slowest: what comes early is held in memory.
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

    fn chunks(&self, number: usize, info: &PackInfo) -> Result<Vec<(ChunkRef, Vec<Name>)>> {
        match read_index(self.vault, info) {
            Ok(entries) => Ok(self.genuine(entries, &self.used[number])),
            Err(error) if is_damage(&error) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// What is worth it, and is what the manifest says.
    fn genuine(&self, entries: Vec<Entry>, used: &[Used]) -> Vec<(ChunkRef, Vec<Name>)> {
        let mut worth = worth_keeping(entries, used);
        worth.retain(|(chunk, pages)| chunk::chunk_name(self.vault.seal(), pages) == chunk.name);
        worth
    }
}

fn is_damage(error: &ImageError) -> bool {
    use StoreError::{NotFound, OutOfRange};
    matches!(error, ImageError::Damaged { .. } | ImageError::Store(NotFound { .. } | OutOfRange { .. }))
}

/// Takes the packs in their order, whichever is read first: of equal pages the first is found, and always the same.
struct Sink {
    known: Known,
    zero: Name,
    next: usize,
    early: BTreeMap<usize, Vec<(ChunkRef, Vec<Name>)>>,
    /// A thread has given up, so that no turn may come.
    failed: bool,
}

impl Sink {
    fn add(&mut self, number: usize, chunks: Vec<(ChunkRef, Vec<Name>)>) {
        self.early.insert(number, chunks);
        while let Some(chunks) = self.early.remove(&self.next) {
            self.next += 1;
            for (chunk, pages) in chunks {
                self.known.add(chunk, &pages, &self.zero);
            }
        }
    }
}

/// The chunks of a pack of which enough is used, if enough of the pack is.
fn worth_keeping(entries: Vec<Entry>, used: &[Used]) -> Vec<(ChunkRef, Vec<Name>)> {
    let all: u64 = entries.iter().map(|entry| u64::from(entry.raw)).sum();
    let mut kept_bytes = 0;
    let keep = |entry: Entry| {
        let at = used.binary_search_by_key(&entry.offset, |used| used.chunk.offset).ok()?;
        let Used { chunk, bytes } = &used[at];
        let same = chunk.encoded == entry.encoded && chunk.raw == entry.raw;
        let enough = bytes * CHUNK_ONE_IN >= u64::from(chunk.raw);
        kept_bytes += if same && enough { *bytes } else { 0 };
        (same && enough).then_some((*chunk, entry.pages))
    };
    let kept: Vec<_> = entries.into_iter().filter_map(keep).collect();
    if kept_bytes * PACK_ONE_IN < all { Vec::new() } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which chunks are kept of a pack of so many pages a chunk, so many of them used.
    fn kept(chunks: &[(u32, u64)]) -> Vec<u32> {
        let chunk = |at: usize, raw| ChunkRef { pack: 0, offset: at as u32, encoded: 1, raw, name: [0; 16] };
        let entry = |(at, (raw, _)): (usize, &(u32, u64))| Entry {
            offset: at as u32,
            encoded: 1,
            raw: *raw,
            pages: Vec::new(),
        };
        let used = |(at, (raw, bytes)): (usize, &(u32, u64))| Used { chunk: chunk(at, *raw), bytes: *bytes };
        let entries: Vec<_> = chunks.iter().enumerate().map(entry).collect();
        let used: Vec<_> = chunks.iter().enumerate().filter(|(_, (_, bytes))| *bytes > 0).map(used).collect();
        worth_keeping(entries, &used).iter().map(|(chunk, _)| chunk.offset).collect()
    }

    #[test]
    fn what_is_mostly_unused_is_stored_anew() {
        assert_eq!(kept(&[(9, 9), (9, 3), (9, 2), (9, 8)]), [0, 1, 3]);
        assert_eq!(kept(&[(9, 9), (9, 0), (9, 2), (9, 0)]), [0]);
        assert!(kept(&[(9, 8), (9, 2), (9, 2), (9, 0)]).is_empty() && kept(&[]).is_empty());
    }
}
