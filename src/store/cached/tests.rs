//! A cache folder that is too small, damaged, gone, or another user's.

use super::*;
use crate::store::FileStore;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

const SIZE: u64 = 3 * PIECE + 5;

/// A store that counts range reads, and blocks them while it is closed.
struct Gate {
    store: FileStore,
    threads: usize,
    reads: AtomicUsize,
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, open: bool) {
        *self.open.lock().unwrap() = open;
        self.changed.notify_all();
    }

    /// Waits for `count` reads.
    fn await_reads(&self, count: usize) {
        let mut open = self.open.lock().unwrap();
        while self.reads.load(Ordering::SeqCst) < count {
            open = self.changed.wait(open).unwrap();
        }
    }
}

impl Store for Gate {
    fn prepare(&self) -> Result<Fencing, StoreError> {
        self.store.prepare()
    }
    fn put(&self, key: &str, data: Bytes, mode: PutMode) -> Result<(), StoreError> {
        self.store.put(key, data, mode)
    }
    fn get(&self, key: &str, limit: u64) -> Result<(Vec<u8>, Version), StoreError> {
        self.store.get(key, limit)
    }
    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let mut open = self.open.lock().unwrap();
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_all();
        while !*open {
            open = self.changed.wait(open).unwrap();
        }
        drop(open);
        self.store.get_range(key, range)
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.store.list(prefix)
    }
    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.store.delete(key)
    }
    fn clean(&self, older_than: Duration) -> Result<u64, StoreError> {
        self.store.clean(older_than)
    }
    fn concurrency(&self) -> usize {
        self.threads
    }
    fn url(&self) -> &str {
        self.store.url()
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    gate: Arc<Gate>,
    cached: CachedStore,
}

fn key(number: u8) -> String {
    format!("packs/{number:032x}")
}

fn data(number: u8) -> Vec<u8> {
    let mut data = vec![0; SIZE as usize];
    blake3::Hasher::new().update(&[number]).finalize_xof().fill(&mut data);
    data
}

/// Four packs in the store, and room for `room` of them in the folder.
fn fixture(room: u64) -> Fixture {
    fixture_of(room, 1)
}

fn fixture_of(room: u64, threads: usize) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::new(&format!("file:{}/store", folder.path().display())).unwrap();
    (0..4).for_each(|number| store.put(&key(number), data(number).into(), PutMode::Create).unwrap());
    let (reads, open, changed) = (AtomicUsize::new(0), Mutex::new(true), Condvar::new());
    let gate = Arc::new(Gate { store, threads, reads, open, changed });
    let cached = CachedStore::new(gate.clone(), &folder.path().join("cache"), room * SIZE).unwrap();
    Fixture { folder, gate, cached }
}

impl Fixture {
    fn want(&self, numbers: &[u8]) {
        self.cached.want(numbers.iter().map(|number| (key(*number), SIZE)));
    }

    /// How many reads of the store it takes to read these packs.
    fn reads(&self, numbers: &[u8]) -> usize {
        let before = self.gate.reads.load(Ordering::SeqCst);
        for number in numbers {
            assert!(self.cached.get_range(&key(*number), 1..SIZE).unwrap() == data(*number)[1..]);
        }
        self.gate.reads.load(Ordering::SeqCst) - before
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("cache").join(OWN)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn what_was_fetched_ahead_is_read_without_the_store() {
    let fixture = fixture(4);
    assert_eq!(fixture.reads(&[0, 1]), 2);
    fixture.want(&[0, 1]);
    fixture.cached.settle();
    assert_eq!(fixture.reads(&[0, 1]), 0);
    assert_eq!(fixture.reads(&[2]), 1);
    assert_eq!(fixture.cached.trouble(), None);
}

#[test]
fn what_does_not_fit_is_not_fetched_and_what_is_no_longer_named_goes() {
    let fixture = fixture(2);
    fixture.want(&[0, 1, 2]);
    fixture.cached.settle();
    assert_eq!(fixture.names().len(), 2);
    fixture.want(&[1, 3]);
    fixture.cached.settle();
    assert_eq!(fixture.reads(&[1, 3]), 0);
    assert_eq!(fixture.names(), [1, 3].map(|number| format!("pack-{number:032x}")));
}

#[test]
fn it_stops_between_two_pieces_and_leaves_nothing() {
    let fixture = fixture(4);
    fixture.gate.set(false);
    fixture.want(&[0, 1]);
    fixture.gate.await_reads(1);
    fixture.cached.stop();
    assert!(!fixture.cached.is_settled(), "the one that is under way still takes room");
    fixture.gate.set(true);
    fixture.cached.settle();
    assert_eq!(fixture.gate.reads.load(Ordering::SeqCst), 1);
    assert_eq!(fixture.names(), [""; 0]);
}

#[test]
fn what_is_wanted_again_before_it_was_given_up_is_fetched() {
    let fixture = fixture(4);
    fixture.gate.set(false);
    fixture.want(&[0]);
    fixture.gate.await_reads(1);
    fixture.want(&[1]);
    fixture.want(&[0, 1]);
    fixture.gate.set(true);
    fixture.cached.settle();
    assert_eq!(fixture.reads(&[0, 1]), 0);
}

#[test]
fn what_there_is_room_for_only_when_another_was_given_up_is_fetched_then() {
    let fixture = fixture_of(1, 2);
    fixture.gate.set(false);
    fixture.want(&[0]);
    fixture.gate.await_reads(1);
    fixture.want(&[1]);
    let state = fixture.cached.shared.state();
    drop(fixture.cached.shared.changed.wait_while(state, |state| !state.asked.is_empty()).unwrap());
    fixture.gate.set(true);
    fixture.cached.settle();
    assert_eq!(fixture.reads(&[1]), 0);
}

#[test]
fn a_folder_that_is_full_is_emptied() {
    let fixture = fixture(4);
    fixture.want(&[0]);
    fixture.cached.settle();
    // No file can be created at this path, as on a full disk.
    fs::create_dir(fixture.cached.shared.path(PART, &key(1))).unwrap();
    fixture.want(&[0, 1]);
    fixture.cached.settle();
    assert!(fixture.cached.trouble().unwrap().contains("a writable folder"));
    assert_eq!(fixture.names(), [format!(".part-{:032x}", 1)]);
    assert_eq!(fixture.reads(&[0]), 1);
}

#[test]
fn a_pack_that_is_gone_or_cut_short_is_trouble_and_is_asked_for_again() {
    let fixture = fixture(4);
    fixture.gate.delete(&key(0)).unwrap();
    fixture.want(&[0, 1]);
    fixture.cached.settle();
    assert!(fixture.cached.trouble().unwrap().contains(&key(0)));
    assert_eq!(fixture.cached.trouble(), None);
    assert_eq!(fixture.reads(&[1]), 0);
    fixture.gate.put(&key(0), data(0).into(), PutMode::Create).unwrap();
    fixture.cached.try_again();
    fixture.cached.settle();
    assert_eq!(fixture.reads(&[0]), 0);
}

#[test]
fn a_folder_that_cannot_be_used_or_is_emptied_costs_nothing_but_time() {
    let fixture = fixture(4);
    let file = fixture.folder.path().join("file");
    fs::write(&file, "").unwrap();
    let broken = CachedStore::new(fixture.gate.clone(), &file, SIZE).unwrap();
    assert!(broken.trouble().unwrap().contains("a writable folder"));
    broken.want([(key(0), SIZE)]);
    assert!(broken.is_settled());
    assert_eq!(broken.get_range(&key(0), 0..SIZE).unwrap(), data(0));
    assert_eq!(broken.trouble(), None);

    fixture.want(&[0, 1]);
    fixture.cached.settle();
    fs::remove_file(fixture.cached.shared.path(WHOLE, &key(0))).unwrap();
    fs::write(fixture.cached.shared.path(WHOLE, &key(1)), "short").unwrap();
    assert_eq!(fixture.reads(&[0, 1]), 2);
    assert_eq!(fixture.cached.shared.state().bytes, 0);
}

#[test]
fn a_folder_that_others_can_write_is_not_used_and_nothing_in_it_is_waited_for() {
    let fixture = fixture(4);
    let (link, open) = (fixture.folder.path().join("link"), fixture.folder.path().join("open"));
    let left = open.join(OWN).join(format!("pack-{:032x}", 7));
    fs::create_dir_all(open.join(OWN)).unwrap();
    fs::write(&left, "").unwrap();
    std::os::unix::fs::symlink(&open, &link).unwrap();
    let refused = CachedStore::new(fixture.gate.clone(), &link, SIZE).unwrap();
    assert!(refused.trouble().unwrap().contains("it is not a folder"));
    drop(refused);
    assert!(left.exists(), "what is not ours is not emptied");
    let modes = || [&*open, &*open.join(OWN)].map(|folder| fs::metadata(folder).unwrap().mode() & 0o777);
    for folder in [&*open, &*open.join(OWN)] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let taken = CachedStore::new(fixture.gate.clone(), &open, SIZE).unwrap();
    assert_eq!((taken.trouble(), left.exists(), modes()), (None, false, [0o777, 0o700]));

    fixture.want(&[0]);
    fixture.cached.settle();
    let path = fixture.cached.shared.path(WHOLE, &key(0));
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(fixture.reads(&[0]), 1);
}

#[test]
fn what_another_one_left_goes_and_what_is_not_ours_stays() {
    let folder = tempfile::tempdir().unwrap();
    let ours = [format!("pack-{:032x}", 7), format!(".part-{:032x}", 8)];
    let others = ["pack-7".to_owned(), format!("{:032x}", 7), "notes".to_owned()];
    ours.iter().chain(&others).for_each(|name| fs::write(folder.path().join(name), "x").unwrap());
    empty(folder.path()).unwrap();
    assert!(ours.iter().all(|name| !folder.path().join(name).exists()));
    assert!(others.iter().all(|name| folder.path().join(name).exists()));
}

#[test]
fn its_files_go_with_it() {
    let fixture = fixture(4);
    fixture.want(&[0, 1]);
    fixture.cached.settle();
    let folder = fixture.folder.path().join("cache").join(OWN);
    drop(fixture.cached);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
}
