//! Deduplicates pages: finds by their names which ones are already stored, and where. Uses no thread and
//! copies no bytes.

use std::collections::BTreeMap;

use super::page_index::{PageId, PageIndex};
use crate::image::format::body::Slice;
use crate::image::format::chunk::{Name, PAGE};

/// A chunk of up to this many bytes is always worth decoding. Scattered changed pages make such chunks.
const FEW: usize = 8 * PAGE;

/// Consecutive pages of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// Zero pages, which need no chunk.
    Zero(usize),
    /// Pages that are not stored.
    New(usize),
    /// Stored pages with consecutive IDs: the first ID, and how many.
    Known(PageId, usize),
}

impl Run {
    pub(crate) fn pages(&self) -> usize {
        match self {
            Run::Zero(pages) | Run::New(pages) | Run::Known(_, pages) => *pages,
        }
    }
}

/// Sorts the pages of each piece into runs. `zero` is the name of a zero page.
pub(crate) fn runs(known: &PageIndex, pieces: &[Vec<Name>], zero: &Name) -> Vec<Vec<Run>> {
    let mut found: Vec<_> = pieces.iter().map(|names| find(known, names, zero)).collect();
    drop_strays(known, &mut found);
    let named = found.into_iter().zip(pieces).map(|(runs, names)| name_zeros(runs, names, zero));
    named.collect()
}

/// Looks up every page. A name may have many places (a page of a common pattern), so the place behind the
/// previous page is tried first.
fn find(known: &PageIndex, names: &[Name], zero: &Name) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut expected: Option<PageId> = None;
    for name in names {
        let page = expected.filter(|page| known.is(*page, name));
        let page = page.or_else(|| if name == zero { None } else { known.find(name) });
        match (runs.last_mut(), page) {
            (Some(Run::Known(first, pages)), Some(page)) if *first + *pages as u32 == page => *pages += 1,
            (_, Some(page)) => runs.push(Run::Known(page, 1)),
            (_, None) => push_new(&mut runs, 1),
        }
        expected = page.or(expected).and_then(|page| page.checked_add(1));
    }
    runs
}

/// Stores a stray page again: a single page of a large chunk that no other run uses, since a restore would
/// decode the whole chunk for it. A page alone in its piece is kept, as it has no neighbours to be stored
/// with.
fn drop_strays(known: &PageIndex, pieces: &mut [Vec<Run>]) {
    let mut users: BTreeMap<u32, u32> = BTreeMap::new();
    for run in pieces.iter().flatten() {
        if let Run::Known(page, pages) = run {
            let (first, last) = (known.locate(*page).0, known.locate(page + *pages as u32 - 1).0);
            (first..=last).for_each(|chunk| *users.entry(chunk).or_default() += 1);
        }
    }
    let is_stray = |run: &Run| match run {
        Run::Known(page, 1) => {
            let chunk = known.locate(*page).0;
            known.chunk(chunk).raw as usize > FEW && users.get(&chunk) == Some(&1)
        }
        _ => false,
    };
    for runs in pieces.iter_mut().filter(|runs| runs.len() > 1) {
        let old = std::mem::take(runs);
        for run in old {
            if is_stray(&run) || matches!(run, Run::New(_)) {
                push_new(runs, run.pages());
            } else {
                runs.push(run);
            }
        }
    }
}

fn push_new(runs: &mut Vec<Run>, more: usize) {
    match runs.last_mut() {
        Some(Run::New(pages)) => *pages += more,
        _ => runs.push(Run::New(more)),
    }
}

/// A new run of only zero pages becomes a zero run, which needs no chunk.
fn name_zeros(mut runs: Vec<Run>, names: &[Name], zero: &Name) -> Vec<Run> {
    let mut at = 0;
    for run in &mut runs {
        let pages = run.pages();
        if matches!(run, Run::New(_)) && names[at..at + pages].iter().all(|name| name == zero) {
            *run = Run::Zero(pages);
        }
        at += pages;
    }
    runs
}

/// The slices that hold `bytes` bytes from `page` on.
pub(crate) fn slices(known: &PageIndex, page: PageId, bytes: usize) -> impl Iterator<Item = Slice> + '_ {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (chunk, first) = known.locate(page + (done / PAGE) as u32);
        let rest = (known.chunk(chunk).raw as usize).saturating_sub(first as usize * PAGE);
        let length = rest.min(bytes - done);
        done += length;
        (length > 0).then_some(Slice { chunk, first, length: length as u32 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::format::chunk_table::ChunkRef;
    use Run::{New, Zero};

    const Z: Name = [0; 16];

    fn name(n: u8) -> Name {
        let mut name = [n; 16];
        name[0] = n.wrapping_mul(37);
        name
    }

    /// Chunks of `pages` pages each, with these names in order.
    fn known_by(pages: usize, names: &[u8]) -> PageIndex {
        let mut known = PageIndex::new(1 << 20);
        for names in names.chunks(pages) {
            let names: Vec<_> = names.iter().map(|n| name(*n)).collect();
            let raw = (names.len() * PAGE) as u32;
            known.add(ChunkRef { pack: 0, offset: 8, encoded: 1, raw, name: Z }, &names, &Z);
        }
        known
    }

    fn known(names: &[u8]) -> PageIndex {
        known_by(4, names)
    }

    fn sort(known: &PageIndex, names: &[u8]) -> Vec<Run> {
        sort_all(known, &[names]).remove(0)
    }

    fn sort_all(known: &PageIndex, pieces: &[&[u8]]) -> Vec<Vec<Run>> {
        let names: Vec<Vec<_>> = pieces.iter().map(|names| names.iter().map(|n| name(*n)).collect()).collect();
        runs(known, &names, &Z)
    }

    #[test]
    fn what_did_not_change_is_one_run() {
        let known = known(&[1, 2, 9, 9, 9, 9, 0, 3, 0, 9, 4]);
        assert_eq!(sort(&known, &[1, 2, 9, 9, 9, 9, 0, 3, 0, 9, 4]), [Run::Known(0, 11)]);
        assert_eq!(sort(&known, &[5, 6, 7]), [New(3)]);
        assert_eq!(sort(&known, &[]), []);
    }

    #[test]
    fn changed_inserted_and_removed_pages_cost_themselves() {
        let known = known(&[1, 2, 3, 4, 5, 9, 9, 8, 10, 11, 12, 13]);
        let changed = [Run::Known(0, 4), New(1), Run::Known(5, 7)];
        assert_eq!(sort(&known, &[1, 2, 3, 4, 70, 9, 9, 8, 10, 11, 12, 13]), changed);
        assert_eq!(sort(&known, &[1, 2, 70, 3, 4, 5]), [Run::Known(0, 2), New(1), Run::Known(2, 3)]);
        assert_eq!(sort(&known, &[1, 2, 4, 5]), [Run::Known(0, 2), Run::Known(3, 2)]);
        assert_eq!(sort(&known, &[1, 71, 3, 72]), [Run::Known(0, 1), New(1), Run::Known(2, 1), New(1)]);
    }

    #[test]
    fn a_stray_page_is_stored_with_its_neighbours() {
        let names: Vec<u8> = (1..=20).collect();
        let known = known_by(10, &names);
        assert_eq!(sort(&known, &[70, 15, 71]), [New(3)]);
        assert_eq!(sort(&known, &[15]), [Run::Known(14, 1)]);
        let beside = [vec![New(1), Run::Known(14, 1)], vec![Run::Known(16, 1)]];
        assert_eq!(sort_all(&known, &[&[70, 15], &[17]]), beside);
        assert_eq!(sort(&known, &[1, 2, 15, 3, 4]), [Run::Known(0, 2), New(1), Run::Known(2, 2)]);
        assert_eq!(sort(&known, &[1, 2, 15, 16, 3, 4]), [Run::Known(0, 2), Run::Known(14, 2), Run::Known(2, 2)]);
        let many = [New(1), Run::Known(14, 1), New(1), Run::Known(15, 2), New(1)];
        assert_eq!(sort(&known, &[70, 15, 71, 16, 17, 72]), many);
        let small = known_by(8, &names);
        assert_eq!(sort(&small, &[70, 15, 71]), [New(1), Run::Known(14, 1), New(1)]);
    }

    #[test]
    fn zero_pages_are_stored_with_new_ones_alone() {
        let known = known(&[1, 0, 3, 4, 5, 6, 7, 8]);
        assert_eq!(sort(&known, &[1, 0, 3, 4]), [Run::Known(0, 4)]);
        assert_eq!(sort(&known, &[3, 4, 0, 6, 7]), [Run::Known(2, 2), Zero(1), Run::Known(5, 2)]);
        assert_eq!(sort(&known, &[70, 0, 71]), [New(3)]);
        assert_eq!(sort(&known, &[0]), [Zero(1)]);
    }

    #[test]
    fn runs_end_where_chunks_do() {
        let mut known = known(&[1, 2, 3, 4, 5, 6]);
        let page = |slices: Vec<Slice>| slices.iter().map(|s| (s.chunk, s.first, s.length)).collect::<Vec<_>>();
        let two = slices(&known, 1, 5 * PAGE).collect();
        assert_eq!(page(two), [(0, 1, 3 * PAGE as u32), (1, 0, 2 * PAGE as u32)]);
        let partial = ChunkRef { pack: 0, offset: 8, encoded: 1, raw: 5000, name: Z };
        known.add(partial, &[name(20), name(21)], &Z);
        assert_eq!(page(slices(&known, 5, PAGE + 5000).collect()), [(1, 1, 4096), (2, 0, 5000)]);
    }
}
