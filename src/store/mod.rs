//! Object storage for checkpoints: a folder or a bucket. Never knows what is in an object.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

mod cached;
mod error;
mod file;
mod key;
mod location;
mod owner;
mod s3;
mod temp;

pub use cached::CachedStore;
pub use error::{Doing, StoreError};
pub(crate) use file::FileStore;
pub use location::Location;
pub use s3::S3Error;
use s3::S3Store;

/// Stack size in bytes of a thread that calls a store. The S3 SDK nests its calls deeply: without
/// optimization 256 KiB are not enough. Untouched pages cost no memory.
pub(crate) const STACK: usize = 2 << 20;

/// What [`Store::put`] does if the object exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutMode {
    /// Replace it.
    Overwrite,
    /// Fail with [`StoreError::Exists`]. If several writers create it at once, exactly one succeeds (S3:
    /// `If-None-Match: *`).
    Create,
    /// Replace it only if it still has this version, else fail with [`StoreError::Changed`] (S3: `If-Match`).
    Update(Version),
}

/// Identifies one state of an object, as returned by [`Store::get`] (S3: its ETag).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub String);

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The key, without the store's prefix.
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// When it was written, by the store's own clock.
    pub modified: SystemTime,
}

/// Whether a store keeps two writers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fencing {
    /// [`PutMode::Create`] and [`PutMode::Update`] keep their promise.
    Enforced,
    /// The server ignores the conditions of a put: of two writers the later one wins unnoticed.
    Ignored,
}

/// A store of objects.
///
/// Keys are relative: parts of `[A-Za-z0-9._-]` joined by `/`, none beginning with a dot. All calls block. An
/// object appears only when it is complete, and is durable when [`put`](Store::put) returns.
pub trait Store: Send + Sync {
    /// Tests whether objects can be written, also conditionally, before anything depends on it. Leaves no key
    /// behind.
    fn prepare(&self) -> Result<Fencing, StoreError>;
    /// Writes a whole object. Makes no copy of `data`, so a caller with a clone can reclaim the memory.
    fn put(&self, key: &str, data: Bytes, mode: PutMode) -> Result<(), StoreError>;
    /// Reads a whole object of at most `limit` bytes, with its version.
    fn get(&self, key: &str, limit: u64) -> Result<(Vec<u8>, Version), StoreError>;
    /// Reads exactly the bytes of `range`.
    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError>;
    /// Drops the local copy of an object that was found damaged. Returns whether that copy may have caused
    /// the damage.
    fn forget_copy(&self, _key: &str) -> bool {
        false
    }
    /// All objects whose key begins with `prefix`, sorted by key.
    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError>;
    /// Deletes an object. A missing object is no error.
    fn delete(&self, key: &str) -> Result<(), StoreError>;
    /// Removes what interrupted writers left behind at least `older_than` ago, never an object. Returns how
    /// many leftovers it removed.
    fn clean(&self, older_than: Duration) -> Result<u64, StoreError>;
    /// From now on no call starts a process, because each takes a PID. Credentials that expire soon are
    /// renewed before this returns.
    fn start_nothing_more(&self) {}
    /// How many concurrent requests make sense: more if each waits for a network.
    fn concurrency(&self) -> usize;
    /// The store's URL, for messages.
    fn url(&self) -> &str;
}

/// Opens a store without accessing it. A store that does not exist yet is an empty one.
pub fn open(location: &Location) -> Result<Arc<dyn Store>, StoreError> {
    if location.is_bucket() {
        return Ok(Arc::new(S3Store::new(location)?));
    }
    Ok(Arc::new(FileStore::new(&location.url)?))
}
