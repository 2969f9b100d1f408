//! Reads many bodies at once for one thread, each at the pace of its consumer.
//!
//! A stream reads ahead further the faster it is consumed, up to its share of the memory. If the memory is
//! used up, a stream that has nothing takes from the largest one, so a paused consumer never blocks another
//! stream. Never starts a thread after [`FetchThreads::start`]: a restore needs the PIDs.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::chunk_reader::{FetchThreads, Reader, Unit};
use super::stream::{First, Stream, cost};
use crate::image::crypto::vault::Vault;
use crate::image::error::{ImageError, Result};
use crate::image::format::body::Body;
use crate::image::format::chunk::CHUNK_MAX;
use crate::image::format::manifest::Manifest;

/// Most zero bytes in one [`Front::Data`].
const ZEROS: usize = 1 << 20;
/// Bounds on the bytes of one request.
const SPAN_MAX: u64 = 2 << 20;
const SPAN_MIN: u64 = 256 << 10;

/// Reads bodies of one generation. Threads fetch and decode ahead.
pub struct Fetcher {
    threads: Arc<FetchThreads>,
    reader: Arc<Reader>,
    streams: BTreeMap<StreamId, Stream>,
    /// Never written to, so it takes no memory.
    zeros: Vec<u8>,
    /// Most bytes of a request.
    span: u32,
    /// Raw bytes that all streams together may hold, and that they hold now.
    memory: u64,
    used: u64,
}

/// ID of a stream of a [`Fetcher`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

/// The front of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Front<'a> {
    /// The next bytes; never empty.
    Data(&'a [u8]),
    /// The next bytes are being fetched. [`Fetcher::wake_fd`] becomes readable when they may have arrived.
    Pending,
    /// Every byte was consumed.
    End,
}

/// A piece of a body, for consumers that can write holes.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The next bytes.
    Data(&'a [u8]),
    /// A run of this many zero bytes.
    Zeros(u64),
}

impl Fetcher {
    /// Starts threads of its own, of which `cores` decode at once. See [`on`](Self::on).
    pub fn new(vault: &Vault, manifest: &Manifest, memory: u64, cores: usize) -> Result<Self> {
        Ok(Self::on(&Arc::new(FetchThreads::start(&**vault.store(), cores)?), vault, manifest, memory))
    }

    /// Uses running threads, which no other fetcher may use at the same time.
    ///
    /// Threads and streams hold at most `memory` bytes; beyond that, each stream may hold one chunk (up to
    /// 256 KiB). An eighth is left to the store's client and the process.
    pub fn on(threads: &Arc<FetchThreads>, vault: &Vault, manifest: &Manifest, memory: u64) -> Self {
        let count = threads.count() as u64;
        let span = (memory / 8 / count).clamp(SPAN_MIN, SPAN_MAX);
        // Leaves another eighth to the allocator, which cannot reuse all freed memory.
        let memory = memory.saturating_sub(count * span) / 4 * 3;
        Self {
            threads: threads.clone(),
            reader: Arc::new(Reader::new(vault, manifest)),
            streams: BTreeMap::new(),
            zeros: vec![0; ZEROS],
            span: span as u32,
            memory,
            used: 0,
        }
    }

    /// Starts to read a body of the manifest: requests its first bytes.
    pub fn open(&mut self, body: &Body) -> StreamId {
        let id = StreamId(self.threads.next_stream());
        self.streams.insert(id, Stream::new(body));
        self.ask(id);
        id
    }

    /// The front of the stream, as of the last [`receive`](Self::receive).
    pub fn front(&mut self, id: StreamId) -> Result<Front<'_>> {
        self.ask(id);
        Ok(match self.first(id)? {
            First::Data(data) => Front::Data(data),
            First::Zeros(length) => Front::Data(&self.zeros[..length.min(ZEROS as u64) as usize]),
            First::Pending => Front::Pending,
            First::End => Front::End,
        })
    }

    /// Drops the first `count` bytes of [`front`](Self::front).
    pub fn consume(&mut self, id: StreamId, count: usize) {
        self.drop_front(id, count as u64);
    }

    /// Ends a stream, at any position.
    pub fn close(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.remove(&id) {
            self.used -= stream.held;
        }
    }

    /// Readable while [`receive`](Self::receive) has something to take in; only that clears it. No wakeup is
    /// lost if the caller receives, looks at all streams, and then waits.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.threads.wake_fd()
    }

    /// Reads a whole body piece by piece. Blocks.
    pub fn for_each(&mut self, body: &Body, mut each: impl FnMut(Piece<'_>) -> std::io::Result<()>) -> Result<()> {
        let id = self.open(body);
        let result = self.each_of(id, &mut each);
        self.close(id);
        result
    }

    /// Reads a whole body of at most `limit` bytes into memory. Blocks. `what` names the body in the error.
    pub fn read_to_vec(&mut self, body: &Body, what: &str, limit: u64) -> Result<Vec<u8>> {
        let size = body.size();
        if size > limit {
            return Err(ImageError::TooLarge { what: what.into(), size, limit });
        }
        let mut data = Vec::with_capacity(size as usize);
        self.for_each(body, |piece| {
            match piece {
                Piece::Data(bytes) => data.extend_from_slice(bytes),
                Piece::Zeros(length) => data.resize(data.len() + length as usize, 0),
            }
            Ok(())
        })?;
        Ok(data)
    }

    fn each_of(&mut self, id: StreamId, each: &mut impl FnMut(Piece<'_>) -> std::io::Result<()>) -> Result<()> {
        loop {
            self.receive()?;
            self.ask(id);
            let count = match self.first(id)? {
                First::Data(data) => {
                    each(Piece::Data(data)).map_err(ImageError::Sink)?;
                    data.len() as u64
                }
                First::Zeros(length) => {
                    each(Piece::Zeros(length)).map_err(ImageError::Sink)?;
                    length
                }
                First::Pending => {
                    self.threads.wait();
                    continue;
                }
                First::End => return Ok(()),
            };
            self.drop_front(id, count);
        }
    }

    fn first(&self, id: StreamId) -> Result<First<'_>> {
        Ok(self.streams.get(&id).ok_or(ImageError::Ended)?.first())
    }

    fn drop_front(&mut self, id: StreamId, count: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let freed = stream.consume(count);
            self.used -= freed;
            if freed > 0 {
                self.ask(id);
            }
        }
    }

    /// Takes in decoded slices of all streams. An error of any stream is returned once and ends all streams.
    pub fn receive(&mut self) -> Result<()> {
        for done in self.threads.take() {
            let Some(stream) = self.streams.get_mut(&StreamId(done.stream)) else { continue };
            match done.slices {
                Ok(slices) => stream.fill(done.number, slices),
                Err(error) => {
                    self.streams.clear();
                    self.used = 0;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Requests as much of a stream as its window, its share and the memory allow.
    fn ask(&mut self, id: StreamId) {
        let share = (self.memory / self.streams.len().max(1) as u64).max(CHUNK_MAX.into());
        let left = self.memory.saturating_sub(self.used);
        let needs = self.streams.get(&id).is_some_and(|stream| stream.held == 0);
        if needs && left < CHUNK_MAX.into() {
            self.take_from_the_largest(share);
        }
        while let Some(stream) = self.streams.get_mut(&id) {
            let left = self.memory.saturating_sub(self.used);
            let units = stream.next_units(share.min(stream.held + left), self.span, self.reader.chunks());
            if units.is_empty() {
                return;
            }
            for (number, slices) in units {
                self.used += slices.iter().map(cost).sum::<u64>();
                self.threads.ask(Unit { reader: self.reader.clone(), stream: id.0, number, slices });
            }
        }
    }

    fn take_from_the_largest(&mut self, share: u64) {
        if let Some(stream) = self.streams.values_mut().max_by_key(|stream| stream.held) {
            self.used -= stream.give_back(share);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::test_vault;
    use crate::image::write::writer::ImageWriter;

    /// A fetcher of `memory` bytes, and a body of 16 MiB.
    fn fetcher(memory: u64) -> (tempfile::TempDir, Fetcher, Body) {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let writer = ImageWriter::new(&vault, 64 << 20, 2).unwrap();
        let mut noise = vec![0; 16 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let mut body = writer.begin();
        body.write_all(&noise).unwrap();
        let id = body.finish().unwrap();
        let mut written = writer.finish().unwrap();
        let body = written.take(id);
        let manifest = Manifest { packs: written.packs, chunks: written.chunks, ..Manifest::default() };
        (folder, Fetcher::new(&vault, &manifest, memory, 1).unwrap(), body)
    }

    /// Consumes `count` bytes as fast as they arrive, which grows the stream's window.
    fn read_ahead(fetcher: &mut Fetcher, id: StreamId, count: usize) {
        let mut read = 0;
        while read < count {
            fetcher.receive().unwrap();
            match fetcher.front(id).unwrap() {
                Front::Data(data) => {
                    let length = data.len();
                    fetcher.consume(id, length);
                    read += length;
                }
                Front::Pending => fetcher.threads.wait(),
                Front::End => panic!("the body is longer"),
            }
        }
    }

    /// Waits until every requested slice of the stream has arrived.
    fn settle(fetcher: &mut Fetcher, id: StreamId) {
        fetcher.receive().unwrap();
        fetcher.ask(id);
        while fetcher.streams[&id].is_waiting() {
            fetcher.threads.wait();
            fetcher.receive().unwrap();
            fetcher.ask(id);
        }
    }

    #[test]
    fn a_stream_that_pauses_gives_way() {
        let (_folder, mut fetcher, body) = fetcher(4 << 20);
        let first = fetcher.open(&body);
        read_ahead(&mut fetcher, first, 6 << 20);
        settle(&mut fetcher, first);
        assert!(fetcher.streams[&first].held >= fetcher.memory / 2, "alone it may look far ahead");
        for _ in 0..8 {
            let id = fetcher.open(&body);
            settle(&mut fetcher, id);
            read_ahead(&mut fetcher, id, 2 << 20);
            settle(&mut fetcher, id);
            assert!(fetcher.used <= fetcher.memory, "{} of {}", fetcher.used, fetcher.memory);
        }
        read_ahead(&mut fetcher, first, 8 << 20);
    }

    #[test]
    fn the_next_fetcher_on_the_same_threads_is_not_confused_by_what_the_last_one_asked_for() {
        let (folder, mut fetcher, body) = fetcher(8 << 20);
        fetcher.open(&body);
        let vault = test_vault(folder.path());
        let mut next = Fetcher::on(&fetcher.threads, &vault, &Manifest::default(), 8 << 20);
        next.reader = fetcher.reader.clone();
        drop(fetcher);
        let mut hash = blake3::Hasher::new();
        next.for_each(&body, |piece| {
            if let Piece::Data(data) = piece {
                hash.update(data);
            }
            Ok(())
        })
        .unwrap();
        let mut noise = vec![0; 16 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(hash.finalize(), blake3::hash(&noise));
    }

    #[test]
    fn closing_frees_all() {
        let (_folder, mut fetcher, body) = fetcher(8 << 20);
        let ids: Vec<_> = (0..4).map(|_| fetcher.open(&body)).collect();
        ids.iter().for_each(|id| read_ahead(&mut fetcher, *id, 1 << 20));
        ids.into_iter().for_each(|id| fetcher.close(id));
        assert_eq!(fetcher.used, 0);
    }
}
