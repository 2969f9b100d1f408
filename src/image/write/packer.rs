//! Places encoded segments in packs, in the order of the stream, and builds bodies.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crossbeam_channel::Sender;

use super::buffers::Buffers;
use super::effort::Effort;
use super::page_index::PageIndex;
use super::segment::{Encoded, NewChunk, Part};
use crate::image::error::{ImageError, Result};
use crate::image::format::body::{Body, Extent, Slice};
use crate::image::format::chunk::Name;
use crate::image::format::chunk_table::{ChunkRef, ChunkTable};
use crate::image::format::pack::{self, PackInfo};
use crate::image::layout::new_pack_id;

/// State that the packer shares with encoders.
pub(crate) struct Exchange {
    pub index: RwLock<PageIndex>,
    /// The name of a zero page.
    pub zero: Name,
    /// Bytes that sealing adds to a chunk.
    pub overhead: usize,
}

/// A pack to upload: number, ID and content.
pub(crate) type FullPack = (usize, String, pack::Builder);

/// Decides where chunks are stored.
pub(crate) struct Packer {
    buffers: Buffers,
    /// Queue of the uploads. None after the last pack.
    full: Option<Sender<FullPack>>,
    effort: Arc<Effort>,
    next: u64,
    early: BTreeMap<u64, Encoded>,
    open: Option<(usize, pack::Builder)>,
    /// The base's packs, then new ones. A new pack's size is 0 until all uploads have ended.
    pub packs: Vec<PackInfo>,
    /// Their chunk numbers are those of [`PageIndex`].
    bodies: Vec<Body>,
    /// Raw bytes of new chunks, and of deduplicated pages.
    new: u64,
    shared: u64,
    /// Number of the base's packs.
    old: usize,
}

/// Result of the packer.
pub(crate) struct Placed {
    pub bodies: Vec<Body>,
    pub chunks: ChunkTable,
    pub packs: Vec<PackInfo>,
    pub stored: u64,
    pub new: u64,
    pub shared: u64,
}

impl Packer {
    pub(crate) fn new(packs: Vec<PackInfo>, buffers: Buffers, full: Sender<FullPack>, effort: Arc<Effort>) -> Self {
        Self {
            buffers,
            full: Some(full),
            effort,
            next: 0,
            early: BTreeMap::new(),
            open: None,
            old: packs.len(),
            packs,
            bodies: Vec::new(),
            new: 0,
            shared: 0,
        }
    }

    pub(crate) fn add(&mut self, segment: Encoded) {
        self.early.insert(segment.sequence, segment);
    }

    /// The next segment in order, if it has arrived.
    pub(crate) fn take_next(&mut self) -> Option<Encoded> {
        let segment = self.early.remove(&self.next)?;
        self.next += 1;
        Some(segment)
    }

    pub(crate) fn place(&mut self, exchange: &Exchange, segment: &Encoded) -> Result<()> {
        let place = |chunk| self.place_chunk(exchange, segment, chunk);
        let chunks: Vec<u32> = segment.chunks.iter().map(place).collect::<Result<_>>()?;
        for (body, part) in &segment.parts {
            if self.bodies.len() <= *body {
                self.bodies.resize(body + 1, Body::default());
            }
            let extent = match *part {
                Part::Zeros(length) => Extent::Zero(length),
                Part::New(slice) => Extent::Slice(Slice { chunk: chunks[slice.chunk as usize], ..slice }),
                Part::Known(slice) => {
                    self.shared += u64::from(slice.length);
                    Extent::Slice(slice)
                }
            };
            self.bodies[*body].push(extent);
        }
        Ok(())
    }

    /// Appends a chunk to the open pack. Returns its number.
    fn place_chunk(&mut self, exchange: &Exchange, segment: &Encoded, chunk: &NewChunk) -> Result<u32> {
        // Two encoders may have encoded the same pages concurrently.
        if let Some(twin) = twin(&exchange.index.read().unwrap_or_else(PoisonError::into_inner), chunk) {
            self.shared += u64::from(chunk.raw);
            return Ok(twin);
        }
        self.new += u64::from(chunk.raw);
        let (number, open) = self.open(exchange.overhead)?;
        let offset = open.push(&segment.buffer[chunk.range.clone()], chunk.raw, &chunk.pages);
        let full = open.is_full();
        let encoded = chunk.range.len() as u32;
        let place = ChunkRef { pack: number as u32, offset, encoded, raw: chunk.raw, name: chunk.name };
        let mut known = exchange.index.write().unwrap_or_else(PoisonError::into_inner);
        let added = known.add(place, &chunk.pages, &exchange.zero);
        drop(known);
        if full {
            self.close()?;
        }
        Ok(added)
    }

    fn open(&mut self, overhead: usize) -> Result<(usize, &mut pack::Builder)> {
        if self.open.is_none() {
            let buffer = self.buffers.take().map_or_else(|| self.buffers.back.recv(), Ok);
            let buffer = buffer.map_err(|_| ImageError::Ended)?;
            let id = new_pack_id();
            self.open = Some((self.packs.len(), pack::Builder::new(buffer, overhead)));
            self.packs.push(PackInfo { id, ..PackInfo::default() });
        }
        self.open.as_mut().map(|(number, open)| (*number, open)).ok_or(ImageError::Ended)
    }

    /// Queues the open pack for upload.
    fn close(&mut self) -> Result<()> {
        if let (Some((number, open)), Some(full)) = (self.open.take(), &self.full) {
            self.effort.weigh(full.len());
            full.send((number, self.packs[number].id.clone(), open)).map_err(|_| ImageError::Ended)?;
        }
        Ok(())
    }

    /// Queues the last pack and closes the queue, which ends the uploads.
    pub(crate) fn end(&mut self) -> Result<()> {
        let closed = self.close();
        self.full = None;
        closed
    }

    /// The bodies that `ended`, with the chunks and packs that they use, numbered in order of first use.
    pub(crate) fn finish(&mut self, known: &PageIndex, ended: &[bool]) -> Placed {
        let mut bodies = std::mem::take(&mut self.bodies);
        bodies.resize(ended.len(), Body::default());
        let (mut chunks, mut packs) = (ChunkTable::default(), Vec::new());
        let (mut chunk_index, mut pack_index) = (BTreeMap::new(), BTreeMap::new());
        for (body, ended) in bodies.iter_mut().zip(ended) {
            if !ended {
                *body = Body::default();
            }
            body.renumber(|number| {
                *chunk_index.entry(number).or_insert_with(|| {
                    let chunk = known.chunk(number);
                    let pack = *pack_index.entry(chunk.pack).or_insert_with(|| {
                        packs.push(self.packs[chunk.pack as usize].clone());
                        packs.len() as u32 - 1
                    });
                    chunks.push(&ChunkRef { pack, ..*chunk })
                })
            });
        }
        let stored = self.packs[self.old..].iter().map(|pack| pack.size).sum();
        Placed { bodies, chunks, packs, stored, new: self.new, shared: self.shared }
    }
}

/// An indexed chunk with the same pages.
fn twin(known: &PageIndex, chunk: &NewChunk) -> Option<u32> {
    let (number, first) = known.locate(known.find(chunk.pages.first()?)?);
    let found = known.chunk(number);
    (first == 0 && found.name == chunk.name && found.raw == chunk.raw).then_some(number)
}
