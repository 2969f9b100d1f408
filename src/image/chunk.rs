//! Where page data is cut. Whether a cut follows a page depends on that page alone, so that a page inserted into a heap
//! changes the chunk that it is in and no other.

use super::body::CHUNK_MAX;

/// Bytes of a page. Bodies are looked at in pages of this size whatever the machine's own is.
pub(super) const PAGE: usize = 4096;
/// No cut before this many bytes.
const MIN: usize = 4 * PAGE;
/// Always a cut after this many.
pub(super) const MAX: usize = CHUNK_MAX as usize;
/// One page in this many ends a chunk that is long enough.
const ONE_IN: u64 = 16;
/// Zero pages in a row that end a chunk; fewer stay in it, since they compress to nothing.
pub(super) const ZERO_RUN: usize = 4 * PAGE;

/// Whether all bytes are zero.
pub(super) fn is_zero(data: &[u8]) -> bool {
    let (blocks, rest) = data.as_chunks::<64>();
    blocks.iter().all(|block| block.iter().fold(0, |all, b| all | b) == 0) && rest.iter().all(|b| *b == 0)
}

/// Whether a chunk that has `length` bytes, the last of them `page`, ends here. No chunk ends because of a zero page.
pub(super) fn ends_after(page: &[u8; PAGE], length: usize, zero: bool) -> bool {
    length >= MAX || (length >= MIN && !zero && mix(page) < u64::MAX / ONE_IN)
}

/// A cheap hash of a page: four lanes of multiply and fold, which keep pace with memory.
fn mix(page: &[u8; PAGE]) -> u64 {
    const ODD: [u64; 4] = [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0xd6e8_feb8_6659_fd93];
    let mut lanes = ODD;
    for block in page.as_chunks::<64>().0 {
        for (lane, words) in lanes.iter_mut().zip(block.as_chunks::<16>().0) {
            let (a, b) = words.split_at(8);
            *lane = fold(*lane ^ word(a), word(b) ^ ODD[0]);
        }
    }
    lanes.into_iter().zip(ODD).fold(0, |all, (lane, odd)| fold(all ^ lane, odd))
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, b| word << 8 | u64::from(*b))
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(seed: u64) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut page);
        page
    }

    #[test]
    fn one_byte_makes_a_difference() {
        for at in [0, 1, 63, 64, 1000, PAGE - 1] {
            let mut data = [0; PAGE];
            data[at] = 1;
            assert!(!is_zero(&data));
            assert!(!is_zero(&data[at..]) && is_zero(&data[at + 1..]));
            assert_ne!(mix(&data), mix(&[0; PAGE]), "{at}");
        }
        assert!(is_zero(&[0; PAGE]) && is_zero(&[]));
    }

    #[test]
    fn about_one_page_in_sixteen_ends_a_chunk() {
        let ends = (0..4096).filter(|seed| ends_after(&page(*seed), MIN, false)).count();
        assert!((4096 / 16 - 80..4096 / 16 + 80).contains(&ends), "{ends}");
    }

    #[test]
    fn pages_of_little_variety_end_chunks_too() {
        // A table of counters: all but one byte in 256 is the same from page to page.
        let table =
            |seed: u64| std::array::from_fn(|i| if i % 256 == 0 { (seed >> (i / 256 % 8 * 8)) as u8 } else { 7 });
        let ends = (0..4096).filter(|seed| ends_after(&table(*seed), MIN, false)).count();
        assert!((4096 / 16 - 80..4096 / 16 + 80).contains(&ends), "{ends}");
    }

    #[test]
    fn lengths_are_bounded() {
        for seed in 0..4096 {
            assert!(!ends_after(&page(seed), MIN - PAGE, false));
            assert!(ends_after(&page(seed), MAX, false) && ends_after(&[0; PAGE], MAX, true));
        }
        assert!(!ends_after(&[0; PAGE], MIN, true));
    }
}
