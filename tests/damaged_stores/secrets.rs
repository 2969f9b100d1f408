//! Seals and hashes as docs/reference/store-format.md says, not as freeze's own code does.

use chacha20poly1305::{AeadInPlace, KeyInit, XChaCha20Poly1305};
use serde_json::Value;

/// What follows from a store's `format` and from the key in its file.
pub struct Secrets {
    pub id: Vec<u8>,
    key: Vec<u8>,
    encrypted: bool,
}

impl Secrets {
    pub fn of(format: &Value, key_file: &[u8]) -> Self {
        let id = unhex(&format["id"]);
        let wrapped = &format["keys"]["wrapped"];
        let Some(salt) = wrapped["kdf"]["blake3"].get("salt").map(unhex) else {
            return Self { id, key: unhex(&format["keys"]["plain"]), encrypted: false };
        };
        let mut hasher = blake3::Hasher::new_derive_key("freeze store 2: key file");
        let wrapping = *hasher.update(&salt).update(key_file).finalize().as_bytes();
        let master = unhex(&wrapped["master"]);
        let mut key = master[24..].to_vec();
        let nonce = <[u8; 24]>::try_from(&master[..24]).unwrap();
        XChaCha20Poly1305::new(&wrapping.into()).decrypt_in_place(&nonce.into(), &binding(format), &mut key).unwrap();
        Self { id, key, encrypted: true }
    }

    fn derive(&self, context: &str) -> [u8; 32] {
        blake3::derive_key(context, &self.key)
    }

    /// The hash of something under one of the store's keys.
    pub fn hash(&self, context: &str, data: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.derive(context), data).as_bytes()
    }

    /// A message in the place of the object `key`.
    pub fn seal(&self, key: &str, message: &[u8]) -> Vec<u8> {
        if !self.encrypted {
            let hash = self.hash("freeze store 2: hashes of messages", &[key.as_bytes(), b"\0", message].concat());
            return [&hash, message].concat();
        }
        let mut sealed = message.to_vec();
        let cipher = XChaCha20Poly1305::new(&self.derive("freeze store 2: messages").into());
        cipher.encrypt_in_place(&[9; 24].into(), key.as_bytes(), &mut sealed).unwrap();
        [&[9; 24], &sealed[..]].concat()
    }

    /// The message in an object.
    pub fn open(&self, key: &str, sealed: &[u8]) -> Vec<u8> {
        if !self.encrypted {
            return sealed[32..].to_vec();
        }
        let (nonce, mut message) = (<[u8; 24]>::try_from(&sealed[..24]).unwrap(), sealed[24..].to_vec());
        let cipher = XChaCha20Poly1305::new(&self.derive("freeze store 2: messages").into());
        cipher.decrypt_in_place(&nonce.into(), key.as_bytes(), &mut message).unwrap();
        message
    }

    /// A chunk in its place.
    pub fn seal_chunk(&self, pack: &str, offset: u32, chunk: &[u8]) -> Vec<u8> {
        let mut sealed = chunk.to_vec();
        if self.encrypted {
            let nonce = [unhex(&pack.into()), u64::from(offset).to_le_bytes().to_vec()].concat();
            let cipher = XChaCha20Poly1305::new(&self.derive("freeze store 2: chunks").into());
            cipher.encrypt_in_place(&<[u8; 24]>::try_from(nonce).unwrap().into(), b"", &mut sealed).unwrap();
        }
        sealed
    }
}

/// What the hash in `format`, and a wrapped key, are bound to.
fn binding(format: &Value) -> Vec<u8> {
    let kdf = &format["keys"]["wrapped"]["kdf"];
    let kdf = if let Some(argon2id) = kdf.get("argon2id") {
        let number = |name: &str| (argon2id[name].as_u64().unwrap() as u32).to_le_bytes();
        let numbers = ["memory_kib", "passes", "lanes"].map(number).concat();
        [vec![1], unhex(&argon2id["salt"]), numbers].concat()
    } else if let Some(blake3) = kdf.get("blake3") {
        [vec![2], unhex(&blake3["salt"])].concat()
    } else {
        vec![0]
    };
    [b"freeze store", &2u32.to_le_bytes()[..], &unhex(&format["id"]), &kdf].concat()
}

/// The hash that belongs into `format`.
pub fn check(format: &Value) -> String {
    let keys = &format["keys"];
    let key = keys.get("plain").unwrap_or(&keys["wrapped"]["master"]);
    blake3::hash(&[binding(format), unhex(key)].concat()).to_string()
}

fn unhex(digits: &Value) -> Vec<u8> {
    let digits = digits.as_str().unwrap();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
