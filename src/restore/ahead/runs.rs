//! Memory as runs of pages, each with where its content is in the store. Pages of one source at one address are the same
//! page, whatever generation they are of. Pure.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Range;

use crate::image::Name;

/// Bytes that a slice counts its first page in.
const PAGE: u64 = 4096;

/// Pages that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub start: u64,
    /// Bytes.
    pub length: u64,
    pub kind: Kind,
    pub source: Source,
}

/// How the mapping of a page was made. Pages of mappings that differ in it are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Memory is reserved for it.
    Plain,
    /// None is (MAP_NORESERVE).
    Unreserved,
    /// It cannot be had ahead.
    Other,
}

/// Where pages are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    Zeros,
    /// In a chunk, from the page `first` on. `index` is its number in one manifest, and says nothing of another's.
    Chunk {
        index: u32,
        first: u32,
        name: Name,
    },
    /// Nowhere: what the memory has is not known.
    Unknown,
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Zeros, Self::Zeros) => true,
            (Self::Chunk { first, name, .. }, Self::Chunk { first: other_first, name: other_name, .. }) => {
                (first, name) == (other_first, other_name)
            }
            _ => false,
        }
    }
}

impl Eq for Source {}

impl Run {
    pub(super) fn end(&self) -> u64 {
        self.start + self.length
    }

    pub(super) fn range(&self) -> Range<u64> {
        self.start..self.end()
    }

    /// The part of it that is in `range`, if any is.
    pub(super) fn within(&self, range: &Range<u64>) -> Option<Self> {
        let (start, end) = (self.start.max(range.start), self.end().min(range.end));
        if start >= end {
            return None;
        }
        let source = match self.source {
            Source::Chunk { index, first, name } => {
                Source::Chunk { index, first: first + (start.checked_sub(self.start)? / PAGE) as u32, name }
            }
            other => other,
        };
        Some(Self { start, length: end - start, source, ..*self })
    }
}

/// What one process has, by address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Memory(BTreeMap<u64, Run>);

impl Memory {
    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.0.values()
    }

    /// Bytes other than zeros.
    pub(super) fn bytes(&self) -> u64 {
        self.runs().filter(|run| run.source != Source::Zeros).map(|run| run.length).sum()
    }

    /// What it has of `range`, in order.
    pub(super) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Run> {
        let first = self.0.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        self.0.range(first..range.end.max(first)).filter_map(move |(_, run)| run.within(&range))
    }

    /// Puts a run in the place of what was there.
    pub(super) fn put(&mut self, run: Run) {
        self.clear(run.range());
        self.0.insert(run.start, run);
    }

    pub(super) fn clear(&mut self, range: Range<u64>) {
        let before = self.0.range(..range.start).next_back().and_then(|(_, run)| run.within(&(0..range.start)));
        let overlapping: Vec<Run> = self.within(range.clone()).collect();
        let Some(last) = overlapping.last() else { return };
        let whole = self.0.range(..=last.start).next_back().map(|(_, run)| *run);
        let after = whole.and_then(|run| run.within(&(range.end..u64::MAX)));
        let first = overlapping.first().map_or(range.start, |run| run.start);
        let starts: Vec<u64> = self.0.range(first..range.end).map(|(start, _)| *start).collect();
        for start in starts {
            self.0.remove(&start);
        }
        for part in before.into_iter().filter(|run| run.end() == range.start).chain(after) {
            self.0.insert(part.start, part);
        }
    }

    /// Cuts runs, which are in order, into the parts that are here as they are there, and the others. Takes linear time: it
    /// also happens while the service stands still, and there may be 100,000 runs.
    pub(super) fn compare(&self, theirs: &[Run]) -> Vec<(Run, bool)> {
        let (mut ours, mut parts) = (InOrder(self.runs().peekable()), Vec::with_capacity(theirs.len()));
        for run in theirs {
            let mut at = run.start;
            let mut part = |range: Range<u64>, same| parts.extend(run.within(&range).map(|run| (run, same)));
            for ours in ours.within(&run.range()) {
                let theirs = run.within(&ours.range());
                let same = theirs.is_some_and(|theirs| (theirs.kind, theirs.source) == (ours.kind, ours.source));
                part(at..ours.start, false);
                part(ours.range(), same);
                at = ours.end();
            }
            part(at..run.end(), false);
        }
        parts
    }

    /// What is here and not in `theirs`, which are in order, whatever its content is.
    pub(super) fn beside(&self, theirs: &[Run]) -> Vec<Run> {
        let (mut theirs, mut left) = (InOrder(theirs.iter().peekable()), Vec::new());
        for run in self.runs() {
            let mut at = run.start;
            for theirs in theirs.within(&run.range()).into_iter().filter(|theirs| theirs.kind == run.kind) {
                left.extend(run.within(&(at..theirs.start)));
                at = theirs.end();
            }
            left.extend(run.within(&(at..run.end())));
        }
        left
    }
}

/// Runs in order, which are looked through once.
struct InOrder<'a, I: Iterator<Item = &'a Run>>(Peekable<I>);

impl<'a, I: Iterator<Item = &'a Run>> InOrder<'a, I> {
    /// What they have of `range`, which is behind the range before.
    fn within(&mut self, range: &Range<u64>) -> Vec<Run> {
        let mut found = Vec::new();
        while let Some(run) = self.0.peek()
            && run.start < range.end
        {
            found.extend(run.within(range));
            // The next range may have its rest.
            if run.end() > range.end {
                break;
            }
            self.0.next();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Memory {
        fn of(runs: impl IntoIterator<Item = Run>) -> Self {
            Self(runs.into_iter().map(|run| (run.start, run)).collect())
        }
    }

    fn chunk(start: u64, pages: u64, name: u8, first: u32) -> Run {
        let source = Source::Chunk { index: u32::from(name), first, name: [name; 16] };
        Run { start: start * PAGE, length: pages * PAGE, kind: Kind::Plain, source }
    }

    #[test]
    fn a_page_is_the_same_at_its_address_alone() {
        let ours = Memory::of([chunk(10, 4, 1, 0)]);
        let same =
            |run: &Run| ours.compare(&[*run]).iter().map(|(run, same)| (run.length / PAGE, *same)).collect::<Vec<_>>();
        assert_eq!(same(&chunk(10, 4, 1, 0)), [(4, true)]);
        assert_eq!(same(&chunk(12, 4, 1, 2)), [(2, true), (2, false)]);
        // The same pages, one further.
        assert_eq!(same(&chunk(11, 3, 1, 0)), [(3, false)]);
        assert_eq!(same(&chunk(8, 4, 2, 0)), [(2, false), (2, false)]);
        let unreserved = Run { kind: Kind::Unreserved, ..chunk(10, 4, 1, 0) };
        assert_eq!(same(&unreserved), [(4, false)]);
        assert_eq!(ours.beside(&[unreserved]), [chunk(10, 4, 1, 0)]);
        assert_eq!(ours.beside(&[chunk(11, 2, 9, 0)]), [chunk(10, 1, 1, 0), chunk(13, 1, 1, 3)]);
    }

    #[test]
    fn what_is_not_known_is_never_the_same_and_does_not_count_as_gone() {
        let unknown = Run { source: Source::Unknown, ..chunk(0, 1, 1, 0) };
        assert!(Memory::of([unknown]).compare(&[unknown]).iter().all(|(_, same)| !same));
        assert_eq!(Memory::of([unknown]).beside(&[chunk(0, 1, 1, 0)]), []);
    }

    /// Page by page.
    fn pages(memory: &Memory) -> BTreeMap<u64, Run> {
        let each = |run: &Run| {
            let run = *run;
            (run.start..run.end()).step_by(PAGE as usize).filter_map(move |at| run.within(&(at..at + PAGE)))
        };
        memory.runs().flat_map(each).map(|run| (run.start, run)).collect()
    }

    prop_compose! {
        fn run()(start in 0..20u64, pages in 1..8u64, name in 0..3u8, first in 0..3u32, unreserved: bool) -> Run {
            let kind = if unreserved { Kind::Unreserved } else { Kind::Plain };
            let run = Run { kind, ..chunk(start, pages, name, first) };
            if name == 0 { Run { source: Source::Zeros, ..run } } else { run }
        }
    }

    proptest! {
        #[test]
        fn runs_are_as_pages_one_by_one(before in prop::collection::vec(run(), 0..12), new in prop::collection::vec(run(), 0..12)) {
            let (mut ours, mut theirs, mut one_by_one) = (Memory::default(), Memory::default(), BTreeMap::new());
            for run in before {
                ours.put(run);
                one_by_one.extend(pages(&Memory::of([run])));
                prop_assert_eq!(&pages(&ours), &one_by_one);
            }
            new.into_iter().for_each(|run| theirs.put(run));
            let (ours_pages, theirs_pages) = (pages(&ours), pages(&theirs));
            let theirs: Vec<Run> = theirs.runs().copied().collect();
            let parts = ours.compare(&theirs);
            prop_assert_eq!(&pages(&Memory::of(parts.iter().map(|(run, _)| *run))), &theirs_pages);
            for (run, same) in parts {
                for page in pages(&Memory::of([run])).values() {
                    prop_assert_eq!(same, ours_pages.get(&page.start) == Some(page));
                }
            }
            let beside = pages(&Memory::of(ours.beside(&theirs)));
            for page in ours_pages.values() {
                let covered = theirs_pages.get(&page.start).is_some_and(|theirs| theirs.kind == page.kind);
                prop_assert_eq!(beside.contains_key(&page.start), !covered);
            }
        }
    }
}
