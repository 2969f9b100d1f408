//! Checkpoints in a store: bodies are cut into chunks, packs hold chunks, a manifest describes a generation.
//!
//! [`ImageWriter`] stores bytes as [`Body`]s, [`commit`] makes them a generation, [`Manifest::load`] finds
//! it, and [`Fetcher`] reads the bytes. Never trusts a store: every length, count, offset and path is bounded
//! and checked before use. `docs/reference/store-format.md` is the specification.

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
pub use error::{ImageError, KeyError, Result};
pub use format::body::{Body, Extent, Slice};
pub use format::chunk::Name;
pub use format::chunk_table::{ChunkRef, ChunkTable};
pub use format::demands::{Bound, Demands, Opened, SystemV};
pub(crate) use format::demands::{Clocks, SavedRegisters};
pub use format::manifest::{Attribute, CriuImage, File, FolderLink, Kind, Manifest, Process, Stdio, VolumeFile};
pub(crate) use format::manifest::{Executable, Figures};
pub(crate) use format::pack::Entry;
pub use format::pack::PackInfo;
pub use hex::Hex;
pub(crate) use layout::{StoredManifest, StoredPack, is_known, manifests, packs, remove_manifest, remove_pack};
pub use layout::{manifest_key, outcome_key, records};
pub(crate) use ownership::generation::Generation;
pub use ownership::generation::{COMMIT_WITHIN, commit, generations, lineage, mark_committed, propose};
pub use ownership::head::newest;
pub(crate) use ownership::head::{NotCommitted, announce, ensure, glance};
pub(crate) use ownership::heartbeat::Heartbeat;
pub use ownership::lease::Lease;
pub use ownership::outcome::{Outcome, Party, close_above, decide, look};
pub(crate) use ownership::standby::{self, Standby};
pub use ownership::whereabouts::{Whereabouts, container_id, mark_lost, remove_superseded_marks, whereabouts};
pub(crate) use read::audit::{Audited, audit_pack};
pub(crate) use read::chunk_reader::FetchThreads;
pub use read::chunk_reader::read_chunk;
pub(crate) use read::fetcher::StreamId;
pub use read::fetcher::{Fetcher, Front, Piece};
pub use read::index::read_index;
pub use write::base::BaseChunks;
pub(crate) use write::writer::BodyWriter;
pub use write::writer::{BodyId, ImageWriter, Written};

/// A vault of a store in `folder`.
#[cfg(test)]
pub(crate) fn test_vault(folder: &std::path::Path) -> Vault {
    let location = crate::store::Location::at(&format!("file:{}", folder.display()));
    Vault::create(crate::store::open(&location).unwrap(), &KeyFiles::default()).unwrap()
}
