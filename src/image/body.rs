//! A body: the bytes of one image or file, inline where they are few, else as zero runs and chunks in packs.

use super::error::Flaw;
use super::manifest::PackInfo;
use super::pack;

/// Most bytes that are kept in the manifest itself.
pub const INLINE_MAX: usize = 16 * 1024;
/// Most bytes of a chunk before it is encoded.
pub(super) const CHUNK_MAX: u32 = 256 * 1024;
/// Most bytes of a body; large enough for any memory, small enough that sums never overflow.
const BODY_MAX: u64 = 1 << 52;
const HASH: usize = 32;

/// The bytes of one image or file. Its columns keep it small: one entry an extent in `lengths` and `packs`, one a chunk
/// in the others.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Body {
    #[prost(bytes = "vec", optional, tag = "1")]
    whole: Option<Vec<u8>>,
    /// Raw bytes of the extent.
    #[prost(uint64, repeated, tag = "2")]
    lengths: Vec<u64>,
    /// 0 for a zero run, else the pack's index plus one.
    #[prost(uint32, repeated, tag = "3")]
    packs: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    offsets: Vec<u32>,
    #[prost(uint32, repeated, tag = "5")]
    encoded: Vec<u32>,
    #[prost(bytes = "vec", tag = "6")]
    hashes: Vec<u8>,
}

/// A part of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// So many zero bytes.
    Zero(u64),
    /// A chunk.
    Chunk(ChunkRef),
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// Index into [`Manifest::packs`](super::Manifest::packs).
    pub pack: u32,
    /// First byte in the pack.
    pub offset: u32,
    /// Bytes in the pack; equal to `raw` where the chunk is stored as it is.
    pub encoded: u32,
    /// Bytes when decoded.
    pub raw: u32,
    /// BLAKE3 of the raw bytes.
    pub hash: [u8; HASH],
}

impl Body {
    /// A body that the manifest holds itself; at most [`INLINE_MAX`] bytes.
    pub fn from_inline(data: Vec<u8>) -> Self {
        Self { whole: Some(data), ..Self::default() }
    }

    pub(super) fn push(&mut self, extent: Extent) {
        match extent {
            Extent::Zero(length) => {
                self.lengths.push(length);
                self.packs.push(0);
            }
            Extent::Chunk(chunk) => {
                self.lengths.push(chunk.raw.into());
                self.packs.push(chunk.pack + 1);
                self.offsets.push(chunk.offset);
                self.encoded.push(chunk.encoded);
                self.hashes.extend_from_slice(&chunk.hash);
            }
        }
    }

    /// Bytes, zero runs included.
    pub fn size(&self) -> u64 {
        self.inline().len() as u64 + self.lengths.iter().sum::<u64>()
    }

    /// The bytes that the manifest holds itself; empty where it holds none.
    pub fn inline(&self) -> &[u8] {
        self.whole.as_deref().unwrap_or_default()
    }

    /// The extents in order; none where the body is inline.
    pub fn extents(&self) -> impl Iterator<Item = Extent> + '_ {
        let hashes = self.hashes.as_chunks::<HASH>().0;
        let mut chunks = self.offsets.iter().zip(&self.encoded).zip(hashes);
        self.lengths.iter().zip(&self.packs).map_while(move |(&length, &pack)| {
            if pack == 0 {
                return Some(Extent::Zero(length));
            }
            let ((&offset, &encoded), &hash) = chunks.next()?;
            Some(Extent::Chunk(ChunkRef { pack: pack - 1, offset, encoded, raw: u32::try_from(length).ok()?, hash }))
        })
    }

    /// Checks everything that a reader relies on.
    pub(super) fn check(&self, packs: &[PackInfo]) -> Result<(), Flaw> {
        let chunks = self.packs.iter().filter(|pack| **pack != 0).count();
        if self.packs.len() != self.lengths.len()
            || [self.offsets.len(), self.encoded.len()] != [chunks; 2]
            || self.hashes.len() != chunks * HASH
            || (self.whole.is_some() && !self.lengths.is_empty())
        {
            return Err(Flaw::Disagree("the columns of a body"));
        }
        Flaw::bound("number of inline bytes", self.inline().len() as u64, INLINE_MAX as u64)?;
        let total = self.lengths.iter().try_fold(0u64, |sum, length| sum.checked_add(*length)).unwrap_or(u64::MAX);
        Flaw::bound("size of a body", total, BODY_MAX)?;
        self.lengths
            .iter()
            .zip(&self.packs)
            .filter(|(_, pack)| **pack != 0)
            .try_for_each(|(length, _)| Flaw::bound("length of a chunk", *length, CHUNK_MAX.into()).map(drop))?;
        self.extents().try_for_each(|extent| match extent {
            Extent::Zero(_) => Ok(()),
            Extent::Chunk(chunk) => check_chunk(&chunk, packs),
        })
    }
}

fn check_chunk(chunk: &ChunkRef, packs: &[PackInfo]) -> Result<(), Flaw> {
    let Some(pack) = packs.get(chunk.pack as usize) else {
        let limit = (packs.len() as u64).saturating_sub(1);
        return Err(Flaw::Bound { what: "index of a pack", found: chunk.pack.into(), limit });
    };
    if chunk.encoded == 0 || chunk.encoded > chunk.raw || chunk.offset < pack::HEADER as u32 {
        return Err(Flaw::Disagree("the lengths and the offset of a chunk"));
    }
    Flaw::bound("end of a chunk", u64::from(chunk.offset) + u64::from(chunk.encoded), pack.size).map(drop)
}
