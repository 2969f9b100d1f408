//! The threads behind an [`ImageWriter`](super::ImageWriter): segments of raw pieces go in, packs in the store come out.
//!
//! Everything goes round: a fixed number of segments between the feeder and the encoders, a fixed number of packs between
//! the encoders and the uploads. That bounds the memory and makes whoever is too fast wait. Any error closes all queues,
//! so that nobody waits for what will not come.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use super::body::ChunkRef;
use super::codec::Encoder;
use super::error::ImageError;
use super::manifest::PackInfo;
use super::queue::Queue;
use super::vault::Vault;
use super::{Result, chunk, pack};
use crate::store::PutMode;

/// Bytes of a segment: some chunks, so that the unfinished one that moves on to the next segment is a small part.
pub(super) const SEGMENT: usize = 1 << 20;
/// Bytes of memory that a pack takes: it is closed by the chunk that fills it, and has an index.
const PACK_BUFFER: usize = pack::TARGET + chunk::MAX + (256 << 10);
/// Uploads at once; one more pack is being filled.
const UPLOADS: usize = 2;
/// Bytes of memory of an encoder: zstd's tables and its output.
const ENCODER: usize = 2 << 20;
/// Fewest segments that keep all threads busy.
const SEGMENTS_MIN: usize = 4;

/// A buffer with pieces to encode. `sequence` keeps the order of the stream in the packs.
pub(super) struct Segment {
    pub sequence: u64,
    pub buffer: Vec<u8>,
    pub pieces: Vec<Piece>,
}

/// A chunk to be: where its bytes are in the buffer, raw and then encoded.
pub(super) struct Piece {
    pub number: usize,
    pub range: Range<usize>,
    entry: Option<pack::Entry>,
}

impl Piece {
    pub(super) fn new(number: usize, range: Range<usize>) -> Self {
        Self { number, range, entry: None }
    }
}

/// The encoders and uploads, and what they share.
pub(super) struct Pipeline {
    shared: Arc<Shared>,
    encoders: Vec<JoinHandle<()>>,
    uploads: Vec<JoinHandle<()>>,
}

struct Shared {
    vault: Vault,
    free_segments: Queue<Vec<u8>>,
    segments: Queue<Segment>,
    free_packs: Queue<Vec<u8>>,
    packs: Queue<(String, Vec<u8>)>,
    packer: Mutex<Packer>,
    error: Mutex<Option<ImageError>>,
    ended: AtomicBool,
}

/// Puts encoded segments into packs in the order of the stream.
#[derive(Default)]
struct Packer {
    next: u64,
    early: BTreeMap<u64, Segment>,
    open: Option<pack::Builder>,
    placed: Placed,
}

/// Where everything went: chunks by their number, and the packs.
#[derive(Default)]
pub(super) struct Placed {
    pub chunks: Vec<Option<ChunkRef>>,
    pub packs: Vec<PackInfo>,
}

impl Pipeline {
    /// Starts all threads: one encoder for each of `threads` as far as `memory` bytes allow, and the uploads.
    pub(super) fn start(vault: Vault, memory: u64, threads: usize) -> Result<Self> {
        let packs = (UPLOADS + 1) * PACK_BUFFER;
        let memory = usize::try_from(memory).unwrap_or(usize::MAX).saturating_sub(packs);
        let threads = threads.clamp(1, (memory / (2 * ENCODER)).max(1));
        let segments = (memory.saturating_sub(threads * ENCODER) / SEGMENT).max(SEGMENTS_MIN);
        let shared = Arc::new(Shared {
            vault,
            free_segments: Queue::from_iter((0..segments).map(|_| Vec::new())),
            segments: Queue::new(),
            free_packs: Queue::from_iter((0..=UPLOADS).map(|_| Vec::new())),
            packs: Queue::new(),
            packer: Mutex::default(),
            error: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let mut pipeline = Self { shared, encoders: Vec::new(), uploads: Vec::new() };
        for _ in 0..threads {
            let encoder = Encoder::new(chunk::MAX).map_err(ImageError::Start)?;
            pipeline.encoders.push(pipeline.spawn("encode", |shared| encode(shared, encoder))?);
        }
        for _ in 0..UPLOADS {
            pipeline.uploads.push(pipeline.spawn("upload", upload)?);
        }
        Ok(pipeline)
    }

    fn spawn(&self, name: &str, work: impl FnOnce(&Shared) + Send + 'static) -> Result<JoinHandle<()>> {
        let shared = self.shared.clone();
        let thread = thread::Builder::new().name(name.into()).stack_size(256 << 10);
        thread.spawn(move || work(&shared)).map_err(ImageError::Start)
    }

    /// An error in any thread, as soon as it is known.
    pub(super) fn check(&self) -> Result<()> {
        if self.shared.ended.load(Relaxed) { Err(self.shared.take_error()) } else { Ok(()) }
    }

    /// Waits for a buffer of [`SEGMENT`] bytes.
    pub(super) fn buffer(&self) -> Result<Vec<u8>> {
        match self.shared.free_segments.pop() {
            // All of it is initialised once, by the kernel, and is only ever written over.
            Some(buffer) if buffer.is_empty() => Ok(vec![0; SEGMENT]),
            Some(buffer) => Ok(buffer),
            None => Err(self.shared.take_error()),
        }
    }

    /// Hands a segment to the encoders.
    pub(super) fn push(&self, segment: Segment) {
        self.shared.segments.push(segment);
    }

    /// Waits until everything is in the store.
    pub(super) fn finish(mut self) -> Result<Placed> {
        self.shared.segments.close();
        self.encoders.drain(..).for_each(join);
        if let Err(error) = self.shared.packer().close(&self.shared) {
            self.shared.fail(error);
        }
        self.shared.packs.close();
        self.uploads.drain(..).for_each(join);
        self.check()?;
        Ok(std::mem::take(&mut self.shared.packer().placed))
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
        self.packs.abort();
        self.free_segments.abort();
        self.free_packs.abort();
    }

    /// Packs a segment as soon as all before it are packed.
    fn pack(&self, segment: Segment) -> Result<()> {
        let mut packer = self.packer();
        packer.early.insert(segment.sequence, segment);
        while let Some(segment) = packer.take_next() {
            packer.place(self, &segment)?;
            self.free_segments.push_first(segment.buffer);
        }
        Ok(())
    }
}

fn encode(shared: &Shared, mut encoder: Encoder) {
    while let Some(mut segment) = shared.segments.pop() {
        segment.encode(&mut encoder);
        if let Err(error) = shared.pack(segment) {
            shared.fail(error);
        }
    }
}

fn upload(shared: &Shared) {
    while let Some((id, data)) = shared.packs.pop() {
        let data = Bytes::from(data);
        match shared.vault.store().put(&pack::key(&id), data.clone(), PutMode::Create) {
            Ok(_) => shared.free_packs.push_first(data.into()),
            Err(error) => shared.fail(error.into()),
        }
    }
}

impl Segment {
    /// Encodes every piece in place: it never grows, so what it becomes fits where all before it has shrunk to.
    fn encode(&mut self, encoder: &mut Encoder) {
        let mut end = 0;
        for piece in &mut self.pieces {
            let raw = &self.buffer[piece.range.clone()];
            let hash = *blake3::hash(raw).as_bytes();
            let length = match encoder.encode(raw) {
                Some(encoded) => {
                    self.buffer[end..end + encoded.len()].copy_from_slice(encoded);
                    encoded.len()
                }
                None => {
                    self.buffer.copy_within(piece.range.clone(), end);
                    piece.range.len()
                }
            };
            piece.entry = Some(pack::Entry { hash, encoded: length as u32, raw: piece.range.len() as u32 });
            piece.range = end..end + length;
            end += length;
        }
    }
}

impl Packer {
    fn take_next(&mut self) -> Option<Segment> {
        let segment = self.early.remove(&self.next)?;
        self.next += 1;
        Some(segment)
    }

    fn place(&mut self, shared: &Shared, segment: &Segment) -> Result<()> {
        for (piece, entry) in segment.pieces.iter().filter_map(|piece| Some((piece, piece.entry.as_ref()?))) {
            let open = match &mut self.open {
                Some(open) => open,
                closed => closed.insert(pack::Builder::new(shared.free_packs.pop().ok_or(ImageError::Ended)?)),
            };
            let pack = self.placed.packs.len() as u32;
            let offset = open.push(entry, &segment.buffer[piece.range.clone()]);
            let chunk = ChunkRef { pack, offset, encoded: entry.encoded, raw: entry.raw, hash: entry.hash };
            if self.placed.chunks.len() <= piece.number {
                self.placed.chunks.resize(piece.number + 1, None);
            }
            self.placed.chunks[piece.number] = Some(chunk);
            if open.is_full() {
                self.close(shared)?;
            }
        }
        Ok(())
    }

    /// Puts the open pack in line for upload.
    fn close(&mut self, shared: &Shared) -> Result<()> {
        if let Some(open) = self.open.take() {
            let id = pack::new_id().map_err(ImageError::Source)?;
            let data = open.finish();
            self.placed.packs.push(PackInfo { id: id.clone(), size: data.len() as u64 });
            shared.packs.push((id, data));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::codec::Decoder;
    use crate::image::test_vault;

    fn segment(sequence: u64, number: usize, raw: &[u8]) -> Segment {
        let mut segment = Segment { sequence, buffer: raw.to_vec(), pieces: vec![Piece::new(number, 0..raw.len())] };
        segment.encode(&mut Encoder::new(chunk::MAX).unwrap());
        segment
    }

    #[test]
    fn segments_are_packed_in_order_whichever_is_encoded_first() {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = Pipeline::start(test_vault(folder.path()), 64 << 20, 1).unwrap();
        for (sequence, raw) in [(2, &b"three"[..]), (0, b"one"), (1, b"to")] {
            pipeline.shared.pack(segment(sequence, sequence as usize, raw)).unwrap();
        }
        let placed = pipeline.finish().unwrap();
        let chunks: Vec<_> = placed.chunks.iter().flatten().map(|chunk| (chunk.offset, chunk.encoded)).collect();
        assert_eq!(chunks, [(8, 3), (11, 2), (13, 5)]);
    }

    #[test]
    fn pieces_are_encoded_in_place_without_touching_each_other() {
        let noise = blake3::hash(b"").as_bytes().to_vec();
        let text = b"a ".repeat(500);
        let buffer = [&noise[..], &text, &noise, &text].concat();
        let mut segment = Segment { sequence: 0, buffer, pieces: Vec::new() };
        for (number, (start, length)) in [(0, 32), (32, 1000), (1032, 32), (1064, 1000)].into_iter().enumerate() {
            segment.pieces.push(Piece::new(number, start..start + length));
        }
        segment.encode(&mut Encoder::new(chunk::MAX).unwrap());
        for (piece, raw) in segment.pieces.iter().zip([&noise, &text, &noise, &text]) {
            let encoded = &segment.buffer[piece.range.clone()];
            assert_eq!(Decoder::new().unwrap().decode(encoded, raw.len()).unwrap(), *raw);
        }
        assert!(segment.pieces[3].range.end < 200);
    }
}
