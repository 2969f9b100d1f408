//! Gives the bytes of many bodies back at once, each at its own pace, to one thread.
//!
//! Every stream looks ahead the further the faster it is read, up to its share of the memory. Where that is used up, a
//! stream that has nothing takes from those that hold more than their share, so that one whose consumer pauses never
//! holds up another. Must never start a thread after [`FetchThreads::start`], since a restore needs the PIDs.

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

/// Most bytes of zeros that [`Front::Data`] shows at once.
const ZEROS: usize = 1 << 20;
/// Most and fewest bytes of a request.
const SPAN_MAX: u64 = 2 << 20;
const SPAN_MIN: u64 = 256 << 10;

/// Reads bodies of one generation, through threads that fetch and decode ahead.
pub struct Fetcher {
    threads: Arc<FetchThreads>,
    reader: Arc<Reader>,
    streams: BTreeMap<StreamId, Stream>,
    /// Zeros that nobody ever writes to, so that they take no memory.
    zeros: Vec<u8>,
    /// Most bytes of a request.
    span: u32,
    /// Raw bytes that all streams together may hold, and those that they do.
    memory: u64,
    used: u64,
}

/// Names a stream of a [`Fetcher`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

/// What comes next in a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Front<'a> {
    /// These bytes; never empty.
    Data(&'a [u8]),
    /// Something that is being fetched. [`Fetcher::wake_fd`] becomes readable when it may be there.
    Pending,
    /// Nothing: all was consumed.
    End,
}

/// A piece of a body, for those who can make holes.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// These bytes.
    Data(&'a [u8]),
    /// So many zero bytes.
    Zeros(u64),
}

impl Fetcher {
    /// With threads of its own, of which `cores` decode at once. See [`on`](Self::on).
    pub fn new(vault: &Vault, manifest: &Manifest, memory: u64, cores: usize) -> Result<Self> {
        Ok(Self::on(&Arc::new(FetchThreads::start(&**vault.store(), cores)?), vault, manifest, memory))
    }

    /// On threads that are there, and that no other fetcher uses at the same time. They and all streams hold at most `memory`
    /// bytes, but one chunk for each stream (at most 256 KiB) is always had. An eighth of it is for the store's client and the
    /// process itself.
    pub fn on(threads: &Arc<FetchThreads>, vault: &Vault, manifest: &Manifest, memory: u64) -> Self {
        let count = threads.count() as u64;
        let span = (memory / 8 / count).clamp(SPAN_MIN, SPAN_MAX);
        // Another eighth is left to the allocator, which cannot use again all that is freed.
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

    /// Begins to read a body of the manifest, and to fetch its first bytes.
    pub fn open(&mut self, body: &Body) -> StreamId {
        let id = StreamId(self.threads.next_stream());
        self.streams.insert(id, Stream::new(body));
        self.ask(id);
        id
    }

    /// What comes next in the stream, as far as [`receive`](Self::receive) has taken it in.
    pub fn front(&mut self, id: StreamId) -> Result<Front<'_>> {
        self.ask(id);
        Ok(match self.first(id)? {
            First::Data(data) => Front::Data(data),
            First::Zeros(length) => Front::Data(&self.zeros[..length.min(ZEROS as u64) as usize]),
            First::Pending => Front::Pending,
            First::End => Front::End,
        })
    }

    /// Drops `count` bytes of what [`front`](Self::front) showed.
    pub fn consume(&mut self, id: StreamId, count: usize) {
        self.drop_front(id, count as u64);
    }

    /// Ends a stream before or after its end.
    pub fn close(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.remove(&id) {
            self.used -= stream.held;
        }
    }

    /// Becomes readable when there is something to [`receive`](Self::receive), and unreadable by that alone: whoever looks at all
    /// streams after it, and then waits here, misses nothing.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.threads.wake_fd()
    }

    /// Reads a whole body, piece by piece, waiting where need be.
    pub fn for_each(&mut self, body: &Body, mut each: impl FnMut(Piece<'_>) -> std::io::Result<()>) -> Result<()> {
        let id = self.open(body);
        let result = self.each_of(id, &mut each);
        self.close(id);
        result
    }

    /// Reads a whole body of at most `limit` bytes into memory; `what` names it in the error.
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

    /// Takes in what has come, for any stream. An error of any stream is returned once, and ends them all.
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

    /// Asks for as much of a stream as its window and share, and the memory, allow.
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

    /// A fetcher of so little memory, with a body of 16 MiB.
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

    /// Reads `count` bytes as fast as they come, so that the stream learns to look ahead.
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

    /// Waits until all that the stream asked for has come.
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
