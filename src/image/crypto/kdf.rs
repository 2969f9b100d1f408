//! How the key that wraps a store's master key follows from a passphrase or a key file. Must never be trusted for how much
//! work or memory that may take: its parameters are read from the store.

use argon2::{Algorithm, Argon2, Block, Params};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::keys::Secret;
use super::seal::Key;
use crate::image::error::{Flaw, SecretKind};
use crate::image::hex::Hex;

/// OWASP's recommendation for Argon2id with the least memory: it has to fit into small containers.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// The most that a store may ask for.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;

/// How a key follows from a secret.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kdf {
    /// From a passphrase: RFC 9106, version 0x13.
    Argon2id { salt: Hex<16>, memory_kib: u32, passes: u32, lanes: u32 },
    /// From a key file, whose bytes need no stretching.
    Blake3 { salt: Hex<16> },
}

impl Kdf {
    /// With a salt of its own.
    pub(crate) fn new(kind: SecretKind) -> Self {
        let salt = Hex::random();
        match kind {
            SecretKind::Passphrase => Self::Argon2id { salt, memory_kib: MEMORY_KIB, passes: PASSES, lanes: 1 },
            SecretKind::Key => Self::Blake3 { salt },
        }
    }

    /// What it takes.
    pub(crate) fn kind(&self) -> SecretKind {
        match self {
            Self::Argon2id { .. } => SecretKind::Passphrase,
            Self::Blake3 { .. } => SecretKind::Key,
        }
    }

    /// All of it as bytes, to be bound to what it protects.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Argon2id { salt, memory_kib, passes, lanes } => {
                let numbers = [memory_kib, passes, lanes].map(|number| number.to_le_bytes()).concat();
                [&[1], &salt.0[..], &numbers].concat()
            }
            Self::Blake3 { salt } => [&[2], &salt.0[..]].concat(),
        }
    }

    /// Derives the key, or says why a store must not ask for this.
    pub(crate) fn derive(&self, secret: &Secret) -> Result<Key, Flaw> {
        let mut key = Key::default();
        match self {
            Self::Argon2id { salt, memory_kib, passes, lanes } => {
                Flaw::bound("memory for a key in KiB", (*memory_kib).into(), MEMORY_KIB_MAX.into())?;
                Flaw::bound("number of passes for a key", (*passes).into(), PASSES_MAX.into())?;
                Flaw::bound("number of lanes for a key", (*lanes).into(), LANES_MAX.into())?;
                let unusable = |_| Flaw::Disagree("the numbers of a key's derivation");
                let params = Params::new(*memory_kib, *passes, *lanes, Some(key.len())).map_err(unusable)?;
                let mut memory = Zeroizing::new(Blocks(vec![Block::default(); params.block_count()]));
                let argon2 = Argon2::new(Algorithm::Argon2id, argon2::Version::V0x13, params);
                argon2
                    .hash_password_into_with_memory(&secret.bytes, &salt.0, &mut *key, &mut memory.0[..])
                    .map_err(unusable)?;
            }
            Self::Blake3 { salt } => {
                let mut hasher = blake3::Hasher::new_derive_key("freeze store 2: key file");
                *key = *hasher.update(&salt.0).update(&secret.bytes).finalize().as_bytes();
            }
        }
        Ok(key)
    }
}

/// From what Argon2 leaves in its memory the key could be had again without its work.
struct Blocks(Vec<Block>);

impl Zeroize for Blocks {
    fn zeroize(&mut self) {
        self.0.iter_mut().for_each(Zeroize::zeroize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret { kind: SecretKind::Passphrase, path: "/f".into(), bytes: Zeroizing::new(text.into()) }
    }

    fn argon2id(memory_kib: u32, passes: u32, lanes: u32) -> Kdf {
        Kdf::Argon2id { salt: Hex([7; 16]), memory_kib, passes, lanes }
    }

    /// As the reference implementation (argon2-cffi) and BLAKE3 say, so that others can read what we write.
    #[test]
    fn keys_are_derived_as_others_do() {
        let expected = "2364130a15dd92f50cfda215d6d394361ead3ef05b9446fdf0079fa3cf465bc5";
        assert_eq!(Hex(*argon2id(64, 2, 2).derive(&secret("password")).unwrap()).to_string(), expected);
        let mut hasher = blake3::Hasher::new_derive_key("freeze store 2: key file");
        let expected = hasher.update(&[&[7; 16][..], b"password"].concat()).finalize();
        assert_eq!(*Kdf::Blake3 { salt: Hex([7; 16]) }.derive(&secret("password")).unwrap(), *expected.as_bytes());
    }

    #[test]
    fn a_store_cannot_ask_for_too_much() {
        for kdf in [
            argon2id(MEMORY_KIB_MAX + 1, 1, 1),
            argon2id(u32::MAX, 1, 1),
            argon2id(64, PASSES_MAX + 1, 1),
            argon2id(64, 1, LANES_MAX + 1),
        ] {
            assert!(matches!(kdf.derive(&secret("x")), Err(Flaw::Bound { .. })), "{kdf:?}");
        }
        for kdf in [argon2id(0, 1, 1), argon2id(64, 0, 1), argon2id(64, 1, 0), argon2id(7, 1, 1)] {
            assert!(matches!(kdf.derive(&secret("x")), Err(Flaw::Disagree(_))), "{kdf:?}");
        }
    }
}
