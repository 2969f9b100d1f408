//! A pack: many encoded chunks in one object, with an index at the end, so that a pack can be read without any manifest.
//!
//! `magic+version | chunks, end to end | index: 40 bytes a chunk | BLAKE3 of the index | number of chunks (u32 LE) | magic`

const MAGIC: &[u8; 8] = b"FRZPACK\x01";
/// Bytes before the first chunk.
pub(super) const HEADER: usize = MAGIC.len();
const ENTRY: usize = 32 + 4 + 4;
const TRAILER: usize = 32 + 4 + MAGIC.len();
/// A pack is closed when it has this many bytes.
pub(super) const TARGET: usize = 8 << 20;
/// Most bytes of a pack on reading.
pub(super) const LIMIT: u64 = 64 << 20;

/// One chunk, as the index has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub hash: [u8; 32],
    pub encoded: u32,
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

    pub(super) fn is_empty(&self) -> bool {
        self.index.is_empty()
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

/// The key of a pack.
pub(super) fn key(id: &str) -> String {
    format!("packs/{id}")
}
