//! Errors of reading and writing generations, and flaws of damaged objects.

use std::io;
use std::path::PathBuf;

use crate::store::StoreError;

/// Result of reading or writing a store.
pub type Result<T, E = ImageError> = std::result::Result<T, E>;

/// Error of writing, committing or reading a generation.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // `url` is the store, `object` a key in it; the messages name the rest.
pub enum ImageError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(
        "{object} in {url} is damaged: {flaw}. Put it back from a copy of the store, or start afresh with an empty store"
    )]
    Damaged { url: String, object: String, flaw: Flaw },
    #[error(
        "{object} in {url} has format version {found}, and this freeze reads version {supported}. Use one that reads version {found}"
    )]
    Version { url: String, object: String, found: u32, supported: u32 },
    #[error("{url} has no generation {generation}. `freeze list` shows those that it has")]
    NoGeneration { url: String, generation: u64 },
    #[error(
        "{url} holds generations but no head, so head was removed. Put it back from a copy of the store; to start \
         afresh on purpose, use an empty store"
    )]
    NoHead { url: String },
    #[error(
        "head of {url} names generation {generation}, whose manifest is missing. Put {object} back from a copy of the store"
    )]
    NoManifest { url: String, generation: u64, object: String },
    /// A reader would refuse the object, so it was not written.
    #[error(
        "the checkpoint cannot be kept in {url}: {flaw}. Nothing was committed; include fewer files, or give the application a smaller memory"
    )]
    Unfit { url: String, flaw: Flaw },
    #[error(
        "{object} was removed from {url} while the checkpoint was under way, by a prune with a short --grace or by the bucket's own \
         rules. Nothing was committed; try again"
    )]
    PackGone { url: String, object: String },
    /// Another container owns the lease.
    #[error(
        "another container has taken over this application at generation {generation} of {url}. Its checkpoints stand and \
         nothing was changed. End this container; if both are meant to run, give each a store of its own"
    )]
    Replaced { url: String, generation: u64 },
    #[error(
        "head of {url} names generation {found}, but generation {known} was committed: an old head was put back, or the \
         store was. Put the newest head back from a copy of the store"
    )]
    OldHead { url: String, found: u64, known: u64 },
    /// The time within which prune keeps shared packs has passed.
    #[error(
        "the checkpoint took more than {minutes} minutes, and `freeze prune` may have removed meanwhile what it shares with \
         earlier ones in {url}. Nothing was committed; try again, with a faster way to the store"
    )]
    TooSlow { url: String, minutes: u64 },
    #[error(
        "{url} holds checkpoints but no format object, so it was removed. Put it back from a copy of the store: without it \
         nothing can be read"
    )]
    NoFormat { url: String },
    #[error(
        "{url} holds checkpoints of format version 1, which this freeze does not read. Restore them with the freeze that \
         made them, or begin with an empty store"
    )]
    OldStore { url: String },
    #[error("cannot read what is to be stored: {0}. Nothing was committed")]
    Source(io::Error),
    #[error("cannot write what was read from the store: {0}")]
    Sink(io::Error),
    #[error(
        "{what} has {size} bytes, and at most {limit} can be right. The checkpoint is damaged or was not made by freeze"
    )]
    TooLarge { what: String, size: u64, limit: u64 },
    /// The earlier error has already been returned.
    #[error("the transfer was ended by an earlier error")]
    Ended,
    #[error("cannot start the transfer: {0}. Raise the container's limit of processes or open files")]
    Start(io::Error),
}

/// Bytes.
pub(crate) const KEY_MIN: usize = 32;

/// Error of a key file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // `path` is the key file, `url` the store; the messages name the rest.
pub enum KeyError {
    #[error("the file {path}, which should hold the {kind} of the store, cannot be read: {error}. Mount it there, readable for uid {uid}", uid = nix::unistd::geteuid())]
    Unreadable { path: PathBuf, kind: SecretKind, error: io::Error },
    #[error("the file {path} is empty, and should hold the {kind} of the store")]
    Empty { path: PathBuf, kind: SecretKind },
    #[error(
        "the key in {path} has {size} bytes, and a key has at least {}: make one by `head -c 32 /dev/urandom > FILE`, or use a passphrase",
        KEY_MIN
    )]
    Short { path: PathBuf, size: usize },
    #[error(
        "the file {path} has more than {limit} bytes, so it does not hold the {kind} of a store. Name the right one"
    )]
    Long { path: PathBuf, kind: SecretKind, limit: usize },
    #[error(
        "the {kind} in {path} does not open {url}. Give the one that the store was made with, or after `freeze rekey` \
         the new one"
    )]
    Wrong { path: PathBuf, kind: SecretKind, url: String },
    #[error("{url} is opened by a {needed}, and {path} was given as a {kind}. Give it as what it is")]
    OtherKind { path: PathBuf, kind: SecretKind, needed: SecretKind, url: String },
    #[error(
        "{url} is encrypted, and no key was given. Name the file with its {needed} by --{needed}-file or \
         FREEZE_{variable}_FILE", variable = needed.to_string().to_uppercase()
    )]
    Needed { needed: SecretKind, url: String },
    #[error(
        "{url} is not encrypted, so the key in {path} is of no use. Leave it out, or begin with an empty store, which will \
         be encrypted"
    )]
    NotEncrypted { path: PathBuf, url: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    /// May be chosen by a person, so Argon2id stretches it.
    Passphrase,
    /// Random bytes.
    Key,
}

impl std::fmt::Display for SecretKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SecretKind::Passphrase => "passphrase",
            SecretKind::Key => "key",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Flaw {
    #[error("it does not begin as {0} does")]
    Magic(&'static str),
    #[error("it ends too early")]
    Truncated,
    #[error("its content does not have the hash that was written with it")]
    Hash,
    #[error("it is not what was sealed in this place: it was tampered with, or belongs to another place or store")]
    Seal,
    #[error("its {what} is {found}, and at most {limit} can be right")]
    Bound { what: &'static str, found: u64, limit: u64 },
    #[error("it cannot be decompressed to the size that it declares")]
    Compression,
    #[error("it cannot be parsed: {0}")]
    Syntax(String),
    #[error("it says that it is generation {0}")]
    Generation(u64),
    #[error("{what} {name:?} is not allowed")]
    Name { what: &'static str, name: String },
    #[error("{what} {name:?} appears twice")]
    Twice { what: &'static str, name: String },
    #[error("{0} do not agree with each other")]
    Disagree(&'static str),
    #[error("the chunk at byte {0} does not have the hash that its manifest says")]
    Chunk(u64),
    #[error("the chunk at byte {0} cannot be decompressed")]
    ChunkCompression(u64),
}

impl Flaw {
    /// Returns `found` if it is at most `limit`.
    pub(crate) fn bound(what: &'static str, found: u64, limit: u64) -> Result<u64, Flaw> {
        if found > limit { Err(Flaw::Bound { what, found, limit }) } else { Ok(found) }
    }
}
