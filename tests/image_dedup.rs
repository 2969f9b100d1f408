//! What is stored already is not stored again: generations that differ a little from those before.

use std::fs;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use freeze::image::{self, CriuImage, Fetcher, ImageWriter, KeyFiles, Lease, Manifest, Vault, Written};
use freeze::store::{self, Fencing, Location, ObjectMeta, PutMode, Store, StoreError, Version};
use proptest::prelude::*;
use proptest::sample::Index;

const MEMORY: u64 = 64 << 20;
const PAGE: usize = 4096;

struct Fixture {
    folder: tempfile::TempDir,
    vault: Vault,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = store::open(&Location::at(&format!("file:{}", folder.path().display()))).unwrap();
        Self { vault: open(store), folder }
    }

    /// Commits a generation of these bodies, and reads it back.
    fn commit(&self, bodies: &[&[u8]]) -> (Manifest, Written) {
        let (manifest, written) = commit(&self.vault, bodies);
        let loaded = Manifest::load(&self.vault, None).unwrap().unwrap();
        assert_eq!(loaded, manifest);
        assert_eq!(written.bytes, bodies.iter().map(|body| body.len() as u64).sum::<u64>());
        check(&self.vault, &manifest, bodies);
        (manifest, written)
    }

    fn size_of(&self, key: &str) -> u64 {
        fs::metadata(self.folder.path().join(key)).unwrap().len()
    }

    /// Bytes that a generation took, its manifest included.
    fn cost(&self, manifest: &Manifest, written: &Written) -> u64 {
        written.stored + self.size_of(&format!("generations/{}.manifest", manifest.generation))
    }
}

fn open(store: Arc<dyn Store>) -> Vault {
    Vault::create(store, &KeyFiles::default()).unwrap()
}

fn commit(vault: &Vault, bodies: &[&[u8]]) -> (Manifest, Written) {
    let writer = ImageWriter::new(vault, MEMORY, 2).unwrap();
    let write = |data: &&[u8]| {
        let mut body = writer.begin();
        body.write_all(data).unwrap();
        body.finish().unwrap()
    };
    let ids: Vec<_> = bodies.iter().map(write).collect();
    let mut written = writer.finish().unwrap();
    let image = |(n, id)| CriuImage { name: format!("pages-{n}.img"), body: Some(written.take(id)) };
    let images = ids.into_iter().enumerate().map(image).collect();
    let (packs, chunks) = (written.packs.clone(), written.chunks.clone());
    let mut manifest = Manifest { images, packs, chunks, ..Manifest::default() };
    let lease = Lease::for_newest(vault).unwrap().unwrap_or_else(Lease::fresh);
    image::commit(vault, &mut manifest, lease, Instant::now()).unwrap();
    (manifest, written)
}

fn check(vault: &Vault, manifest: &Manifest, bodies: &[&[u8]]) {
    let mut fetcher = Fetcher::new(vault, manifest, MEMORY, 2).unwrap();
    for (image, data) in manifest.images.iter().zip(bodies) {
        let body = image.body.as_ref().unwrap();
        assert!(fetcher.read_to_vec(body, "the body", 1 << 30).unwrap() == *data, "{}", image.name);
    }
}

/// `length` bytes that no compressor shortens, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut data);
    data
}

/// Numbers below `limit`, the same for the same seed.
fn random(seed: u64, count: usize, limit: usize) -> impl Iterator<Item = usize> {
    let bytes = noise(!seed, count * 8);
    let numbers: Vec<_> = bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes) as usize % limit).collect();
    numbers.into_iter()
}

/// Changes so many pages here and there; one may be hit twice.
fn scatter(data: &mut [u8], seed: u64, pages: usize) {
    for (n, page) in random(seed, pages, data.len() / PAGE).enumerate() {
        data[page * PAGE..][..PAGE].copy_from_slice(&noise(seed + n as u64 * 1000, PAGE));
    }
}

#[test]
fn a_generation_that_did_not_change_costs_its_manifest() {
    let fixture = Fixture::new();
    let mut data = noise(1, 8 << 20);
    data.extend_from_slice(b"a page that is not whole");
    let (first, one) = fixture.commit(&[&data]);
    let (second, two) = fixture.commit(&[&data]);
    assert_eq!((two.stored, two.new, two.shared), (0, 0, one.bytes));
    assert_eq!((second.packs, second.chunks, second.images), (first.packs, first.chunks, first.images));
}

#[test]
fn common_patterns_are_found_where_they_were() {
    let fixture = Fixture::new();
    let mut data = noise(1, 8 << 20);
    // Pages that are many times the same, alone and in runs, and a few zero pages.
    for page in random(7, 600, 2048) {
        let patterns = [0, 0xff, 0xaa];
        data[page * PAGE..][..PAGE].fill(patterns[page % 3]);
    }
    fixture.commit(&[&data]);
    let (_, second) = fixture.commit(&[&data]);
    let (_, third) = fixture.commit(&[&data]);
    assert!(second.new <= 4 * PAGE as u64 && third.new <= 4 * PAGE as u64, "{} {}", second.new, third.new);
}

#[test]
fn scattered_pages_cost_themselves() {
    const PAGES: usize = 8192;
    for (changed, limit) in [(PAGES / 100, 1.2), (PAGES / 10, 1.15)] {
        let fixture = Fixture::new();
        let mut data = noise(1, PAGES * PAGE);
        fixture.commit(&[&data]);
        scatter(&mut data, 2, changed);
        let (manifest, written) = fixture.commit(&[&data]);
        let ratio = fixture.cost(&manifest, &written) as f64 / (changed * PAGE) as f64;
        assert!(ratio <= limit, "{ratio} for {changed} pages");
        assert!(written.new <= (changed * PAGE) as u64 && written.new + written.shared == written.bytes);
        let (_, written) = fixture.commit(&[&data]);
        assert_eq!((written.new, written.stored), (0, 0));
    }
}

#[test]
fn an_inserted_page_costs_itself() {
    let fixture = Fixture::new();
    let mut data = noise(1, 16 << 20);
    fixture.commit(&[&data]);
    data.splice(5000 * PAGE / 2..5000 * PAGE / 2, noise(2, PAGE));
    let (manifest, written) = fixture.commit(&[&data]);
    assert_eq!(written.new, PAGE as u64);
    assert!(fixture.cost(&manifest, &written) < 20 << 10, "{}", fixture.cost(&manifest, &written));
}

#[test]
fn sixteen_equal_bodies_cost_one() {
    let data = noise(1, 4 << 20);
    let mut odd = data.clone();
    odd.splice(0..0, noise(2, PAGE));
    let fixture = Fixture::new();
    let (_, one) = fixture.commit(&[&data]);
    let fixture = Fixture::new();
    let (_, many) = fixture.commit(&[&data[..]; 16]);
    assert!(many.stored <= one.stored, "{} of {}", many.stored, one.stored);
    let (_, more) = fixture.commit(&[&odd, &data, &odd]);
    assert_eq!(more.new, PAGE as u64);
}

#[test]
fn equal_bodies_that_are_fed_in_turn_cost_little_more() {
    let data = noise(1, 4 << 20);
    let fixture = Fixture::new();
    let writer = ImageWriter::new(&fixture.vault, MEMORY, 2).unwrap();
    let mut open: Vec<_> = (0..16).map(|_| writer.begin()).collect();
    for part in data.chunks(256 << 10) {
        open.iter_mut().for_each(|body| body.write_all(part).unwrap());
    }
    for body in open {
        body.finish().unwrap();
    }
    let written = writer.finish().unwrap();
    // What several encoders have at the same moment is new to each.
    assert!(written.new < 3 * data.len() as u64, "{}", written.new);
}

#[test]
fn a_body_that_is_given_up_keeps_no_pack() {
    let fixture = Fixture::new();
    let (old, new) = (noise(1, 1 << 20), noise(2, 1 << 20));
    fixture.commit(&[&old]);
    let writer = ImageWriter::new(&fixture.vault, MEMORY, 2).unwrap();
    let mut given_up = writer.begin();
    given_up.write_all(&old).unwrap();
    let mut body = writer.begin();
    body.write_all(&new).unwrap();
    body.finish().unwrap();
    drop(given_up);
    let written = writer.finish().unwrap();
    assert_eq!((written.packs.len(), written.chunks.len()), (1, 8));
}

/// How often as many bytes are decoded as come out, and how many requests there are.
fn effort(vault: &Vault, manifest: &Manifest) -> (f64, usize) {
    let gets = Arc::new(Counting::new(vault, |_| Ok(())));
    let counted = open(gets.clone());
    let before = gets.ranges.load(Relaxed);
    let mut fetcher = Fetcher::new(&counted, manifest, MEMORY, 2).unwrap();
    let body = manifest.images[0].body.as_ref().unwrap();
    fetcher.for_each(body, |_| Ok(())).unwrap();
    let decoded: u64 = manifest.chunks.iter().map(|chunk| u64::from(chunk.raw)).sum();
    (decoded as f64 / body.size() as f64, gets.ranges.load(Relaxed) - before)
}

#[test]
fn many_generations_do_not_decay() {
    const PAGES: usize = 2048;
    let fixture = Fixture::new();
    let mut data = noise(1, PAGES * PAGE);
    fixture.commit(&[&data]);
    let mut total = 0;
    for generation in 2..=20 {
        // So much that old chunks are soon half unused.
        scatter(&mut data, generation, PAGES / 8);
        let (manifest, written) = fixture.commit(&[&data]);
        total += written.new;
        let (decoded, requests) = effort(&fixture.vault, &manifest);
        assert!(decoded < 2.0, "generation {generation} decodes {decoded} times its bytes");
        let extents = manifest.images[0].body.as_ref().unwrap().extents().count();
        assert!(requests < extents / 4, "{requests} requests for {extents} extents");
    }
    let changed = (19 * PAGES / 8 * PAGE) as u64;
    assert!(total < changed * 2, "{total} bytes were stored for {changed}");
}

#[test]
fn small_packs_are_gathered() {
    let fixture = Fixture::new();
    let mut data = noise(1, 400 * PAGE);
    let mut most = 0;
    for generation in 0..80 {
        data[generation * 4 * PAGE..][..PAGE].copy_from_slice(&noise(2 + generation as u64, PAGE));
        let (manifest, _) = commit(&fixture.vault, &[&data]);
        most = most.max(manifest.packs.len());
    }
    assert!((60..70).contains(&most), "{most}");
    let (manifest, written) = fixture.commit(&[&data]);
    assert!(manifest.packs.len() < 20 && written.new == 0, "{} {}", manifest.packs.len(), written.new);
}

#[test]
fn a_base_that_cannot_be_read_is_refused_with_the_stores_own_error() {
    let fixture = Fixture::new();
    let bodies = [1, 2, 3].map(|seed| noise(seed, 256 * PAGE));
    for count in 1..=bodies.len() {
        fixture.commit(&bodies[..count].iter().map(Vec::as_slice).collect::<Vec<_>>());
    }
    // The thread that reads first goes on after the other one has failed.
    let both = Barrier::new(2);
    let store = Counting::new(&fixture.vault, move |number| {
        both.wait();
        if number == 1 {
            return Err(StoreError::BadUrl { url: "file:/broken".into(), why: "it is broken" });
        }
        thread::sleep(Duration::from_millis(200));
        Ok(())
    });
    let error = ImageWriter::new(&open(Arc::new(store)), MEMORY, 2).err().expect("a pack cannot be read");
    assert!(error.to_string().contains("it is broken"), "{error}");
}

#[test]
fn old_and_new_packs_are_read_in_large_ranges() {
    const PAGES: usize = 4096;
    let fixture = Fixture::new();
    let mut data = noise(1, PAGES * PAGE);
    fixture.commit(&[&data]);
    scatter(&mut data, 2, PAGES / 100);
    let (manifest, _) = fixture.commit(&[&data]);
    let (_, requests) = effort(&fixture.vault, &manifest);
    // 16 MiB are looked at in 8 parts, the first of them small; the old generation has 2 packs and the new one 1.
    assert!(requests <= 12 * 3, "{requests}");
}

#[test]
fn a_damaged_index_or_a_missing_pack_is_stored_anew() {
    let data = noise(1, 12 << 20);
    let damages: [fn(&std::path::Path); 3] = [
        |pack| fs::remove_file(pack).unwrap(),
        |pack| {
            let mut bytes = fs::read(pack).unwrap();
            let at = bytes.len() - 100;
            bytes[at] ^= 1;
            fs::write(pack, bytes).unwrap();
        },
        |pack| fs::write(pack, b"").unwrap(),
    ];
    for damage in damages {
        let fixture = Fixture::new();
        let (first, _) = fixture.commit(&[&data]);
        damage(&fixture.folder.path().join("packs").join(&first.packs[0].id));
        let (second, written) = fixture.commit(&[&data]);
        assert!(second.packs.iter().all(|pack| pack.id != first.packs[0].id));
        assert!(written.new >= 7 << 20 && written.shared >= 3 << 20, "{} {}", written.new, written.shared);
    }
}

#[test]
fn every_chunk_can_be_read_alone_and_all_together() {
    let fixture = Fixture::new();
    let mut data = noise(1, 2 << 20);
    fixture.commit(&[&data]);
    scatter(&mut data, 2, 20);
    let (manifest, _) = fixture.commit(&[&data]);
    let mut fetcher = Fetcher::new(&fixture.vault, &manifest, MEMORY, 2).unwrap();
    let together = fetcher.read_to_vec(&manifest.every_chunk(), "all chunks", 1 << 30).unwrap();
    let alone = (0..manifest.chunks.len() as u32).map(|n| image::read_chunk(&fixture.vault, &manifest, n).unwrap());
    assert!(together == alone.collect::<Vec<_>>().concat());
    assert!(image::read_chunk(&fixture.vault, &manifest, u32::MAX).is_err());
}

#[derive(Debug, Clone)]
enum Change {
    Pages(Vec<Index>),
    Insert(Index, usize),
    Remove(Index, usize),
    Move(Index, Index, usize),
    Zero(Index, usize),
    Repeat(Index, Index, usize),
    Cut(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        prop::collection::vec(at(), 1..40).prop_map(Change::Pages),
        (at(), 1..20usize).prop_map(|(at, n)| Change::Insert(at, n)),
        (at(), 1..60usize).prop_map(|(at, n)| Change::Remove(at, n)),
        (at(), at(), 1..50usize).prop_map(|(from, to, n)| Change::Move(from, to, n)),
        (at(), 1..20usize).prop_map(|(at, n)| Change::Zero(at, n)),
        (at(), at(), 1..9usize).prop_map(|(from, to, n)| Change::Repeat(from, to, n)),
        at().prop_map(Change::Cut),
    ]
}

impl Change {
    /// Applies it to pages, and says how many of them are new.
    fn apply(&self, pages: &mut Vec<u8>, seed: u64) -> usize {
        let count = pages.len() / PAGE;
        let run = |at: &Index, n: usize| {
            let first = at.index(count);
            first * PAGE..(first + n).min(count) * PAGE
        };
        match self {
            Change::Pages(at) => {
                for (n, at) in at.iter().enumerate() {
                    pages[run(at, 1)].copy_from_slice(&noise(seed + n as u64, PAGE));
                }
                return at.len();
            }
            Change::Insert(at, n) => {
                let at = run(at, 0).start;
                pages.splice(at..at, noise(seed, n * PAGE));
                return *n;
            }
            Change::Remove(at, n) => drop(pages.drain(run(at, *n))),
            Change::Move(from, to, n) => {
                let moved: Vec<_> = pages.drain(run(from, *n)).collect();
                let to = to.index(pages.len() / PAGE + 1) * PAGE;
                pages.splice(to..to, moved);
            }
            Change::Zero(at, n) => pages[run(at, *n)].fill(0),
            Change::Repeat(from, to, n) => {
                let copy = pages[run(from, 1)].repeat(*n);
                let to = run(to, 0).start;
                pages.splice(to..to, copy);
            }
            Change::Cut(at) => {
                let at = at.index(PAGE);
                pages.extend_from_slice(&noise(seed, at));
                return 1;
            }
        }
        0
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_changes_comes_back_and_costs_little(
        seed in any::<u32>(),
        generations in prop::collection::vec(prop::collection::vec(change(), 0..6), 1..5),
    ) {
        let fixture = Fixture::new();
        let mut seed = u64::from(seed) << 16;
        let mut pages = noise(seed, 700 * PAGE);
        pages[40 * PAGE..60 * PAGE].fill(0);
        let other = noise(seed + 1, 100_000);
        fixture.commit(&[&pages, &other]);
        for changes in &generations {
            let mut new = 0;
            for change in changes {
                seed += 1000;
                pages.truncate(pages.len() / PAGE * PAGE);
                new += change.apply(&mut pages, seed);
            }
            let (_, written) = fixture.commit(&[&other, &pages]);
            // Beside what is new, single pages may be stored again, and what little is left of an old pack.
            let again = written.new.saturating_sub((new * PAGE) as u64);
            prop_assert!(again <= 350 * PAGE as u64, "{again} bytes were stored again");
        }
    }
}

/// A store that counts how many ranges are read, for at most two threads.
struct Counting<F> {
    inner: Arc<dyn Store>,
    ranges: AtomicUsize,
    /// Called with the number of each read before it is made, from 0. Its error is the read's.
    before: F,
}

impl<F: Fn(usize) -> Result<(), StoreError> + Send + Sync> Counting<F> {
    fn new(vault: &Vault, before: F) -> Self {
        Self { inner: vault.store().clone(), ranges: AtomicUsize::new(0), before }
    }
}

impl<F: Fn(usize) -> Result<(), StoreError> + Send + Sync> Store for Counting<F> {
    fn prepare(&self) -> Result<Fencing, StoreError> {
        self.inner.prepare()
    }
    fn put(&self, key: &str, data: Bytes, mode: PutMode) -> Result<(), StoreError> {
        self.inner.put(key, data, mode)
    }
    fn get(&self, key: &str, limit: u64) -> Result<(Vec<u8>, Version), StoreError> {
        self.inner.get(key, limit)
    }
    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        (self.before)(self.ranges.fetch_add(1, Relaxed))?;
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
        2
    }
    fn url(&self) -> &str {
        self.inner.url()
    }
}
