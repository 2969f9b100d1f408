//! Index of pages that the store already has: a bounded hash table from page name to position in a chunk.
//!
//! A page that does not fit is not indexed, so it is stored again; nothing else is lost. A page takes 16
//! bytes of name and at most 6 of table, so 16 MiB index 3 GiB.

use crate::image::format::chunk::Name;
use crate::image::format::chunk_table::ChunkRef;

/// Bytes per slot, including its share of the names: at most 3 of 4 slots are filled.
const SLOT: u64 = 4 + 16 / 4 * 3;

/// Number of a page. Pages of a chunk are consecutive, and so are chunks that were added one after another.
pub(crate) type PageId = u32;

/// Indexed pages, and all chunks that bodies can refer to.
pub(crate) struct PageIndex {
    /// Open addressing: 0 for an empty slot, else 1 + page ID. Names are keyed hashes, so collisions cannot
    /// be forced.
    slots: Vec<u32>,
    names: Vec<Name>,
    chunks: Vec<Chunk>,
}

struct Chunk {
    /// Its first page. A chunk whose pages did not fit has none, and shares this number with the next chunk.
    first: PageId,
    chunk: ChunkRef,
}

impl PageIndex {
    /// An empty index. Slots and names take at most `memory` bytes, but at least 16 slots.
    pub(crate) fn new(memory: u64) -> Self {
        let slots = 1usize << (memory / SLOT).clamp(16, 1 << 31).ilog2();
        Self { slots: vec![0; slots], names: Vec::with_capacity(slots / 4 * 3), chunks: Vec::new() }
    }

    /// Adds a chunk and its pages. Returns its number. [`find`](Self::find) never returns pages named
    /// `hidden` (zero pages): they are found only as neighbours.
    pub(crate) fn add(&mut self, chunk: ChunkRef, pages: &[Name], hidden: &Name) -> u32 {
        let first = self.names.len() as PageId;
        self.chunks.push(Chunk { first, chunk });
        if self.names.len() + pages.len() <= self.slots.len() / 4 * 3 {
            self.names.extend_from_slice(pages);
            for (page, name) in (first..).zip(pages) {
                let slot = self.slot(name);
                if self.slots[slot] == 0 && name != hidden {
                    self.slots[slot] = page + 1;
                }
            }
        }
        self.chunks.len() as u32 - 1
    }

    /// The first page of that name.
    pub(crate) fn find(&self, name: &Name) -> Option<PageId> {
        self.slots[self.slot(name)].checked_sub(1)
    }

    pub(crate) fn is(&self, page: PageId, name: &Name) -> bool {
        self.names.get(page as usize) == Some(name)
    }

    /// The chunk of a page, and the page's position in it.
    pub(crate) fn locate(&self, page: PageId) -> (u32, u32) {
        let chunk = self.chunks.partition_point(|chunk| chunk.first <= page) - 1;
        (chunk as u32, page - self.chunks[chunk].first)
    }

    pub(crate) fn chunk(&self, chunk: u32) -> &ChunkRef {
        &self.chunks[chunk as usize].chunk
    }

    /// The slot of `name`, or the empty slot where it belongs.
    fn slot(&self, name: &Name) -> usize {
        let mask = self.slots.len() - 1;
        let [a, b, c, d, ..] = *name;
        let mut slot = u32::from_le_bytes([a, b, c, d]) as usize & mask;
        while let Some(page) = self.slots[slot].checked_sub(1)
            && !self.is(page, name)
        {
            slot = (slot + 1) & mask;
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: Name = [0; 16];

    fn name(n: u32) -> Name {
        std::array::from_fn(|i| blake3::hash(&n.to_le_bytes()).as_bytes()[i])
    }

    fn chunk(pages: usize) -> ChunkRef {
        ChunkRef { pack: 0, offset: 8, encoded: 1, raw: pages as u32 * 4096, name: HIDDEN }
    }

    fn add(known: &mut PageIndex, names: std::ops::Range<u32>) -> u32 {
        let names: Vec<_> = names.map(name).collect();
        known.add(chunk(names.len()), &names, &HIDDEN)
    }

    #[test]
    fn pages_are_found_where_they_are() {
        let mut known = PageIndex::new(1 << 20);
        for chunk in 0..100 {
            assert_eq!(add(&mut known, chunk * 10..chunk * 10 + 10), chunk);
        }
        for n in 0..1000 {
            let page = known.find(&name(n)).unwrap();
            assert_eq!(known.locate(page), (n / 10, n % 10));
            assert!(known.is(page, &name(n)) && !known.is(page, &name(n + 1)));
        }
        assert_eq!(known.find(&name(1000)), None);
    }

    #[test]
    fn the_first_of_equal_pages_is_found_and_hidden_ones_are_not() {
        let mut known = PageIndex::new(1 << 20);
        add(&mut known, 0..2);
        known.add(chunk(3), &[name(1), HIDDEN, name(1)], &HIDDEN);
        assert_eq!(known.find(&name(1)), Some(1));
        assert_eq!(known.find(&HIDDEN), None);
        assert!(known.is(3, &HIDDEN) && known.is(4, &name(1)));
    }

    #[test]
    fn what_does_not_fit_is_not_found_and_can_be_referred_to() {
        let mut known = PageIndex::new(64 * SLOT);
        assert_eq!([add(&mut known, 0..40), add(&mut known, 100..120), add(&mut known, 200..208)], [0, 1, 2]);
        assert!(known.names.len() == 48 && known.find(&name(100)).is_none());
        assert_eq!(known.locate(known.find(&name(201)).unwrap()), (2, 1));
        assert_eq!(known.locate(known.find(&name(39)).unwrap()), (0, 39));
        assert_eq!(known.chunk(1).raw, 20 * 4096);
        // Every search in a full table terminates.
        assert!((0..10_000).filter(|n| known.find(&name(*n)).is_some()).count() == 48);
    }
}
