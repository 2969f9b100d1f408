//! Encodes a segment: turns raw bytes of bodies into new chunks and slices of indexed ones.

use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use super::dedup::{self, Run};
use super::page_index::PageIndex;
use crate::image::crypto::seal::Seal;
use crate::image::format::body::Slice;
use crate::image::format::chunk::{self, CHUNK, Name, PAGE};
use crate::image::format::codec::Encoder;

/// A new body starts a new chunk if the open chunk has at least this many bytes.
const BODY_MIN: usize = 16 * PAGE;

/// A buffer with pieces of bodies. `sequence` is its position in the stream.
pub(crate) struct Segment {
    pub sequence: u64,
    pub buffer: Vec<u8>,
    pub pieces: Vec<Piece>,
}

/// The next part of a body.
pub(crate) struct Piece {
    pub body: usize,
    pub content: Content,
}

pub(crate) enum Content {
    Zeros(u64),
    /// [`Slice::chunk`] is a chunk number of [`PageIndex`].
    Stored(Slice),
    /// Range of the buffer: whole pages, except at the end of the body.
    Data(Range<usize>),
}

/// A segment whose new pages are encoded.
pub(crate) struct Encoded {
    pub sequence: u64,
    pub buffer: Vec<u8>,
    pub chunks: Vec<NewChunk>,
    pub parts: Vec<(usize, Part)>,
}

pub(crate) struct NewChunk {
    /// Encoded bytes in the buffer.
    pub range: Range<usize>,
    pub raw: u32,
    pub pages: Vec<Name>,
    pub name: Name,
}

/// The next part of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Zeros(u64),
    /// [`Slice::chunk`] is a chunk number of [`PageIndex`].
    Known(Slice),
    /// [`Slice::chunk`] is an index into [`Encoded::chunks`].
    New(Slice),
}

/// State of an encoding thread.
pub(crate) struct Coder {
    codec: Encoder,
    seal: Seal,
    zero: Name,
}

impl Coder {
    pub(crate) fn new(seal: &Seal) -> std::io::Result<Self> {
        let zero = chunk::page_name(seal, &[0; PAGE]);
        Ok(Self { codec: Encoder::new(CHUNK)?, seal: seal.clone(), zero })
    }

    /// Deduplicates and encodes a segment, in place, at this level of zstd. None stores chunks as they are.
    pub(crate) fn encode(&mut self, segment: Segment, known: &RwLock<PageIndex>, level: Option<i32>) -> Encoded {
        let Segment { sequence, buffer, pieces } = segment;
        let encoded = Encoded { sequence, buffer, chunks: Vec::new(), parts: Vec::new() };
        let mut work = Work { coder: self, level, encoded, end: 0, raw: 0..0, pages: Vec::new() };
        let steps = work.steps(&pieces, known);
        let mut last = None;
        for (body, step) in steps {
            if last.replace(body) != Some(body) && work.raw.len() >= BODY_MIN {
                work.close();
            }
            match step {
                Step::Stored(part) => work.encoded.parts.push((body, part)),
                Step::New(bytes, names) => work.gather(body, bytes, &names),
            }
        }
        work.close();
        work.encoded
    }
}

/// A segment being encoded. In the buffer, `..end` is encoded, `raw` is gathered for the next chunk, and the
/// rest is untouched. An encoded chunk is never longer than its raw bytes, so it never overwrites `raw` of a
/// later one.
struct Work<'a> {
    coder: &'a mut Coder,
    level: Option<i32>,
    encoded: Encoded,
    end: usize,
    raw: Range<usize>,
    /// The names of the gathered pages.
    pages: Vec<Name>,
}

enum Step {
    Stored(Part),
    /// A range of the buffer, and the names of its pages.
    New(Range<usize>, Vec<Name>),
}

impl Work<'_> {
    /// Deduplicates the pieces.
    fn steps(&self, pieces: &[Piece], known: &RwLock<PageIndex>) -> Vec<(usize, Step)> {
        let (seal, zero) = (&self.coder.seal, &self.coder.zero);
        let names = |piece: &Piece| match &piece.content {
            Content::Zeros(_) | Content::Stored(_) => Vec::new(),
            Content::Data(range) => chunk::page_names(seal, &self.encoded.buffer[range.clone()]),
        };
        let names: Vec<_> = pieces.iter().map(names).collect();
        let known = known.read().unwrap_or_else(PoisonError::into_inner);
        let runs = dedup::runs(&known, &names, zero);
        let mut steps = Vec::new();
        for ((piece, names), runs) in pieces.iter().zip(&names).zip(runs) {
            match &piece.content {
                Content::Zeros(length) => steps.push((piece.body, Step::Stored(Part::Zeros(*length)))),
                Content::Stored(slice) => steps.push((piece.body, Step::Stored(Part::Known(*slice)))),
                Content::Data(range) => add_steps(&mut steps, piece.body, range, names, &runs, &known),
            }
        }
        steps
    }

    /// Gathers new pages. Encodes a chunk whenever one is full or the body ends.
    fn gather(&mut self, body: usize, bytes: Range<usize>, names: &[Name]) {
        for (page, name) in names.iter().enumerate() {
            let start = bytes.start + page * PAGE;
            let page = start..bytes.end.min(start + PAGE);
            let slice = Slice {
                chunk: self.encoded.chunks.len() as u32,
                first: self.pages.len() as u32,
                length: page.len() as u32,
            };
            let ends = page.len() < PAGE || self.raw.len() + PAGE >= CHUNK;
            if self.raw.is_empty() {
                self.raw = page;
            } else {
                if page.start != self.raw.end {
                    self.encoded.buffer.copy_within(page.clone(), self.raw.end);
                }
                self.raw.end += page.len();
            }
            self.pages.push(*name);
            self.encoded.parts.push((body, Part::New(slice)));
            if ends {
                self.close();
            }
        }
    }

    /// Encodes the gathered pages as a chunk.
    fn close(&mut self) {
        if self.raw.is_empty() {
            return;
        }
        let raw = std::mem::take(&mut self.raw);
        let pages = std::mem::take(&mut self.pages);
        let buffer = &mut self.encoded.buffer;
        let encoded = self.level.and_then(|level| self.coder.codec.encode(&buffer[raw.clone()], level));
        let length = match encoded {
            Some(encoded) => {
                buffer[self.end..][..encoded.len()].copy_from_slice(encoded);
                encoded.len()
            }
            None => {
                buffer.copy_within(raw.clone(), self.end);
                raw.len()
            }
        };
        let name = chunk::chunk_name(&self.coder.seal, &pages);
        let range = self.end..self.end + length;
        self.end = range.end;
        self.encoded.chunks.push(NewChunk { range, raw: raw.len() as u32, pages, name });
    }
}

/// Turns the runs of a piece into steps.
fn add_steps(
    steps: &mut Vec<(usize, Step)>,
    body: usize,
    range: &Range<usize>,
    names: &[Name],
    runs: &[Run],
    known: &PageIndex,
) {
    let mut page = 0;
    for run in runs {
        let names = &names[page..page + run.pages()];
        let start = range.start + page * PAGE;
        let bytes = start..range.end.min(start + names.len() * PAGE);
        page += run.pages();
        match run {
            Run::Zero(_) => steps.push((body, Step::Stored(Part::Zeros(bytes.len() as u64)))),
            Run::New(_) => steps.push((body, Step::New(bytes, names.to_vec()))),
            Run::Known(first, _) => {
                let slices = dedup::slices(known, *first, bytes.len());
                steps.extend(slices.map(|slice| (body, Step::Stored(Part::Known(slice)))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::format::chunk_table::ChunkRef;
    use crate::image::format::codec::Decoder;

    fn noise(seed: u64, pages: usize) -> Vec<u8> {
        let mut data = vec![0; pages * PAGE];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut data);
        data
    }

    fn encode(buffer: Vec<u8>, pieces: Vec<(usize, Range<usize>)>, known: PageIndex) -> Encoded {
        let pieces = pieces.into_iter().map(|(body, range)| Piece { body, content: Content::Data(range) }).collect();
        let segment = Segment { sequence: 0, buffer, pieces };
        Coder::new(&Seal::plain([0; 32])).unwrap().encode(segment, &RwLock::new(known), Some(1))
    }

    fn decode(encoded: &Encoded) -> Vec<Vec<u8>> {
        let decode =
            |c: &NewChunk| Decoder::new().unwrap().decode(&encoded.buffer[c.range.clone()], c.raw as usize).unwrap();
        encoded.chunks.iter().map(decode).collect()
    }

    #[test]
    fn chunks_are_encoded_in_place_without_touching_each_other() {
        let data = [noise(1, 40), vec![b'a'; 20 * PAGE], noise(2, 30), vec![b'b'; 40 * PAGE + 5]].concat();
        let encoded = encode(data.clone(), vec![(0, 0..data.len())], PageIndex::new(1 << 16));
        let raw: Vec<_> = encoded.chunks.iter().map(|chunk| chunk.raw as usize).collect();
        assert_eq!(raw, [CHUNK, CHUNK, CHUNK, CHUNK, 2 * PAGE + 5]);
        assert!(decode(&encoded).concat() == data);
        assert!(encoded.chunks.last().unwrap().range.end < 71 * PAGE);
    }

    #[test]
    fn new_pages_of_many_places_share_a_chunk() {
        let seal = Seal::plain([0; 32]);
        let old = noise(1, 12);
        let mut known = PageIndex::new(1 << 16);
        let chunk = ChunkRef { pack: 0, offset: 8, encoded: 1, raw: old.len() as u32, name: [0; 16] };
        known.add(chunk, &chunk::page_names(&seal, &old), &[0; 16]);
        let mut data = old.clone();
        for (seed, page) in [(2, 3), (3, 7), (4, 11)] {
            data[page * PAGE..][..PAGE].copy_from_slice(&noise(seed, 1));
        }
        let encoded = encode(data, vec![(0, 0..8 * PAGE), (1, 8 * PAGE..12 * PAGE)], known);
        assert!(decode(&encoded) == [[noise(2, 1), noise(3, 1), noise(4, 1)].concat()]);
        let stored = |first, pages: u32| Part::Known(Slice { chunk: 0, first, length: pages * PAGE as u32 });
        let new = |first| Part::New(Slice { chunk: 0, first, length: PAGE as u32 });
        let parts = [(0, stored(0, 3)), (0, new(0)), (0, stored(4, 3)), (0, new(1)), (1, stored(8, 3)), (1, new(2))];
        assert_eq!(encoded.parts, parts);
    }

    #[test]
    fn large_parts_of_two_bodies_share_no_chunk() {
        let data = noise(1, 20);
        let pieces =
            vec![(0, 0..4 * PAGE), (1, 4 * PAGE..6 * PAGE), (1, 6 * PAGE..16 * PAGE), (2, 16 * PAGE..20 * PAGE)];
        let encoded = encode(data, pieces, PageIndex::new(1 << 16));
        let raw: Vec<_> = encoded.chunks.iter().map(|chunk| chunk.raw as usize / PAGE).collect();
        assert_eq!(raw, [16, 4]);
    }
}
