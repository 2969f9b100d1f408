//! Images through a folder store and back, by the interface that the workers use.

use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use freeze::image::{
    self, Body, Extent, Fetcher, Front, ImageError, ImageWriter, KeyFiles, Lease, Manifest, PackInfo, Piece, Vault,
    Written,
};
use freeze::store::{self, Fencing, Location, ObjectMeta, PutMode, Store, StoreError, Version};

const MEMORY: u64 = 64 << 20;
const PAGE: usize = 4096;

fn folder_vault() -> (tempfile::TempDir, Vault) {
    let folder = tempfile::tempdir().unwrap();
    let store = store::open(&Location::at(&format!("file:{}/store", folder.path().display()))).unwrap();
    (folder, open(store))
}

fn open(store: Arc<dyn Store>) -> Vault {
    Vault::create(store, &KeyFiles::default()).unwrap()
}

/// Commits as whoever has the store now.
fn commit(vault: &Vault, manifest: &mut Manifest) -> Result<u64, ImageError> {
    let lease = Lease::for_newest(vault)?.unwrap_or_else(Lease::fresh);
    image::commit(vault, manifest, lease, Instant::now()).map(|held| held.generation)
}

/// `length` bytes that no compressor shortens, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut data);
    data
}

fn write(vault: &Vault, bodies: &[&[u8]]) -> (Manifest, Vec<Body>) {
    let writer = ImageWriter::new(vault, MEMORY, 2).unwrap();
    let mut ids = Vec::new();
    for data in bodies {
        let mut body = writer.begin();
        body.write_all(data).unwrap();
        ids.push(body.finish().unwrap());
    }
    let mut written = writer.finish().unwrap();
    let bodies = ids.into_iter().map(|id| written.take(id)).collect();
    (manifest_of(&mut written), bodies)
}

fn manifest_of(written: &mut Written) -> Manifest {
    let (packs, chunks) = (std::mem::take(&mut written.packs), std::mem::take(&mut written.chunks));
    Manifest { packs, chunks, ..Manifest::default() }
}

fn read(vault: &Vault, manifest: &Manifest, body: &Body) -> Vec<u8> {
    Fetcher::new(vault, manifest, MEMORY, 2).unwrap().read_to_vec(body, "the body", 1 << 30).unwrap()
}

/// What memory looks like: runs of pages of each kind, and an end that is no page.
fn memory(seed: u64, pages: usize) -> Vec<u8> {
    let mut data = Vec::new();
    let kinds = noise(seed, pages);
    for (page, kind) in kinds.iter().enumerate() {
        match kind % 8 {
            0..2 => data.resize(data.len() + PAGE * (1 + *kind as usize / 32), 0),
            2..5 => data.extend_from_slice(&format!("key-{page}-value ").repeat(PAGE).as_bytes()[..PAGE]),
            _ => data.extend_from_slice(&noise(seed + 1 + page as u64, PAGE)),
        }
    }
    data
}

#[test]
fn every_size_comes_back() {
    let (_folder, vault) = folder_vault();
    let long = memory(1, 1000);
    let lengths = [0, 1, 4095, 4096, 16_384, 16_385, 20_000, 48 << 10, 1 << 20, (1 << 20) + 1, long.len()];
    let bodies: Vec<&[u8]> = lengths.iter().map(|length| &long[..*length]).collect();
    let (manifest, written) = write(&vault, &bodies);
    for (data, body) in bodies.iter().zip(&written) {
        assert_eq!(body.size(), data.len() as u64);
        assert!(read(&vault, &manifest, body) == *data, "{} bytes", data.len());
    }
}

#[test]
fn zero_pages_are_dropped() {
    let (_folder, vault) = folder_vault();
    let mut data = vec![0; 16 << 20];
    let (manifest, bodies) = write(&vault, &[&data, &data[..PAGE * 5 + 1]]);
    assert_eq!((manifest.packs.len(), bodies[0].extents().collect::<Vec<_>>()), (0, vec![Extent::Zero(16 << 20)]));
    assert_eq!(bodies[1].extents().collect::<Vec<_>>(), [Extent::Zero(PAGE as u64 * 5 + 1)]);
    data[10 << 20] = 1;
    let (manifest, bodies) = write(&vault, &[&data]);
    assert!(manifest.packs[0].size < 1024);
    let mut zeros = 0;
    let count = |piece: Piece<'_>| {
        zeros += if let Piece::Zeros(length) = piece { length } else { 0 };
        Ok(())
    };
    Fetcher::new(&vault, &manifest, MEMORY, 1).unwrap().for_each(&bodies[0], count).unwrap();
    assert!(zeros > (15 << 20), "{zeros}");
    assert!(read(&vault, &manifest, &bodies[0]) == data);
}

#[test]
fn bodies_can_be_fed_in_turn() {
    let (_folder, vault) = folder_vault();
    let data: Vec<Vec<u8>> = (0..40).map(|i| memory(i, 20 + 10 * i as usize)).collect();
    let writer = ImageWriter::new(&vault, MEMORY, 2).unwrap();
    let mut open: Vec<_> = data.iter().map(|data| (writer.begin(), &data[..])).collect();
    let mut step = 1;
    while open.iter().any(|(_, rest)| !rest.is_empty()) {
        for (body, rest) in &mut open {
            step = step * 31 % 60_013;
            body.fill_from(&mut Read::take(&mut *rest, step)).unwrap();
        }
    }
    let ids: Vec<_> = open.into_iter().map(|(body, _)| body.finish().unwrap()).collect();
    let mut written = writer.finish().unwrap();
    let manifest = manifest_of(&mut written);
    for (id, data) in ids.into_iter().zip(&data) {
        assert!(read(&vault, &manifest, &written.take(id)) == *data);
    }
}

#[test]
fn streams_are_read_at_their_own_pace() {
    let (_folder, vault) = folder_vault();
    let data: Vec<Vec<u8>> = (0..24).map(|i| memory(100 + i, 800)).collect();
    let (manifest, bodies) = write(&vault, &data.iter().map(|d| &d[..]).collect::<Vec<_>>());
    // So little memory that the streams which pause would use it up.
    let mut fetcher = Fetcher::new(&vault, &manifest, 8 << 20, 2).unwrap();
    let ids: Vec<_> = bodies.iter().map(|body| fetcher.open(body)).collect();
    let mut got: Vec<Vec<u8>> = vec![Vec::new(); data.len()];
    // All streams are begun, then read to the end one after the other while the rest pauses.
    for limit in [100_000, usize::MAX] {
        for (id, got) in ids.iter().zip(&mut got) {
            while got.len() < limit {
                fetcher.receive().unwrap();
                let count = match fetcher.front(*id).unwrap() {
                    Front::Data(bytes) => {
                        let count = bytes.len().min(limit - got.len());
                        got.extend_from_slice(&bytes[..count]);
                        count
                    }
                    Front::Pending => {
                        wait(&fetcher);
                        continue;
                    }
                    Front::End => break,
                };
                fetcher.consume(*id, count);
            }
        }
    }
    assert!(got == data);
}

fn wait(fetcher: &Fetcher) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(fetcher.wake_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(60_000u16)).unwrap(), 1, "nothing came for a minute");
}

#[test]
fn looking_at_one_stream_hides_no_other() {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let (_folder, vault) = folder_vault();
    let data = [noise(1, 1 << 20), noise(2, 1 << 20)];
    let (manifest, bodies) = write(&vault, &[&data[0], &data[1]]);
    let mut fetcher = Fetcher::new(&vault, &manifest, 8 << 20, 2).unwrap();
    let ids: Vec<_> = bodies.iter().map(|body| fetcher.open(body)).collect();
    wait(&fetcher);
    // Something has come for one of them; looking at either must not make the waiting forget it.
    for id in &ids {
        assert_eq!(fetcher.front(*id).unwrap(), Front::Pending);
    }
    let mut fds = [PollFd::new(fetcher.wake_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::ZERO).unwrap(), 1);
}

#[test]
fn a_closed_stream_gives_back_its_memory() {
    let (_folder, vault) = folder_vault();
    let data = memory(5, 2000);
    let (manifest, bodies) = write(&vault, &[&data]);
    let mut fetcher = Fetcher::new(&vault, &manifest, 8 << 20, 2).unwrap();
    for _ in 0..50 {
        let id = fetcher.open(&bodies[0]);
        fetcher.close(id);
        assert!(matches!(fetcher.front(id), Err(ImageError::Ended)));
    }
    assert!(fetcher.read_to_vec(&bodies[0], "the body", 1 << 30).unwrap() == data);
    assert!(matches!(fetcher.read_to_vec(&bodies[0], "the body", 10), Err(ImageError::TooLarge { .. })));
}

#[test]
fn threads_start_at_once_and_never_later() {
    let (_folder, vault) = folder_vault();
    let data = memory(6, 2000);
    let (manifest, bodies) = write(&vault, &[&data]);
    let threads = || -> std::collections::BTreeSet<_> {
        std::fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    // Other tests start threads meanwhile, so this one looks at itself in a process of its own.
    if std::env::var_os("ALONE").is_none() {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "threads_start_at_once_and_never_later"]).env("ALONE", "1");
        assert!(again.status().unwrap().success());
        return;
    }
    let mut fetcher = Fetcher::new(&vault, &manifest, MEMORY, 5).unwrap();
    let begun = threads();
    fetcher.read_to_vec(&bodies[0], "the body", 1 << 30).unwrap();
    // One that the writer has joined may be listed a moment longer.
    assert!(threads().is_subset(&begun));
}

/// A store whose puts fail after some. Each kind waits for its gate.
struct Failing {
    inner: Arc<dyn Store>,
    good: AtomicUsize,
    good_gate: Mutex<()>,
    bad_gate: Mutex<()>,
}

impl Failing {
    fn new(inner: &Vault, good: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: inner.store().clone(),
            good: AtomicUsize::new(good),
            good_gate: Mutex::default(),
            bad_gate: Mutex::default(),
        })
    }
}

impl Store for Failing {
    fn prepare(&self) -> Result<Fencing, StoreError> {
        self.inner.prepare()
    }
    fn put(&self, key: &str, data: Bytes, mode: PutMode) -> Result<(), StoreError> {
        if self.good.fetch_update(Relaxed, Relaxed, |good| good.checked_sub(1)).is_err() {
            let _open = self.bad_gate.lock().unwrap();
            return Err(StoreError::NotFound { url: self.url().into(), key: key.into() });
        }
        let _open = self.good_gate.lock().unwrap();
        self.inner.put(key, data, mode)
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

#[test]
fn a_failed_upload_ends_the_writer() {
    for good in [0, 1, 3] {
        let (_folder, inner) = folder_vault();
        let vault = open(Failing::new(&inner, good));
        let writer = ImageWriter::new(&vault, MEMORY, 2).unwrap();
        let mut body = writer.begin();
        let mut write = |seed| body.write_all(&noise(seed, 1 << 20)).err();
        let error = (0..200).find_map(&mut write).expect("200 MiB cannot all be in memory");
        assert!(matches!(error, ImageError::Store(StoreError::NotFound { .. })), "{error}");
        assert!(matches!(write(0), Some(ImageError::Ended)));
        assert!(writer.finish().is_err());
    }
}

#[test]
fn a_failed_upload_ends_the_writer_while_another_one_hangs() {
    for finish_at in [17, 200] {
        let (_folder, inner) = folder_vault();
        let store = Failing::new(&inner, 1);
        let (hangs, fails_late) = (store.good_gate.lock().unwrap(), store.bad_gate.lock().unwrap());
        let writer = ImageWriter::new(&open(store.clone()), MEMORY, 2).unwrap();
        let (told, error) = mpsc::channel();
        thread::spawn(move || {
            let mut body = writer.begin();
            let error = (0..finish_at).find_map(|seed| body.write_all(&noise(seed, 1 << 20)).err());
            let error = error.or_else(|| body.finish().err());
            told.send(error.or_else(|| writer.finish().err()).unwrap()).unwrap();
        });
        // Until the writer waits.
        thread::sleep(Duration::from_millis(500));
        drop(fails_late);
        let error = error.recv_timeout(Duration::from_secs(60)).expect("the writer waits for an upload that hangs");
        assert!(matches!(error, ImageError::Store(StoreError::NotFound { .. })), "{error}");
        drop(hangs);
    }
}

#[test]
fn an_upload_that_fails_last_fails_the_finish() {
    let (_folder, inner) = folder_vault();
    let vault = open(Failing::new(&inner, 0));
    let writer = ImageWriter::new(&vault, MEMORY, 2).unwrap();
    let mut body = writer.begin();
    body.write_all(&noise(1, 1 << 20)).unwrap();
    body.finish().unwrap();
    assert!(matches!(writer.finish(), Err(ImageError::Store(StoreError::NotFound { .. }))));
}

#[test]
fn a_source_that_has_nothing_yet_is_asked_again() {
    struct Later(usize);
    impl Read for Later {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0 += 1;
            match self.0 % 3 {
                0 => Err(std::io::ErrorKind::WouldBlock.into()),
                1 => Err(std::io::ErrorKind::Interrupted.into()),
                _ if self.0 > 300 => Ok(0),
                _ => {
                    buffer[..1000].fill(7);
                    Ok(1000)
                }
            }
        }
    }
    let (_folder, vault) = folder_vault();
    let writer = ImageWriter::new(&vault, MEMORY, 2).unwrap();
    let mut body = writer.begin();
    let mut source = Later(0);
    loop {
        match body.fill_from(&mut source) {
            Ok(0) => break,
            Ok(read) => assert_eq!(read, 1000),
            Err(ImageError::Source(e)) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
            Err(e) => panic!("{e}"),
        }
    }
    let id = body.finish().unwrap();
    let mut written = writer.finish().unwrap();
    let manifest = manifest_of(&mut written);
    assert!(read(&vault, &manifest, &written.take(id)) == [7; 100_000]);
}

#[test]
fn chunks_lie_in_the_order_of_their_body() {
    let (_folder, vault) = folder_vault();
    // What is slow and what is quick to encode, in turn.
    let text = b"word and word again, ".repeat(50_000);
    let data: Vec<u8> = (0..12).flat_map(|i| if i % 2 == 0 { text.clone() } else { noise(i, 1 << 20) }).collect();
    let (manifest, _) = write(&vault, &[&data]);
    let mut last = (0, 8);
    for chunk in manifest.chunks.iter() {
        let here = (chunk.pack, chunk.offset);
        assert!(here == last || here == (last.0 + 1, 8), "{here:?} after {last:?}");
        last = (chunk.pack, chunk.offset + chunk.encoded);
    }
    assert!(last.1 > 8);
}

#[test]
fn packs_can_be_read_without_a_manifest() {
    let (_folder, vault) = folder_vault();
    let (manifest, _) = write(&vault, &[&memory(3, 6000)]);
    assert!(manifest.packs.len() > 1);
    let indexes: Vec<_> = manifest.packs.iter().map(|pack| image::read_index(&vault, pack).unwrap()).collect();
    for chunk in manifest.chunks.iter() {
        let entry = indexes[chunk.pack as usize].iter().find(|entry| entry.offset == chunk.offset).unwrap();
        assert_eq!((entry.encoded, entry.raw), (chunk.encoded, chunk.raw));
        assert_eq!(entry.pages.len(), (chunk.raw as usize).div_ceil(PAGE));
    }
    let tail_unknown = PackInfo { tail: 0, ..manifest.packs[0].clone() };
    assert_eq!(image::read_index(&vault, &tail_unknown).unwrap(), indexes[0]);
}

#[test]
fn generations_are_numbered_and_the_newest_is_found() {
    let (_folder, vault) = folder_vault();
    assert!(Manifest::load(&vault, None).unwrap().is_none());
    for n in 1..=3 {
        let mut manifest = Manifest { created_ms: n, ..Manifest::default() };
        assert_eq!(commit(&vault, &mut manifest).unwrap(), n);
        assert_eq!(Manifest::load(&vault, None).unwrap(), Some(manifest));
        assert_eq!(image::newest(&vault).unwrap(), Some(n));
    }
    assert_eq!(Manifest::load(&vault, Some(2)).unwrap().unwrap().created_ms, 2);
    let numbers: Vec<_> = image::generations(&vault).unwrap().iter().map(|g| (g.number, g.newest)).collect();
    assert_eq!(numbers, [(1, false), (2, false), (3, true)]);
}

#[test]
fn a_commit_that_did_not_reach_head_counts_for_nothing() {
    // The first commit makes head, then the manifest, then advances head; later ones find head there.
    for (committed, puts) in [(0, 3), (1, 2), (2, 2)] {
        for good in 0..puts {
            let (_folder, inner) = folder_vault();
            for number in 1..=committed {
                assert_eq!(commit(&inner, &mut Manifest::default()).unwrap(), number);
            }
            commit(&open(Failing::new(&inner, good)), &mut Manifest::default()).unwrap_err();
            assert_eq!(image::newest(&inner).unwrap().unwrap_or(0), committed);
            assert_eq!(Manifest::load(&inner, None).unwrap().map_or(0, |manifest| manifest.generation), committed);
            assert_eq!(image::generations(&inner).unwrap().len() as u64, committed);
            let next = commit(&inner, &mut Manifest::default()).unwrap();
            assert!(next > committed);
            assert_eq!(image::newest(&inner).unwrap(), Some(next));
        }
    }
}

#[test]
fn many_bodies_can_wait_with_much_in_hand() {
    const BODIES: u64 = 300;
    let (_folder, vault) = folder_vault();
    let data: Vec<Vec<u8>> = (0..BODIES).map(|i| noise(i, 90_000 + i as usize)).collect();
    let writer = ImageWriter::new(&vault, MEMORY, 2).unwrap();
    let mut open: Vec<_> = data.iter().map(|data| (writer.begin(), data.chunks(30_001))).collect();
    for _ in 0..4 {
        for (body, pieces) in &mut open {
            pieces.next().into_iter().for_each(|piece| body.write_all(piece).unwrap());
        }
    }
    let ids: Vec<_> = open.into_iter().map(|(body, _)| body.finish().unwrap()).collect();
    let mut written = writer.finish().unwrap();
    let manifest = manifest_of(&mut written);
    for (id, data) in ids.into_iter().zip(&data) {
        assert!(read(&vault, &manifest, &written.take(id)) == *data);
    }
}

#[test]
fn a_body_that_is_given_up_harms_no_other() {
    let (_folder, vault) = folder_vault();
    let (one, two) = (memory(1, 100), memory(2, 100));
    let writer = ImageWriter::new(&vault, MEMORY, 2).unwrap();
    let mut given_up = writer.begin();
    let mut body = writer.begin();
    given_up.write_all(&one).unwrap();
    body.write_all(&two[..100_000]).unwrap();
    given_up.write_all(&one).unwrap();
    drop(given_up);
    body.write_all(&two[100_000..]).unwrap();
    let id = body.finish().unwrap();
    let mut written = writer.finish().unwrap();
    let manifest = manifest_of(&mut written);
    assert!(read(&vault, &manifest, &written.take(id)) == two);
}
