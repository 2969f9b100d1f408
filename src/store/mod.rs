//! Where checkpoints live: objects by name, as an object store has them. Must never know what is in them.

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
pub use file::FileStore;
pub use location::Location;
pub use s3::{S3Error, S3Store};

/// The stack in bytes of a thread that calls a store: the SDK of S3 nests its calls deeply, and without optimization
/// 256 KiB are not enough. What is not touched costs no memory.
pub const STACK: usize = 2 << 20;

/// How [`Store::put`] treats an object that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutMode {
    /// Replace it.
    Overwrite,
    /// Fail with [`StoreError::Exists`]; of several at once exactly one succeeds (S3: `If-None-Match: *`).
    Create,
    /// Replace it only while it still has this version, else fail with [`StoreError::Changed`] (S3: `If-Match`).
    Update(Version),
}

/// Names one state of one object, as [`Store::get`] found it (S3: its ETag).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub String);

/// Name and size of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The key, below the store's prefix.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When it was written, by the store's own clock.
    pub modified: SystemTime,
}

/// Whether a store keeps two writers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fencing {
    /// [`PutMode::Create`] and [`PutMode::Update`] do what they promise.
    Held,
    /// The server ignores the conditions of a put, so that of two writers the later one wins unnoticed.
    Ignored,
}

/// A store of objects.
///
/// Keys are relative: parts of `[A-Za-z0-9._-]` joined by `/`, none beginning with a dot. All calls block. An object
/// appears whole or not at all, and is durable when [`put`](Store::put) returns.
pub trait Store: Send + Sync {
    /// Finds out whether objects can be written, and conditionally, before anything depends on it. Leaves no object behind.
    fn prepare(&self) -> Result<Fencing, StoreError>;
    /// Writes a whole object. No copy of `data` is made, so that a caller who holds a clone gets its memory back.
    fn put(&self, key: &str, data: Bytes, mode: PutMode) -> Result<(), StoreError>;
    /// Reads a whole object of at most `limit` bytes, with its version.
    fn get(&self, key: &str, limit: u64) -> Result<(Vec<u8>, Version), StoreError>;
    /// Reads exactly the bytes of `range`.
    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError>;
    /// Forgets what it keeps of an object nearer than the store, as it was found damaged. Whether what was read may have been that.
    fn forget_copy(&self, _key: &str) -> bool {
        false
    }
    /// All objects whose key begins with `prefix`, in the order of their keys.
    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError>;
    /// Removes an object; one that is not there is no error.
    fn delete(&self, key: &str) -> Result<(), StoreError>;
    /// Removes what writers that ended before they were done left behind, where it is `older_than` this or more: never
    /// an object. Says how much was removed.
    fn clean(&self, older_than: Duration) -> Result<u64, StoreError>;
    /// From now on no call starts a process, as each takes a PID. What one would be started for soon is done before this returns.
    fn start_nothing_more(&self) {}
    /// How many requests at once make sense: more where each waits for a network.
    fn concurrency(&self) -> usize;
    /// The store's URL, for messages.
    fn url(&self) -> &str;
}

/// Opens a store without touching it: one that does not exist yet is an empty one.
pub fn open(location: &Location) -> Result<Arc<dyn Store>, StoreError> {
    if location.is_bucket() {
        return Ok(Arc::new(S3Store::new(location)?));
    }
    Ok(Arc::new(FileStore::new(&location.url)?))
}
