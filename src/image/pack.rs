//! A pack: many encoded chunks in one object, with an index at the end, so that a pack can be read without any manifest.
//!
//! `magic+version | chunks, end to end | index: 40 bytes a chunk | BLAKE3 of the index | number of chunks (u32 LE) | magic`

use super::Result;
use super::body::CHUNK_MAX;
use super::error::{Flaw, ImageError};
use super::manifest::PackInfo;
use super::vault::Vault;

const MAGIC: &[u8; 8] = b"FRZPACK\x01";
/// Bytes before the first chunk.
pub(super) const HEADER: usize = MAGIC.len();
const ENTRY: usize = 32 + 4 + 4;
const TRAILER: usize = 32 + 4 + MAGIC.len();
/// A pack is closed when it has this many bytes.
pub(super) const TARGET: usize = 8 << 20;
/// Most bytes of a pack on reading.
pub(super) const LIMIT: u64 = 64 << 20;

/// One chunk, as the index of its pack has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// BLAKE3 of the raw bytes.
    pub hash: [u8; 32],
    /// Bytes in the pack; equal to `raw` where the chunk is stored as it is.
    pub encoded: u32,
    /// Bytes when decoded.
    pub raw: u32,
}

/// A pack being filled. The index is gathered beside the chunks.
pub(super) struct Builder {
    data: Vec<u8>,
    index: Vec<u8>,
}

impl Builder {
    /// Starts a pack in `data`, whose allocation is reused.
    pub(super) fn new(mut data: Vec<u8>) -> Self {
        data.clear();
        data.extend_from_slice(MAGIC);
        Self { data, index: Vec::new() }
    }

    /// Appends a chunk and returns its offset.
    pub(super) fn push(&mut self, entry: &Entry, encoded: &[u8]) -> u32 {
        let offset = self.data.len() as u32;
        self.data.extend_from_slice(encoded);
        self.index.extend_from_slice(&entry.hash);
        self.index.extend_from_slice(&entry.encoded.to_le_bytes());
        self.index.extend_from_slice(&entry.raw.to_le_bytes());
        offset
    }

    pub(super) fn is_full(&self) -> bool {
        self.data.len() >= TARGET
    }

    /// The whole object.
    pub(super) fn finish(self) -> Vec<u8> {
        let Self { mut data, index } = self;
        data.extend_from_slice(&index);
        data.extend_from_slice(blake3::hash(&index).as_bytes());
        data.extend_from_slice(&((index.len() / ENTRY) as u32).to_le_bytes());
        data.extend_from_slice(MAGIC);
        data
    }
}

/// Reads and checks the index of a pack; with each chunk comes its offset. Needs no manifest and no chunk.
pub fn read_index(vault: &Vault, pack: &PackInfo) -> Result<Vec<(u32, Entry)>> {
    let store = vault.store();
    let object = key(&pack.id);
    let damaged = |flaw| ImageError::Damaged { url: store.url().into(), object: object.clone(), flaw };
    let size = Flaw::bound("size of a pack", pack.size, LIMIT).map_err(damaged)?;
    let start = size.checked_sub(TRAILER as u64).ok_or_else(|| damaged(Flaw::Truncated))?;
    let trailer = Trailer::parse(&store.get_range(&object, start..size)?, size).map_err(damaged)?;
    let index = store.get_range(&object, start - trailer.length..start)?;
    trailer.parse_index(&index, start - trailer.length).map_err(damaged)
}

struct Trailer {
    hash: [u8; 32],
    /// Bytes of the index.
    length: u64,
}

impl Trailer {
    fn parse(bytes: &[u8], size: u64) -> Result<Self, Flaw> {
        let (hash, rest) = bytes.split_first_chunk().ok_or(Flaw::Truncated)?;
        let count = rest.strip_suffix(MAGIC).and_then(|count| count.try_into().ok()).ok_or(Flaw::Magic("a pack"))?;
        let length = u64::from(u32::from_le_bytes(count)) * ENTRY as u64;
        Flaw::bound("length of an index", length, size.saturating_sub((HEADER + TRAILER) as u64))?;
        Ok(Self { hash: *hash, length })
    }

    /// `start` is where the index is in the pack: there the last chunk ends.
    fn parse_index(&self, index: &[u8], start: u64) -> Result<Vec<(u32, Entry)>, Flaw> {
        if blake3::hash(index) != self.hash {
            return Err(Flaw::Hash);
        }
        let mut offset = HEADER as u32;
        let mut chunks = Vec::new();
        for entry in index.as_chunks::<ENTRY>().0 {
            let entry = Entry::parse(entry)?;
            chunks.push((offset, entry));
            offset += entry.encoded;
            Flaw::bound("end of a chunk", offset.into(), start)?;
        }
        if u64::from(offset) == start { Ok(chunks) } else { Err(Flaw::Disagree("the chunks of a pack and its size")) }
    }
}

impl Entry {
    fn parse(bytes: &[u8; ENTRY]) -> Result<Self, Flaw> {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (encoded, raw) = (number(32), number(36));
        let hash = *bytes.first_chunk().ok_or(Flaw::Truncated)?;
        Flaw::bound("length of a chunk", raw.into(), CHUNK_MAX.into())?;
        if encoded == 0 || encoded > raw {
            return Err(Flaw::Disagree("the lengths of a chunk"));
        }
        Ok(Self { hash, encoded, raw })
    }
}

/// A new pack's name: random, so that no two writers ever meet.
pub(super) fn new_id() -> std::io::Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)?;
    Ok(format!("{:032x}", u128::from_be_bytes(random)))
}

/// Whether `id` is a pack's name.
pub(super) fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether an object begins as a pack does.
pub(super) fn begins_as_one(data: &[u8]) -> bool {
    data.starts_with(MAGIC)
}

/// The key of a pack.
pub(super) fn key(id: &str) -> String {
    format!("packs/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(encoded: u32) -> Entry {
        Entry { hash: [encoded as u8; 32], encoded, raw: encoded * 2 }
    }

    fn pack(lengths: &[u32]) -> (Vec<u8>, Vec<(u32, Entry)>) {
        let mut builder = Builder::new(Vec::new());
        let chunks = lengths.iter().map(|n| (builder.push(&entry(*n), &vec![7; *n as usize]), entry(*n))).collect();
        (builder.finish(), chunks)
    }

    fn parse(pack: &[u8]) -> Result<Vec<(u32, Entry)>, Flaw> {
        let (rest, trailer) = pack.split_last_chunk::<TRAILER>().ok_or(Flaw::Truncated)?;
        let trailer = Trailer::parse(trailer, pack.len() as u64)?;
        let start = rest.len() - trailer.length as usize;
        trailer.parse_index(&rest[start..], start as u64)
    }

    #[test]
    fn the_index_gives_back_what_was_pushed() {
        for lengths in [&[][..], &[1], &[10, 20, 30_000]] {
            let (pack, chunks) = pack(lengths);
            assert_eq!(parse(&pack).unwrap(), chunks);
        }
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let (mut data, _) = pack(&[10, 20]);
        data.insert(HEADER, 0);
        assert_eq!(parse(&data), Err(Flaw::Disagree("the chunks of a pack and its size")));
        let count = data.len() - 12;
        data[count..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(parse(&data), Err(Flaw::Bound { what: "length of an index", .. })));
        assert_eq!(Entry::parse(&[0; ENTRY]), Err(Flaw::Disagree("the lengths of a chunk")));
        assert!(matches!(Entry::parse(&[255; ENTRY]), Err(Flaw::Bound { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_do_not(data in prop::collection::vec(any::<u8>(), 0..300), count in 0u32..8) {
            let _ = parse(&data);
            let mut whole = data;
            let index = whole.len().saturating_sub(count as usize * ENTRY);
            let hash = blake3::hash(&whole[index..]);
            whole.extend_from_slice(hash.as_bytes());
            whole.extend_from_slice(&count.to_le_bytes());
            whole.extend_from_slice(MAGIC);
            if let Ok(chunks) = parse(&whole) {
                prop_assert!(chunks.iter().all(|(at, e)| *at as usize + e.encoded as usize <= index));
            }
        }

        #[test]
        fn a_flipped_bit_in_the_index_is_seen(lengths in prop::collection::vec(1u32..100, 1..9), at in any::<prop::sample::Index>(), bit in 0..8) {
            let (mut data, _) = pack(&lengths);
            let first = data.len() - TRAILER - lengths.len() * ENTRY;
            let at = first + at.index(data.len() - first);
            data[at] ^= 1u8 << bit;
            prop_assert!(parse(&data).is_err());
        }
    }
}
