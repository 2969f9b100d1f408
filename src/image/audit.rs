//! Checks a whole pack: its index, and that every chunk is what the index says.

use super::codec::Decoder;
use super::error::{Flaw, ImageError};
use super::manifest::PackInfo;
use super::pack::{self, Entry, HEADER};
use super::vault::Vault;
use super::{Result, read_index};

/// A pack that was read from its first byte to its last.
pub struct Audited {
    /// Its chunks with their offsets.
    pub chunks: Vec<(u32, Entry)>,
    /// What is wrong with them; empty where all is well.
    pub flaws: Vec<Flaw>,
}

/// Reads a whole pack once and checks it. An error is one that leaves nothing to look at: the pack is missing, cannot be read, or
/// its index is damaged.
pub fn audit_pack(vault: &Vault, info: &PackInfo) -> Result<Audited> {
    let chunks = read_index(vault, info)?;
    let end = chunks.last().map_or(HEADER as u64, |(offset, entry)| u64::from(offset + entry.encoded));
    let mut data = vault.store().get_range(&pack::key(&info.id), 0..end)?;
    let mut flaws = Vec::new();
    if !pack::begins_as_one(&data) {
        flaws.push(Flaw::Magic("a pack"));
    }
    let mut decoder = Decoder::new().map_err(ImageError::Start)?;
    flaws.extend(chunks.iter().filter_map(|chunk| check_chunk(vault, &info.id, chunk, &mut data, &mut decoder).err()));
    Ok(Audited { chunks, flaws })
}

fn check_chunk(
    vault: &Vault,
    id: &str,
    (offset, entry): &(u32, Entry),
    data: &mut [u8],
    decoder: &mut Decoder,
) -> Result<(), Flaw> {
    let start = *offset as usize;
    let sealed = data.get_mut(start..start + entry.encoded as usize).ok_or(Flaw::Truncated)?;
    let encoded = vault.seal().open_chunk(id, *offset, sealed).ok_or(Flaw::Chunk((*offset).into()))?;
    let raw = decoder.decode(encoded, entry.raw as usize).ok_or(Flaw::ChunkCompression((*offset).into()))?;
    if blake3::hash(&raw) == entry.hash { Ok(()) } else { Err(Flaw::Chunk((*offset).into())) }
}
