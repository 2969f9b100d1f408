//! The object `format`: the store's version, its ID, and its master key, in clear or wrapped by a key derived
//! from the user's secret.
//!
//! Created before anything else. A hash detects damage, so a wrapped key that does not open means a wrong
//! secret. Never returns a key that is not proven to be the store's.

use chacha20poly1305::{AeadInPlace, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::kdf::Kdf;
use super::keys::Secret;
use super::seal::{Key, Seal};
use crate::image::error::{Flaw, ImageError, KeyError, Result};
use crate::image::hex::Hex;
use crate::image::layout::{FORMAT, HEAD, VERSION, manifest_numbers};
use crate::store::{Store, StoreError, Version};

const LIMIT: u64 = 64 * 1024;

const NONCE: usize = 24;
const TAG: usize = 16;
const WRAPPED: usize = NONCE + 32 + TAG;

/// Content of the object `format`.
#[derive(Serialize, Deserialize, Clone, PartialEq)]
pub(crate) struct Format {
    version: u32,
    /// Random, so unique to the store.
    pub id: Hex<16>,
    keys: Keys,
    /// BLAKE3 of what the key is [`bound`] to, and of the key as stored.
    check: Hex<32>,
}

#[derive(Serialize, Deserialize, Clone, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Keys {
    /// The store is not encrypted.
    Plain(Hex<32>),
    /// Nonce, encrypted key and tag.
    Wrapped { kdf: Kdf, master: Hex<WRAPPED> },
}

/// Common to all JSON objects. The version decides how the rest is parsed.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// The version of a JSON object.
pub(crate) fn version_of(data: &[u8]) -> Result<u32, Flaw> {
    let versioned: Versioned = serde_json::from_slice(data).map_err(|e| Flaw::Syntax(e.to_string()))?;
    Ok(versioned.version)
}

/// Reads `format`. None if the store is empty.
pub(crate) fn read(store: &dyn Store) -> Result<Option<(Format, Version)>> {
    match store.get(FORMAT, LIMIT) {
        Ok((data, version)) => Ok(Some((Format::parse(&data, store.url())?, version))),
        Err(StoreError::NotFound { .. }) => match version_in_head(store)? {
            Some(1) => Err(ImageError::OldStore { url: store.url().into() }),
            None if manifest_numbers(store)?.is_empty() => Ok(None),
            _ => Err(ImageError::NoFormat { url: store.url().into() }),
        },
        Err(error) => Err(error.into()),
    }
}

/// The version in head, or 0 if head cannot be parsed. None if there is no head.
fn version_in_head(store: &dyn Store) -> Result<Option<u32>> {
    match store.get(HEAD, LIMIT) {
        Ok((data, _)) => Ok(Some(version_of(&data).unwrap_or(0))),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Format {
    /// Makes the format of a new store: encrypted if there is a secret.
    pub(crate) fn new(secret: Option<&Secret>) -> Result<(Self, Seal)> {
        let (id, key) = (Hex::random(), Key::new(Hex::random().0));
        Ok(match secret {
            None => (Self::of(id, Keys::Plain(Hex(*key))), Seal::plain(*key)),
            Some(secret) => (Self::wrap(id, &key, secret)?, Seal::encrypted(&key)),
        })
    }

    /// Opens the store with its secret. Errors name `url`.
    pub(crate) fn open(&self, secret: Option<&Secret>, url: &str) -> Result<Seal> {
        match &self.keys {
            Keys::Plain(key) => match secret {
                None => Ok(Seal::plain(key.0)),
                Some(Secret { path, .. }) => Err(KeyError::NotEncrypted { path: path.clone(), url: url.into() }.into()),
            },
            Keys::Wrapped { kdf, master } => Ok(Seal::encrypted(&self.unwrap(kdf, master, secret, url)?)),
        }
    }

    /// Wraps the same master key by a new secret.
    pub(crate) fn rewrap(&self, old: Option<&Secret>, new: &Secret, url: &str) -> Result<Self> {
        match &self.keys {
            Keys::Plain(_) => Err(KeyError::NotEncrypted { path: new.path.clone(), url: url.into() }.into()),
            Keys::Wrapped { kdf, master } => Self::wrap(self.id, &self.unwrap(kdf, master, old, url)?, new),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(self).expect("numbers and digits can be written");
        text.push(b'\n');
        text
    }

    fn parse(data: &[u8], url: &str) -> Result<Self> {
        let damaged = |flaw| damaged(url, flaw);
        let found = version_of(data).map_err(damaged)?;
        if found != VERSION {
            return Err(ImageError::Version { url: url.into(), object: FORMAT.into(), found, supported: VERSION });
        }
        let format: Self = serde_json::from_slice(data).map_err(|e| damaged(Flaw::Syntax(e.to_string())))?;
        if format != Self::of(format.id, format.keys.clone()) {
            return Err(damaged(Flaw::Hash));
        }
        Ok(format)
    }

    fn of(id: Hex<16>, keys: Keys) -> Self {
        let check = match &keys {
            Keys::Plain(key) => [&bound(id, None)[..], &key.0].concat(),
            Keys::Wrapped { kdf, master } => [&bound(id, Some(kdf))[..], &master.0].concat(),
        };
        Self { version: VERSION, id, keys, check: Hex(*blake3::hash(&check).as_bytes()) }
    }

    fn wrap(id: Hex<16>, key: &Key, secret: &Secret) -> Result<Self> {
        let kdf = Kdf::new(secret.kind);
        let cipher = cipher(&kdf, secret).map_err(|flaw| damaged("the new store", flaw))?;
        let nonce = Hex::<NONCE>::random().0;
        let mut master = **key;
        let tag = cipher
            .encrypt_in_place_detached(&nonce.into(), &bound(id, Some(&kdf)), &mut master)
            .expect("a key is short");
        let mut wrapped = Hex([0; WRAPPED]);
        wrapped.0[..NONCE].copy_from_slice(&nonce);
        wrapped.0[NONCE..][..32].copy_from_slice(&master);
        wrapped.0[NONCE + 32..].copy_from_slice(&tag);
        Ok(Self::of(id, Keys::Wrapped { kdf, master: wrapped }))
    }

    fn unwrap(&self, kdf: &Kdf, wrapped: &Hex<WRAPPED>, secret: Option<&Secret>, url: &str) -> Result<Key> {
        let url = url.to_owned();
        let needed = kdf.kind();
        let Some(secret) = secret else { return Err(KeyError::Needed { needed, url }.into()) };
        let (path, kind) = (secret.path.clone(), secret.kind);
        if kind != needed {
            return Err(KeyError::OtherKind { path, kind, needed, url }.into());
        }
        let cipher = cipher(kdf, secret).map_err(|flaw| damaged(&url, flaw))?;
        let (nonce, rest) = wrapped.0.split_at(NONCE);
        let (key, tag) = rest.split_at(32);
        let mut master = Zeroizing::new([0; 32]);
        master.copy_from_slice(key);
        cipher
            .decrypt_in_place_detached(
                XNonce::from_slice(nonce),
                &bound(self.id, Some(kdf)),
                &mut *master,
                Tag::from_slice(tag),
            )
            .map_err(|_| KeyError::Wrong { path, kind, url })?;
        Ok(master)
    }
}

/// Associated data of a wrapped key: version, store and KDF.
fn bound(id: Hex<16>, kdf: Option<&Kdf>) -> Vec<u8> {
    let kdf = kdf.map_or(vec![0], Kdf::to_bytes);
    [b"freeze store", &VERSION.to_le_bytes()[..], &id.0, &kdf].concat()
}

fn cipher(kdf: &Kdf, secret: &Secret) -> Result<XChaCha20Poly1305, Flaw> {
    Ok(XChaCha20Poly1305::new((&*kdf.derive(secret)?).into()))
}

fn damaged(url: &str, flaw: Flaw) -> ImageError {
    ImageError::Damaged { url: url.into(), object: FORMAT.into(), flaw }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;
    use crate::image::error::SecretKind;
    use proptest::prelude::*;

    const URL: &str = "file:/s";
    /// Above every cap on Argon2id's parameters.
    const MOST: u32 = 1 << 20;

    fn secret(text: &[u8]) -> Secret {
        Secret { kind: SecretKind::Key, path: "/key".into(), bytes: Zeroizing::new(text.to_vec()) }
    }

    fn name(seal: &Seal) -> [u8; 32] {
        seal.name(b"page")
    }

    #[test]
    fn what_was_made_can_be_opened() {
        for secret in [None, Some(secret(b"k"))] {
            let (format, seal) = Format::new(secret.as_ref()).unwrap();
            let again = Format::parse(&format.encode(), URL).unwrap();
            assert!(again == format);
            let opened = again.open(secret.as_ref(), URL).unwrap();
            assert_eq!((name(&opened), opened.encrypts()), (name(&seal), secret.is_some()));
        }
    }

    #[test]
    fn a_passphrase_opens_what_it_locked() {
        let passphrase = |text: &str| Secret { kind: SecretKind::Passphrase, ..secret(text.as_bytes()) };
        let (format, seal) = Format::new(Some(&passphrase("right"))).unwrap();
        assert_eq!(name(&format.open(Some(&passphrase("right")), URL).unwrap()), name(&seal));
        assert!(matches!(
            format.open(Some(&passphrase("wrong")), URL),
            Err(ImageError::Key(KeyError::Wrong { kind: SecretKind::Passphrase, .. }))
        ));
        assert!(matches!(
            format.open(Some(&secret(b"right")), URL),
            Err(ImageError::Key(KeyError::OtherKind { needed: SecretKind::Passphrase, .. }))
        ));
    }

    #[test]
    fn another_key_is_told_from_none_and_from_one_too_many() {
        let (format, _) = Format::new(Some(&secret(b"k"))).unwrap();
        let (plain, _) = Format::new(None).unwrap();
        let say = |result: Result<Seal>| result.err().unwrap().to_string();
        let texts = [
            say(format.open(Some(&secret(b"other")), URL)),
            say(format.open(None, URL)),
            say(plain.open(Some(&secret(b"k")), URL)),
        ];
        insta::assert_snapshot!(texts.join("\n"), @r"
    the key in /key does not open file:/s. Use the key with which the store was created, or the new one after `freeze rekey`
    file:/s is encrypted, and no key was given. Give the file of its key as --key-file or FREEZE_KEY_FILE
    file:/s is not encrypted, so the key in /key does not belong to it. Remove the option, or begin with an empty store, which freeze then encrypts
    ");
    }

    #[test]
    fn rewrapping_changes_the_secret_and_not_the_key() {
        let (old, new) = (secret(b"old"), secret(b"new"));
        let (format, seal) = Format::new(Some(&old)).unwrap();
        let again = format.rewrap(Some(&old), &new, URL).unwrap();
        assert_eq!(name(&again.open(Some(&new), URL).unwrap()), name(&seal));
        assert!(again.open(Some(&old), URL).is_err());
        assert!(format.rewrap(Some(&new), &new, URL).is_err());
        assert!(Format::new(None).unwrap().0.rewrap(None, &new, URL).is_err());
    }

    #[test]
    fn a_key_is_bound_to_its_store() {
        let (format, _) = Format::new(Some(&secret(b"k"))).unwrap();
        let moved = Format::of(Hex::random(), format.keys.clone());
        assert!(moved.open(Some(&secret(b"k")), URL).is_err());
        let Keys::Wrapped { master, .. } = format.keys else { unreachable!() };
        let another_salt = Format::of(format.id, Keys::Wrapped { kdf: Kdf::new(SecretKind::Key), master });
        assert!(another_salt.open(Some(&secret(b"k")), URL).is_err());
    }

    #[test]
    fn another_version_is_named() {
        let text = br#"{"version":3,"whatever":[]}"#;
        assert!(matches!(Format::parse(text, URL), Err(ImageError::Version { found: 3, .. })));
    }

    proptest! {
        #[test]
        fn fuzz_any_text_parses_or_does_not(data in prop::collection::vec(any::<u8>(), 0..300), text in "[{}\":,a-z0-9]{0,80}") {
            prop_assert!(Format::parse(&data, URL).is_err());
            prop_assert!(Format::parse(text.as_bytes(), URL).is_err());
        }

        #[test]
        fn fuzz_a_flipped_bit_is_seen(encrypt: bool, at in any::<prop::sample::Index>(), bit in 0..8) {
            let mut data = Format::new(encrypt.then(|| secret(b"k")).as_ref()).unwrap().0.encode();
            let at = at.index(data.len());
            data[at] ^= 1u8 << bit;
            prop_assert!(Format::parse(&data, URL).is_err());
        }

        /// The check is right. Argon2id's parameters are small or above their caps: values between are valid
        /// and slow.
        #[test]
        fn fuzz_forged_content_opens_or_does_not(
            id: [u8; 16], salt: [u8; 16], edits in fuzz::edits(),
            numbers in prop::array::uniform3(prop_oneof![0u32..20, (MOST + 1)..=u32::MAX]),
        ) {
            let (format, _) = Format::new(Some(&secret(b"k"))).unwrap();
            let Keys::Wrapped { master, .. } = &format.keys else { unreachable!() };
            let bytes = fuzz::damaged(&master.0, &edits);
            let master = Hex(std::array::from_fn(|at| bytes.get(at).copied().unwrap_or_default()));
            let [memory_kib, passes, lanes] = numbers;
            for (kind, kdf) in [
                (SecretKind::Key, Kdf::Blake3 { salt: Hex(salt) }),
                (SecretKind::Passphrase, Kdf::Argon2id { salt: Hex(salt), memory_kib, passes, lanes }),
            ] {
                let forged = Format::of(Hex(id), Keys::Wrapped { kdf, master });
                let parsed = Format::parse(&forged.encode(), URL).unwrap();
                let opened = parsed.open(Some(&Secret { kind, ..secret(b"k") }), URL);
                prop_assert!(opened.is_err());
            }
        }

        #[test]
        fn fuzz_damaged_text_parses_to_what_it_was(encrypt: bool, edits in fuzz::edits()) {
            let (format, _) = Format::new(encrypt.then(|| secret(b"k")).as_ref()).unwrap();
            if let Ok(parsed) = Format::parse(&fuzz::damaged(&format.encode(), &edits), URL) {
                prop_assert!(parsed == format);
            }
        }
    }
}
