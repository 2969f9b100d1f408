//! Cuts the bytes of many bodies into pieces for the encoders.
//!
//! All bodies share one segment, which the body that is being fed fills; when another is fed, what is not yet a chunk
//! moves out of it. So a body that waits costs little, however many there are. Must never zero or copy page data without
//! need: what this does is in the time that the service stands still.

use std::io::{ErrorKind, Read};

use super::Result;
use super::body::{Body, Extent, INLINE_MAX};
use super::chunk::{self, PAGE, ZERO_RUN};
use super::encoder::{Piece, Pipeline, Placed, Segment};
use super::error::ImageError;

/// A segment with less room than this is handed on, so that reads stay large.
const ROOM_MIN: usize = 64 << 10;
/// Bytes of one read for a body that is still small.
const SMALL_READ: usize = 2 * INLINE_MAX;

/// A body whose chunks are not yet placed.
#[derive(Default)]
pub(super) struct Draft {
    size: u64,
    parts: Vec<Part>,
    /// Bytes that are in no part yet, unless they are in the segment.
    waiting: Vec<u8>,
}

enum Part {
    Zero(u64),
    /// A chunk by its number.
    Chunk(usize),
}

impl Draft {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether all of it may still go into the manifest. Nothing of such a body is in a segment.
    fn is_small(&self) -> bool {
        self.size <= INLINE_MAX as u64
    }

    fn push_zeros(&mut self, length: u64) {
        match self.parts.last_mut() {
            _ if length == 0 => {}
            Some(Part::Zero(zeros)) => *zeros += length,
            _ => self.parts.push(Part::Zero(length)),
        }
    }

    pub(super) fn into_body(self, placed: &Placed) -> Result<Body> {
        if self.parts.is_empty() {
            return Ok(Body::from_inline(self.waiting));
        }
        let mut body = Body::default();
        for part in self.parts {
            body.push(match part {
                Part::Zero(length) => Extent::Zero(length),
                Part::Chunk(number) => {
                    Extent::Chunk(placed.chunks.get(number).copied().flatten().ok_or(ImageError::Ended)?)
                }
            });
        }
        Ok(body)
    }
}

/// The state of the feeding thread. In `buffer`, `start..filled` belongs to the body `current` and is in no part yet;
/// its whole pages below `scanned` were looked at, of which the last `zeros` bytes are zero.
pub(super) struct Feeder {
    pipeline: Option<Pipeline>,
    bodies: Vec<Draft>,
    current: Option<usize>,
    buffer: Vec<u8>,
    start: usize,
    scanned: usize,
    filled: usize,
    zeros: usize,
    pieces: Vec<Piece>,
    next_chunk: usize,
    next_segment: u64,
    scratch: Box<[u8]>,
    /// Bytes that bodies which are not being fed hold back, and the most that they may.
    held: usize,
    held_max: usize,
}

impl Feeder {
    pub(super) fn new(pipeline: Pipeline, held_max: usize) -> Result<Self> {
        Ok(Self {
            buffer: pipeline.buffer()?,
            pipeline: Some(pipeline),
            bodies: Vec::new(),
            current: None,
            start: 0,
            scanned: 0,
            filled: 0,
            zeros: 0,
            pieces: Vec::new(),
            next_chunk: 0,
            next_segment: 0,
            scratch: vec![0; SMALL_READ].into(),
            held: 0,
            held_max,
        })
    }

    pub(super) fn begin(&mut self) -> usize {
        self.bodies.push(Draft::default());
        self.bodies.len() - 1
    }

    /// Does one read for `body`.
    pub(super) fn fill(&mut self, body: usize, source: &mut impl Read) -> Result<usize> {
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
            self.held += draft.waiting.len();
            self.enter(body)?;
        }
        Ok(read)
    }

    pub(super) fn end(&mut self, body: usize) -> Result<()> {
        self.pipeline()?.check()?;
        if self.bodies[body].is_small() {
            return Ok(());
        }
        self.enter(body)?;
        let rest = &self.buffer[self.start..self.filled];
        if chunk::is_zero(rest) {
            let length = rest.len();
            self.bodies[body].push_zeros(length as u64);
            self.filled = self.start;
        } else {
            self.cut(body, self.filled);
        }
        self.scanned = self.filled;
        self.current = None;
        Ok(())
    }

    /// Ends everything; what is not whole is lost.
    pub(super) fn finish(&mut self) -> Result<(Vec<Draft>, Placed)> {
        let pipeline = self.pipeline.take().ok_or(ImageError::Ended)?;
        if !self.pieces.is_empty() {
            pipeline.push(self.segment(Vec::new()));
        }
        Ok((std::mem::take(&mut self.bodies), pipeline.finish()?))
    }

    fn pipeline(&self) -> Result<&Pipeline> {
        self.pipeline.as_ref().ok_or(ImageError::Ended)
    }

    /// Makes `body` the one being fed, and sees to room for a read.
    fn enter(&mut self, body: usize) -> Result<()> {
        if self.current == Some(body) {
            return self.make_room(ROOM_MIN);
        }
        self.leave();
        let waiting = std::mem::take(&mut self.bodies[body].waiting);
        self.make_room(waiting.len() + ROOM_MIN)?;
        self.held -= waiting.len();
        self.buffer[self.filled..][..waiting.len()].copy_from_slice(&waiting);
        self.filled += waiting.len();
        self.current = Some(body);
        // Pages that were looked at before are looked at again, and come out the same.
        self.scan(body);
        Ok(())
    }

    /// Moves what is in no part yet out of the segment.
    fn leave(&mut self) {
        let Some(body) = self.current.take() else { return };
        if self.held + self.filled - self.start > self.held_max && self.start < self.scanned {
            self.cut(body, self.scanned);
        }
        let waiting = self.buffer[self.start..self.filled].to_vec();
        self.held += waiting.len();
        self.bodies[body].waiting = waiting;
        self.filled = self.start;
        self.scanned = self.start;
        self.zeros = 0;
    }

    /// Hands the segment on if it has less than `room`, and keeps what is in no part yet.
    fn make_room(&mut self, room: usize) -> Result<()> {
        if self.buffer.len() - self.filled >= room {
            return Ok(());
        }
        let keep = self.start..self.filled;
        if self.pieces.is_empty() {
            self.buffer.copy_within(keep.clone(), 0);
        } else {
            let mut buffer = self.pipeline()?.buffer()?;
            buffer[..keep.len()].copy_from_slice(&self.buffer[keep.clone()]);
            let segment = self.segment(buffer);
            self.pipeline()?.push(segment);
        }
        self.move_back(keep.start);
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

    /// Looks at all whole pages that are new.
    fn scan(&mut self, body: usize) {
        while let Some(page) = self.buffer[self.scanned..self.filled].first_chunk::<PAGE>() {
            let zero = chunk::is_zero(page);
            let end = self.scanned + PAGE;
            self.zeros = if zero { self.zeros + PAGE } else { 0 };
            let ends = chunk::ends_after(page, end - self.start, zero);
            self.scanned = end;
            if self.zeros == end - self.start || self.zeros >= ZERO_RUN {
                self.cut_zeros(body);
            } else if ends {
                self.cut(body, end);
            }
        }
        self.close_gap();
    }

    fn cut(&mut self, body: usize, end: usize) {
        if end > self.start {
            self.pieces.push(Piece::new(self.next_chunk, self.start..end));
            self.bodies[body].parts.push(Part::Chunk(self.next_chunk));
            self.next_chunk += 1;
        }
        self.start = end;
        self.zeros = 0;
    }

    fn cut_zeros(&mut self, body: usize) {
        let zeros = self.zeros;
        self.cut(body, self.scanned - zeros);
        self.bodies[body].push_zeros(zeros as u64);
        self.start = self.scanned;
    }

    /// Zero pages at the end of the segment need not stay there.
    fn close_gap(&mut self) {
        let end = self.pieces.last().map_or(0, |piece| piece.range.end);
        if self.start > end && self.filled - self.start <= PAGE {
            self.buffer.copy_within(self.start..self.filled, end);
            self.move_back(self.start - end);
        }
    }
}

/// One read, however often a signal comes between.
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

    #[test]
    fn what_waits_is_bounded() {
        const BODIES: usize = 200;
        const HELD_MAX: usize = 1 << 20;
        let folder = tempfile::tempdir().unwrap();
        let mut feeder =
            Feeder::new(Pipeline::start(test_vault(folder.path()), 64 << 20, 1).unwrap(), HELD_MAX).unwrap();
        let mut noise = vec![0; 20_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        (0..BODIES).for_each(|body| assert_eq!(feeder.begin(), body));
        for _ in 0..5 {
            for body in 0..BODIES {
                feeder.fill(body, &mut &noise[..]).unwrap();
                assert!(feeder.held <= HELD_MAX + BODIES * PAGE, "{}", feeder.held);
                let waiting = feeder.bodies.iter().map(|draft| draft.waiting.len()).sum::<usize>();
                assert_eq!(feeder.held, waiting);
            }
        }
    }
}
