//! The state of one body being read: decoded slots, requested slots, and extents to request. Uses no thread.

use std::collections::VecDeque;

use crate::image::format::body::{Body, Extent, Slice};
use crate::image::format::chunk::PAGE;
use crate::image::format::chunk_table::{ChunkRef, ChunkTable};

/// Window of a new stream.
const WINDOW_FIRST: u64 = 512 << 10;
/// Most raw bytes that are grouped into units at once. A body may alternate between old and new packs page by
/// page: within this range, neighbours in a pack share a request.
const LOOK: u64 = 2 << 20;
/// Most unneeded bytes of a pack that are fetched to save a request.
const GAP: u32 = 64 << 10;

/// One body being read.
pub(crate) struct Stream {
    extents: VecDeque<Extent>,
    slots: VecDeque<Slot>,
    /// Consumed bytes of the first slot.
    consumed: usize,
    /// Raw bytes that the stream aims to hold.
    window: u64,
    /// Raw bytes of slices that are decoded or requested.
    pub held: u64,
    next_unit: u64,
}

enum Slot {
    Inline(Vec<u8>),
    Zeros(u64),
    /// Requested: slice `at` of the unit `unit`.
    Asked {
        unit: u64,
        at: usize,
        slice: Slice,
    },
    Decoded {
        data: Vec<u8>,
        slice: Slice,
    },
}

/// Number, and slices that one request fetches, ordered by their chunks' place in the pack.
pub(crate) type Unit = (u64, Vec<Slice>);

/// The front of a stream.
pub(crate) enum First<'a> {
    Data(&'a [u8]),
    Zeros(u64),
    Pending,
    End,
}

impl Stream {
    pub(crate) fn new(body: &Body) -> Self {
        let mut slots = VecDeque::new();
        if !body.inline().is_empty() {
            slots.push_back(Slot::Inline(body.inline().to_vec()));
        }
        Self { extents: body.extents().collect(), slots, consumed: 0, window: WINDOW_FIRST, held: 0, next_unit: 0 }
    }

    pub(crate) fn first(&self) -> First<'_> {
        match self.slots.front() {
            Some(Slot::Inline(data) | Slot::Decoded { data, .. }) => First::Data(&data[self.consumed..]),
            Some(Slot::Zeros(length)) => First::Zeros(*length),
            Some(Slot::Asked { .. }) => First::Pending,
            None if self.extents.is_empty() => First::End,
            None => First::Pending,
        }
    }

    /// Drops `count` bytes from the front. Returns how many bytes of slices this frees.
    pub(crate) fn consume(&mut self, count: u64) -> u64 {
        let freed = match self.slots.front_mut() {
            Some(Slot::Zeros(length)) => {
                *length = length.saturating_sub(count);
                if *length > 0 {
                    return 0;
                }
                0
            }
            Some(Slot::Inline(data)) => {
                self.consumed += count as usize;
                if self.consumed < data.len() {
                    return 0;
                }
                0
            }
            Some(Slot::Decoded { data, slice }) => {
                self.consumed += count as usize;
                if self.consumed < data.len() {
                    return 0;
                }
                cost(slice)
            }
            _ => return 0,
        };
        self.slots.pop_front();
        self.consumed = 0;
        if freed > 0 && matches!(self.first(), First::Pending) {
            // The consumer is faster than the store: read further ahead.
            self.window = self.window.saturating_mul(2);
        }
        self.held -= freed;
        freed
    }

    /// Requests the next slices until `share` is used up, in units of at most `span` bytes of a pack. Always
    /// requests one slice if the stream holds nothing.
    pub(crate) fn next_units(&mut self, share: u64, span: u32, chunks: &ChunkTable) -> Vec<Unit> {
        let limit = self.window.min(share);
        let room = limit.saturating_sub(self.held).min(LOOK);
        // Wait for more room, or each consumed slice would cause a request of its own.
        if self.held > 0 && room < LOOK.min(limit / 2) {
            return Vec::new();
        }
        let start = self.slots.len();
        let mut taken = 0;
        while let Some(extent) = self.extents.front().copied() {
            match extent {
                Extent::Zero(length) => self.slots.push_back(Slot::Zeros(length)),
                Extent::Slice(slice) => {
                    if taken + cost(&slice) > room && self.held + taken > 0 {
                        break;
                    }
                    taken += cost(&slice);
                    self.slots.push_back(Slot::Asked { unit: 0, at: 0, slice });
                }
            }
            self.extents.pop_front();
        }
        self.held += taken;
        self.group(start, span, chunks)
    }

    /// Groups the slots from `start` on into units.
    fn group(&mut self, start: usize, span: u32, chunks: &ChunkTable) -> Vec<Unit> {
        let mut asked: Vec<(ChunkRef, &mut Slot)> = Vec::new();
        for slot in self.slots.range_mut(start..) {
            if let Slot::Asked { slice, .. } = slot
                && let Some(chunk) = chunks.get(slice.chunk)
            {
                asked.push((chunk, slot));
            }
        }
        asked.sort_by_key(|(chunk, _)| (chunk.pack, chunk.offset));
        let mut units: Vec<Unit> = Vec::new();
        let mut range: Option<(ChunkRef, u32)> = None;
        for (chunk, slot) in asked {
            let chunk_end = chunk.offset.saturating_add(chunk.encoded);
            let end = match range {
                Some((first, end)) if joins(&first, end, &chunk, span) => end.max(chunk_end),
                _ => {
                    range = None;
                    units.push((self.next_unit, Vec::new()));
                    self.next_unit += 1;
                    chunk_end
                }
            };
            range = Some((range.map_or(chunk, |(first, _)| first), end));
            if let (Some((number, slices)), Slot::Asked { unit, at, slice }) = (units.last_mut(), slot) {
                (*unit, *at) = (*number, slices.len());
                slices.push(*slice);
            }
        }
        units
    }

    /// Takes in the decoded slices of a requested unit.
    pub(crate) fn fill(&mut self, number: u64, mut decoded: Vec<Vec<u8>>) {
        for slot in &mut self.slots {
            if let Slot::Asked { unit, at, slice } = slot
                && *unit == number
                && let Some(data) = decoded.get_mut(*at)
            {
                *slot = Slot::Decoded { data: std::mem::take(data), slice: *slice };
            }
        }
    }

    /// Gives back decoded slices from the end until at most `keep` bytes are held, or the last slot is not
    /// decoded. They are requested again later. Returns the bytes given back.
    pub(crate) fn give_back(&mut self, keep: u64) -> u64 {
        let before = self.held;
        while self.slots.len() > 1 && self.held > keep {
            match self.slots.pop_back() {
                Some(Slot::Decoded { slice, .. }) => {
                    self.held -= cost(&slice);
                    self.extents.push_front(Extent::Slice(slice));
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
    /// Whether a requested slice has not arrived.
    pub(crate) fn is_waiting(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot, Slot::Asked { .. }))
    }
}

/// Bytes that a slice counts as. A minimum bounds the number of small slices.
pub(crate) fn cost(slice: &Slice) -> u64 {
    u64::from(slice.length).max(PAGE as u64)
}

/// Whether one request can fetch `chunk` together with the chunks from `first` to `end`.
fn joins(first: &ChunkRef, end: u32, chunk: &ChunkRef, span: u32) -> bool {
    let new_end = chunk.offset.saturating_add(chunk.encoded).max(end);
    let near = chunk.offset <= end.saturating_add(GAP) && new_end - first.offset <= span;
    chunk.pack == first.pack && (near || new_end == end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two packs of `of_each` adjacent chunks of 8 pages each.
    fn chunks(of_each: u32) -> ChunkTable {
        let mut table = ChunkTable::default();
        for pack in 0..2 {
            for at in 0..of_each {
                table.push(&ChunkRef { pack, offset: 8 + at * 1000, encoded: 1000, raw: 32768, name: [0; 16] });
            }
        }
        table
    }

    fn stream(slices: &[(u32, u32, u32)]) -> Stream {
        let mut body = Body::default();
        for (chunk, first, pages) in slices {
            body.push(Extent::Slice(Slice { chunk: *chunk, first: *first, length: pages * PAGE as u32 }));
        }
        Stream { window: u64::MAX, ..Stream::new(&body) }
    }

    fn units(stream: &mut Stream, share: u64, span: u32) -> Vec<Vec<u32>> {
        let units = stream.next_units(share, span, &chunks(100));
        units.iter().map(|(_, slices)| slices.iter().map(|slice| slice.chunk).collect()).collect()
    }

    #[test]
    fn what_lies_together_is_fetched_together() {
        let slices = [(0, 0, 3), (100, 0, 1), (0, 4, 4), (1, 0, 2), (100, 1, 1), (1, 3, 5), (2, 0, 8), (80, 0, 1)];
        let expected = [&[0, 0, 1, 1, 2][..], &[80], &[100, 100]];
        assert_eq!(units(&mut stream(&slices), u64::MAX, 1 << 20), expected);
        assert_eq!(units(&mut stream(&[(90, 0, 8), (3, 0, 8), (0, 0, 8)]), u64::MAX, 1 << 20), [&[0, 3][..], &[90]]);
        // The limit of a request never splits a chunk.
        assert_eq!(units(&mut stream(&slices), u64::MAX, 1500)[0], [0, 0]);
        assert_eq!(units(&mut stream(&slices), u64::MAX, 10)[0], [0, 0]);
    }

    #[test]
    fn slices_come_back_in_the_order_of_the_body() {
        let mut stream = stream(&[(1, 0, 1), (0, 0, 1), (1, 1, 1)]);
        let asked = stream.next_units(u64::MAX, 1 << 20, &chunks(100));
        assert_eq!(
            asked[0].1.iter().map(|slice| (slice.chunk, slice.first)).collect::<Vec<_>>(),
            [(0, 0), (1, 0), (1, 1)]
        );
        stream.fill(0, vec![vec![2; PAGE], vec![1; PAGE], vec![3; PAGE]]);
        for expected in [1, 2, 3] {
            let First::Data(data) = stream.first() else { panic!() };
            assert_eq!(data, [expected; PAGE]);
            assert_eq!(stream.consume(PAGE as u64), PAGE as u64);
        }
        assert!(matches!(stream.first(), First::End) && stream.held == 0);
    }

    #[test]
    fn no_more_is_asked_for_than_the_share() {
        let all: Vec<_> = (0..50).map(|chunk| (chunk, 0, 8)).collect();
        let mut stream = stream(&all);
        assert_eq!(units(&mut stream, 100_000, 1 << 20), [[0, 1, 2]]);
        assert_eq!((stream.held, units(&mut stream, 100_000, 1 << 20).len()), (3 * 32768, 0));
        assert_eq!(units(&mut stream, 200_000, 1 << 20), [[3, 4, 5]]);
        assert_eq!(units(&mut crate::image::read::stream::tests::stream(&all), 0, 1 << 20), [[0]]);
    }
}
