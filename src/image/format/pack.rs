//! A pack: one object of many encoded chunks. An index at the end makes it readable without a manifest.
//!
//! `magic+version | chunks, each sealed | the index, sealed | its sealed length (u32 LE) | magic+version`.
//! The index has per chunk the encoded and raw length (u32 LE each) and the names of its pages.

use super::chunk::{CHUNK, CHUNK_MAX, Name, PAGE, chunk_name};
use crate::image::crypto::seal::Seal;
use crate::image::error::Flaw;
use crate::image::layout::pack_key;

const MAGIC: &[u8; 8] = b"FRZPACK\x02";
/// Bytes before the first chunk.
pub(crate) const HEADER: usize = MAGIC.len();
const ENTRY: usize = 4 + 4;
pub(crate) const TRAILER: usize = 4 + MAGIC.len();
/// A pack is closed at this many bytes of chunks.
const TARGET: usize = 8 << 20;
/// A pack is also closed at this many bytes of index: highly compressible pages fill the index first.
const INDEX_TARGET: usize = 256 << 10;
/// Peak memory of a pack: the last chunk exceeds the target, and the index is sealed into a second buffer.
pub(crate) const BUFFER: usize = TARGET + CHUNK + 4 * INDEX_TARGET;
/// Most bytes of a pack, and of its index, on reading.
pub(crate) const LIMIT: u64 = 64 << 20;
pub(crate) const INDEX_LIMIT: u64 = 16 << 20;

/// A pack in a manifest.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PackInfo {
    /// The object is `packs/ID`.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Bytes of the object.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// Bytes of the sealed index and the trailer. One request can read them.
    #[prost(uint64, tag = "3")]
    pub tail: u64,
}

impl PackInfo {
    /// The key of the object.
    pub fn key(&self) -> String {
        pack_key(&self.id)
    }
}

/// A chunk in the index of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// First byte in the pack.
    pub offset: u32,
    /// Bytes in the pack before sealing; equal to `raw` if the chunk is not compressed.
    pub encoded: u32,
    /// Decoded bytes.
    pub raw: u32,
    pub pages: Vec<Name>,
}

impl Entry {
    /// The name of the chunk in manifests.
    pub(crate) fn name(&self, seal: &Seal) -> Name {
        chunk_name(seal, &self.pages)
    }
}

/// A pack being filled.
pub(crate) struct Builder {
    data: Vec<u8>,
    index: Vec<u8>,
    /// First byte of each chunk.
    offsets: Vec<u32>,
    overhead: usize,
}

impl Builder {
    /// Starts a pack in the allocation of `data`. Reserves `overhead` bytes per chunk for its tag.
    pub(crate) fn new(mut data: Vec<u8>, overhead: usize) -> Self {
        data.clear();
        data.extend_from_slice(MAGIC);
        Self { data, index: Vec::new(), offsets: Vec::new(), overhead }
    }

    /// Appends a chunk of `raw` decoded bytes and returns its offset.
    pub(crate) fn push(&mut self, encoded: &[u8], raw: u32, pages: &[Name]) -> u32 {
        let offset = self.data.len() as u32;
        self.data.extend_from_slice(encoded);
        self.data.resize(self.data.len() + self.overhead, 0);
        self.offsets.push(offset);
        self.index.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
        self.index.extend_from_slice(&raw.to_le_bytes());
        self.index.extend_from_slice(pages.as_flattened());
        offset
    }

    pub(crate) fn is_full(&self) -> bool {
        self.data.len() >= TARGET || self.index.len() >= INDEX_TARGET
    }

    /// Seals chunks and index for the pack `id`. Returns the object and its entry for the manifest.
    pub(crate) fn finish(self, seal: &Seal, id: &str) -> (Vec<u8>, PackInfo) {
        let Self { mut data, index, offsets, .. } = self;
        let ends = offsets.iter().skip(1).copied().chain([data.len() as u32]);
        for (offset, end) in offsets.iter().zip(ends) {
            seal.seal_chunk(id, *offset, &mut data[*offset as usize..end as usize]);
        }
        let sealed = seal.seal_message(&pack_key(id), &index);
        data.extend_from_slice(&sealed);
        data.extend_from_slice(&(sealed.len() as u32).to_le_bytes());
        data.extend_from_slice(MAGIC);
        let tail = (sealed.len() + TRAILER) as u64;
        let info = PackInfo { id: id.into(), size: data.len() as u64, tail };
        (data, info)
    }
}

/// Bytes of the sealed index and the trailer, according to the trailer.
pub(crate) fn tail_length(trailer: &[u8]) -> Result<u64, Flaw> {
    let length = trailer.strip_suffix(MAGIC).and_then(|rest| rest.last_chunk()).ok_or(Flaw::Magic("a pack"))?;
    let length = u64::from(u32::from_le_bytes(*length));
    Ok(Flaw::bound("length of an index", length, INDEX_LIMIT)? + TRAILER as u64)
}

/// Parses the tail of a pack of `size` bytes: the sealed index and the trailer.
pub(crate) fn parse_tail(seal: &Seal, id: &str, tail: &[u8], size: u64) -> Result<Vec<Entry>, Flaw> {
    if tail_length(tail)? != tail.len() as u64 {
        return Err(Flaw::Disagree("the length of an index and the manifest"));
    }
    let index = seal.open_message(&pack_key(id), &tail[..tail.len() - TRAILER])?;
    parse_index(&index, size - tail.len() as u64, seal.overhead())
}

/// `start` is the offset of the index in the pack, where the last chunk must end.
fn parse_index(mut index: &[u8], start: u64, overhead: usize) -> Result<Vec<Entry>, Flaw> {
    let mut end = HEADER as u64;
    let mut chunks = Vec::new();
    while let Some((lengths, rest)) = index.split_first_chunk::<ENTRY>() {
        let [a, b, c, d, e, f, g, h] = *lengths;
        let (encoded, raw) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        Flaw::bound("length of a chunk", raw.into(), CHUNK_MAX.into())?;
        if encoded == 0 || encoded > raw {
            return Err(Flaw::Disagree("the lengths of a chunk"));
        }
        let (pages, rest) = rest.split_at_checked((raw as usize).div_ceil(PAGE) * 16).ok_or(Flaw::Truncated)?;
        // The cast is safe: `end` is at most the pack's limit.
        chunks.push(Entry { offset: end as u32, encoded, raw, pages: pages.as_chunks().0.to_vec() });
        end = Flaw::bound("end of a chunk", end + u64::from(encoded) + overhead as u64, start)?;
        index = rest;
    }
    if index.is_empty() && end == start { Ok(chunks) } else { Err(Flaw::Disagree("the chunks of a pack and its size")) }
}

/// Whether the object has a pack's magic.
pub(crate) fn begins_as_one(data: &[u8]) -> bool {
    data.starts_with(MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;
    use proptest::prelude::*;

    fn seal() -> Seal {
        Seal::plain([3; 32])
    }

    fn pages(raw: u32) -> Vec<Name> {
        (0..raw.div_ceil(PAGE as u32)).map(|page| [page as u8; 16]).collect()
    }

    fn pack(lengths: &[u32]) -> (Vec<u8>, PackInfo, Vec<Entry>) {
        let mut builder = Builder::new(Vec::new(), seal().overhead());
        let push = |encoded: &u32| {
            let raw = encoded * 2;
            let offset = builder.push(&vec![7; *encoded as usize], raw, &pages(raw));
            Entry { offset, encoded: *encoded, raw, pages: pages(raw) }
        };
        let entries = lengths.iter().map(push).collect();
        let (data, info) = builder.finish(&seal(), "id");
        (data, info, entries)
    }

    fn parse(data: &[u8], tail: u64) -> Result<Vec<Entry>, Flaw> {
        let start = data.len().checked_sub(tail as usize).ok_or(Flaw::Truncated)?;
        parse_tail(&seal(), "id", &data[start..], data.len() as u64)
    }

    #[test]
    fn the_index_gives_back_what_was_pushed() {
        for lengths in [&[][..], &[1], &[10, 20, 30_000]] {
            let (data, info, entries) = pack(lengths);
            assert_eq!(parse(&data, info.tail).unwrap(), entries);
            assert_eq!((info.size, tail_length(&data).unwrap()), (data.len() as u64, info.tail));
        }
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let (mut data, info, _) = pack(&[10, 20]);
        assert!(parse(&data, info.tail + 1).is_err());
        assert_eq!(parse_tail(&seal(), "other", &data[58 - 20..], 0).unwrap_err(), Flaw::Hash);
        data.insert(HEADER, 0);
        assert_eq!(parse(&data, info.tail), Err(Flaw::Disagree("the chunks of a pack and its size")));
        let length = data.len() - TRAILER;
        data[length..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(parse(&data, info.tail), Err(Flaw::Bound { what: "length of an index", .. })));
    }

    #[test]
    fn forged_entries_are_refused() {
        let entry = |encoded: u32, raw: u32, pages: usize| {
            [&encoded.to_le_bytes()[..], &raw.to_le_bytes(), &vec![0; pages * 16]].concat()
        };
        parse_index(&entry(5, 5000, 2), 13, 0).unwrap();
        assert_eq!(parse_index(&entry(0, 5000, 2), 8, 0), Err(Flaw::Disagree("the lengths of a chunk")));
        assert_eq!(parse_index(&entry(5001, 5000, 2), 5009, 0), Err(Flaw::Disagree("the lengths of a chunk")));
        assert!(matches!(parse_index(&entry(5, CHUNK_MAX + 1, 65), 13, 0), Err(Flaw::Bound { .. })));
        assert!(matches!(parse_index(&entry(5, 5000, 2), 12, 0), Err(Flaw::Bound { what: "end of a chunk", .. })));
        assert_eq!(parse_index(&entry(5, 5000, 1), 13, 0), Err(Flaw::Truncated));
        assert!(parse_index(&entry(5, 5000, 3), 13, 0).is_err());
    }

    proptest! {
        #[test]
        fn fuzz_any_bytes_parse_or_do_not(data in prop::collection::vec(any::<u8>(), 0..300), start in 0u64..1000) {
            let _ = parse(&data, data.len() as u64);
            if let Ok(chunks) = parse_index(&data, start, 0) {
                prop_assert!(chunks.iter().all(|e| u64::from(e.offset) + u64::from(e.encoded) <= start));
            }
        }

        #[test]
        fn fuzz_a_flipped_bit_in_the_index_is_seen(lengths in prop::collection::vec(1u32..100, 1..9), at in any::<prop::sample::Index>(), bit in 0..8) {
            let (mut data, info, _) = pack(&lengths);
            let first = data.len() - info.tail as usize;
            let at = first + at.index(data.len() - first);
            data[at] ^= 1u8 << bit;
            prop_assert!(parse(&data, info.tail).is_err());
        }

        /// Also damages the length in the trailer.
        #[test]
        fn fuzz_a_damaged_pack_has_the_same_index_or_none(lengths in prop::collection::vec(1u32..100, 0..9), edits in fuzz::edits()) {
            let (data, info, entries) = pack(&lengths);
            let data = fuzz::damaged(&data, &edits);
            if let Ok(found) = parse(&data, info.tail) {
                prop_assert_eq!(&found, &entries);
            }
            if let Ok(tail) = tail_length(&data)
                && let Ok(found) = parse(&data, tail)
            {
                prop_assert_eq!(found, entries);
            }
        }

        /// The seal is right. Chunks must fill the space between header and index.
        #[test]
        fn fuzz_a_forged_index_is_of_its_pack(lengths in prop::collection::vec(1u32..3000, 1..9), edits in fuzz::edits(), size in 0u64..20_000) {
            let (data, info, _) = pack(&lengths);
            let start = data.len() - info.tail as usize;
            let index = seal().open_message(&pack_key("id"), &data[start..data.len() - TRAILER]).unwrap();
            let sealed = seal().seal_message(&pack_key("id"), &fuzz::damaged(&index, &edits));
            let tail = [&sealed[..], &(sealed.len() as u32).to_le_bytes(), MAGIC].concat();
            for size in [start as u64, size].map(|start| start + tail.len() as u64) {
                if let Ok(found) = parse_tail(&seal(), "id", &tail, size) {
                    let mut end = HEADER as u32;
                    for entry in found {
                        prop_assert_eq!(entry.offset, end);
                        prop_assert_eq!(entry.pages.len(), (entry.raw as usize).div_ceil(PAGE));
                        prop_assert!((1..=CHUNK_MAX).contains(&entry.raw) && (1..=entry.raw).contains(&entry.encoded));
                        end += entry.encoded;
                    }
                    prop_assert_eq!(u64::from(end), size - tail.len() as u64);
                }
            }
        }
    }
}
