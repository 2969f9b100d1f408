//! A body: the bytes of one CRIU image or file. A small one is inline in the manifest; a larger one is a list
//! of zero runs and slices of chunks.

use super::chunk::PAGE;
use super::chunk_table::ChunkTable;
use crate::image::error::Flaw;

/// Most bytes of an inline body.
pub const INLINE_MAX: usize = 16 * 1024;
/// Most bytes of all bodies of a manifest together: larger than any memory, and small enough that sums cannot
/// overflow.
pub(crate) const BODY_MAX: u64 = 1 << 52;

/// The bytes of one CRIU image or file. Columns keep it small: one entry per extent, and in `firsts` one per
/// slice.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Body {
    #[prost(bytes = "vec", optional, tag = "1")]
    whole: Option<Vec<u8>>,
    /// Bytes of each extent.
    #[prost(uint64, repeated, tag = "2")]
    lengths: Vec<u64>,
    /// 0 for a zero run, else 1 + the chunk's index in the manifest's table.
    #[prost(uint32, repeated, tag = "3")]
    chunks: Vec<u32>,
    /// First page of each slice in its chunk.
    #[prost(uint32, repeated, tag = "4")]
    firsts: Vec<u32>,
}

/// A contiguous part of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// A run of this many zero bytes.
    Zero(u64),
    /// Consecutive pages of a chunk.
    Slice(Slice),
}

/// Consecutive pages of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Index into [`Manifest::chunks`](crate::image::format::manifest::Manifest::chunks).
    pub chunk: u32,
    /// First page in the chunk.
    pub first: u32,
    /// Bytes: whole pages, unless the slice ends with its chunk.
    pub length: u32,
}

impl Slice {
    /// First byte in the decoded chunk.
    pub(crate) fn start(&self) -> usize {
        self.first as usize * PAGE
    }

    /// The part behind the first `length` bytes, which are whole pages.
    pub(crate) fn behind(&self, length: u32) -> Self {
        Self { first: self.first + length / PAGE as u32, length: self.length - length, ..*self }
    }

    fn follows(&self, before: &Slice) -> bool {
        self.chunk == before.chunk && self.start() == before.start() + before.length as usize
    }
}

impl Body {
    /// An inline body of at most [`INLINE_MAX`] bytes.
    pub fn from_inline(data: Vec<u8>) -> Self {
        Self { whole: Some(data), ..Self::default() }
    }

    /// Appends an extent. Merges it with the last one if it continues that.
    pub(crate) fn push(&mut self, extent: Extent) {
        match (extent, self.last()) {
            (Extent::Zero(0), _) => {}
            (Extent::Zero(length), Some(Extent::Zero(_))) => self.lengthen(length),
            (Extent::Slice(slice), Some(Extent::Slice(last))) if slice.follows(&last) => {
                self.lengthen(slice.length.into());
            }
            (Extent::Zero(length), _) => {
                self.lengths.push(length);
                self.chunks.push(0);
            }
            (Extent::Slice(slice), _) => {
                self.lengths.push(slice.length.into());
                self.chunks.push(slice.chunk + 1);
                self.firsts.push(slice.first);
            }
        }
    }

    fn lengthen(&mut self, length: u64) {
        if let Some(last) = self.lengths.last_mut() {
            *last += length;
        }
    }

    fn last(&self) -> Option<Extent> {
        let length = *self.lengths.last()?;
        match *self.chunks.last()? {
            0 => Some(Extent::Zero(length)),
            chunk => slice(chunk, *self.firsts.last()?, length),
        }
    }

    /// Maps the index of every chunk.
    pub(crate) fn renumber(&mut self, mut index: impl FnMut(u32) -> u32) {
        self.chunks.iter_mut().filter(|chunk| **chunk != 0).for_each(|chunk| *chunk = index(*chunk - 1) + 1);
    }

    /// Bytes, including zero runs.
    pub fn size(&self) -> u64 {
        self.inline().len() as u64 + self.lengths.iter().sum::<u64>()
    }

    /// Bytes without zero runs.
    pub fn data(&self) -> u64 {
        let slice = |extent| if let Extent::Slice(slice) = extent { slice.length.into() } else { 0 };
        self.inline().len() as u64 + self.extents().map(slice).sum::<u64>()
    }

    /// The bytes of an inline body; empty for any other.
    pub fn inline(&self) -> &[u8] {
        self.whole.as_deref().unwrap_or_default()
    }

    /// The extents in order; none if the body is inline.
    pub fn extents(&self) -> impl Iterator<Item = Extent> + '_ {
        let mut firsts = self.firsts.iter();
        self.lengths.iter().zip(&self.chunks).map_while(move |(&length, &chunk)| {
            if chunk == 0 { Some(Extent::Zero(length)) } else { slice(chunk, *firsts.next()?, length) }
        })
    }

    /// Checks every property that readers rely on.
    pub(crate) fn check(&self, chunks: &ChunkTable) -> Result<(), Flaw> {
        let slices = self.chunks.iter().filter(|chunk| **chunk != 0).count();
        if self.chunks.len() != self.lengths.len()
            || self.firsts.len() != slices
            || (self.whole.is_some() && !self.lengths.is_empty())
        {
            return Err(Flaw::Disagree("the columns of a body"));
        }
        Flaw::bound("number of inline bytes", self.inline().len() as u64, INLINE_MAX as u64)?;
        let total = self.lengths.iter().try_fold(0u64, |sum, length| sum.checked_add(*length)).unwrap_or(u64::MAX);
        Flaw::bound("size of a body", total, BODY_MAX)?;
        let mut firsts = self.firsts.iter();
        self.lengths.iter().zip(&self.chunks).try_for_each(|(&length, &chunk)| match chunk {
            _ if length == 0 => Err(Flaw::Disagree("the columns of a body")),
            0 => Ok(()),
            chunk => check_slice(chunk - 1, firsts.next().copied().unwrap_or(u32::MAX), length, chunks),
        })
    }
}

fn slice(chunk: u32, first: u32, length: u64) -> Option<Extent> {
    Some(Extent::Slice(Slice { chunk: chunk - 1, first, length: u32::try_from(length).ok()? }))
}

fn check_slice(chunk: u32, first: u32, length: u64, chunks: &ChunkTable) -> Result<(), Flaw> {
    let Some(found) = chunks.get(chunk) else {
        let (found, limit) = (u64::from(chunk) + 1, chunks.len() as u64);
        return Err(Flaw::Bound { what: "number of a chunk", found, limit });
    };
    let end = Flaw::bound("end of a slice", u64::from(first) * PAGE as u64 + length, found.raw.into())?;
    // Otherwise a few bytes of manifest could make a reader decode many chunks.
    if length.is_multiple_of(PAGE as u64) || end == u64::from(found.raw) {
        Ok(())
    } else {
        Err(Flaw::Disagree("a slice and the pages of its chunk"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: u32 = PAGE as u32;

    fn extent(chunk: u32, first: u32, length: u32) -> Extent {
        Extent::Slice(Slice { chunk, first, length })
    }

    fn body(extents: &[Extent]) -> Body {
        let mut body = Body::default();
        extents.iter().for_each(|extent| body.push(*extent));
        body
    }

    #[test]
    fn what_continues_is_one_extent() {
        let parts = [extent(0, 0, P), extent(0, 1, 2 * P), Extent::Zero(5), Extent::Zero(6), extent(0, 3, P)];
        let whole = body(&parts);
        assert_eq!(whole.extents().collect::<Vec<_>>(), [extent(0, 0, 3 * P), Extent::Zero(11), extent(0, 3, P)]);
        assert_eq!(whole.size(), 4 * u64::from(P) + 11);
        let apart = [extent(0, 0, P), extent(0, 2, P), extent(1, 3, P), extent(0, 4, 10), extent(0, 5, P)];
        assert_eq!(body(&apart).extents().collect::<Vec<_>>(), apart);
        assert_eq!(body(&[Extent::Zero(0)]), Body::default());
    }

    #[test]
    fn slices_stay_in_their_chunk() {
        use crate::image::format::chunk_table::ChunkRef;
        use crate::image::format::pack::PackInfo;
        let mut chunks = ChunkTable::default();
        chunks.push(&ChunkRef { pack: 0, offset: 8, encoded: 9, raw: 2 * P + 10, name: [0; 16] });
        chunks.check(&[PackInfo { size: 17, ..PackInfo::default() }]).unwrap();
        let check = |first, length| body(&[extent(0, first, length)]).check(&chunks);
        for (first, length) in [(0, P), (0, 2 * P + 10), (1, P), (2, 10)] {
            check(first, length).unwrap();
        }
        for (first, length) in [(0, 2 * P + 11), (1, 2 * P), (2, 11), (u32::MAX, 1)] {
            assert!(matches!(check(first, length), Err(Flaw::Bound { what: "end of a slice", .. })));
        }
        assert_eq!(check(0, 10), Err(Flaw::Disagree("a slice and the pages of its chunk")));
        assert_eq!(check(0, 0), Err(Flaw::Disagree("the columns of a body")));
        let other = body(&[extent(1, 0, P)]).check(&chunks);
        assert!(matches!(other, Err(Flaw::Bound { what: "number of a chunk", .. })));
    }
}
