//! A standby: waits until a generation is offered, with everything prepared that can be. Must never start anything of the service,
//! nor give up because a store does not answer, nor start a thread once it waits, as each takes a PID.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::control::protocol::{Event, Phase};
use crate::image::{self, FetchThreads, Holder, ImageError, Lease, Manifest, Outcome, Result, Vault};
use crate::privileges;
use crate::store::{CachedStore, Store, StoreError};
use crate::worker::{Common, cores};

use super::{Policy, check, owner};

/// How often the same trouble is told, at most.
const QUIET: Duration = Duration::from_secs(60);
/// For so many of its intervals a holder may say nothing before it is taken for dead.
const SILENT: u32 = 3;
/// A container with fewer PIDs left than this cannot restore any more: starting CRIU and its helpers takes some.
const LEAST_PIDS: i32 = 50;
/// The service's lowest PID, where no generation tells.
const FIRST_PID: i32 = 1000;

const FORMAT_LIMIT: u64 = 64 << 10;

/// What a wait ends with.
pub enum Woken {
    /// Restore this now.
    Restore(Box<Ready>),
    /// Start the service afresh: whoever had the application to itself is gone, and has committed nothing.
    Start {
        /// The store.
        vault: Vault,
        /// For this container; not claimed yet.
        lease: Lease,
    },
    /// The PIDs of this container are nearly used up, as this sentence says.
    WornOut(String),
}

/// A generation to restore, and everything that was prepared for it.
pub struct Ready {
    /// The store, with what was fetched ahead.
    pub vault: Vault,
    /// Threads for the [`Fetcher`](crate::image::Fetcher).
    pub threads: Arc<FetchThreads>,
    /// For this container; not claimed yet.
    pub lease: Lease,
    /// The generation.
    pub manifest: Manifest,
    /// What had become of it, if its service did not run on: where that was open, whoever decides it has the service.
    pub outcome: Option<Outcome>,
}

/// Waits, however long it takes. `tell` gets all events but the last word.
///
/// # Errors
/// Only before the wait begins, where its threads cannot be had.
pub fn wait(store: Arc<dyn Store>, common: &Common, policy: &Policy, tell: &dyn Fn(&Event)) -> Result<Woken> {
    let cached = CachedStore::new(store, &policy.standby.cache, policy.standby.cache_bytes)?;
    let threads = Arc::new(FetchThreads::start(&cached, cores())?);
    let newest_pid = if privileges::can_choose_pids() { || None } else { check::newest_pid };
    let mut watch = Watch::new(Arc::new(cached), threads, common, policy.exclusive, tell, newest_pid);
    tell(&Event::Waiting { generation: 0 });
    loop {
        if let Some(woken) = watch.step(Instant::now()) {
            return Ok(woken);
        }
        thread::sleep(Duration::from_millis(policy.standby.poll_ms));
    }
}

struct Watch<'a> {
    store: Arc<CachedStore>,
    threads: Arc<FetchThreads>,
    common: &'a Common,
    exclusive: Option<Duration>,
    tell: &'a dyn Fn(&Event),
    newest_pid: fn() -> Option<i32>,
    vault: Option<Vault>,
    /// Head, once all was done that it asks for, and the generation that it names.
    head: Option<Lease>,
    newest: Option<(Manifest, Option<Outcome>)>,
    /// The generation that init was told of last.
    told: u64,
    warned: Option<Instant>,
    /// With `exclusive`: what was seen last, and since when.
    still: Option<(Instant, Lease, Option<Holder>)>,
}

impl<'a> Watch<'a> {
    fn new(
        store: Arc<CachedStore>,
        threads: Arc<FetchThreads>,
        common: &'a Common,
        exclusive: Option<Duration>,
        tell: &'a dyn Fn(&Event),
        newest_pid: fn() -> Option<i32>,
    ) -> Self {
        let (vault, head, newest, warned, still) = (None, None, None, None, None);
        Self { store, threads, common, exclusive, tell, newest_pid, vault, head, newest, told: 0, warned, still }
    }

    /// One look at the store, and at this container.
    fn step(&mut self, now: Instant) -> Option<Woken> {
        if let Some(message) = self.worn_out() {
            return Some(Woken::WornOut(message));
        }
        match self.look(now) {
            Ok(Some((woken, message))) => {
                self.store.stop();
                (self.tell)(&Event::Chosen { message });
                (self.tell)(&Event::Progress { phase: Phase::Check, bytes: 0, total: 0 });
                return Some(woken);
            }
            Ok(None) => self.prepared(now),
            Err(error) => {
                // A holder that could not reach the store either is not dead.
                self.still = None;
                self.warn(now, || Some(format!("{error}. Still waiting for a generation to be handed over")));
            }
        }
        None
    }

    fn look(&mut self, now: Instant) -> Result<Option<(Woken, String)>> {
        let Some(vault) = self.open()? else { return Ok(None) };
        let Some(head) = image::glance(&vault)? else { return Ok(None) };
        if self.head != Some(head)
            && let Some(chosen) = self.take_in(&vault, head)?
        {
            return Ok(Some(chosen));
        }
        match self.exclusive {
            Some(interval) if !head.is_nobodys() => self.look_for_holder(&vault, head, interval, now),
            _ => Ok(None),
        }
    }

    fn open(&mut self) -> Result<Option<Vault>> {
        if self.vault.is_none() {
            // One request a look, and more only when there is something.
            match self.store.get("format", FORMAT_LIMIT) {
                Err(StoreError::NotFound { .. }) => return Ok(None),
                _ => self.vault = Vault::open(self.store.clone(), &self.common.keys)?,
            }
        }
        Ok(self.vault.clone())
    }

    /// Looks at what head names now: chooses it or prepares for it.
    fn take_in(&mut self, vault: &Vault, head: Lease) -> Result<Option<(Woken, String)>> {
        let known = self.head.map_or(0, |head| head.generation);
        if head.generation < known {
            return Err(ImageError::OldHead { url: vault.url().into(), found: head.generation, known });
        }
        // Once more, as it is dearer to be certain that it is no old one.
        let Some(head) = Lease::of_head(vault)? else { return Ok(None) };
        let newest = owner::newest(vault, &head)?;
        let outcome = newest.as_ref().map_or(Ok(None), |manifest| owner::outcome(vault, manifest))?;
        if let Some(manifest) = &newest {
            if manifest.offered && outcome.is_none() {
                let (generation, url) = (manifest.generation, vault.url());
                let message =
                    format!("restoring generation {generation} of {url}: {} hands it over", manifest.instance);
                return Ok(Some((self.restore(vault, &head, manifest.clone(), None), message)));
            }
            self.store.want(manifest.packs.iter().map(|pack| (pack.key(), pack.size)));
        }
        (self.head, self.newest) = (Some(head), newest.map(|manifest| (manifest, outcome)));
        Ok(None)
    }

    fn restore(&self, vault: &Vault, head: &Lease, manifest: Manifest, outcome: Option<Outcome>) -> Woken {
        let (vault, threads, lease) = (vault.clone(), self.threads.clone(), Lease::after(head));
        Woken::Restore(Box::new(Ready { vault, threads, lease, manifest, outcome }))
    }

    /// Takes over where neither head nor its holder has changed for long enough, and both could be seen all the time.
    fn look_for_holder(
        &mut self,
        vault: &Vault,
        head: Lease,
        interval: Duration,
        now: Instant,
    ) -> Result<Option<(Woken, String)>> {
        let holder = Holder::look(vault)?;
        let since = match &self.still {
            Some((since, seen, beat)) if (seen, beat) == (&head, &holder) => *since,
            _ => now,
        };
        let silent = now.duration_since(since);
        let name = holder.as_ref().filter(|holder| holder.is_of(&head)).map(|holder| holder.party.instance.clone());
        self.still = Some((since, head, holder));
        if silent < interval * SILENT {
            return Ok(None);
        }
        let name = name.as_deref().unwrap_or("the container that had it");
        let (seconds, url) = (silent.as_secs(), vault.url());
        let taking = format!("taking over the application of {url}, as {name} has said nothing for {seconds} s");
        Ok(Some(match &self.newest {
            Some((manifest, outcome)) => {
                let message = format!("{taking}: restoring generation {}", manifest.generation);
                (self.restore(vault, &head, manifest.clone(), outcome.clone()), message)
            }
            None => {
                let woken = Woken::Start { vault: vault.clone(), lease: Lease::after(&head) };
                (woken, format!("{taking} and has committed nothing: starting the command"))
            }
        }))
    }

    /// Says when all is prepared for a newer generation, or what went wrong with that.
    fn prepared(&mut self, now: Instant) {
        let generation = self.newest.as_ref().map_or(0, |(manifest, _)| manifest.generation);
        if generation != self.told && self.store.is_settled() {
            self.told = generation;
            (self.tell)(&Event::Waiting { generation });
        }
        let store = self.store.clone();
        self.warn(now, || store.trouble().inspect(|_| store.try_again()));
    }

    fn warn(&mut self, now: Instant, message: impl FnOnce() -> Option<String>) {
        if self.warned.is_none_or(|warned| now.duration_since(warned) >= QUIET)
            && let Some(message) = message()
        {
            self.warned = Some(now);
            (self.tell)(&Event::Warning { message });
        }
    }

    /// PIDs only go up here, and the service's must be had once it comes.
    fn worn_out(&self) -> Option<String> {
        let processes = self.newest.iter().flat_map(|(manifest, _)| &manifest.processes);
        let lowest = processes.map(|process| process.pid).min().unwrap_or(FIRST_PID);
        let newest = (self.newest_pid)()?;
        (lowest.saturating_sub(newest) <= LEAST_PIDS).then(|| {
            format!(
                "this container has used PIDs up to {newest} while it waited, and the service needs those from {lowest} on; only a new \
                 container has fresh PIDs, so start a new one"
            )
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::image::{Hex, Image, ImageWriter, KeyFiles, PackInfo, Party, Process, commit, decide};
    use crate::store::{self, Fencing, Location, ObjectMeta, PutMode, Version};
    use crate::worker::{Choice, OnFailure, Standby};
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
        }
    }

    pub fn policy(common: &Common, always: bool, exclusive: Option<Duration>) -> Policy {
        let cache = common.runtime_dir.join("cache");
        let standby = Standby { always, poll_ms: 1, cache, cache_bytes: 1 << 30 };
        Policy { choice: Choice::Newest, failure: OnFailure::Fail, standby, exclusive }
    }

    /// A store that remembers what was read, and that can go away.
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

        /// What was read since the last call.
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
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let common = common(folder.path(), "us");
        let store = store::open(&common.store).unwrap();
        let spied = Arc::new(Spied { store, read: Mutex::default(), away: AtomicBool::new(false) });
        let cached = Arc::new(CachedStore::new(spied.clone(), &folder.path().join("cache"), 1 << 30).unwrap());
        let threads = Arc::new(FetchThreads::start(&*cached, 1).unwrap());
        Fixture { _folder: folder, common, spied, cached, threads, events: RefCell::default() }
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
            let images = vec![Image { name: "pages-1.img".into(), body: Some(written.take(id)) }];
            let (packs, chunks) = (written.packs.clone(), written.chunks);
            let processes = vec![Process { pid: 2000, threads: vec![2000], ..Process::default() }];
            let instance = "them".to_owned();
            let mut manifest =
                Manifest { images, packs: written.packs, chunks, processes, instance, offered, ..Manifest::default() };
            (commit(&vault, &mut manifest, lease, Instant::now()).unwrap(), packs)
        }

        fn watch<'a>(&'a self, exclusive: Option<Duration>, tell: &'a dyn Fn(&Event)) -> Watch<'a> {
            Watch::new(self.cached.clone(), self.threads.clone(), &self.common, exclusive, tell, || None)
        }

        fn tell(&self) -> impl Fn(&Event) {
            |event| self.events.borrow_mut().push(event.clone())
        }

        /// What was told since the last call.
        fn told(&self) -> Vec<Event> {
            self.events.take()
        }

        /// Looks, waits until all is there, and looks once more so that this is told.
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
            Some(Woken::Restore(ready)) => ready.manifest.generation,
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
        let mut watch = fixture.watch(None, &tell);
        assert!(watch.step(now).is_none());
        assert_eq!(fixture.spied.read(), ["get format"]);
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
        let mut watch = fixture.watch(None, &tell);
        let (lease, packs) = fixture.commit(Lease::fresh(), false);
        fixture.settle(&mut watch, now);
        fixture.commit(lease, true);
        let Some(Woken::Restore(ready)) = watch.step(now) else { panic!("it is offered") };
        assert_eq!((ready.manifest.generation, ready.lease.generation, ready.lease.epoch), (2, 2, 2));
        let [Event::Waiting { generation: 1 }, Event::Chosen { message }, Event::Progress { phase: Phase::Check, .. }] =
            &fixture.told()[..]
        else {
            panic!("the choice is told before the restore begins")
        };
        assert!(message.contains("generation 2") && message.contains("them"), "{message}");
        fixture.spied.read();
        ready.vault.store().get_range(&packs[0].key(), 0..packs[0].size).unwrap();
        assert_eq!(fixture.spied.read(), [""; 0]);
    }

    #[test]
    fn once_it_has_chosen_nothing_more_is_fetched_ahead() {
        let fixture = fixture();
        let (tell, now) = (fixture.tell(), Instant::now());
        let mut watch = fixture.watch(None, &tell);
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
        let mut watch = fixture.watch(None, &tell);
        let (lease, _) = fixture.commit(Lease::fresh(), true);
        let by = Party { instance: "others".into(), writer: Hex([7; 8]) };
        decide(&fixture.vault(), 1, &Outcome::Taken { by, from: "them".into() }).unwrap();
        fixture.settle(&mut watch, now);
        fixture.commit(lease, true);
        assert_eq!(generation(watch.step(now)), 2);
    }

    #[test]
    fn a_head_that_goes_back_is_not_followed_but_told_once_a_minute() {
        let fixture = fixture();
        let (tell, now) = (fixture.tell(), Instant::now());
        let mut watch = fixture.watch(None, &tell);
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
    fn a_store_that_goes_away_is_waited_for() {
        let fixture = fixture();
        let (tell, now) = (fixture.tell(), Instant::now());
        let mut watch = fixture.watch(None, &tell);
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
        let mut watch = fixture.watch(None, &tell);
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
        let mut watch = fixture.watch(None, &tell);
        let is_worn_out = |watch: &mut Watch<'_>, newest: fn() -> Option<i32>| {
            watch.newest_pid = newest;
            matches!(watch.step(now), Some(Woken::WornOut(_)))
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
        let mut watch = fixture.watch(Some(INTERVAL), &tell);
        let (lease, _) = fixture.commit(Lease::fresh(), false);
        let mut at = |intervals: f32| watch.step(now + INTERVAL.mul_f32(intervals));
        let beat = || Holder::beat(&fixture.vault(), &lease, "them").unwrap();
        beat();
        assert!(at(0.0).is_none() && at(2.9).is_none());
        beat();
        assert!(at(3.0).is_none() && at(5.9).is_none());
        // A store that went away may have kept the holder from it too.
        fixture.spied.away.store(true, Ordering::SeqCst);
        assert!(at(5.95).is_none());
        fixture.spied.away.store(false, Ordering::SeqCst);
        assert!(at(6.1).is_none() && at(9.0).is_none());
        // A commit counts as well.
        let (lease, _) = fixture.commit(lease, false);
        assert!(at(9.05).is_none() && at(12.0).is_none());
        let Some(Woken::Restore(ready)) = at(12.1) else { panic!("nobody is alive") };
        assert_eq!(ready.manifest.generation, 2);
        ready.lease.claim(&ready.vault).unwrap();
        assert!(matches!(lease.check(&ready.vault), Err(ImageError::Replaced { .. })));
    }

    #[test]
    fn an_exclusive_one_starts_afresh_where_a_holder_without_generations_is_gone() {
        let fixture = fixture();
        let (tell, now) = (fixture.tell(), Instant::now());
        let mut watch = fixture.watch(Some(INTERVAL), &tell);
        let vault = fixture.vault();
        assert!(watch.step(now).is_none() && watch.step(now + INTERVAL * 9).is_none(), "nobody has it");
        Lease::fresh().claim(&vault).unwrap();
        assert!(watch.step(now).is_none() && watch.step(now + INTERVAL).is_none());
        let Some(Woken::Start { lease, .. }) = watch.step(now + INTERVAL * 3) else { panic!("nobody is alive") };
        lease.claim(&vault).unwrap();
    }

    #[test]
    fn without_exclusive_nothing_is_taken_from_anybody() {
        let fixture = fixture();
        let (tell, now) = (fixture.tell(), Instant::now());
        let mut watch = fixture.watch(None, &tell);
        fixture.commit(Lease::fresh(), false);
        assert!(watch.step(now).is_none() && watch.step(now + INTERVAL * 1000).is_none());
    }

    #[test]
    fn waiting_itself_says_so_first_and_ends_with_the_choice() {
        let fixture = fixture();
        fixture.commit(Lease::fresh(), true);
        let tell = fixture.tell();
        let policy = policy(&fixture.common, true, None);
        let woken = wait(fixture.spied.clone(), &fixture.common, &policy, &tell).unwrap();
        assert_eq!(generation(Some(woken)), 1);
        assert_eq!(fixture.told()[0], Event::Waiting { generation: 0 });
    }
}
