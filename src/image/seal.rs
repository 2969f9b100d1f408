//! How objects and chunks are made unreadable and unforgeable, and how pages and chunks are named.

use super::Result;
use super::error::Flaw;

/// Names pages and chunks, and seals what goes into the store.
#[derive(Clone)]
pub struct Seal {
    naming: [u8; 32],
}

impl Seal {
    pub(super) fn plain(naming: [u8; 32]) -> Self {
        Self { naming }
    }

    /// Bytes that sealing adds to a chunk.
    pub(super) fn overhead(&self) -> usize {
        0
    }

    /// The name of a page or chunk: the same bytes have the same one in this store, and another in others.
    pub(super) fn name(&self, data: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.naming, data).as_bytes()
    }

    /// Seals a chunk in its place: `offset` in the pack `id`. Its last [`overhead`](Self::overhead) bytes are free.
    pub(super) fn seal_chunk(&self, _id: &str, _offset: u32, _chunk: &mut [u8]) {}

    /// Opens a chunk that was read from its place; None where it is not what was sealed there.
    pub(super) fn open_chunk<'a>(&self, _id: &str, _offset: u32, chunk: &'a mut [u8]) -> Option<&'a mut [u8]> {
        Some(chunk)
    }

    /// Seals a whole message that is to be stored under `key`.
    pub(super) fn seal_message(&self, key: &str, message: &[u8]) -> Vec<u8> {
        let name = self.name(&[key.as_bytes(), b"\0", message].concat());
        [&name[..], message].concat()
    }

    /// Opens a message that was read from `key`.
    pub(super) fn open_message(&self, key: &str, sealed: &[u8]) -> Result<Vec<u8>, Flaw> {
        let (name, message) = sealed.split_first_chunk::<32>().ok_or(Flaw::Truncated)?;
        let again = self.name(&[key.as_bytes(), b"\0", message].concat());
        if again == *name { Ok(message.to_vec()) } else { Err(Flaw::Hash) }
    }
}
