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
        "{object} in {url} has format version {found}, but this freeze reads version {supported}. Use a freeze that reads version {found}"
    )]
    Version { url: String, object: String, found: u32, supported: u32 },
    #[error("{url} has no generation {generation}. `freeze list` shows its generations")]
    NoGeneration { url: String, generation: u64 },
    #[error(
        "{url} holds generations but no head, so somebody removed head. Put it back from a copy of the store; to \
         start afresh on purpose, use an empty store"
    )]
    NoHead { url: String },
    #[error(
        "head of {url} names generation {generation}, whose manifest is missing. Put {object} back from a copy of the store"
    )]
    NoManifest { url: String, generation: u64, object: String },
    /// A reader would refuse the object, so it was not written.
    #[error(
        "{url} cannot hold the checkpoint: {flaw}. Nothing was committed; include fewer files, or reduce the memory of the application"
    )]
    Unfit { url: String, flaw: Flaw },
    #[error(
        "{object} was removed from {url} during the checkpoint, by a prune with a short --grace or by a lifecycle \
         rule of the bucket. Nothing was committed; try again"
    )]
    PackGone { url: String, object: String },
    /// Another container owns the lease.
    #[error(
        "another container has taken over this application at generation {generation} of {url}. Its checkpoints are \
         valid, and this container changed nothing. End this container; if both should run, give each its own store"
    )]
    Replaced { url: String, generation: u64 },
    #[error(
        "head of {url} names generation {found}, but generation {known} was committed: an old copy of head, or of the \
         store, was put back. Put the newest head back from a copy of the store"
    )]
    OldHead { url: String, found: u64, known: u64 },
    /// The time within which prune keeps shared packs has passed.
    #[error(
        "the checkpoint took more than {minutes} minutes, so `freeze prune` may have removed packs of {url} that the \
         checkpoint shares with earlier generations. Nothing was committed; try again with a faster connection to the store"
    )]
    TooSlow { url: String, minutes: u64 },
    #[error(
        "{url} holds checkpoints but no format object, so somebody removed it. Put it back from a copy of the store: \
         without it nothing can be read"
    )]
    NoFormat { url: String },
    #[error(
        "{url} holds checkpoints of format version 1, which this freeze does not read. Restore them with the freeze that \
         made them, or begin with an empty store"
    )]
    OldStore { url: String },
    #[error("cannot read the data to store: {0}. Nothing was committed")]
    Source(io::Error),
    #[error("cannot write data that was read from the store: {0}")]
    Sink(io::Error),
    #[error(
        "{what} has {size} bytes, but may have at most {limit}. The checkpoint is damaged or was not made by freeze"
    )]
    TooLarge { what: String, size: u64, limit: u64 },
    /// The earlier error has already been returned.
    #[error("an earlier error ended the transfer")]
    Ended,
    #[error("cannot start the transfer: {0}. Raise the container's PIDs limit, or its limit of open files")]
    Start(io::Error),
}

/// Bytes.
pub(crate) const KEY_MIN: usize = 32;

/// Error of a key file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // `path` is the key file, `url` the store; the messages name the rest.
pub enum KeyError {
    #[error("cannot read the {kind} of the store from the file {path}: {error}. Mount the file there, readable for uid {uid}", uid = nix::unistd::geteuid())]
    Unreadable { path: PathBuf, kind: SecretKind, error: io::Error },
    #[error("the file {path} is empty, but must hold the {kind} of the store")]
    Empty { path: PathBuf, kind: SecretKind },
    #[error(
        "the key in {path} has {size} bytes, but a key needs at least {}: create one with `head -c 32 /dev/urandom > FILE`, or use a passphrase",
        KEY_MIN
    )]
    Short { path: PathBuf, size: usize },
    #[error("the file {path} has more than {limit} bytes, so it cannot be the {kind} of a store. Name the right file")]
    Long { path: PathBuf, kind: SecretKind, limit: usize },
    #[error(
        "the {kind} in {path} does not open {url}. Use the {kind} with which the store was created, or the new one \
         after `freeze rekey`"
    )]
    Wrong { path: PathBuf, kind: SecretKind, url: String },
    #[error(
        "{url} needs a {needed}, but {path} was given as a {kind}. If it is the right file, name it with --{needed}-file"
    )]
    OtherKind { path: PathBuf, kind: SecretKind, needed: SecretKind, url: String },
    #[error(
        "{url} is encrypted, and no key was given. Give the file of its {needed} as --{needed}-file or \
         FREEZE_{variable}_FILE", variable = needed.to_string().to_uppercase()
    )]
    Needed { needed: SecretKind, url: String },
    #[error(
        "{url} is not encrypted, so the key in {path} does not belong to it. Remove the option, or begin with an \
         empty store, which freeze then encrypts"
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
    #[error("it does not begin like {0}")]
    Magic(&'static str),
    #[error("it ends too early")]
    Truncated,
    #[error("its content does not match its hash")]
    Hash,
    #[error("its seal does not match, so somebody changed it, or it belongs to another place or store")]
    Seal,
    #[error("its {what} is {found}, but may be at most {limit}")]
    Bound { what: &'static str, found: u64, limit: u64 },
    #[error("it does not decompress to its declared size")]
    Compression,
    #[error("it cannot be parsed: {0}")]
    Syntax(String),
    #[error("it claims to be generation {0}")]
    Generation(u64),
    #[error("{what} {name:?} is not allowed")]
    Name { what: &'static str, name: String },
    #[error("{what} {name:?} appears twice")]
    Twice { what: &'static str, name: String },
    #[error("{0} do not agree with each other")]
    Disagree(&'static str),
    #[error("the chunk at byte {0} does not match the hash in its manifest")]
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
