//! The threads behind an [`ImageWriter`](crate::image::write::writer::ImageWriter): segments of raw pieces go in, packs in the store come out.
//!
//! Everything goes round: a fixed number of segments between the feeder and the encoders, a fixed number of packs between
//! the encoders and the uploads. That bounds the memory and makes whoever is too fast wait. Any error closes all queues,
//! so that nobody waits for what will not come.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use super::packer::{Exchange, Packer, Placed};
use super::page_index::Known;
use super::segment::{Coder, Encoded, Segment};
use crate::image::crypto::vault::Vault;
use crate::image::error::{ImageError, Result};
use crate::image::format::chunk::{self, PAGE};
use crate::image::format::pack::{self, PackInfo};
use crate::image::layout::pack_key;
use crate::image::queue::Queue;
use crate::store::{PutMode, STACK};

/// Bytes of a segment: some chunks, as none goes on in the next one.
pub(crate) const SEGMENT: usize = 1 << 20;
/// Uploads at once; one more pack is being filled.
const UPLOADS: usize = 2;
/// Bytes of memory of an encoder: zstd's tables and its output.
const ENCODER: usize = 2 << 20;
/// Fewest segments that keep all threads busy.
const SEGMENTS_MIN: usize = 4;

/// The encoders and uploads, and what they share.
pub(crate) struct Pipeline {
    shared: Arc<Shared>,
    encoders: Vec<JoinHandle<()>>,
}

struct Shared {
    vault: Vault,
    exchange: Exchange,
    free_segments: Queue<Vec<u8>>,
    segments: Queue<Segment>,
    packer: Mutex<Packer>,
    /// What the manifest is to say of each pack that is in the store.
    uploaded: Mutex<Vec<(usize, PackInfo)>>,
    /// Gets one for each upload thread that has ended.
    over: Queue<()>,
    error: Mutex<Option<ImageError>>,
    ended: AtomicBool,
}

impl Pipeline {
    /// Starts all threads: one encoder for each of `threads` as far as `memory` bytes allow, and the uploads. `packs` are
    /// those of `known`, which has a memory of its own.
    pub(crate) fn start(
        vault: &Vault,
        known: Known,
        packs: Vec<PackInfo>,
        memory: u64,
        threads: usize,
    ) -> Result<Self> {
        let memory = usize::try_from(memory).unwrap_or(usize::MAX).saturating_sub((UPLOADS + 1) * pack::BUFFER);
        let threads = threads.clamp(1, (memory / (2 * ENCODER)).max(1));
        let segments = (memory.saturating_sub(threads * ENCODER) / SEGMENT).max(SEGMENTS_MIN);
        let shared = Arc::new(Shared {
            vault: vault.clone(),
            exchange: Exchange {
                known: RwLock::new(known),
                zero: chunk::page_name(vault.seal(), &[0; PAGE]),
                overhead: vault.seal().overhead(),
                free: Queue::from_iter((0..=UPLOADS).map(|_| Vec::new())),
                full: Queue::new(),
            },
            free_segments: Queue::from_iter((0..segments).map(|_| Vec::new())),
            segments: Queue::new(),
            packer: Mutex::new(Packer::new(packs)),
            uploaded: Mutex::default(),
            over: Queue::new(),
            error: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let mut pipeline = Self { shared, encoders: Vec::new() };
        for _ in 0..threads {
            let coder = Coder::new(vault.seal()).map_err(ImageError::Start)?;
            pipeline.encoders.push(pipeline.spawn("encode", |shared| encode(shared, coder))?);
        }
        for _ in 0..UPLOADS {
            pipeline.spawn("upload", |shared| {
                upload(shared);
                shared.over.push(());
            })?;
        }
        Ok(pipeline)
    }

    fn spawn(&self, name: &str, work: impl FnOnce(&Shared) + Send + 'static) -> Result<JoinHandle<()>> {
        let shared = self.shared.clone();
        let thread = thread::Builder::new().name(name.into()).stack_size(STACK);
        thread.spawn(move || work(&shared)).map_err(ImageError::Start)
    }

    /// An error in any thread, as soon as it is known.
    pub(crate) fn check(&self) -> Result<()> {
        if self.shared.ended.load(Relaxed) { Err(self.shared.take_error()) } else { Ok(()) }
    }

    /// Waits for a buffer of [`SEGMENT`] bytes.
    pub(crate) fn buffer(&self) -> Result<Vec<u8>> {
        match self.shared.free_segments.pop() {
            // All of it is initialised once, by the kernel, and is only ever written over.
            Some(buffer) if buffer.is_empty() => Ok(vec![0; SEGMENT]),
            Some(buffer) => Ok(buffer),
            None => Err(self.shared.take_error()),
        }
    }

    /// Hands a segment to the encoders.
    pub(crate) fn push(&self, segment: Segment) {
        self.shared.segments.push(segment);
    }

    /// Waits until everything is in the store. Of the bodies only those that `ended` count.
    pub(crate) fn finish(mut self, ended: &[bool]) -> Result<Placed> {
        self.shared.segments.close();
        self.encoders.drain(..).for_each(join);
        self.shared.packer().close(&self.shared.exchange);
        self.shared.exchange.full.close();
        // Not by joining: where one has failed, the service need not stand still until another one has as well.
        let all_are_over = (0..UPLOADS).all(|_| self.shared.over.pop().is_some());
        self.check()?;
        if !all_are_over {
            return Err(ImageError::Ended);
        }
        for (number, info) in self.shared.uploaded().drain(..) {
            self.shared.packer().packs[number] = info;
        }
        let known = self.shared.exchange.known.read().unwrap_or_else(PoisonError::into_inner);
        Ok(self.shared.packer().finish(&known, ended))
    }
}

/// A writer that is given up must not leave threads waiting. An upload that is under way ends by itself.
impl Drop for Pipeline {
    fn drop(&mut self) {
        self.shared.end();
    }
}

fn join(thread: JoinHandle<()>) {
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Shared {
    fn packer(&self) -> MutexGuard<'_, Packer> {
        self.packer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uploaded(&self) -> MutexGuard<'_, Vec<(usize, PackInfo)>> {
        self.uploaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self) -> MutexGuard<'_, Option<ImageError>> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_error(&self) -> ImageError {
        self.error().take().unwrap_or(ImageError::Ended)
    }

    /// Keeps the first error for whoever asks next, and ends everything.
    fn fail(&self, error: ImageError) {
        self.error().get_or_insert(error);
        self.end();
    }

    fn end(&self) {
        self.ended.store(true, Relaxed);
        self.segments.abort();
        self.exchange.full.abort();
        self.over.abort();
        self.free_segments.abort();
        self.exchange.free.abort();
    }

    /// Packs a segment as soon as all before it are packed.
    fn pack(&self, segment: Encoded) -> Result<()> {
        let mut packer = self.packer();
        packer.add(segment);
        while let Some(segment) = packer.take_next() {
            packer.place(&self.exchange, &segment)?;
            self.free_segments.push_first(segment.buffer);
        }
        Ok(())
    }
}

fn encode(shared: &Shared, mut coder: Coder) {
    while let Some(segment) = shared.segments.pop() {
        let encoded = coder.encode(segment, &shared.exchange.known);
        if let Err(error) = shared.pack(encoded) {
            shared.fail(error);
        }
    }
}

/// Seals and uploads packs. What sealing takes is no encoder's time, and is under no lock; the packer's least of all, as whoever
/// holds that may wait for a pack.
fn upload(shared: &Shared) {
    while let Some((number, id, pack)) = shared.exchange.full.pop() {
        let (data, info) = pack.finish(shared.vault.seal(), &id);
        let data = Bytes::from(data);
        match shared.vault.store().put(&pack_key(&id), data.clone(), PutMode::Create) {
            Ok(()) => {
                shared.uploaded().push((number, info));
                shared.exchange.free.push_first(data.into());
            }
            Err(error) => shared.fail(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::test_vault;
    use crate::image::write::segment::{Content, Piece};

    #[test]
    fn segments_are_packed_in_order_whichever_is_encoded_first() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let pipeline = Pipeline::start(&vault, Known::new(1 << 20), Vec::new(), 64 << 20, 1).unwrap();
        for (sequence, raw) in [(2, &b"three"[..]), (0, b"one"), (1, b"to")] {
            let pieces = vec![Piece { body: 0, content: Content::Data(0..raw.len()) }];
            let segment = Segment { sequence, buffer: raw.to_vec(), pieces };
            let encoded = Coder::new(vault.seal()).unwrap().encode(segment, &pipeline.shared.exchange.known);
            pipeline.shared.pack(encoded).unwrap();
        }
        let placed = pipeline.finish(&[true]).unwrap();
        let chunks: Vec<_> = placed.chunks.iter().map(|chunk| (chunk.offset, chunk.encoded)).collect();
        assert_eq!(chunks, [(8, 3), (11, 2), (13, 5)]);
        assert_eq!(placed.bodies[0].size(), 10);
    }
}
