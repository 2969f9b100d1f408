//! The threads behind a [`Fetcher`](crate::image::read::fetcher::Fetcher). Each fetches a range of a pack,
//! decodes its chunks, checks their names, and returns the requested slices. Many threads wait for the store;
//! at most one per core decodes.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::image::crypto::vault::Vault;
use crate::image::error::{Flaw, ImageError, Result};
use crate::image::format::body::Slice;
use crate::image::format::chunk;
use crate::image::format::chunk_table::{ChunkRef, ChunkTable};
use crate::image::format::codec::Decoder;
use crate::image::format::manifest::Manifest;
use crate::image::format::pack::PackInfo;
use crate::image::layout::pack_key;
use crate::store::{STACK, Store};
use crate::sys::memory;

/// Slices of one pack, ordered by their chunks' place in it. One request to the store fetches them.
pub(crate) struct Unit {
    pub reader: Arc<Reader>,
    pub stream: u64,
    pub number: u64,
    pub slices: Vec<Slice>,
}

/// The decoded slices of a unit, in its order.
pub(crate) struct Done {
    pub stream: u64,
    pub number: u64,
    pub slices: Result<Vec<Vec<u8>>>,
}

/// Threads for one [`Fetcher`](crate::image::read::fetcher::Fetcher) after another. They can start before it
/// is known what will be read. They end by themselves after the drop, which joins none: a request may hang.
pub struct FetchThreads {
    shared: Arc<Shared>,
    /// Number of threads.
    count: usize,
    /// Source of stream IDs. IDs are never reused, so a late reply cannot reach the next fetcher's stream.
    streams: AtomicU64,
    asked: Sender<Unit>,
    /// Units that no thread has taken.
    waiting: Receiver<Unit>,
}

struct Shared {
    /// Pool of decoders. Its size bounds how many threads decode at once.
    free: Receiver<Decoder>,
    used: Sender<Decoder>,
    done: Mutex<VecDeque<Done>>,
    changed: Condvar,
    /// Readable exactly while `done` is not empty; changed only under its lock.
    wake: EventFd,
}

impl FetchThreads {
    /// Starts one thread per concurrent request of `store`, but at least `cores`. At most `cores` decode at
    /// once.
    pub fn start(store: &dyn Store, cores: usize) -> Result<Self> {
        let (count, cores) = (store.concurrency().max(cores).max(1), cores.max(1));
        memory::share_one_heap();
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let (used, free) = bounded(cores);
        for _ in 0..cores {
            let _ = used.send(Decoder::new().map_err(ImageError::Start)?);
        }
        let shared = Arc::new(Shared {
            free,
            used,
            done: Mutex::default(),
            changed: Condvar::new(),
            wake: wake.map_err(|e| ImageError::Start(e.into()))?,
        });
        let (asked, waiting) = unbounded();
        let started = Self { shared, count, streams: AtomicU64::new(0), asked, waiting };
        for _ in 0..count {
            let (shared, asked) = (started.shared.clone(), started.waiting.clone());
            let thread = thread::Builder::new().name("decode".into()).stack_size(STACK);
            thread.spawn(move || asked.iter().for_each(|unit| work(&shared, unit))).map_err(ImageError::Start)?;
        }
        Ok(started)
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn next_stream(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn ask(&self, unit: Unit) {
        // Cannot fail: `self.waiting` keeps the channel open.
        let _ = self.asked.send(unit);
    }

    /// All units done since the last call.
    pub(crate) fn take(&self) -> VecDeque<Done> {
        let mut done = self.shared.done();
        if !done.is_empty() {
            let _ = self.shared.wake.read();
        }
        std::mem::take(&mut done)
    }

    /// Blocks until [`take`](Self::take) has something to return.
    pub(crate) fn wait(&self) {
        let mut done = self.shared.done();
        while done.is_empty() {
            done = self.shared.changed.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }
}

impl Drop for FetchThreads {
    fn drop(&mut self) {
        self.waiting.try_iter().for_each(drop);
    }
}

impl Shared {
    fn done(&self) -> MutexGuard<'_, VecDeque<Done>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// If a cached copy of the pack is damaged, reads again from the store itself.
    fn fetch(&self, reader: &Reader, slices: &[Slice]) -> Result<Vec<Vec<u8>>> {
        match self.fetch_once(reader, slices) {
            Err(ImageError::Damaged { object, .. }) if reader.vault.store().forget_copy(&object) => {
                self.fetch_once(reader, slices)
            }
            result => result,
        }
    }

    fn fetch_once(&self, reader: &Reader, slices: &[Slice]) -> Result<Vec<Vec<u8>>> {
        let fetched = reader.fetch(slices)?;
        let mut decoder = self.free.recv().map_err(|_| ImageError::Ended)?;
        let decoded = reader.decode(fetched, slices, &mut decoder);
        let _ = self.used.send(decoder);
        decoded
    }
}

fn work(shared: &Shared, Unit { reader, stream, number, slices }: Unit) {
    let slices = shared.fetch(&reader, &slices);
    drop(reader);
    let mut done = shared.done();
    if done.is_empty() {
        // Fails only for a full counter, and the counter is 0 while `done` is empty.
        let _ = shared.wake.write(1);
    }
    done.push_back(Done { stream, number, slices });
    shared.changed.notify_one();
}

/// Reads chunks of a manifest, by one request for each unit.
pub(crate) struct Reader {
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
    pub(crate) fn new(vault: &Vault, manifest: &Manifest) -> Self {
        Self { vault: vault.clone(), packs: manifest.packs.clone(), chunks: manifest.chunks.clone() }
    }

    pub(crate) fn chunks(&self) -> &ChunkTable {
        &self.chunks
    }

    fn damaged(&self, pack: &PackInfo, flaw: Flaw) -> ImageError {
        ImageError::Damaged { url: self.vault.url().into(), object: pack_key(&pack.id), flaw }
    }

    fn chunk(&self, slice: &Slice) -> Result<ChunkRef> {
        self.chunks.get(slice.chunk).ok_or(ImageError::Ended)
    }

    /// Fetches the chunks of `slices`, which are of one pack and in its order.
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
        let data = self.vault.store().get_range(&pack_key(&pack.id), first.offset.into()..end)?;
        Ok(Fetched { pack, start: first.offset, data })
    }

    /// Decodes each chunk once and cuts out the slices.
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::fuzz;
    use crate::image::crypto::keys::KeyFiles;
    use crate::image::format::body::Body;
    use crate::image::format::check;
    use crate::image::format::manifest::CriuImage;
    use crate::image::format::pack::LIMIT;
    use crate::image::layout::manifest_key;
    use crate::image::ownership::generation::commit;
    use crate::image::ownership::lease::Lease;
    use crate::image::read::audit::audit_pack;
    use crate::image::read::fetcher::Fetcher;
    use crate::image::write::base;
    use crate::image::write::writer::ImageWriter;
    use crate::store::{self, CachedStore, Location, PutMode};

    const MEMORY: u64 = 8 << 20;

    fn keys(folder: &std::path::Path, encrypt: bool) -> KeyFiles {
        KeyFiles { passphrase_file: None, key_file: encrypt.then(|| folder.join("key")) }
    }

    /// A store with one generation.
    fn generation(folder: &std::path::Path, encrypt: bool) -> (Vault, Manifest) {
        std::fs::write(folder.join("key"), [7; 32]).unwrap();
        let store = store::open(&Location::at(&format!("file:{}/store", folder.display()))).unwrap();
        let vault = Vault::create(store, &keys(folder, encrypt)).unwrap();
        let writer = ImageWriter::new(&vault, 64 << 20, 1).unwrap();
        let mut noise = vec![0; 50_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let ids = [noise.clone(), b"text that shrinks ".repeat(2000), vec![], noise].map(|data| {
            let mut body = writer.begin();
            body.write_all(&data).unwrap();
            body.finish().unwrap()
        });
        let mut written = writer.finish().unwrap();
        let image = |(at, id)| CriuImage { name: format!("pages-{at}.img"), body: Some(written.take(id)) };
        let images = (0..).zip(ids).map(image).collect();
        let (packs, chunks) = (written.packs, written.chunks);
        let mut manifest = Manifest { images, packs, chunks, ..Manifest::default() };
        commit(&vault, &mut manifest, Lease::fresh(), Instant::now()).unwrap();
        (vault, manifest)
    }

    /// Damages the chunk table, a pack entry or a body. None if the check refuses the result.
    fn forge(manifest: &Manifest, what: usize, edits: &[fuzz::Edit]) -> Option<Manifest> {
        let mut forged = manifest.clone();
        match what {
            0 => forged.chunks = ChunkTable::decode(&*fuzz::damaged(&forged.chunks.encode_to_vec(), edits)).ok()?,
            1 => forged.packs[0] = PackInfo::decode(&*fuzz::damaged(&forged.packs[0].encode_to_vec(), edits)).ok()?,
            _ => {
                let body = &mut forged.images[what % manifest.images.len()].body;
                *body = Some(Body::decode(&*fuzz::damaged(&body.as_ref()?.encode_to_vec(), edits)).ok()?);
            }
        }
        check::manifest(&forged, 1).ok()?;
        Some(forged)
    }

    fn read_all(vault: &Vault, manifest: &Manifest) -> Result<()> {
        let mut fetcher = Fetcher::new(vault, manifest, MEMORY, 1)?;
        for body in manifest.bodies().filter(|body| body.size() < MEMORY) {
            assert_eq!(fetcher.read_to_vec(body, "the body", MEMORY)?.len() as u64, body.size());
        }
        Ok(())
    }

    fn put(vault: &Vault, key: &str, data: Vec<u8>) {
        vault.store().delete(key).unwrap();
        vault.store().put(key, data.into(), PutMode::Create).unwrap();
    }

    #[test]
    fn a_damaged_copy_of_a_pack_is_fetched_again_and_a_damaged_pack_is_refused() {
        for encrypt in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let (vault, manifest) = generation(folder.path(), encrypt);
            let pack = &manifest.packs[0];
            let (whole, _) = vault.store().get(&pack.key(), LIMIT).unwrap();
            let damaged: Vec<u8> = whole.iter().map(|byte| !byte).collect();
            let cache = folder.path().join("cache");
            let cached = Arc::new(CachedStore::new(vault.store().clone(), &cache, 1 << 30).unwrap());
            // The cached copy is damaged; the object itself is intact, then damaged too.
            for (copy, object, is_read) in [(&damaged, &whole, true), (&damaged, &damaged, false)] {
                put(&vault, &pack.key(), copy.clone());
                cached.want([(pack.key(), pack.size)]);
                while !cached.is_settled() {
                    thread::yield_now();
                }
                put(&vault, &pack.key(), object.clone());
                let through = Vault::open(cached.clone(), &keys(folder.path(), encrypt)).unwrap().unwrap();
                assert_eq!(read_all(&through, &manifest).is_ok(), is_read);
            }
        }
    }

    #[test]
    fn fuzz_forged_slices_are_read_in_their_length_or_refused() {
        for encrypt in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let (vault, manifest) = generation(folder.path(), encrypt);
            read_all(&vault, &manifest).unwrap();
            proptest!(|(what in 0usize..6, edits in fuzz::edits())| {
                if let Some(forged) = forge(&manifest, what, &edits) {
                    let _ = read_all(&vault, &forged);
                    put(&vault, &manifest_key(1), forged.encode(vault.seal()));
                    base::load(&vault, 1 << 20).unwrap();
                }
            });
        }
    }

    #[test]
    fn fuzz_a_damaged_pack_is_read_right_or_refused() {
        for encrypt in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let (vault, manifest) = generation(folder.path(), encrypt);
            let key = pack_key(&manifest.packs[0].id);
            let (whole, _) = vault.store().get(&key, LIMIT).unwrap();
            let chunks: Vec<_> =
                (0..manifest.chunks.len() as u32).map(|n| read_chunk(&vault, &manifest, n).unwrap()).collect();
            proptest!(|(edits in fuzz::edits())| {
                put(&vault, &key, fuzz::damaged(&whole, &edits));
                for (number, chunk) in (0..).zip(&chunks) {
                    if let Ok(read) = read_chunk(&vault, &manifest, number) {
                        prop_assert!(read == *chunk);
                    }
                }
                let _ = audit_pack(&vault, &manifest.packs[0]);
                base::load(&vault, 1 << 20).unwrap();
            });
        }
    }
}
