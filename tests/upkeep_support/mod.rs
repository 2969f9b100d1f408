//! Stores in folders for the tests of what looks after them.

#![allow(dead_code)] // Each test uses some of it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use freeze::image::{
    self, Body, CriuImage, Fetcher, File, ImageWriter, KeyFiles, Kind, Lease, Manifest, PackInfo, Vault,
};
use freeze::store::{self, Fencing, Location, ObjectMeta, PutMode, Store, StoreError, Version};

pub const MEMORY: u64 = 64 << 20;
pub const DAY_MS: u64 = 86_400_000;

/// A store in a folder of its own.
pub struct Fixture {
    pub folder: tempfile::TempDir,
    pub vault: Vault,
}

impl Fixture {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file:{}/store", folder.path().display());
        let vault = Vault::create(store::open(&Location::at(&url)).unwrap(), &KeyFiles::default()).unwrap();
        Self { folder, vault }
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub fn path(&self, key: &str) -> PathBuf {
        self.root().join(key)
    }

    /// Keys of all objects.
    pub fn keys(&self) -> Vec<String> {
        self.vault.store().list("").unwrap().into_iter().map(|object| object.key).collect()
    }

    pub fn keys_below(&self, folder: &str) -> Vec<String> {
        self.keys().into_iter().filter(|key| key.starts_with(folder)).collect()
    }

    /// Lets all objects, or those below a folder, be so much older.
    pub fn age(&self, folder: &str, by: Duration) {
        for object in self.vault.store().list(folder).unwrap() {
            let file = std::fs::File::options().write(true).open(self.path(&object.key)).unwrap();
            file.set_modified(object.modified - by).unwrap();
        }
    }

    /// The same store, read anew.
    pub fn wrapped(&self, store: Arc<dyn Store>) -> Vault {
        Vault::open(store, &KeyFiles::default()).unwrap().unwrap()
    }

    /// A generation taken on that day since 1970, of noise that no other has.
    pub fn generation(&self, day: u64) -> u64 {
        let manifest = written(&self.vault, day);
        commit(&self.vault, manifest)
    }

    /// One on each of these days.
    pub fn generations(&self, days: impl IntoIterator<Item = u64>) {
        days.into_iter().for_each(|day| assert!(self.generation(day) > 0));
    }

    /// A generation that refers to the packs of another alone, as one does of a service that did not change.
    pub fn same_again(&self, of: u64, day: u64) -> u64 {
        let mut manifest = Manifest::load(&self.vault, Some(of)).unwrap().unwrap();
        (manifest.generation, manifest.created_ms) = (0, day * DAY_MS);
        commit(&self.vault, manifest)
    }

    /// A manifest that was never committed, above head.
    pub fn leftover(&self, number: u64) {
        let mut manifest = written(&self.vault, 1000 + number);
        manifest.generation = number;
        let key = format!("generations/{number}.manifest");
        self.vault.store().put(&key, manifest.encode(self.vault.seal()).into(), PutMode::Create).unwrap();
    }

    /// Numbers of all committed generations; each must be readable to its last byte.
    pub fn restorable(&self) -> Vec<u64> {
        let generations = image::generations(&self.vault).unwrap();
        generations.into_iter().map(|found| check(&self.vault, &found.manifest.unwrap())).collect()
    }
}

/// Commits as a container that has just restored the newest generation.
pub fn commit(vault: &Vault, mut manifest: Manifest) -> u64 {
    let lease = Lease::for_newest(vault).unwrap().unwrap_or_else(Lease::fresh);
    image::commit(vault, &mut manifest, lease, Instant::now()).unwrap().generation
}

/// Reads all of a generation that [`written`] made, and gives its number.
pub fn check(vault: &Vault, manifest: &Manifest) -> u64 {
    let mut fetcher = Fetcher::new(vault, manifest, MEMORY, 2).unwrap();
    let pages = fetcher.read_to_vec(manifest.image("pages-1.img").unwrap(), "pages", 1 << 30).unwrap();
    let (seed, _) = pages.split_first_chunk().unwrap();
    assert!(pages == pages_of(u64::from_le_bytes(*seed)), "generation {}", manifest.generation);
    for file in manifest.files.iter().filter(|file| file.body.is_some()) {
        let data = fetcher.read_to_vec(file.body.as_ref().unwrap(), "a file", 1 << 30).unwrap();
        assert_eq!(data.len() as u64, file.size);
    }
    manifest.generation
}

/// Memory of a service: its seed, noise, text and zeros, and an end that is no page. No page is the same for two seeds, so that
/// each generation has packs of its own.
pub fn pages_of(seed: u64) -> Vec<u8> {
    let mut data = noise(seed, 300_000);
    data[..8].copy_from_slice(&seed.to_le_bytes());
    data.resize(400_000, 0);
    data.extend(format!("some text of {seed} that shrinks ").repeat(4000).as_bytes());
    data.extend(noise(seed + 1_000_000, 100_000));
    data
}

/// Noise, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut data);
    data
}

/// Writes packs of a generation that is taken on that day, and leaves it to be committed.
pub fn written(vault: &Vault, day: u64) -> Manifest {
    let writer = ImageWriter::new(vault, MEMORY, 2).unwrap();
    let ids = [pages_of(day), b"small".to_vec(), noise(day + 2_000_000, 50_000)].map(|data| {
        let mut body = writer.begin();
        body.write_all(&data).unwrap();
        body.finish().unwrap()
    });
    let mut written = writer.finish().unwrap();
    let [pages, small, data] = ids.map(|id| Some(written.take(id)));
    let image = |name: &str, body: Option<Body>| CriuImage { name: name.into(), body };
    let file = |path: &[u8], kind: Kind| File { path: path.into(), kind: kind.into(), mode: 0o644, ..File::default() };
    Manifest {
        created_ms: day * DAY_MS,
        command: vec![b"service".into()],
        images: vec![image("pages-1.img", pages), image("inventory.img", small)],
        files: vec![
            file(b"/data", Kind::Directory),
            File { target: b"/etc".into(), ..file(b"/data/link", Kind::Symlink) },
            File { size: 50_000, body: data, ..file(b"/data/file", Kind::Regular) },
            File { target: b"/data/file".into(), ..file(b"/data/name", Kind::HardLink) },
            file(b"/run/fifo", Kind::Fifo),
        ],
        packs: written.packs,
        chunks: written.chunks,
        ..Manifest::default()
    }
}

/// A pack that nothing names.
pub fn stray_pack(vault: &Vault, seed: u64) -> PackInfo {
    let writer = ImageWriter::new(vault, MEMORY, 1).unwrap();
    let mut body = writer.begin();
    body.write_all(&noise(seed, 50_000)).unwrap();
    body.finish().unwrap();
    writer.finish().unwrap().packs.remove(0)
}

/// A store that does something before each call, which may fail.
pub struct Watched<F> {
    pub inner: Arc<dyn Store>,
    pub before: F,
}

/// What a [`Watched`] store is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Put,
    Get,
    List,
    Delete,
    Clean,
}

/// Fails once so many calls were made.
pub fn fails_after(good: usize) -> impl Fn(Call, &str) -> bool + Send + Sync {
    let left = AtomicUsize::new(good);
    move |_, _| left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
}

impl<F: Fn(Call, &str) -> bool + Send + Sync> Watched<F> {
    fn ask(&self, call: Call, key: &str) -> Result<(), StoreError> {
        let (url, name) = (self.inner.url().to_owned(), key.to_owned());
        // One that nobody takes for an answer.
        let error = || StoreError::BadKey { url, key: name, why: "the test lets this call fail" };
        (self.before)(call, key).then_some(()).ok_or_else(error)
    }
}

impl<F: Fn(Call, &str) -> bool + Send + Sync> Store for Watched<F> {
    fn prepare(&self) -> Result<Fencing, StoreError> {
        self.inner.prepare()
    }
    fn put(&self, key: &str, data: Bytes, mode: PutMode) -> Result<(), StoreError> {
        self.ask(Call::Put, key)?;
        self.inner.put(key, data, mode)
    }
    fn get(&self, key: &str, limit: u64) -> Result<(Vec<u8>, Version), StoreError> {
        self.ask(Call::Get, key)?;
        self.inner.get(key, limit)
    }
    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.ask(Call::Get, key)?;
        self.inner.get_range(key, range)
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.ask(Call::List, prefix)?;
        self.inner.list(prefix)
    }
    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.ask(Call::Delete, key)?;
        self.inner.delete(key)
    }
    fn clean(&self, older_than: Duration) -> Result<u64, StoreError> {
        self.ask(Call::Clean, "")?;
        self.inner.clean(older_than)
    }
    fn concurrency(&self) -> usize {
        self.inner.concurrency()
    }
    fn url(&self) -> &str {
        self.inner.url()
    }
}

/// Changes one bit in the middle of a file.
pub fn flip_a_bit(path: &Path) {
    let mut data = std::fs::read(path).unwrap();
    let middle = data.len() / 2;
    data[middle] ^= 4;
    rewrite(path, &data);
}

/// Replaces a file's bytes and keeps its time.
pub fn rewrite(path: &Path, data: &[u8]) {
    let modified = std::fs::metadata(path).map_or_else(|_| SystemTime::now(), |meta| meta.modified().unwrap());
    std::fs::write(path, data).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
}
