//! Reads the index of a pack without its chunks.

use crate::image::crypto::vault::Vault;
use crate::image::error::{Flaw, ImageError, Result};
use crate::image::format::pack::{Entry, INDEX_LIMIT, LIMIT, PackInfo, TRAILER, parse_tail, tail_length};

/// Reads and checks the index of a pack: by one request, or by two if [`PackInfo::tail`] is 0 (unknown).
pub fn read_index(vault: &Vault, pack: &PackInfo) -> Result<Vec<Entry>> {
    let (store, object) = (vault.store(), pack.key());
    let damaged = |flaw| ImageError::Damaged { url: store.url().into(), object: object.clone(), flaw };
    let size = Flaw::bound("size of a pack", pack.size, LIMIT).map_err(damaged)?;
    let last = |length: u64| -> Result<Vec<u8>> {
        let start = size.checked_sub(length).ok_or_else(|| damaged(Flaw::Truncated))?;
        Ok(store.get_range(&object, start..size)?)
    };
    let length = match pack.tail {
        0 => tail_length(&last(TRAILER as u64)?).map_err(damaged)?,
        known => Flaw::bound("length of an index", known, INDEX_LIMIT).map_err(damaged)?,
    };
    parse_tail(vault.seal(), &pack.id, &last(length)?, size).map_err(damaged)
}
