//! What tests of whole stores share: stores in folders of their own, and one that gives odd answers.
#![allow(dead_code)] // Not every test uses all of it.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use std::time::Duration;

use bytes::Bytes;
use freeze::image::{ImageError, KeyFiles, Lease, Vault};
use freeze::store::{self, Doing, Fencing, Location, ObjectMeta, PutMode, Store, StoreError, Version};

/// A store in a folder, and its key.
pub struct Fixture {
    folder: tempfile::TempDir,
    pub keys: KeyFiles,
}

impl Fixture {
    pub fn plain() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), keys: KeyFiles::default() }
    }

    pub fn encrypted() -> Self {
        let mut fixture = Self::plain();
        fixture.keys = fixture.key("key", &[7; 32]);
        fixture
    }

    /// A key file with that content.
    pub fn key(&self, name: &str, content: &[u8]) -> KeyFiles {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        KeyFiles { passphrase_file: None, key_file: Some(path) }
    }

    pub fn store(&self) -> Arc<dyn Store> {
        store::open(&Location::at(&format!("file:{}", self.path("").display()))).unwrap()
    }

    pub fn vault(&self) -> Vault {
        Vault::create(self.store(), &self.keys).unwrap()
    }

    pub fn open_with(&self, keys: &KeyFiles) -> Result<Option<Vault>, ImageError> {
        Vault::open(self.store(), keys)
    }

    pub fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join("store").join(key)
    }

    pub fn read(&self, key: &str) -> Vec<u8> {
        fs::read(self.path(key)).unwrap()
    }

    /// Puts anything in the place of an object.
    pub fn write(&self, key: &str, data: &[u8]) {
        fs::write(self.path(key), data).unwrap();
    }

    /// The keys of all objects.
    pub fn objects(&self) -> Vec<String> {
        self.store().list("").unwrap().into_iter().map(|object| object.key).collect()
    }

    pub fn empty(&self) {
        fs::remove_dir_all(self.path("")).unwrap();
    }

    /// A message without what differs from run to run.
    pub fn plainly(&self, text: impl ToString) -> String {
        text.to_string().replace(&self.folder.path().display().to_string(), "/FOLDER")
    }
}

/// How one put of one object is answered.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// It succeeds, and is said to have come too late.
    Changed,
    /// It succeeds, and is said to have failed.
    Broken,
    /// It succeeds, another container takes the application, and it is said to have failed.
    Taken,
    /// It fails.
    Refused,
    /// It fails, and cannot have succeeded.
    Denied,
}

/// A store that answers one put oddly.
pub struct Odd {
    inner: Arc<dyn Store>,
    key: &'static str,
    answer: Answer,
    done: AtomicBool,
    keys: KeyFiles,
}

impl Odd {
    pub fn over(vault: &Vault, keys: &KeyFiles, key: &'static str, answer: Answer) -> Vault {
        let odd = Odd { inner: vault.store().clone(), key, answer, done: AtomicBool::new(false), keys: keys.clone() };
        Vault::create(Arc::new(odd), keys).unwrap()
    }
}

impl Store for Odd {
    fn prepare(&self) -> Result<Fencing, StoreError> {
        self.inner.prepare()
    }
    fn put(&self, key: &str, data: Bytes, mode: PutMode) -> Result<(), StoreError> {
        if key != self.key || self.done.swap(true, Relaxed) {
            return self.inner.put(key, data, mode);
        }
        let (url, key) = (self.url().to_owned(), key.to_owned());
        if !matches!(self.answer, Answer::Refused | Answer::Denied) {
            self.inner.put(&key, data, mode)?;
        }
        if matches!(self.answer, Answer::Taken) {
            let vault = Vault::create(self.inner.clone(), &self.keys).unwrap();
            Lease::for_newest(&vault).unwrap().unwrap().claim(&vault).unwrap();
        }
        Err(match self.answer {
            Answer::Changed => StoreError::Changed { url, key },
            Answer::Denied => StoreError::NoSpace { url, key, doing: Doing::Write },
            Answer::Broken | Answer::Taken | Answer::Refused => StoreError::NotFound { url, key },
        })
    }
    fn get(&self, key: &str, limit: u64) -> Result<(Vec<u8>, Version), StoreError> {
        self.inner.get(key, limit)
    }
    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.inner.get_range(key, range)
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.inner.list(prefix)
    }
    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(key)
    }
    fn clean(&self, older_than: Duration) -> Result<u64, StoreError> {
        self.inner.clean(older_than)
    }
    fn concurrency(&self) -> usize {
        self.inner.concurrency()
    }
    fn url(&self) -> &str {
        self.inner.url()
    }
}

/// Flips a bit of a file.
pub fn flip(path: &Path, at: usize) {
    let mut data = fs::read(path).unwrap();
    data[at] ^= 0x10;
    fs::write(path, data).unwrap();
}
