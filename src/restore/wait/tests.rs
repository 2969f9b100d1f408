//! A standby, against stores in folders that another container writes to.

use super::*;
use crate::image::{
    CriuImage, Hex, ImageWriter, KeyFiles, Manifest, Outcome, PackInfo, Party, Process, commit, decide, standby,
};
use crate::job::{OnFailure, Standby, VolumeChanged};
use crate::store::{self, Fencing, Location, ObjectMeta, PutMode, StoreError, Version};
use bytes::Bytes;
use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

const INTERVAL: Duration = Duration::from_secs(10);

pub fn common(folder: &Path, instance: &str) -> Common {
    Common {
        store: Location::at(&format!("file:{}/store", folder.display())),
        keys: KeyFiles::default(),
        runtime_dir: folder.to_owned(),
        memory: 64 << 20,
        instance: instance.into(),
        exclusive_ms: None,
        trace: None,
    }
}

pub fn policy(common: &Common, always: bool, exclusive: Option<Duration>) -> Policy {
    let cache = common.runtime_dir.join("cache");
    let standby = Standby { always, poll_ms: 1, cache, cache_bytes: 1 << 30 };
    Policy {
        choice: Choice::Newest,
        failure: OnFailure::Fail,
        volume_changed: VolumeChanged::Refuse,
        clock: Default::default(),
        standby,
        exclusive,
        files: crate::files::selection::Scope::Open,
        tracers: None,
    }
}

/// A store that records reads and can become unreachable.
struct Spied {
    store: Arc<dyn Store>,
    read: Mutex<Vec<String>>,
    away: AtomicBool,
}

impl Spied {
    fn note(&self, what: &str, key: &str) -> Result<(), StoreError> {
        self.read.lock().unwrap().push(format!("{what} {key}"));
        if !self.away.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(StoreError::NoSpace { url: self.store.url().into(), key: key.into(), doing: crate::store::Doing::Read })
    }

    /// The reads since the last call.
    fn read(&self) -> Vec<String> {
        std::mem::take(&mut self.read.lock().unwrap())
    }
}

impl Store for Spied {
    fn prepare(&self) -> Result<Fencing, StoreError> {
        self.store.prepare()
    }
    fn put(&self, key: &str, data: Bytes, mode: PutMode) -> Result<(), StoreError> {
        self.store.put(key, data, mode)
    }
    fn get(&self, key: &str, limit: u64) -> Result<(Vec<u8>, Version), StoreError> {
        self.note("get", key)?;
        self.store.get(key, limit)
    }
    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.note("range", key)?;
        self.store.get_range(key, range)
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.note("list", prefix)?;
        self.store.list(prefix)
    }
    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.store.delete(key)
    }
    fn clean(&self, older_than: Duration) -> Result<u64, StoreError> {
        self.store.clean(older_than)
    }
    fn concurrency(&self) -> usize {
        2
    }
    fn url(&self) -> &str {
        self.store.url()
    }
}

/// A standby, and the store that another container writes to.
struct Fixture {
    _folder: tempfile::TempDir,
    common: Common,
    spied: Arc<Spied>,
    cached: Arc<CachedStore>,
    threads: Arc<FetchThreads>,
    events: RefCell<Vec<Event>>,
    /// By default, and with `--exclusive`.
    policies: [Policy; 2],
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path(), "us");
    let policies = [None, Some(INTERVAL)].map(|exclusive| policy(&common, false, exclusive));
    let store = store::open(&common.store).unwrap();
    let spied = Arc::new(Spied { store, read: Mutex::default(), away: AtomicBool::new(false) });
    let cached = Arc::new(CachedStore::new(spied.clone(), &folder.path().join("cache"), 1 << 30).unwrap());
    let threads = Arc::new(FetchThreads::start(&*cached, 1).unwrap());
    Fixture { _folder: folder, common, spied, cached, threads, events: RefCell::default(), policies }
}

impl Fixture {
    fn vault(&self) -> Vault {
        Vault::create(self.spied.store.clone(), &KeyFiles::default()).unwrap()
    }

    /// Commits a generation with a pack of its own.
    fn commit(&self, lease: Lease, offered: bool) -> (Lease, Vec<PackInfo>) {
        let vault = self.vault();
        let writer = ImageWriter::new(&vault, 64 << 20, 1).unwrap();
        let mut noise = vec![0; 100_000];
        blake3::Hasher::new().update(&lease.generation.to_le_bytes()).finalize_xof().fill(&mut noise);
        let mut body = writer.begin();
        body.write_all(&noise).unwrap();
        let id = body.finish().unwrap();
        let mut written = writer.finish().unwrap();
        let images = vec![CriuImage { name: "pages-1.img".into(), body: Some(written.take(id)) }];
        let (packs, chunks) = (written.packs.clone(), written.chunks);
        let processes = vec![Process { pid: 2000, threads: vec![2000], ..Process::default() }];
        let instance = "them".to_owned();
        let mut manifest =
            Manifest { images, packs: written.packs, chunks, processes, instance, offered, ..Manifest::default() };
        (commit(&vault, &mut manifest, lease, Instant::now()).unwrap(), packs)
    }

    fn watch<'a>(&'a self, exclusive: bool, tell: &'a dyn Fn(&Event)) -> Watch<'a> {
        self.watch_as(exclusive, &|_| None, tell)
    }

    fn watch_as<'a>(
        &'a self,
        exclusive: bool,
        unfit: &'a dyn Fn(&Manifest) -> Option<String>,
        tell: &'a dyn Fn(&Event),
    ) -> Watch<'a> {
        let policy = &self.policies[usize::from(exclusive)];
        Watch::new(self.cached.clone(), self.threads.clone(), &self.common, policy, unfit, tell, || None)
    }

    fn tell(&self) -> impl Fn(&Event) {
        |event| self.events.borrow_mut().push(event.clone())
    }

    /// The events since the last call.
    fn told(&self) -> Vec<Event> {
        self.events.take()
    }

    /// Polls, waits until everything is prefetched, and polls again to report that.
    fn settle(&self, watch: &mut Watch<'_>, now: Instant) {
        assert!(watch.step(now).is_none());
        while !self.cached.is_settled() {
            thread::yield_now();
        }
        assert!(watch.step(now).is_none());
    }
}

fn generation(woken: Option<Woken>) -> u64 {
    match woken {
        Some(Woken::Restore(ready)) => ready.newest.generation,
        Some(Woken::Start { .. }) => 0,
        _ => panic!("nothing was chosen"),
    }
}

fn warnings(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Warning { .. })).count()
}

#[test]
fn a_look_is_one_request_while_nothing_changes() {
    let fixture = fixture();
    let (tell, now) = (fixture.tell(), Instant::now());
    let mut watch = fixture.watch(false, &tell);
    // The store is begun, so that the first checkpoint finds the standby in it.
    assert!(watch.step(now).is_none());
    let standbys = || standby::listed(&*fixture.spied.store).unwrap();
    assert_eq!(standbys(), [standby::key(&fixture.vault(), "us")]);
    fixture.spied.read();
    assert!(watch.step(now).is_none());
    assert_eq!(fixture.spied.read(), ["get head"]);
    fixture.commit(Lease::fresh(), false);
    fixture.settle(&mut watch, now);
    fixture.spied.read();
    for _ in 0..3 {
        assert!(watch.step(now).is_none());
    }
    assert_eq!(fixture.spied.read(), ["get head"; 3]);
    assert_eq!(fixture.told(), [Event::Waiting { generation: 1 }]);
}

#[test]
fn what_is_offered_is_chosen_at_once_with_what_was_fetched_before() {
    let fixture = fixture();
    let (tell, now) = (fixture.tell(), Instant::now());
    let mut watch = fixture.watch(false, &tell);
    let (lease, packs) = fixture.commit(Lease::fresh(), false);
    fixture.settle(&mut watch, now);
    fixture.commit(lease, true);
    let Some(Woken::Restore(ready)) = watch.step(now) else { panic!("it is offered") };
    assert_eq!((ready.newest.generation, ready.lease.generation, ready.lease.epoch), (2, 2, 2));
    let [Event::Waiting { generation: 1 }, Event::Chosen { message }, Event::Progress { phase: Phase::Check, .. }] =
        &fixture.told()[..]
    else {
        panic!("the choice is logged before the restore begins")
    };
    assert!(message.contains("generation 2") && message.contains("them"), "{message}");
    fixture.spied.read();
    ready.vault.store().get_range(&packs[0].key(), 0..packs[0].size).unwrap();
    assert_eq!(fixture.spied.read(), [""; 0]);
}

#[test]
fn what_it_could_not_restore_is_told_while_the_service_runs_elsewhere() {
    let fixture = fixture();
    let (tell, now) = (fixture.tell(), Instant::now());
    let unfit = |manifest: &Manifest| (manifest.instance == "them").then(|| "it lacks a port".to_owned());
    let mut watch = fixture.watch_as(false, &unfit, &tell);
    fixture.commit(Lease::fresh(), false);
    fixture.settle(&mut watch, now);
    let message = "this standby could not restore generation 1: it lacks a port".to_owned();
    assert_eq!(fixture.told(), [Event::Warning { message }, Event::Waiting { generation: 1 }]);
}

#[test]
fn once_it_has_chosen_nothing_more_is_fetched_ahead() {
    let fixture = fixture();
    let (tell, now) = (fixture.tell(), Instant::now());
    let mut watch = fixture.watch(false, &tell);
    let (lease, packs) = fixture.commit(Lease::fresh(), false);
    fixture.spied.store.delete(&packs[0].key()).unwrap();
    fixture.settle(&mut watch, now);
    fixture.commit(lease, true);
    assert_eq!(generation(watch.step(now)), 2);
    fixture.spied.read();
    fixture.cached.try_again();
    while !fixture.cached.is_settled() {
        thread::yield_now();
    }
    assert_eq!(fixture.spied.read(), [""; 0]);
}

#[test]
fn what_somebody_has_already_is_not_chosen() {
    let fixture = fixture();
    let (tell, now) = (fixture.tell(), Instant::now());
    let mut watch = fixture.watch(false, &tell);
    let (lease, _) = fixture.commit(Lease::fresh(), true);
    let by = Party { instance: "others".into(), writer: Hex([7; 8]) };
    decide(&fixture.vault(), 1, &Outcome::Taken { by, from: "them".into() }).unwrap();
    fixture.settle(&mut watch, now);
    fixture.commit(lease, true);
    assert_eq!(generation(watch.step(now)), 2);
}

#[test]
fn what_it_has_taken_itself_is_restored_unless_another_one_may_have_claimed_it() {
    let fixture = fixture();
    fixture.commit(Lease::fresh(), true);
    let by = Party { instance: "us".into(), writer: Hex([7; 8]) };
    decide(&fixture.vault(), 1, &Outcome::Taken { by, from: "them".into() }).unwrap();
    let tell = fixture.tell();
    assert!(fixture.watch(true, &tell).step(Instant::now()).is_none());
    assert_eq!(generation(fixture.watch(false, &tell).step(Instant::now())), 1);
}

#[test]
fn a_head_that_goes_back_is_not_followed_but_told_once_a_minute() {
    let fixture = fixture();
    let (tell, now) = (fixture.tell(), Instant::now());
    let mut watch = fixture.watch(false, &tell);
    let store = &fixture.spied.store;
    let (lease, _) = fixture.commit(Lease::fresh(), true);
    let (old, _) = store.get("head", 1000).unwrap();
    fixture.commit(lease, false);
    fixture.settle(&mut watch, now);
    let (new, _) = store.get("head", 1000).unwrap();
    store.put("head", old.into(), PutMode::Overwrite).unwrap();
    for seconds in [0, 1, 59, 60, 61, 119, 120] {
        assert!(watch.step(now + Duration::from_secs(seconds)).is_none());
    }
    assert_eq!(warnings(&fixture.told()), 3);
    store.put("head", new.into(), PutMode::Overwrite).unwrap();
    fixture.commit(Lease { generation: 2, ..lease }, true);
    assert_eq!(generation(watch.step(now)), 3);
}

#[test]
fn what_is_announced_is_looked_for_often_and_not_for_ever() {
    let fixture = fixture();
    let (tell, now) = (fixture.tell(), Instant::now());
    let mut watch = fixture.watch(false, &tell);
    let (lease, _) = fixture.commit(Lease::fresh(), false);
    fixture.settle(&mut watch, now);
    assert!(!watch.is_near(now));
    image::announce(&fixture.vault(), &lease, true).unwrap();
    fixture.spied.read();
    assert!(watch.step(now).is_none() && watch.step(now).is_none());
    assert_eq!(fixture.spied.read(), ["get head", "get question", "get head"]);
    assert!(watch.is_near(now + NEAR / 2) && !watch.is_near(now + NEAR));
    // It failed, and is tried again later.
    image::announce(&fixture.vault(), &lease, false).unwrap();
    assert!(watch.step(now + NEAR).is_none());
    image::announce(&fixture.vault(), &lease, true).unwrap();
    assert!(watch.step(now + NEAR * 2).is_none() && watch.is_near(now + NEAR * 2));
    fixture.commit(lease, false);
    fixture.settle(&mut watch, now);
    assert!(!watch.is_near(now));
}

#[test]
fn a_store_that_goes_away_is_waited_for() {
    let fixture = fixture();
    let (tell, now) = (fixture.tell(), Instant::now());
    let mut watch = fixture.watch(false, &tell);
    let (lease, _) = fixture.commit(Lease::fresh(), false);
    fixture.settle(&mut watch, now);
    fixture.spied.away.store(true, Ordering::SeqCst);
    fixture.commit(lease, true);
    for seconds in [0, 30] {
        assert!(watch.step(now + Duration::from_secs(seconds)).is_none());
    }
    assert_eq!(warnings(&fixture.told()), 1);
    fixture.spied.away.store(false, Ordering::SeqCst);
    assert_eq!(generation(watch.step(now)), 2);
}

#[test]
fn what_a_prune_removed_is_told_and_does_not_hold_up_the_next_generation() {
    let fixture = fixture();
    let (tell, now) = (fixture.tell(), Instant::now());
    let mut watch = fixture.watch(false, &tell);
    let (lease, packs) = fixture.commit(Lease::fresh(), false);
    fixture.spied.store.delete(&packs[0].key()).unwrap();
    fixture.settle(&mut watch, now);
    let told = fixture.told();
    assert_eq!((warnings(&told), told.len()), (1, 2));
    let (_, packs) = fixture.commit(lease, false);
    fixture.settle(&mut watch, now);
    assert_eq!(fixture.told(), [Event::Waiting { generation: 2 }]);
    fixture.spied.read();
    fixture.cached.get_range(&packs[0].key(), 0..9).unwrap();
    assert_eq!(fixture.spied.read(), [""; 0]);
}

#[test]
fn a_container_without_pids_gives_up_before_the_service_needs_them() {
    let fixture = fixture();
    let (tell, now) = (fixture.tell(), Instant::now());
    let mut watch = fixture.watch(false, &tell);
    let is_worn_out = |watch: &mut Watch<'_>, newest: fn() -> Option<i32>| {
        watch.newest_pid = newest;
        let is_over = matches!(watch.step(now), Some(Woken::PidsExhausted(_)));
        assert!(!is_over || standby::listed(&*fixture.spied.store).unwrap().is_empty(), "it is asked in vain");
        is_over
    };
    assert!(is_worn_out(&mut watch, || Some(950)), "by default");
    assert!(!is_worn_out(&mut watch, || Some(949)));
    fixture.commit(Lease::fresh(), false);
    assert!(!is_worn_out(&mut watch, || Some(949)));
    assert!(!is_worn_out(&mut watch, || Some(1949)), "the newest generation begins at 2000");
    assert!(is_worn_out(&mut watch, || Some(1950)));
    assert!(is_worn_out(&mut watch, || Some(30_000)));
    assert!(!is_worn_out(&mut watch, || None), "PIDs can be chosen");
}

#[test]
fn an_exclusive_one_takes_over_only_from_a_holder_that_says_nothing() {
    let fixture = fixture();
    let (tell, now) = (fixture.tell(), Instant::now());
    let mut watch = fixture.watch(true, &tell);
    let (lease, _) = fixture.commit(Lease::fresh(), false);
    // Polls twice per interval up to that time, in tenths of an interval.
    let mut looked = 0;
    let mut until = |tenths: u32| {
        let looks: Vec<u32> = (looked + 1..tenths).filter(|at| at % 5 == 0).chain([tenths]).collect();
        looked = tenths;
        looks.into_iter().find_map(|at| watch.step(now + INTERVAL * at / 10))
    };
    let heartbeat = |lease: &Lease| Heartbeat::send(&fixture.vault(), lease, "them").unwrap();
    heartbeat(&lease);
    assert!(until(1).is_none() && until(30).is_none());
    heartbeat(&lease);
    assert!(until(31).is_none() && until(60).is_none());
    // The lease owner may not have reached the store either.
    fixture.spied.away.store(true, Ordering::SeqCst);
    assert!(until(61).is_none());
    fixture.spied.away.store(false, Ordering::SeqCst);
    assert!(until(62).is_none() && until(91).is_none());
    // A commit is a sign of life as well.
    let (lease, _) = fixture.commit(lease, false);
    assert!(until(92).is_none());
    // The heartbeat of a former owner does not count.
    heartbeat(&Lease::fresh());
    assert!(until(93).is_none() && until(120).is_none());
    heartbeat(&Lease::fresh());
    let Some(Woken::Restore(ready)) = until(123) else { panic!("nobody is alive") };
    assert_eq!(ready.newest.generation, 2);
    ready.lease.claim(&ready.vault).unwrap();
    assert!(matches!(lease.check(&ready.vault), Err(ImageError::Replaced { .. })));
}

#[test]
fn one_that_stood_still_together_with_the_holder_takes_nothing_from_it() {
    let fixture = fixture();
    let (tell, now) = (fixture.tell(), Instant::now());
    let mut watch = fixture.watch(true, &tell);
    fixture.commit(Lease::fresh(), false);
    assert!(watch.step(now).is_none() && watch.step(now + INTERVAL * 100).is_none());
    assert!(watch.step(now + INTERVAL * 101).is_none() && watch.step(now + INTERVAL * 102).is_none());
    assert_eq!(generation(watch.step(now + INTERVAL * 103)), 1);
}

#[test]
fn a_generation_that_cannot_be_read_is_read_once_a_minute_and_holds_up_nobody() {
    let fixture = fixture();
    let (tell, now) = (fixture.tell(), Instant::now());
    let mut watch = fixture.watch(true, &tell);
    let (lease, _) = fixture.commit(Lease::fresh(), true);
    let key = crate::image::manifest_key(1);
    let (whole, _) = fixture.spied.store.get(&key, 1 << 20).unwrap();
    fixture.spied.store.put(&key, "damaged".into(), PutMode::Overwrite).unwrap();
    let mut reads = |seconds| {
        let woken = watch.step(now + Duration::from_secs(seconds));
        (woken, fixture.spied.read().iter().filter(|read| read.ends_with(&key)).count())
    };
    for (seconds, count) in [(0, 1), (9, 0), (18, 0), (27, 0)] {
        let (woken, read) = reads(seconds);
        assert!(woken.is_none() && read == count, "{seconds}: {read}");
    }
    assert_eq!(warnings(&fixture.told()), 1);
    // Its owner may be dead all the same.
    assert_eq!(generation(reads(30).0), 1);
    // Or it can be read again.
    let mut watch = fixture.watch(false, &tell);
    assert!(watch.step(now).is_none());
    fixture.spied.store.put(&key, whole.into(), PutMode::Overwrite).unwrap();
    assert!(watch.step(now + QUIET / 2).is_none());
    assert_eq!(generation(watch.step(now + QUIET)), 1);
    lease.check(&fixture.vault()).unwrap();
}

#[test]
fn looks_that_fail_become_rarer_and_not_for_ever() {
    let fixture = fixture();
    let (tell, now) = (fixture.tell(), Instant::now());
    let mut watch = fixture.watch(false, &tell);
    fixture.spied.away.store(true, Ordering::SeqCst);
    let pauses = [(); 5].map(|()| {
        watch.step(now);
        watch.pause(now).as_millis()
    });
    assert_eq!(pauses, [2, 4, 8, 8, 8]);
    fixture.spied.away.store(false, Ordering::SeqCst);
    watch.step(now);
    assert_eq!(watch.pause(now).as_millis(), 1);
}

#[test]
fn the_choice_names_what_is_restored() {
    let mut fixture = fixture();
    let (lease, _) = fixture.commit(Lease::fresh(), false);
    fixture.commit(lease, true);
    for (choice, said) in [
        (Choice::Newest, "restoring generation 2: them hands over generation 2 of file:"),
        (
            Choice::Generation(1),
            "restoring generation 1, because --restore names it: them hands over generation 2 of file:",
        ),
    ] {
        fixture.policies[1].choice = choice;
        let tell = fixture.tell();
        assert!(fixture.watch(true, &tell).step(Instant::now()).is_some());
        let told = fixture.told();
        let Event::Chosen { message } = &told[0] else { panic!("{told:?}") };
        assert!(message.starts_with(said), "{message}");
    }
}

#[test]
fn an_exclusive_one_starts_afresh_where_a_holder_without_generations_is_gone() {
    let fixture = fixture();
    let (tell, now) = (fixture.tell(), Instant::now());
    let mut watch = fixture.watch(true, &tell);
    let vault = fixture.vault();
    assert!(watch.step(now).is_none() && watch.step(now + INTERVAL * 9).is_none(), "nobody has it");
    Lease::fresh().claim(&vault).unwrap();
    assert!(watch.step(now).is_none() && watch.step(now + INTERVAL).is_none());
    assert!(watch.step(now + INTERVAL * 2).is_none());
    let Some(Woken::Start { lease, .. }) = watch.step(now + INTERVAL * 3) else { panic!("nobody is alive") };
    lease.claim(&vault).unwrap();
}

#[test]
fn without_exclusive_nothing_is_taken_from_anybody() {
    let fixture = fixture();
    let (tell, now) = (fixture.tell(), Instant::now());
    let mut watch = fixture.watch(false, &tell);
    fixture.commit(Lease::fresh(), false);
    assert!(watch.step(now).is_none() && watch.step(now + INTERVAL * 1000).is_none());
}

#[test]
fn waiting_itself_says_so_first_and_ends_with_the_choice() {
    let fixture = fixture();
    fixture.commit(Lease::fresh(), true);
    let tell = fixture.tell();
    let policy = policy(&fixture.common, true, None);
    let woken = wait(fixture.spied.clone(), &fixture.common, &policy, false, None, &|_| None, &tell).unwrap();
    assert_eq!(generation(Some(woken)), 1);
    assert_eq!(fixture.told()[0], Event::Waiting { generation: 0 });
}
