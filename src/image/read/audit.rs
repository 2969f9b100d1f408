//! Checks a whole pack: its index, and that every chunk is what the index says.

use super::index::read_index;
use crate::image::crypto::vault::Vault;
use crate::image::error::{Flaw, ImageError, Result};
use crate::image::format::chunk;
use crate::image::format::codec::Decoder;
use crate::image::format::pack::{self, Entry, HEADER, PackInfo};
use crate::image::layout::pack_key;

/// A pack that was read from its first byte to its last.
pub struct Audited {
    /// Its chunks.
    pub chunks: Vec<Entry>,
    /// What is wrong with them; empty where all is well.
    pub flaws: Vec<Flaw>,
}

/// Reads a whole pack once and checks it. An error is one that leaves nothing to look at: the pack is missing, cannot be read, or
/// its index is damaged.
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
