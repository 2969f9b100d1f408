//! Encrypts and authenticates objects and chunks, and names pages and chunks.
//!
//! All keys are derived from the store's master key. A seal binds data to its place: a chunk to its pack and
//! offset, a message to its object's key. Never prints a key. Never uses a nonce twice: pack IDs are random,
//! and a pack is written once.

use std::sync::Arc;

use chacha20poly1305::{AeadInPlace, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::image::error::{Flaw, Result};
use crate::image::hex::Hex;

/// Bytes of a Poly1305 tag.
const TAG: usize = 16;
const NONCE: usize = 24;

pub(crate) type Key = Zeroizing<[u8; 32]>;

/// The keys of an open store: they name pages and chunks, and seal objects.
#[derive(Clone)]
pub struct Seal(Arc<Keys>);

struct Keys {
    names: Key,
    messages: Key,
    head: Key,
    ciphers: Option<Ciphers>,
}

struct Ciphers {
    chunks: XChaCha20Poly1305,
    messages: XChaCha20Poly1305,
}

impl Seal {
    /// For a store that is not encrypted. Its key is public, so a seal detects damage and hides nothing.
    pub(crate) fn plain(key: [u8; 32]) -> Self {
        Self::new(&Zeroizing::new(key), false)
    }

    /// For an encrypted store.
    pub(crate) fn encrypted(master: &Key) -> Self {
        Self::new(master, true)
    }

    fn new(key: &Key, encrypt: bool) -> Self {
        let derive = |context| Zeroizing::new(blake3::derive_key(context, &**key));
        let cipher = |context| XChaCha20Poly1305::new((&*derive(context)).into());
        Self(Arc::new(Keys {
            names: derive("freeze store 2: names"),
            messages: derive("freeze store 2: hashes of messages"),
            head: derive("freeze store 2: head"),
            ciphers: encrypt.then(|| Ciphers {
                chunks: cipher("freeze store 2: chunks"),
                messages: cipher("freeze store 2: messages"),
            }),
        }))
    }

    pub(crate) fn encrypts(&self) -> bool {
        self.0.ciphers.is_some()
    }

    /// Bytes that sealing adds to a chunk.
    pub(crate) fn overhead(&self) -> usize {
        if self.encrypts() { TAG } else { 0 }
    }

    /// The name of a page or chunk: equal bytes have equal names within a store, and different names in
    /// different stores.
    pub(crate) fn name(&self, data: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.0.names, data).as_bytes()
    }

    /// MAC of head.
    pub(crate) fn mac(&self, data: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&self.0.head, data)
    }

    /// Seals a chunk for `offset` in the pack `id`. The last [`overhead`](Self::overhead) bytes of `chunk`
    /// receive the tag.
    pub(crate) fn seal_chunk(&self, id: &str, offset: u32, chunk: &mut [u8]) {
        let Some(Ciphers { chunks, .. }) = &self.0.ciphers else { return };
        let nonce = chunk_nonce(id, offset).expect("a pack is named by 32 hexadecimal digits");
        let (data, free) = chunk.split_last_chunk_mut::<TAG>().expect("there is room for what sealing adds");
        *free = chunks.encrypt_in_place_detached(&nonce, b"", data).expect("a chunk is short").into();
    }

    /// Opens a chunk that was read at `offset` of the pack `id`. None if it was not sealed there.
    pub(crate) fn open_chunk<'a>(&self, id: &str, offset: u32, chunk: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let Some(Ciphers { chunks, .. }) = &self.0.ciphers else { return Some(chunk) };
        let (data, tag) = chunk.split_last_chunk_mut::<TAG>()?;
        chunks.decrypt_in_place_detached(&chunk_nonce(id, offset)?, b"", data, Tag::from_slice(tag)).ok()?;
        Some(data)
    }

    /// Seals a message for the object `key`.
    pub(crate) fn seal_message(&self, key: &str, message: &[u8]) -> Vec<u8> {
        let Some(Ciphers { messages, .. }) = &self.0.ciphers else {
            return [&self.hash(key, message)[..], message].concat();
        };
        let nonce = Hex::<NONCE>::random().0;
        let mut sealed = Vec::with_capacity(NONCE + message.len() + TAG);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(message);
        let tag = messages.encrypt_in_place_detached(&nonce.into(), key.as_bytes(), &mut sealed[NONCE..]);
        sealed.extend_from_slice(&tag.expect("a message is short"));
        sealed
    }

    /// Opens a message that was read from the object `key`.
    pub(crate) fn open_message(&self, key: &str, sealed: &[u8]) -> Result<Vec<u8>, Flaw> {
        let Some(Ciphers { messages, .. }) = &self.0.ciphers else {
            let (hash, message) = sealed.split_first_chunk::<32>().ok_or(Flaw::Truncated)?;
            return if self.hash(key, message) == *hash { Ok(message.to_vec()) } else { Err(Flaw::Hash) };
        };
        let (nonce, rest) = sealed.split_first_chunk::<NONCE>().ok_or(Flaw::Truncated)?;
        let (message, tag) = rest.split_last_chunk::<TAG>().ok_or(Flaw::Truncated)?;
        let mut message = message.to_vec();
        let opened = messages.decrypt_in_place_detached(
            XNonce::from_slice(nonce),
            key.as_bytes(),
            &mut message,
            Tag::from_slice(tag),
        );
        opened.map(|()| message).map_err(|_| Flaw::Seal)
    }

    /// Object keys contain no zero byte, so no two pairs of key and message have the same input.
    fn hash(&self, key: &str, message: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0.messages);
        *hasher.update(key.as_bytes()).update(b"\0").update(message).finalize().as_bytes()
    }
}

/// The pack's 16 random bytes, then the offset. Unique, because a pack is written once.
fn chunk_nonce(id: &str, offset: u32) -> Option<XNonce> {
    let mut nonce = XNonce::default();
    nonce[..16].copy_from_slice(&Hex::<16>::parse(id)?.0);
    nonce[16..].copy_from_slice(&u64::from(offset).to_le_bytes());
    Some(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PACK: &str = "000102030405060708090a0b0c0d0e0f";
    const OTHER: &str = "100102030405060708090a0b0c0d0e0f";

    fn encrypted(master: u8) -> Seal {
        Seal::encrypted(&Zeroizing::new([master; 32]))
    }

    fn sealed(seal: &Seal, chunk: &[u8]) -> Vec<u8> {
        let mut place = chunk.to_vec();
        place.resize(chunk.len() + seal.overhead(), 0);
        seal.seal_chunk(PACK, 8, &mut place);
        place
    }

    #[test]
    fn a_chunk_opens_in_its_place_alone() {
        let seal = encrypted(1);
        let chunk = sealed(&seal, b"some page");
        assert!(!chunk.windows(4).any(|text| text == b"some"));
        assert_eq!(seal.open_chunk(PACK, 8, &mut chunk.clone()), Some(&mut b"some page".to_owned()[..]));
        for (pack, offset) in [(PACK, 9), (OTHER, 8), ("", 8), ("+00102030405060708090a0b0c0d0e0f", 8)] {
            assert_eq!(seal.open_chunk(pack, offset, &mut chunk.clone()), None);
        }
        assert_eq!(encrypted(2).open_chunk(PACK, 8, &mut chunk.clone()), None);
        assert_eq!(seal.open_chunk(PACK, 8, &mut chunk[..TAG - 1].to_vec()), None);
    }

    #[test]
    fn a_message_opens_under_its_key_alone() {
        for (seal, other) in [(encrypted(1), encrypted(2)), (Seal::plain([1; 32]), Seal::plain([2; 32]))] {
            let object = seal.seal_message("generations/1.manifest", b"message");
            assert_eq!(seal.open_message("generations/1.manifest", &object).unwrap(), b"message");
            assert!(seal.open_message("generations/2.manifest", &object).is_err());
            assert!(other.open_message("generations/1.manifest", &object).is_err());
            assert!(seal.open_message("generations/1.manifest", &object[..20]).is_err());
        }
    }

    #[test]
    fn the_same_message_is_never_sealed_alike() {
        assert_ne!(encrypted(1).seal_message("head", b"x"), encrypted(1).seal_message("head", b"x"));
    }

    #[test]
    fn names_differ_from_store_to_store() {
        assert_eq!(Seal::plain([1; 32]).name(b"page"), Seal::plain([1; 32]).name(b"page"));
        assert_ne!(Seal::plain([1; 32]).name(b"page"), Seal::plain([2; 32]).name(b"page"));
        assert_ne!(encrypted(1).name(b"page"), encrypted(2).name(b"page"));
    }

    #[test]
    fn a_plain_store_keeps_chunks_as_they_are() {
        let seal = Seal::plain([1; 32]);
        assert_eq!(sealed(&seal, b"page"), b"page");
        assert_eq!(seal.open_chunk(PACK, 8, &mut b"page".to_owned()), Some(&mut b"page".to_owned()[..]));
    }

    proptest! {
        #[test]
        fn fuzz_a_flipped_bit_is_seen(data in prop::collection::vec(any::<u8>(), 0..100), at in any::<prop::sample::Index>(), bit in 0..8) {
            let seal = encrypted(1);
            let mut chunk = sealed(&seal, &data);
            chunk[at.index(data.len() + TAG)] ^= 1u8 << bit;
            prop_assert!(seal.open_chunk(PACK, 8, &mut chunk).is_none());
            for seal in [seal, Seal::plain([1; 32])] {
                let mut object = seal.seal_message("head", &data);
                let at = at.index(object.len());
                object[at] ^= 1u8 << bit;
                prop_assert!(seal.open_message("head", &object).is_err());
            }
        }

        #[test]
        fn fuzz_any_bytes_open_or_do_not(data in prop::collection::vec(any::<u8>(), 0..100), offset: u32, id in "[0-9a-g]{30,33}") {
            prop_assert!(encrypted(1).open_message("head", &data).is_err());
            let mut chunk = data.clone();
            prop_assert!(encrypted(1).open_chunk(&id, offset, &mut chunk).is_none());
            prop_assert!(Seal::plain([1; 32]).open_message("head", &data).is_err());
        }
    }
}
