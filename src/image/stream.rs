//! One body being read: what is decoded, what is asked for, and what is still to be asked for. Knows no thread.

use std::collections::VecDeque;

use super::body::{Body, ChunkRef, Extent};

/// Window of a stream of which nothing was read yet.
const WINDOW_FIRST: u64 = 512 << 10;
/// Most raw bytes of a unit, so that its memory is bounded.
const UNIT_RAW: u64 = 2 << 20;
/// Most bytes of a ranged get.
pub(super) const UNIT_ENCODED: u64 = 2 << 20;

/// One body being read.
pub(super) struct Stream {
    extents: VecDeque<Extent>,
    slots: VecDeque<Slot>,
    /// Bytes of the first slot that are consumed.
    consumed: usize,
    /// Raw bytes that this stream would like to hold.
    window: u64,
    /// Raw bytes of chunks that it holds or has asked for.
    pub held: u64,
    next_unit: u64,
}

enum Slot {
    Inline(Vec<u8>),
    Zeros(u64),
    Asked { unit: u64, chunk: ChunkRef },
    Decoded { data: Vec<u8>, chunk: ChunkRef },
}

/// What comes next.
pub(super) enum First<'a> {
    Data(&'a [u8]),
    Zeros(u64),
    Pending,
    End,
}

impl Stream {
    pub(super) fn new(body: &Body) -> Self {
        let mut slots = VecDeque::new();
        if !body.inline().is_empty() {
            slots.push_back(Slot::Inline(body.inline().to_vec()));
        }
        Self { extents: body.extents().collect(), slots, consumed: 0, window: WINDOW_FIRST, held: 0, next_unit: 0 }
    }

    pub(super) fn first(&self) -> First<'_> {
        match self.slots.front() {
            Some(Slot::Inline(data) | Slot::Decoded { data, .. }) => First::Data(&data[self.consumed..]),
            Some(Slot::Zeros(length)) => First::Zeros(*length),
            Some(Slot::Asked { .. }) => First::Pending,
            None if self.extents.is_empty() => First::End,
            None => First::Pending,
        }
    }

    /// Drops `count` bytes from the front; returns the raw bytes of chunks that are no longer held.
    pub(super) fn consume(&mut self, count: u64) -> u64 {
        let freed = match self.slots.front_mut() {
            Some(Slot::Zeros(length)) => {
                *length = length.saturating_sub(count);
                if *length > 0 {
                    return 0;
                }
                0
            }
            Some(Slot::Inline(data) | Slot::Decoded { data, .. }) => {
                self.consumed += count as usize;
                if self.consumed < data.len() {
                    return 0;
                }
                data.len() as u64
            }
            _ => return 0,
        };
        let popped = self.slots.pop_front();
        self.consumed = 0;
        if !matches!(popped, Some(Slot::Decoded { .. })) {
            return 0;
        }
        if matches!(self.first(), First::Pending) {
            // The consumer is faster than the store: look further ahead.
            self.window = self.window.saturating_mul(2);
        }
        self.held -= freed;
        freed
    }

    /// Takes the next chunks that lie side by side in one pack, with zero runs between them, as far as `share` allows.
    /// One chunk is always allowed where the stream has nothing.
    pub(super) fn next_unit(&mut self, share: u64) -> Option<(u64, Vec<ChunkRef>)> {
        let limit = self.window.min(share);
        let room = limit.saturating_sub(self.held).min(UNIT_RAW);
        // Otherwise every chunk that is consumed would be a request of its own.
        if self.held > 0 && room < UNIT_RAW.min(limit / 2) {
            return None;
        }
        let mut chunks: Vec<ChunkRef> = Vec::new();
        let (mut raw, mut encoded) = (0, 0);
        while let Some(extent) = self.extents.front().copied() {
            match extent {
                Extent::Zero(length) => self.slots.push_back(Slot::Zeros(length)),
                Extent::Chunk(chunk) => {
                    raw += u64::from(chunk.raw);
                    encoded += u64::from(chunk.encoded);
                    let fits = raw <= room && encoded <= UNIT_ENCODED;
                    let beside = chunks.last().is_none_or(|last| are_adjacent(last, &chunk));
                    if !(beside && fits || self.held == 0 && chunks.is_empty()) {
                        break;
                    }
                    chunks.push(chunk);
                    self.slots.push_back(Slot::Asked { unit: self.next_unit, chunk });
                }
            }
            self.extents.pop_front();
        }
        if chunks.is_empty() {
            return None;
        }
        self.held += chunks.iter().map(|chunk| u64::from(chunk.raw)).sum::<u64>();
        self.next_unit += 1;
        Some((self.next_unit - 1, chunks))
    }

    /// Takes the chunks of a unit that was asked for.
    pub(super) fn fill(&mut self, number: u64, decoded: Vec<Vec<u8>>) {
        let mut decoded = decoded.into_iter();
        for slot in &mut self.slots {
            if let Slot::Asked { unit, chunk } = slot
                && *unit == number
                && let Some(data) = decoded.next()
            {
                *slot = Slot::Decoded { data, chunk: *chunk };
            }
        }
    }

    /// Gives back decoded chunks from the end, until no more than `keep` raw bytes are held or what comes next is not
    /// decoded. They will be asked for again. Returns the bytes given back.
    pub(super) fn give_back(&mut self, keep: u64) -> u64 {
        let before = self.held;
        while self.slots.len() > 1 && self.held > keep {
            match self.slots.pop_back() {
                Some(Slot::Decoded { chunk, .. }) => {
                    self.held -= u64::from(chunk.raw);
                    self.extents.push_front(Extent::Chunk(chunk));
                }
                Some(Slot::Zeros(length)) => self.extents.push_front(Extent::Zero(length)),
                Some(other) => {
                    self.slots.push_back(other);
                    break;
                }
                None => break,
            }
        }
        before - self.held
    }
}

#[cfg(test)]
impl Stream {
    /// Whether anything is asked for that has not come.
    pub(super) fn is_waiting(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot, Slot::Asked { .. }))
    }
}

fn are_adjacent(a: &ChunkRef, b: &ChunkRef) -> bool {
    a.pack == b.pack && a.offset.checked_add(a.encoded) == Some(b.offset)
}
