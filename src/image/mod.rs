//! What a checkpoint looks like in a store: bodies cut into chunks, chunks in packs, and one manifest a generation.
//!
//! [`ImageWriter`] takes bytes in and makes [`Body`]s, [`commit`] makes a generation of them, [`Manifest::load`] finds it
//! again and [`Fetcher`] gives the bytes back. Must never trust what it reads from a store: every length, count, offset
//! and path is bounded and checked before use. `docs/store-format.md` is the format.

pub(crate) mod crypto;
pub(crate) mod error;
pub(crate) mod format;
pub(crate) mod hex;
pub(crate) mod layout;
pub(crate) mod ownership;
pub(crate) mod read;
pub(crate) mod write;

pub use crypto::keys::KeyFiles;
pub use crypto::vault::{Vault, rekey};
pub use error::{Flaw, ImageError, KeyError, Result, SecretKind};
pub use format::body::{Body, Extent, INLINE_MAX, Slice};
pub use format::chunk::Name;
pub use format::chunk_table::{ChunkRef, ChunkTable};
pub use format::manifest::{Clocks, Executable, Figures, File, Image, Kind, Manifest, Process, SavedRegisters, Stdio};
pub use format::pack::{Entry, PackInfo};
pub use hex::Hex;
pub use layout::{
    Record, StoredManifest, StoredPack, is_known, manifest_key, manifests, marker_key, outcome_key, packs, records,
    remove_manifest, remove_pack,
};
pub use ownership::generation::{
    COMMIT_WITHIN, Generation, Lineage, Proposal, commit, generations, lineage, mark_committed, propose,
};
pub use ownership::head::{NotCommitted, announce, glance, newest};
pub use ownership::heartbeat::Holder;
pub use ownership::lease::Lease;
pub use ownership::outcome::{Outcome, Party, close_above, decide, look};
pub use ownership::whereabouts::{Whereabouts, mark_lost, whereabouts};
pub use read::audit::{Audited, audit_pack};
pub use read::chunk_reader::{FetchThreads, read_chunk};
pub use read::fetcher::{Fetcher, Front, Piece, StreamId};
pub use read::index::read_index;
pub use write::writer::{BodyId, BodyWriter, ImageWriter, Written};

/// A vault in that folder.
#[cfg(test)]
pub(crate) fn test_vault(folder: &std::path::Path) -> Vault {
    let location = crate::store::Location::at(&format!("file:{}", folder.display()));
    Vault::create(crate::store::open(&location).unwrap(), &KeyFiles::default()).unwrap()
}
