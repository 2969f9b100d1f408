//! Pages and chunks: names and sizes.
//!
//! Deduplication works on pages, by their names. Compression works on chunks. So chunk boundaries affect only
//! the compression ratio and restores: a page inserted into a heap changes no name but its own.

use crate::image::crypto::seal::Seal;

/// Bytes of a page, independent of the machine's page size.
pub(crate) const PAGE: usize = 4096;
/// Most bytes of a chunk on writing; `docs/explanation/benchmarks.md` has the measurement.
pub(crate) const CHUNK: usize = 32 * PAGE;
/// Most bytes of a chunk on reading.
pub(crate) const CHUNK_MAX: u32 = 256 * 1024;
/// Zero pages in a row that become a zero run. Fewer stay in their chunk, where they compress to almost
/// nothing.
pub(crate) const ZERO_RUN: usize = 4 * PAGE;

/// Name of a page or chunk: half of a keyed BLAKE3. Collisions cannot be made without the store's key.
pub type Name = [u8; 16];

pub(crate) fn page_name(seal: &Seal, page: &[u8]) -> Name {
    half(seal.name(page))
}

/// The name of a chunk: a hash of its pages' names, so bytes are hashed only once.
pub(crate) fn chunk_name(seal: &Seal, pages: &[Name]) -> Name {
    half(seal.name(pages.as_flattened()))
}

pub(crate) fn page_names(seal: &Seal, raw: &[u8]) -> Vec<Name> {
    raw.chunks(PAGE).map(|page| page_name(seal, page)).collect()
}

fn half(name: [u8; 32]) -> Name {
    std::array::from_fn(|i| name[i])
}

pub(crate) fn is_zero(data: &[u8]) -> bool {
    let (blocks, rest) = data.as_chunks::<64>();
    blocks.iter().all(|block| block.iter().fold(0, |all, b| all | b) == 0) && rest.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_makes_a_difference() {
        let seal = Seal::plain([1; 32]);
        for at in [0, 1, 63, 64, 1000, PAGE - 1] {
            let mut data = [0; PAGE];
            data[at] = 1;
            assert!(!is_zero(&data));
            assert!(!is_zero(&data[at..]) && is_zero(&data[at + 1..]));
            assert_ne!(page_name(&seal, &data), page_name(&seal, &[0; PAGE]), "{at}");
        }
        assert!(is_zero(&[0; PAGE]) && is_zero(&[]));
    }

    #[test]
    fn names_depend_on_the_store_and_on_order() {
        let (one, two) = (Seal::plain([1; 32]), Seal::plain([2; 32]));
        assert_ne!(page_name(&one, b"page"), page_name(&two, b"page"));
        let names = page_names(&one, &[[1; PAGE], [2; PAGE]].concat());
        assert_eq!(names, [page_name(&one, &[1; PAGE]), page_name(&one, &[2; PAGE])]);
        assert_ne!(chunk_name(&one, &names), chunk_name(&one, &[names[1], names[0]]));
    }
}
