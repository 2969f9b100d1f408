//! What a checkpoint looks like in a store: bodies cut into chunks, chunks in packs, and one manifest a generation.
//!
//! [`ImageWriter`] takes bytes in and makes [`Body`]s, [`commit`] makes a generation of them, [`Manifest::load`] finds it
//! again and [`Fetcher`] gives the bytes back. Must never trust what it reads from a store: every length, count, offset
//! and path is bounded and checked before use. `docs/store-format.md` is the format.

mod audit;
mod body;
mod check;
mod chunk;
mod codec;
mod decoder;
mod dedup;
mod encoder;
mod error;
mod feeder;
mod format;
mod generation;
mod head;
mod hex;
mod holder;
mod kdf;
mod keys;
mod known;
mod lease;
mod manifest;
mod moved;
mod outcome;
mod pack;
mod packer;
mod queue;
mod reader;
mod recall;
mod refs;
mod seal;
mod segment;
mod stream;
mod table;
mod vault;
mod writer;

pub use audit::{Audited, audit_pack};
pub use body::{Body, Extent, INLINE_MAX, Slice};
pub use chunk::Name;
pub use decoder::{FetchThreads, read_chunk};
pub use error::{Flaw, ImageError};
pub use generation::{
    COMMIT_WITHIN, Generation, Lineage, Proposal, commit, generations, lineage, manifest_key, mark_committed,
    marker_key, propose,
};
pub use head::{NotCommitted, announce, glance, newest};
pub use hex::Hex;
pub use holder::Holder;
pub use keys::{KeyError, KeyFiles, SecretKind};
pub use lease::Lease;
pub use manifest::{Clocks, Executable, Figures, File, Image, Kind, Manifest, PackInfo, Process, Stdio};
pub use moved::{Record, Whereabouts, mark_lost, records, whereabouts};
pub use outcome::{Outcome, Party, close_above, decide, look, outcome_key};
pub use pack::{Entry, read_index};
pub use reader::{Fetcher, Front, Piece, StreamId};
pub use refs::{StoredManifest, StoredPack, is_known, manifests, packs, remove_manifest, remove_pack};
pub use table::{ChunkRef, ChunkTable};
pub use vault::{Vault, rekey};
pub use writer::{BodyId, BodyWriter, ImageWriter, Written};

/// Result of everything here.
pub type Result<T, E = ImageError> = std::result::Result<T, E>;

/// A vault in that folder.
#[cfg(test)]
pub(crate) fn test_vault(folder: &std::path::Path) -> Vault {
    let location = crate::store::Location::at(&format!("file:{}", folder.display()));
    Vault::create(crate::store::open(&location).unwrap(), &KeyFiles::default()).unwrap()
}
