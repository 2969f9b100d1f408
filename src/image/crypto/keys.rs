//! Reads the secret of an encrypted store, a passphrase or a key, from a file.
//!
//! Init and the command line pass on paths only; the file is read when the store is opened. Never prints a
//! secret, and never leaves one in memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::image::error::{KEY_MIN, KeyError, SecretKind};

/// Bytes.
const KEY_MAX: usize = 64 * 1024;
/// Bytes.
const PASSPHRASE_MAX: usize = 4096;

/// Where the key of a store is; neither for a store that is not encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
pub struct KeyFiles {
    /// Encrypt the store with the passphrase in this file
    #[arg(long, env = "FREEZE_PASSPHRASE_FILE", value_name = "FILE", conflicts_with = "key_file")]
    pub passphrase_file: Option<PathBuf>,
    /// Encrypt the store with the key in this file: 32 random bytes or more
    #[arg(long, env = "FREEZE_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

/// A passphrase or key, and the file that it was read from.
pub(crate) struct Secret {
    pub kind: SecretKind,
    pub path: PathBuf,
    pub bytes: Zeroizing<Vec<u8>>,
}

impl KeyFiles {
    /// Whether a passphrase or key file is set.
    pub fn are_given(&self) -> bool {
        self.passphrase_file.is_some() || self.key_file.is_some()
    }

    /// Replaces every path by `change(path)`.
    pub fn map(self, change: impl Fn(PathBuf) -> PathBuf) -> Self {
        Self { passphrase_file: self.passphrase_file.map(&change), key_file: self.key_file.map(&change) }
    }

    pub(crate) fn read(&self) -> Result<Option<Secret>, KeyError> {
        let (path, kind, limit) = match (&self.passphrase_file, &self.key_file) {
            (Some(path), _) => (path, SecretKind::Passphrase, PASSPHRASE_MAX),
            (None, Some(path)) => (path, SecretKind::Key, KEY_MAX),
            (None, None) => return Ok(None),
        };
        let path = path.to_owned();
        let mut bytes = match read(&path, limit + 1) {
            Ok(bytes) => bytes,
            Err(error) => return Err(KeyError::Unreadable { path, kind, error }),
        };
        if bytes.len() > limit {
            return Err(KeyError::Long { path, kind, limit });
        }
        if kind == SecretKind::Passphrase {
            // Editors and `echo` end a file with a line break.
            for end in [b'\n', b'\r'] {
                bytes.pop_if(|last| *last == end);
            }
        }
        match bytes.len() {
            0 => Err(KeyError::Empty { path, kind }),
            size if kind == SecretKind::Key && size < KEY_MIN => Err(KeyError::Short { path, size }),
            _ => Ok(Some(Secret { kind, path, bytes })),
        }
    }
}

/// Reads at most `limit` bytes. The buffer never reallocates, so zeroing it clears every copy.
fn read(path: &Path, limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut file = File::open(path)?;
    let mut bytes = Zeroizing::new(vec![0; limit]);
    let mut filled = 0;
    while filled < limit {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(content: &[u8], kind: SecretKind) -> (tempfile::NamedTempFile, Result<Option<Secret>, KeyError>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, content).unwrap();
        let path = Some(file.path().to_owned());
        let files = match kind {
            SecretKind::Passphrase => KeyFiles { passphrase_file: path, key_file: None },
            SecretKind::Key => KeyFiles { passphrase_file: None, key_file: path },
        };
        let read = files.read();
        (file, read)
    }

    #[test]
    fn one_line_end_is_no_part_of_a_passphrase() {
        for (content, passphrase) in
            [(&b"a b"[..], &b"a b"[..]), (b"a b\n", b"a b"), (b"a\r\n", b"a"), (b"a\n\n", b"a\n"), (b"\na", b"\na")]
        {
            assert_eq!(*given(content, SecretKind::Passphrase).1.unwrap().unwrap().bytes, passphrase);
        }
        let key = b"exactly these bytes are the key\n";
        assert_eq!(*given(key, SecretKind::Key).1.unwrap().unwrap().bytes, key);
        assert!(KeyFiles::default().read().unwrap().is_none());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let say = |content: &[u8], kind| {
            let (file, read) = given(content, kind);
            read.err().unwrap().to_string().replace(file.path().to_str().unwrap(), "/FILE")
        };
        let texts = [
            say(b"", SecretKind::Passphrase),
            say(b"\n", SecretKind::Passphrase),
            say(&[b'x'; PASSPHRASE_MAX + 1], SecretKind::Passphrase),
            say(b"", SecretKind::Key),
            say(&[b'x'; 31], SecretKind::Key),
            say(&[b'x'; 64 * 1024 + 1], SecretKind::Key),
        ];
        insta::assert_snapshot!(texts.join("\n"), @r"
    the file /FILE is empty, but must hold the passphrase of the store
    the file /FILE is empty, but must hold the passphrase of the store
    the file /FILE has more than 4096 bytes, so it cannot be the passphrase of a store. Name the right file
    the file /FILE is empty, but must hold the key of the store
    the key in /FILE has 31 bytes, but a key needs at least 32: create one with `head -c 32 /dev/urandom > FILE`, or use a passphrase
    the file /FILE has more than 65536 bytes, so it cannot be the key of a store. Name the right file
    ");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let files = KeyFiles { passphrase_file: Some("/nowhere/secret".into()), key_file: None };
        let text = files.read().err().unwrap().to_string();
        assert!(text.contains("/nowhere/secret") && text.contains("No such file"), "{text}");
        let files = KeyFiles { passphrase_file: None, key_file: Some("/".into()) };
        assert!(matches!(files.read(), Err(KeyError::Unreadable { .. })));
    }
}
