//! Audits a whole pack: checks its index, and every chunk against the index.

use super::index::read_index;
use crate::image::crypto::vault::Vault;
use crate::image::error::{Flaw, ImageError, Result};
use crate::image::format::chunk;
use crate::image::format::codec::Decoder;
use crate::image::format::pack::{self, Entry, HEADER, PackInfo};
use crate::image::layout::pack_key;

/// Result of reading a pack from its first to its last byte.
pub struct Audited {
    pub chunks: Vec<Entry>,
    /// Flaws of the header and of chunks; empty for an intact pack.
    pub flaws: Vec<Flaw>,
}

/// Reads a whole pack and checks it. Fails if the pack is missing or unreadable, or if its index is damaged.
pub fn audit_pack(vault: &Vault, info: &PackInfo) -> Result<Audited> {
    let chunks = read_index(vault, info)?;
    let overhead = vault.seal().overhead() as u64;
    let end = chunks.last().map_or(HEADER as u64, |last| u64::from(last.offset) + u64::from(last.encoded) + overhead);
    let mut data = vault.store().get_range(&pack_key(&info.id), 0..end)?;
    let mut flaws = Vec::new();
    if !pack::begins_as_one(&data) {
        flaws.push(Flaw::Magic("a pack"));
    }
    let mut decoder = Decoder::new().map_err(ImageError::Start)?;
    flaws.extend(chunks.iter().filter_map(|chunk| check_chunk(vault, &info.id, chunk, &mut data, &mut decoder).err()));
    Ok(Audited { chunks, flaws })
}

fn check_chunk(vault: &Vault, id: &str, entry: &Entry, data: &mut [u8], decoder: &mut Decoder) -> Result<(), Flaw> {
    let (seal, offset) = (vault.seal(), u64::from(entry.offset));
    let start = entry.offset as usize;
    let sealed = data.get_mut(start..start + entry.encoded as usize + seal.overhead()).ok_or(Flaw::Truncated)?;
    let encoded = seal.open_chunk(id, entry.offset, sealed).ok_or(Flaw::Chunk(offset))?;
    let raw = decoder.decode(encoded, entry.raw as usize).ok_or(Flaw::ChunkCompression(offset))?;
    if chunk::page_names(seal, &raw) == entry.pages { Ok(()) } else { Err(Flaw::Chunk(offset)) }
}
