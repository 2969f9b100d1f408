//! The threads behind an [`ImageWriter`](crate::image::write::writer::ImageWriter): segments go in, packs are
//! stored.
//!
//! Memory is bounded: a fixed number of segments circulates between feeder and encoders, and a fixed number
//! of packs between encoders and uploads. The faster side waits. Each thread reports how it ended, and the
//! feeder waits for reports too, so an error wakes it at once. A channel closes with its last sender, which
//! ends the receiving thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};

use super::buffers::{Buffers, Room};
use super::effort::Effort;
use super::packer::{Exchange, FullPack, Packer, Placed};
use super::page_index::PageIndex;
use super::segment::{Coder, Encoded, Segment};
use crate::image::crypto::vault::Vault;
use crate::image::error::{ImageError, Result};
use crate::image::format::chunk::{self, PAGE};
use crate::image::format::pack::{self, PackInfo};
use crate::image::layout::pack_key;
use crate::store::{PutMode, STACK};

/// Bytes of a segment: several chunks, since no chunk spans two segments.
pub(crate) const SEGMENT: usize = 1 << 20;
/// Concurrent uploads, fewer if memory is small. One more pack is being filled.
const UPLOADS: usize = 2;
/// Memory of an encoder: zstd's tables and its output.
const ENCODER: usize = 2 << 20;
/// Least number of segments that keeps all threads busy.
const SEGMENTS_MIN: usize = 4;
/// One pack is uploaded while the next is filled.
const PACKS_MIN: usize = 2;

/// How a thread ended. An upload returns number and manifest entry of each pack that it stored.
type Report = Result<Vec<(usize, PackInfo)>>;

/// The feeder's end of the encoders and uploads.
pub(crate) struct Pipeline {
    shared: Arc<Shared>,
    encoders: usize,
    uploads: usize,
    buffers: Buffers,
    /// None after the last segment.
    segments: Option<Sender<Segment>>,
    reports: Receiver<Report>,
    /// Tells all threads to end after their current step.
    stop: Arc<AtomicBool>,
    /// An error was returned.
    failed: bool,
}

/// State that encoders share. Uploads must not hold it: its drop closes their channel.
struct Shared {
    exchange: Exchange,
    packer: Mutex<Packer>,
    effort: Arc<Effort>,
    /// Returns the buffers of segments.
    packed: Sender<Vec<u8>>,
}

impl Pipeline {
    /// Bytes that a pipeline takes with the least memory: one upload and one encoder.
    pub(crate) const LEAST: u64 = (PACKS_MIN * pack::BUFFER + ENCODER + SEGMENTS_MIN * SEGMENT) as u64;

    /// Starts the uploads and up to `threads` encoders, fewer if `memory` is small. `packs` are those of
    /// `index`, whose memory is not part of `memory`. Takes more than the least only while there is `room`.
    pub(crate) fn start(
        vault: &Vault,
        index: PageIndex,
        packs: Vec<PackInfo>,
        memory: u64,
        threads: usize,
        room: Room,
    ) -> Result<Self> {
        let memory = usize::try_from(memory).unwrap_or(usize::MAX);
        let uploads = (memory / pack::BUFFER).saturating_sub(2).clamp(1, UPLOADS);
        let memory = memory.saturating_sub((uploads + 1) * pack::BUFFER);
        let encoders = threads.clamp(1, (memory / (2 * ENCODER)).max(1));
        let count = (memory.saturating_sub(encoders * ENCODER) / SEGMENT).max(SEGMENTS_MIN);
        let (buffers, packed) = Buffers::new(SEGMENTS_MIN, count, SEGMENT, room);
        let (segments, raw) = bounded(count);
        let (pack_buffers, uploaded) = Buffers::new(PACKS_MIN, uploads + 1, pack::BUFFER, room);
        let (packs_out, full) = bounded(uploads + 1);
        let (report, reports) = unbounded();
        let exchange = Exchange {
            index: RwLock::new(index),
            zero: chunk::page_name(vault.seal(), &[0; PAGE]),
            overhead: vault.seal().overhead(),
        };
        let effort = Arc::new(Effort::new(uploads));
        let packer = Mutex::new(Packer::new(packs, pack_buffers, packs_out, effort.clone()));
        let shared = Arc::new(Shared { exchange, packer, effort: effort.clone(), packed });
        let stop = Arc::default();
        let pipeline =
            Self { shared, encoders, uploads, buffers, segments: Some(segments), reports, stop, failed: false };
        for _ in 0..encoders {
            let mut coder = Coder::new(vault.seal()).map_err(ImageError::Start)?;
            let (shared, raw) = (pipeline.shared.clone(), raw.clone());
            pipeline.spawn("encode", &report, move |stop| encode(&shared, &mut coder, &raw, stop))?;
        }
        for _ in 0..uploads {
            let (vault, full, uploaded, effort) = (vault.clone(), full.clone(), uploaded.clone(), effort.clone());
            pipeline.spawn("upload", &report, move |stop| upload(&vault, &full, &uploaded, &effort, stop))?;
        }
        Ok(pipeline)
    }

    fn spawn(
        &self,
        name: &str,
        report: &Sender<Report>,
        mut work: impl FnMut(&AtomicBool) -> Report + Send + 'static,
    ) -> Result<()> {
        let (report, stop) = (report.clone(), self.stop.clone());
        let thread = thread::Builder::new().name(name.into()).stack_size(STACK);
        let run = move || {
            let result = catch_unwind(AssertUnwindSafe(|| work(&stop))).unwrap_or(Err(ImageError::Ended));
            let failed = result.is_err();
            // Report before `stop`, or a channel that `work` holds, makes other threads end: so the cause is the first report.
            let _ = report.send(result);
            stop.fetch_or(failed, Ordering::Release);
        };
        thread.spawn(run).map(drop).map_err(ImageError::Start)
    }

    /// Fails if a thread has failed: the first time with its error, then with [`ImageError::Ended`].
    pub(crate) fn check(&mut self) -> Result<()> {
        if self.stop.load(Ordering::Acquire) { Err(self.fail(self.reports.try_recv().ok())) } else { Ok(()) }
    }

    /// Waits for a buffer of [`SEGMENT`] bytes.
    pub(crate) fn buffer(&mut self) -> Result<Vec<u8>> {
        match self.buffers.take() {
            // Zeroed once, by the kernel; afterwards only overwritten.
            Some(buffer) if buffer.is_empty() => Ok(vec![0; SEGMENT]),
            Some(buffer) => Ok(buffer),
            None => select! {
                recv(self.buffers.back) -> buffer => buffer.map_err(|_| ImageError::Ended),
                recv(self.reports) -> report => Err(self.fail(report.ok())),
            },
        }
    }

    /// Queues a segment for the encoders.
    pub(crate) fn push(&self, segment: Segment) {
        // Fails only after all encoders have ended; then their error is in the reports.
        let _ = self.segments.as_ref().map(|segments| segments.send(segment));
    }

    pub(crate) fn take_time(&self) {
        self.shared.effort.take_time();
    }

    /// Waits until everything is stored. Drops bodies that have not `ended`.
    pub(crate) fn finish(mut self, ended: &[bool]) -> Result<Placed> {
        self.check()?;
        self.segments = None;
        self.collect(self.encoders)?;
        let closed = self.shared.packer().end();
        // Collects reports instead of joining: if one upload fails, the frozen service need not wait for the
        // other. An upload's error is the cause of a packer that cannot end.
        let uploaded = self.collect(self.uploads)?;
        closed?;
        let mut packer = self.shared.packer();
        for (number, info) in uploaded {
            packer.packs[number] = info;
        }
        let known = self.shared.exchange.index.read().unwrap_or_else(PoisonError::into_inner);
        Ok(packer.finish(&known, ended))
    }

    /// Waits for the reports of `threads` threads.
    fn collect(&self, threads: usize) -> Report {
        let mut all = Vec::new();
        for _ in 0..threads {
            all.extend(self.reports.recv().unwrap_or(Err(ImageError::Ended))?);
        }
        Ok(all)
    }

    fn fail(&mut self, report: Option<Report>) -> ImageError {
        self.stop.store(true, Ordering::Release);
        let error = report.and_then(Result::err).filter(|_| !self.failed);
        self.failed = true;
        error.unwrap_or(ImageError::Ended)
    }
}

/// Ends all threads of an abandoned writer. A running upload is not interrupted.
impl Drop for Pipeline {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

impl Shared {
    fn packer(&self) -> MutexGuard<'_, Packer> {
        self.packer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Packs a segment as soon as all earlier ones are packed.
    fn pack(&self, segment: Encoded) -> Result<()> {
        let mut packer = self.packer();
        packer.add(segment);
        while let Some(segment) = packer.take_next() {
            packer.place(&self.exchange, &segment)?;
            let _ = self.packed.send(segment.buffer);
        }
        Ok(())
    }
}

fn encode(shared: &Shared, coder: &mut Coder, segments: &Receiver<Segment>, stop: &AtomicBool) -> Report {
    for segment in segments.iter().take_while(|_| !stop.load(Ordering::Acquire)) {
        shared.pack(coder.encode(segment, &shared.exchange.index, shared.effort.level()))?;
    }
    Ok(Vec::new())
}

/// Seals and uploads packs. Sealing here takes no encoder's time, and must hold no lock: the owner of the
/// packer's lock may wait for a pack that an upload returns.
fn upload(
    vault: &Vault,
    full: &Receiver<FullPack>,
    free: &Sender<Vec<u8>>,
    effort: &Effort,
    stop: &AtomicBool,
) -> Report {
    let mut uploaded = Vec::new();
    for (number, id, pack) in full.iter().take_while(|_| !stop.load(Ordering::Acquire)) {
        let (data, info) = pack.finish(vault.seal(), &id);
        let data = Bytes::from(data);
        effort.during(|| vault.store().put(&pack_key(&id), data.clone(), PutMode::Create))?;
        uploaded.push((number, info));
        let _ = free.send(data.into());
    }
    Ok(uploaded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::test_vault;
    use crate::image::write::segment::{Content, Piece};

    /// Reports as a thread does that a closed channel ends.
    struct EndsAnother(Sender<Report>);

    impl Drop for EndsAnother {
        fn drop(&mut self) {
            let _ = self.0.send(Err(ImageError::Ended));
        }
    }

    #[test]
    fn the_cause_is_reported_before_it_ends_other_threads() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let pipeline = Pipeline::start(&vault, PageIndex::new(1 << 20), Vec::new(), 64 << 20, 1, |_| true).unwrap();
        let (report, reports) = unbounded();
        let captured = EndsAnother(report.clone());
        let work = move |_: &AtomicBool| {
            let _ = &captured;
            Err(ImageError::Start(std::io::ErrorKind::OutOfMemory.into()))
        };
        pipeline.spawn("upload", &report, work).unwrap();
        let first = reports.recv().unwrap();
        assert!(matches!(first, Err(ImageError::Start(_))), "{first:?}");
    }

    #[test]
    fn segments_are_packed_in_order_whichever_is_encoded_first() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let pipeline = Pipeline::start(&vault, PageIndex::new(1 << 20), Vec::new(), 64 << 20, 1, |_| true).unwrap();
        for (sequence, raw) in [(2, &b"three"[..]), (0, b"one"), (1, b"to")] {
            let pieces = vec![Piece { body: 0, content: Content::Data(0..raw.len()) }];
            let segment = Segment { sequence, buffer: raw.to_vec(), pieces };
            let encoded = Coder::new(vault.seal()).unwrap().encode(segment, &pipeline.shared.exchange.index, Some(1));
            pipeline.shared.pack(encoded).unwrap();
        }
        let placed = pipeline.finish(&[true]).unwrap();
        let chunks: Vec<_> = placed.chunks.iter().map(|chunk| (chunk.offset, chunk.encoded)).collect();
        assert_eq!(chunks, [(8, 3), (11, 2), (13, 5)]);
        assert_eq!(placed.bodies[0].size(), 10);
    }
}
