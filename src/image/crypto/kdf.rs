//! Derives the key that wraps a store's master key from a passphrase or a key file.
//!
//! The parameters come from the store: memory, passes and lanes are capped before any work is done.

use argon2::{Algorithm, Argon2, Block, Params};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::keys::Secret;
use super::seal::Key;
use crate::image::error::{Flaw, SecretKind};
use crate::image::hex::Hex;

/// OWASP's minimum configuration for Argon2id (19 MiB, 2 passes, 1 lane), which fits into small containers.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// Caps on the parameters that a store may ask for.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;

/// Key derivation function and its parameters.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kdf {
    /// For a passphrase: RFC 9106, version 0x13.
    Argon2id { salt: Hex<16>, memory_kib: u32, passes: u32, lanes: u32 },
    /// For a key file, which is random and needs no stretching.
    Blake3 { salt: Hex<16> },
}

impl Kdf {
    /// Draws a new salt.
    pub(crate) fn new(kind: SecretKind) -> Self {
        let salt = Hex::random();
        match kind {
            SecretKind::Passphrase => Self::Argon2id { salt, memory_kib: MEMORY_KIB, passes: PASSES, lanes: 1 },
            SecretKind::Key => Self::Blake3 { salt },
        }
    }

    /// The kind of secret that it takes.
    pub(crate) fn kind(&self) -> SecretKind {
        match self {
            Self::Argon2id { .. } => SecretKind::Passphrase,
            Self::Blake3 { .. } => SecretKind::Key,
        }
    }

    /// Every parameter as bytes: the wrapped key is bound to them.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Argon2id { salt, memory_kib, passes, lanes } => {
                let numbers = [memory_kib, passes, lanes].map(|number| number.to_le_bytes()).concat();
                [&[1], &salt.0[..], &numbers].concat()
            }
            Self::Blake3 { salt } => [&[2], &salt.0[..]].concat(),
        }
    }

    /// Derives the key. Fails if a parameter exceeds its cap.
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

/// Argon2's working memory, zeroed on drop: what it leaves there yields the key without Argon2's work.
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

    /// Expected values are those of the reference implementation (argon2-cffi) and of BLAKE3: stores stay
    /// portable.
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
