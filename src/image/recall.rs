//! Finds out, before anything is frozen, which pages the newest generation has stored already.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::Result;
use super::body::Extent;
use super::chunk::{self, PAGE};
use super::error::ImageError;
use super::known::Known;
use super::manifest::{Manifest, PackInfo};
use super::pack::{self, Entry};
use super::table::ChunkRef;
use super::vault::Vault;
use crate::store::StoreError;

/// What is less than one in this many used is stored anew where it is still used: each old chunk costs its whole decoding at
/// a restore, and each old pack its space. So no page is written more than twice for each time that it changes.
const USED_ONE_IN: u64 = 2;

/// The pages of the newest generation, as far as they fit into `memory` bytes, and its packs.
///
/// Where that generation is damaged, what is damaged counts as not stored: the next one will be whole.
pub(super) fn recall(vault: &Vault, memory: u64) -> Result<(Known, Vec<PackInfo>)> {
    let mut known = Known::new(memory);
    let manifest = match Manifest::load(vault, None) {
        Ok(Some(manifest)) => manifest,
        Ok(None) | Err(ImageError::Damaged { .. } | ImageError::NoManifest { .. }) => return Ok((known, Vec::new())),
        Err(error) => return Err(error),
    };
    let used = used(&manifest);
    let work = Work { vault, manifest: &manifest, used, next: AtomicUsize::new(0), known: Mutex::new(&mut known) };
    let threads = vault.store().concurrency().clamp(1, manifest.packs.len().max(1));
    thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, || work.run());
        let threads: Vec<_> = (0..threads).map(spawn).collect::<Result<_, _>>().map_err(ImageError::Start)?;
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Err(ImageError::Ended)))
    })?;
    Ok((known, manifest.packs))
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
    known: Mutex<&'a mut Known>,
}

impl Work<'_> {
    fn run(&self) -> Result<()> {
        let zero = chunk::page_name(self.vault.seal(), &[0; PAGE]);
        loop {
            let number = self.next.fetch_add(1, Relaxed);
            let Some(info) = self.manifest.packs.get(number) else { return Ok(()) };
            let entries = match pack::read_index(self.vault, info) {
                Err(ImageError::Damaged { .. } | ImageError::Store(StoreError::NotFound { .. })) => continue,
                result => result?,
            };
            let worth = worth_keeping(&entries, &self.used[number]);
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            for (entry, chunk) in worth {
                if chunk::chunk_name(self.vault.seal(), &entry.pages) == chunk.name {
                    known.add(*chunk, &entry.pages, &zero);
                }
            }
        }
    }
}

/// The chunks of a pack of which enough is used, if enough of the pack is.
fn worth_keeping<'a>(entries: &'a [Entry], used: &'a [Used]) -> Vec<(&'a Entry, &'a ChunkRef)> {
    let find = |entry: &Entry| {
        let at = used.binary_search_by_key(&entry.offset, |used| used.chunk.offset).ok()?;
        let Used { chunk, bytes } = &used[at];
        (chunk.encoded == entry.encoded && chunk.raw == entry.raw).then_some((chunk, *bytes))
    };
    let worth = |entry: &'a Entry| {
        let (chunk, bytes) = find(entry)?;
        (bytes * USED_ONE_IN >= u64::from(chunk.raw)).then_some((entry, chunk, bytes))
    };
    let kept: Vec<_> = entries.iter().filter_map(worth).collect();
    let all: u64 = entries.iter().map(|entry| u64::from(entry.raw)).sum();
    if kept.iter().map(|(.., bytes)| bytes).sum::<u64>() * USED_ONE_IN < all {
        return Vec::new();
    }
    kept.into_iter().map(|(entry, chunk, _)| (entry, chunk)).collect()
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
        worth_keeping(&entries, &used).iter().map(|(entry, _)| entry.offset).collect()
    }

    #[test]
    fn what_is_mostly_unused_is_stored_anew() {
        assert_eq!(kept(&[(10, 10), (10, 5), (10, 4), (10, 9)]), [0, 1, 3]);
        assert_eq!(kept(&[(10, 10), (10, 0)]), [0]);
        assert!(kept(&[(10, 10), (10, 4), (10, 4)]).is_empty() && kept(&[]).is_empty());
    }
}
