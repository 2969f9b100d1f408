//! The chunks that a manifest refers to. Bodies refer to chunks by index, so a chunk with many uses is
//! described once.

use super::chunk::{CHUNK_MAX, Name};
use super::pack::{self, PackInfo};
use crate::image::error::Flaw;

/// The chunks that a manifest refers to, in columns of one entry per chunk.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChunkTable {
    /// Index into [`Manifest::packs`](crate::image::format::manifest::Manifest::packs).
    #[prost(uint32, repeated, tag = "1")]
    packs: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    offsets: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    encoded: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    raw: Vec<u32>,
    #[prost(bytes = "vec", tag = "5")]
    names: Vec<u8>,
}

/// Place and content of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// Index into [`Manifest::packs`](crate::image::format::manifest::Manifest::packs).
    pub pack: u32,
    /// First byte in the pack.
    pub offset: u32,
    /// Bytes in the pack before sealing; equal to `raw` if the chunk is not compressed.
    pub encoded: u32,
    /// Decoded bytes.
    pub raw: u32,
    /// Hash of its pages' names.
    pub name: Name,
}

impl ChunkTable {
    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.packs.len()
    }

    /// Whether there are no chunks.
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    /// The chunk at `index`.
    pub fn get(&self, index: u32) -> Option<ChunkRef> {
        let at = index as usize;
        Some(ChunkRef {
            pack: *self.packs.get(at)?,
            offset: *self.offsets.get(at)?,
            encoded: *self.encoded.get(at)?,
            raw: *self.raw.get(at)?,
            name: *self.names.as_chunks().0.get(at)?,
        })
    }

    /// All chunks in order.
    pub fn iter(&self) -> impl Iterator<Item = ChunkRef> + '_ {
        (0..).map_while(|index| self.get(index))
    }

    /// Appends a chunk and returns its index.
    pub(crate) fn push(&mut self, chunk: &ChunkRef) -> u32 {
        self.packs.push(chunk.pack);
        self.offsets.push(chunk.offset);
        self.encoded.push(chunk.encoded);
        self.raw.push(chunk.raw);
        self.names.extend_from_slice(&chunk.name);
        self.packs.len() as u32 - 1
    }

    /// Checks every property that readers rely on.
    pub(crate) fn check(&self, packs: &[PackInfo]) -> Result<(), Flaw> {
        let lengths = [self.offsets.len(), self.encoded.len(), self.raw.len(), self.names.as_chunks::<16>().0.len()];
        if lengths != [self.packs.len(); 4] || !self.names.len().is_multiple_of(16) {
            return Err(Flaw::Disagree("the columns of the chunks"));
        }
        self.iter().try_for_each(|chunk| check_chunk(&chunk, packs))
    }
}

fn check_chunk(chunk: &ChunkRef, packs: &[PackInfo]) -> Result<(), Flaw> {
    let Some(pack) = packs.get(chunk.pack as usize) else {
        let (found, limit) = (u64::from(chunk.pack) + 1, packs.len() as u64);
        return Err(Flaw::Bound { what: "number of a pack", found, limit });
    };
    Flaw::bound("length of a chunk", chunk.raw.into(), CHUNK_MAX.into())?;
    if chunk.encoded == 0 || chunk.encoded > chunk.raw || chunk.offset < pack::HEADER as u32 {
        return Err(Flaw::Disagree("the lengths and the offset of a chunk"));
    }
    Flaw::bound("end of a chunk", u64::from(chunk.offset) + u64::from(chunk.encoded), pack.size).map(drop)
}
