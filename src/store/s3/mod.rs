//! A store in a bucket of an S3 server: AWS, or any other that honours the conditions of puts.
//!
//! Every call blocks its caller while a runtime with a fixed number of threads does the work. Every operation
//! is bounded by a timeout that depends on its size. Never starts a thread after it was opened.

pub(super) mod address;
mod call;
mod client;
mod credentials;
mod error;
mod list;
mod multipart;
mod probe;
mod put;
mod read;
mod resolver;
mod threads;
mod trust;

use std::ops::Range;
use std::time::Duration;

use aws_sdk_s3::Client;
use bytes::Bytes;
use tokio::runtime::Runtime;

use self::address::Address;
use self::call::{Attempts, Call};
use self::credentials::Remembered;
pub use self::error::S3Error;
use super::error::Doing;
use super::{Fencing, Location, ObjectMeta, PutMode, Store, StoreError, Version, key};

/// Concurrent requests, which hide each other's latency; more gain nothing over one link.
const REQUESTS: usize = 16;

pub struct S3Store {
    bucket: Bucket,
    credentials: Remembered,
    runtime: Runtime,
}

/// A bucket, and the prefix of everything that is ours.
#[derive(Clone)]
struct Bucket {
    client: Client,
    name: String,
    /// Empty, or ends with a slash.
    prefix: String,
    url: String,
}

impl S3Store {
    /// Checks what can be checked without the network, and starts the threads.
    pub fn new(location: &Location) -> Result<Self, StoreError> {
        let address = Address::parse(&location.url)?;
        let url = address.url();
        let runtime = threads::start().map_err(|source| StoreError::NoThreads { url: url.clone(), source })?;
        let (client, credentials) = runtime.block_on(client::connect(location))?;
        let bucket = Bucket { client, name: address.bucket, prefix: address.prefix, url };
        Ok(Self { bucket, credentials, runtime })
    }

    fn check(&self, key: &str) -> Result<(), StoreError> {
        key::check(key).map_err(|why| StoreError::BadKey { url: self.bucket.url.clone(), key: key.to_owned(), why })
    }
}

impl Bucket {
    fn call<'a>(&'a self, key: &'a str, doing: Doing, size: u64) -> Call<'a> {
        Call { url: &self.url, key, doing, size, attempts: Attempts::default() }
    }

    /// The server's key.
    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

impl Store for S3Store {
    fn prepare(&self) -> Result<Fencing, StoreError> {
        self.runtime.block_on(self.bucket.prepare())
    }

    fn put(&self, key: &str, data: Bytes, mode: PutMode) -> Result<(), StoreError> {
        self.check(key)?;
        self.runtime.block_on(self.bucket.put(key, data, &mode))
    }

    fn get(&self, key: &str, limit: u64) -> Result<(Vec<u8>, Version), StoreError> {
        self.check(key)?;
        self.runtime.block_on(self.bucket.get(key, limit))
    }

    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.check(key)?;
        self.runtime.block_on(self.bucket.get_range(key, range))
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        if let Some((folder, _)) = prefix.rsplit_once('/') {
            self.check(folder)?;
        }
        self.runtime.block_on(self.bucket.list(prefix))
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.check(key)?;
        self.runtime.block_on(self.bucket.delete(key))
    }

    fn clean(&self, older_than: Duration) -> Result<u64, StoreError> {
        self.runtime.block_on(self.bucket.clean(older_than))
    }

    fn start_nothing_more(&self) {
        self.runtime.block_on(self.credentials.close());
    }

    fn concurrency(&self) -> usize {
        REQUESTS
    }

    fn url(&self) -> &str {
        &self.bucket.url
    }
}
