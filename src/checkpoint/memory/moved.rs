//! Memory that has changed places. mremap(2) can exchange pages that a process and its copy both map: then each side shows
//! that somebody else maps the page at an address, and it is not the same page.
//!
//! mremap(2) moves mappings. So of each stretch that is one mapping in both, some pages are tried: the copy gets a page of
//! its own, and if the process then has its page alone, it was the same.

use std::io;
use std::ops::Range;

use crate::proc::maps::{self, Mapping};
use crate::proc::memory::{Memory, PAGE, Pagemap};
use crate::proc::ranges::Ranges;

/// Between two pages of a mapping that are tried. A mapping may have been joined from parts that moved apart.
const STRIDE: u64 = 2 << 20;

/// The part of `candidates` that is where it was when the `copy` of a process was made. Candidates are pages that both
/// map, each at its address, and that nobody else maps.
///
/// # Errors
/// If one of them has ended.
pub fn in_place(pid: i32, copy: i32, candidates: &Ranges) -> io::Result<Ranges> {
    let trial = Trial { pages: Pagemap::of(pid)?, process: Memory::of(pid)?, copy: Memory::writable(copy)? };
    let mut kept = Ranges::default();
    for mapping in of_both(&maps::read(pid)?, &maps::read(copy)?) {
        let part = candidates.within(mapping);
        if are_in_place(pages_to_try(&part).into_iter().map(|page| trial.of(page))) {
            part.iter().for_each(|range| kept.push(range));
        }
    }
    Ok(kept)
}

/// What a trial says of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    Same,
    /// Or nobody knows.
    Other,
    /// It may be the kernel's page of zeros, which looks shared in every process.
    Zeros,
}

/// One page speaks for its mapping, but one of zeros for none. The first of another place ends the trials.
fn are_in_place(findings: impl Iterator<Item = Finding>) -> bool {
    let mut is_same = false;
    for finding in findings {
        match finding {
            Finding::Same => is_same = true,
            Finding::Other => return false,
            Finding::Zeros => {}
        }
    }
    is_same
}

struct Trial {
    pages: Pagemap,
    process: Memory,
    copy: Memory,
}

impl Trial {
    fn of(&self, page: u64) -> Finding {
        if !self.is_shared(page) || self.copy.write_back(page).is_err() {
            return Finding::Other;
        }
        match self.is_shared(page) {
            false => Finding::Same,
            true if self.is_zeros(page) => Finding::Zeros,
            true => Finding::Other,
        }
    }

    fn is_shared(&self, page: u64) -> bool {
        let mut shared = Ranges::default();
        self.pages.shared(page, page + PAGE, &mut shared).is_ok() && shared.iter().next().is_some()
    }

    fn is_zeros(&self, page: u64) -> bool {
        let mut content = [0; PAGE as usize];
        let read = self.process.read(page, &mut content);
        read.is_ok_and(|read| read == content.len()) && content.iter().all(|byte| *byte == 0)
    }
}

/// Addresses that are one mapping in both lists.
fn of_both(one: &[Mapping], other: &[Mapping]) -> Vec<Range<u64>> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    let mut found = Vec::new();
    while let (Some(a), Some(b)) = (one.peek(), other.peek()) {
        let both = a.start.max(b.start)..a.end.min(b.end);
        if a.end <= b.end {
            one.next()
        } else {
            other.next()
        };
        if !both.is_empty() {
            found.push(both);
        }
    }
    found
}

/// The first page, the last one, and one in each [`STRIDE`] between.
fn pages_to_try(part: &Ranges) -> Vec<u64> {
    let mut pages: Vec<u64> = Vec::new();
    for range in part.iter() {
        let next = pages.last().map_or(0, |last| last + STRIDE);
        pages.extend((range.start.max(next)..range.end).step_by(STRIDE as usize));
    }
    pages.extend(part.iter().last().map(|range| range.end - PAGE));
    pages.dedup();
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mappings(ranges: &[Range<u64>]) -> Vec<Mapping> {
        let line = |range: &Range<u64>| format!("{:x}-{:x} rw-p 00000000 00:00 0 \n", range.start, range.end);
        maps::parse(ranges.iter().map(line).collect::<String>().as_bytes())
    }

    #[test]
    fn what_is_one_mapping_in_both_ends_where_one_of_them_ends() {
        let (one, other) = (mappings(&[1..5, 5..9, 20..30]), mappings(&[0..2, 3..7, 9..20, 22..25, 25..40]));
        assert_eq!(of_both(&one, &other), [1..2, 3..5, 5..7, 22..25, 25..30]);
        assert!(of_both(&one, &[]).is_empty());
    }

    #[test]
    fn each_part_is_tried_at_its_ends_and_between() {
        let tried = |ranges: &[Range<u64>]| {
            let mut part = Ranges::default();
            ranges.iter().for_each(|range| part.push(range.start * PAGE..range.end * PAGE));
            pages_to_try(&part).iter().map(|page| page / PAGE).collect::<Vec<_>>()
        };
        assert!(tried(&[]).is_empty());
        assert_eq!(tried(&[7..8, 8..9, 20..30]), [7, 29]);
        assert_eq!(tried(&[0..2, 500..1500]), [0, 512, 1024, 1499]);
    }

    #[test]
    fn one_page_of_another_place_counts_and_zeros_do_not() {
        use Finding::{Other, Same, Zeros};
        let are = |findings: &[Finding]| are_in_place(findings.iter().copied());
        assert!(are(&[Same]) && are(&[Zeros, Same, Zeros]));
        assert!(!are(&[]) && !are(&[Zeros]) && !are(&[Same, Other]) && !are(&[Other, Same]));
    }

    #[test]
    fn what_is_shared_with_nobody_was_moved() {
        let us = std::process::id() as i32;
        let memory = vec![1_u8; 4 * PAGE as usize];
        let page = (memory.as_ptr() as u64).next_multiple_of(PAGE);
        let mut candidates = Ranges::default();
        candidates.push(page..page + PAGE);
        assert_eq!(in_place(us, us, &candidates).unwrap(), Ranges::default());
    }
}
