//! Where checkpoints live: objects by name, as an object store has them. Must never know what is in them.

use std::ops::Range;
use std::sync::Arc;

#[cfg(test)]
mod conformance;
mod error;
mod file;
mod key;
mod temp;

pub use error::StoreError;
pub use file::FileStore;

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
}

/// A store of objects.
///
/// Keys are relative: parts of `[A-Za-z0-9._-]` joined by `/`, none beginning with a dot. All calls block. An object
/// appears whole or not at all, and is durable when [`put`](Store::put) returns.
pub trait Store: Send + Sync {
    /// Finds out whether objects can be written, before anything depends on it. Leaves no object behind.
    fn prepare(&self) -> Result<(), StoreError>;
    /// Writes a whole object.
    fn put(&self, key: &str, data: &[u8], mode: PutMode) -> Result<(), StoreError>;
    /// Reads a whole object of at most `limit` bytes, with its version.
    fn get(&self, key: &str, limit: u64) -> Result<(Vec<u8>, Version), StoreError>;
    /// Reads exactly the bytes of `range`.
    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError>;
    /// All objects whose key begins with `prefix`, in the order of their keys.
    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError>;
    /// Removes an object; one that is not there is no error.
    fn delete(&self, key: &str) -> Result<(), StoreError>;
    /// The store's URL, for messages.
    fn url(&self) -> &str;
}

/// Opens the store that `url` names, without touching it: a store that does not exist yet is an empty one.
pub fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    if url.starts_with("s3:") {
        return Err(StoreError::NoS3 { url: url.to_owned() });
    }
    Ok(Arc::new(FileStore::new(url)?))
}
