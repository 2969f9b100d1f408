//! Cuts the bytes of many bodies into pieces for the encoders.
//!
//! All bodies share one segment, and the body being fed fills it. When another body is fed, the incomplete
//! page of the first one moves out. So an idle large body takes less than a page. Never zeroes or copies page
//! data without need: the service is frozen meanwhile.

use std::io::{ErrorKind, Read};

use super::packer::Placed;
use super::pipeline::Pipeline;
use super::segment::{Content, Piece, Segment};
use crate::image::error::{ImageError, Result};
use crate::image::format::body::{Body, INLINE_MAX, Slice};
use crate::image::format::chunk::{self, PAGE, ZERO_RUN};

/// A segment with less room than this is passed on, so reads stay large.
const ROOM_MIN: usize = 64 << 10;
/// Most bytes of small bodies that are inline in the manifest, which is whole in memory. Those that follow are stored as
/// larger ones are.
const INLINE_TOTAL: u64 = 8 << 20;
/// Bytes of one read for a small body.
const SMALL_READ: usize = 2 * INLINE_MAX;
/// Most pieces of a segment: those that need no buffer would have no bound.
const PIECES: usize = 16 << 10;

/// State of a body.
#[derive(Default)]
struct Draft {
    size: u64,
    /// Bytes that are neither in a piece nor in the segment.
    waiting: Vec<u8>,
    ended: bool,
    /// It is small, and there is no room for it in the manifest.
    is_crowded_out: bool,
}

impl Draft {
    /// Whether the body still fits into the manifest. Its bytes are in `waiting`, never in a segment.
    fn is_small(&self) -> bool {
        self.size <= INLINE_MAX as u64 && !self.is_crowded_out
    }
}

/// State of the feeding thread. In `buffer`, `..used` is in pieces, and `start..filled` belongs to the body
/// `current` and is in no piece yet. Of that, the pages in `start..scanned` were scanned, and the last
/// `zeros` bytes of them are zero.
pub(crate) struct Feeder {
    pipeline: Option<Pipeline>,
    bodies: Vec<Draft>,
    current: Option<usize>,
    buffer: Vec<u8>,
    used: usize,
    start: usize,
    scanned: usize,
    filled: usize,
    zeros: usize,
    pieces: Vec<Piece>,
    next_segment: u64,
    /// Bytes of ended small bodies.
    inline: u64,
    scratch: Box<[u8]>,
}

impl Feeder {
    pub(crate) fn new(mut pipeline: Pipeline) -> Result<Self> {
        Ok(Self {
            buffer: pipeline.buffer()?,
            pipeline: Some(pipeline),
            bodies: Vec::new(),
            current: None,
            used: 0,
            start: 0,
            scanned: 0,
            filled: 0,
            zeros: 0,
            pieces: Vec::new(),
            next_segment: 0,
            inline: 0,
            scratch: vec![0; SMALL_READ].into(),
        })
    }

    pub(crate) fn begin(&mut self) -> usize {
        self.bodies.push(Draft::default());
        self.bodies.len() - 1
    }

    /// Does one read for `body`.
    pub(crate) fn fill(&mut self, body: usize, source: &mut impl Read) -> Result<usize> {
        self.pipeline()?.check()?;
        if self.bodies[body].is_small() {
            return self.fill_small(body, source);
        }
        self.enter(body)?;
        let read = read(source, &mut self.buffer[self.filled..])?;
        self.filled += read;
        self.bodies[body].size += read as u64;
        self.scan(body);
        Ok(read)
    }

    fn fill_small(&mut self, body: usize, source: &mut impl Read) -> Result<usize> {
        let read = read(source, &mut self.scratch)?;
        let draft = &mut self.bodies[body];
        draft.waiting.extend_from_slice(&self.scratch[..read]);
        draft.size += read as u64;
        if !draft.is_small() {
            self.enter(body)?;
        }
        Ok(read)
    }

    /// Appends zeros that need not be read. The body has whole pages so far.
    pub(crate) fn skip(&mut self, body: usize, length: u64) -> Result<()> {
        self.pipeline()?.check()?;
        let draft = &mut self.bodies[body];
        draft.size += length;
        if draft.is_small() {
            draft.waiting.resize(draft.size as usize, 0);
            return Ok(());
        }
        self.enter(body)?;
        self.cut_scanned(body);
        self.push_zeros(body, length as usize);
        self.close_gap();
        Ok(())
    }

    /// Appends pages that are stored already: a slice of a chunk of the page index. The body has whole pages so far.
    pub(crate) fn reuse(&mut self, body: usize, slice: Slice) -> Result<()> {
        self.pipeline()?.check()?;
        if self.pieces.len() >= PIECES {
            self.pass_on()?;
        }
        let draft = &mut self.bodies[body];
        draft.size += u64::from(slice.length);
        // What its neighbours have inline would not stand before it.
        draft.is_crowded_out = true;
        self.enter(body)?;
        self.cut_scanned(body);
        self.pieces.push(Piece { body, content: Content::Stored(slice) });
        self.close_gap();
        Ok(())
    }

    pub(crate) fn take_time(&self) {
        self.pipeline.iter().for_each(Pipeline::take_time);
    }

    pub(crate) fn end(&mut self, body: usize) -> Result<()> {
        self.pipeline()?.check()?;
        let draft = &mut self.bodies[body];
        draft.is_crowded_out = draft.is_small() && self.inline + draft.size > INLINE_TOTAL;
        if draft.is_small() {
            self.inline += draft.size;
        } else {
            self.enter(body)?;
            self.cut_scanned(body);
            let rest = self.start..self.filled;
            if chunk::is_zero(&self.buffer[rest.clone()]) {
                self.push_zeros(body, rest.len());
                self.filled = self.start;
            } else {
                self.cut(body, rest.end);
            }
            self.scanned = self.filled;
            self.current = None;
        }
        self.bodies[body].ended = true;
        Ok(())
    }

    /// Waits until everything is stored. Returns the bytes taken in and the bodies. A body that was not ended
    /// is lost.
    pub(crate) fn finish(&mut self) -> Result<(u64, Placed)> {
        let pipeline = self.pipeline.take().ok_or(ImageError::Ended)?;
        if !self.pieces.is_empty() {
            pipeline.push(self.segment(Vec::new()));
        }
        let ended: Vec<bool> = self.bodies.iter().map(|draft| draft.ended).collect();
        let mut placed = pipeline.finish(&ended)?;
        for (draft, body) in self.bodies.iter_mut().zip(&mut placed.bodies) {
            if draft.is_small() {
                *body = Body::from_inline(std::mem::take(&mut draft.waiting));
            }
        }
        Ok((self.bodies.iter().map(|draft| draft.size).sum(), placed))
    }

    fn pipeline(&mut self) -> Result<&mut Pipeline> {
        self.pipeline.as_mut().ok_or(ImageError::Ended)
    }

    /// Switches to `body` and makes room for a read.
    fn enter(&mut self, body: usize) -> Result<()> {
        if self.current == Some(body) {
            return self.make_room(ROOM_MIN);
        }
        self.leave();
        let waiting = std::mem::take(&mut self.bodies[body].waiting);
        self.make_room(waiting.len() + ROOM_MIN)?;
        self.buffer[self.filled..][..waiting.len()].copy_from_slice(&waiting);
        self.filled += waiting.len();
        self.current = Some(body);
        self.scan(body);
        Ok(())
    }

    /// Moves the incomplete page of the current body out of the segment.
    fn leave(&mut self) {
        let Some(body) = self.current.take() else { return };
        self.cut_scanned(body);
        self.bodies[body].waiting = self.buffer[self.start..self.filled].to_vec();
        self.filled = self.start;
        self.close_gap();
    }

    /// Passes the segment on if it has less than `room` bytes left. Keeps the bytes that are in no piece.
    fn make_room(&mut self, room: usize) -> Result<()> {
        if self.buffer.len() - self.filled >= room { Ok(()) } else { self.pass_on() }
    }

    /// Passes the segment on.
    fn pass_on(&mut self) -> Result<()> {
        if let Some(body) = self.current {
            self.cut_scanned(body);
        }
        let rest = self.start..self.filled;
        let mut buffer = self.pipeline()?.buffer()?;
        buffer[..rest.len()].copy_from_slice(&self.buffer[rest.clone()]);
        let segment = self.segment(buffer);
        self.pipeline()?.push(segment);
        self.used = 0;
        self.move_back(rest.start);
        Ok(())
    }

    fn segment(&mut self, next: Vec<u8>) -> Segment {
        self.next_segment += 1;
        Segment {
            sequence: self.next_segment - 1,
            buffer: std::mem::replace(&mut self.buffer, next),
            pieces: std::mem::take(&mut self.pieces),
        }
    }

    fn move_back(&mut self, by: usize) {
        self.start -= by;
        self.scanned -= by;
        self.filled -= by;
    }

    /// Looks for zero pages among the new whole pages.
    fn scan(&mut self, body: usize) {
        while let Some(page) = self.buffer[self.scanned..self.filled].first_chunk::<PAGE>() {
            let zero = chunk::is_zero(page);
            self.scanned += PAGE;
            self.zeros = if zero { self.zeros + PAGE } else { 0 };
            if self.zeros >= ZERO_RUN || self.zeros == self.scanned - self.start {
                self.cut_scanned(body);
            }
        }
        self.close_gap();
    }

    /// Makes pieces of all scanned pages.
    fn cut_scanned(&mut self, body: usize) {
        let zeros = std::mem::take(&mut self.zeros);
        self.cut(body, self.scanned - zeros);
        self.push_zeros(body, zeros);
        self.start = self.scanned;
    }

    fn cut(&mut self, body: usize, end: usize) {
        if end > self.start {
            self.pieces.push(Piece { body, content: Content::Data(self.start..end) });
            self.used = end;
        }
        self.start = end;
    }

    fn push_zeros(&mut self, body: usize, more: usize) {
        match self.pieces.last_mut() {
            _ if more == 0 => {}
            Some(Piece { body: last, content: Content::Zeros(length) }) if *last == body => *length += more as u64,
            _ => self.pieces.push(Piece { body, content: Content::Zeros(more as u64) }),
        }
    }

    /// Reuses the space of zero pages at the end of the segment.
    fn close_gap(&mut self) {
        if self.start > self.used && self.filled - self.start <= PAGE {
            self.buffer.copy_within(self.start..self.filled, self.used);
            self.move_back(self.start - self.used);
        }
    }
}

/// One read(2), repeated after EINTR.
fn read(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match source.read(buffer) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            result => return result.map_err(ImageError::Source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::test_vault;
    use crate::image::write::page_index::PageIndex;

    fn feeder() -> (tempfile::TempDir, Feeder) {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let pipeline = Pipeline::start(&vault, PageIndex::new(1 << 20), Vec::new(), 64 << 20, 1, |_| true).unwrap();
        (folder, Feeder::new(pipeline).unwrap())
    }

    #[test]
    fn what_waits_is_less_than_a_page() {
        const BODIES: usize = 200;
        let (_folder, mut feeder) = feeder();
        let mut noise = vec![0; 20_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        (0..BODIES).for_each(|body| assert_eq!(feeder.begin(), body));
        for _ in 0..5 {
            for body in 0..BODIES {
                feeder.fill(body, &mut &noise[..]).unwrap();
                let waits = |(other, draft): (usize, &Draft)| other != body && draft.waiting.len() >= PAGE;
                assert!(!feeder.bodies[..body].iter().enumerate().any(waits));
            }
        }
    }

    #[test]
    fn zeros_are_pieces_and_use_no_buffer() {
        let (_folder, mut feeder) = feeder();
        let body = feeder.begin();
        let zeros = vec![0; 1 << 20];
        for _ in 0..20 {
            feeder.fill(body, &mut &zeros[..]).unwrap();
        }
        assert_eq!((feeder.next_segment, feeder.pieces.len(), feeder.used), (0, 1, 0));
        // A short run of zero pages stays in its piece; at the end of the body it becomes a zero run.
        let mut mixed = vec![1; 20 * PAGE];
        mixed[3 * PAGE..6 * PAGE].fill(0);
        mixed[10 * PAGE..14 * PAGE].fill(0);
        mixed[18 * PAGE..].fill(0);
        let mut rest = &mixed[..];
        while !rest.is_empty() {
            feeder.fill(body, &mut rest).unwrap();
        }
        feeder.end(body).unwrap();
        let lengths: Vec<_> = feeder.pieces[1..]
            .iter()
            .map(|piece| match &piece.content {
                Content::Zeros(length) => -(*length as isize),
                Content::Stored(_) => 0,
                Content::Data(range) => range.len() as isize,
            })
            .map(|length| length / PAGE as isize)
            .collect();
        assert_eq!(lengths, [10, -4, 4, -2]);
    }

    #[test]
    fn what_is_skipped_is_one_piece_of_zeros() {
        let (_folder, mut feeder) = feeder();
        let body = feeder.begin();
        feeder.skip(body, PAGE as u64).unwrap();
        feeder.fill(body, &mut &[1; PAGE][..]).unwrap();
        feeder.skip(body, 1 << 40).unwrap();
        feeder.skip(body, 5).unwrap();
        feeder.end(body).unwrap();
        let (bytes, placed) = feeder.finish().unwrap();
        assert_eq!((bytes, placed.bodies[body].size()), ((1 << 40) + 2 * PAGE as u64 + 5, bytes));
        assert_eq!(placed.bodies[body].extents().count(), 3);
    }

    #[test]
    fn what_is_reused_stands_in_its_place_and_needs_no_buffer() {
        let (_folder, mut feeder) = feeder();
        let body = feeder.begin();
        feeder.fill(body, &mut &[1; PAGE][..]).unwrap();
        let slice = Slice { chunk: 0, first: 3, length: 2 * PAGE as u32 };
        feeder.reuse(body, slice).unwrap();
        feeder.fill(body, &mut &[2; PAGE][..]).unwrap();
        let pieces: Vec<_> = feeder
            .pieces
            .iter()
            .map(|piece| match &piece.content {
                Content::Data(range) => feeder.buffer[range.start],
                Content::Stored(stored) => 10 * u8::from(*stored == slice),
                Content::Zeros(_) => 0,
            })
            .collect();
        assert_eq!((pieces, feeder.bodies[body].size), (vec![1, 10], 4 * PAGE as u64));
        (0..2 * PIECES).for_each(|_| feeder.reuse(body, slice).unwrap());
        assert!(feeder.pieces.len() <= PIECES);
    }

    #[test]
    fn small_bodies_beyond_a_total_are_not_inline() {
        let (_folder, mut feeder) = feeder();
        let data = vec![7; INLINE_MAX - 1];
        let most = INLINE_TOTAL as usize / data.len();
        for _ in 0..most + 3 {
            let body = feeder.begin();
            let mut rest = &data[..];
            while !rest.is_empty() {
                feeder.fill(body, &mut rest).unwrap();
            }
            feeder.end(body).unwrap();
        }
        let (_, placed) = feeder.finish().unwrap();
        assert!(placed.bodies.iter().all(|body| body.size() == data.len() as u64));
        let inline = placed.bodies.iter().map(|body| body.inline().len()).filter(|length| *length > 0);
        assert_eq!((inline.count(), placed.chunks.len()), (most, 1));
    }
}
