//! A store with a local cache: packs are prefetched into a folder, and a restore reads them from there. Never
//! delays a read: a pack that is not complete in the folder comes from the store. Never starts a thread after
//! [`CachedStore::new`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::{Fencing, ObjectMeta, PutMode, STACK, Store, StoreError, Version};
use crate::sys::private_folder::{self, NotOurs};

const PACKS: &str = "packs/";
/// Bytes of one request. A prefetch that is no longer wanted ends between two requests.
const PIECE: u64 = 1 << 20;
/// Limit of packs that are fetched at once.
const FETCHERS: usize = 4;
const WHOLE: &str = "pack-";
const PART: &str = ".part-";
/// Our own folder inside the given one.
const OWN: &str = "packs";

/// A store that caches some of its packs in a folder.
pub struct CachedStore {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    folder: PathBuf,
    limit: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The queue of packs to fetch.
    asked: VecDeque<Pack>,
    /// Packs in the folder, complete or not, with their sizes.
    there: HashMap<String, (u64, Part)>,
    /// Sum of these sizes.
    bytes: u64,
    /// Packs that the store did not deliver.
    failed: Vec<Pack>,
    /// Packs that did not fit. They may fit when another fetch is given up.
    crowded_out: Vec<Pack>,
    trouble: Option<String>,
    /// The folder cannot be used.
    broken: bool,
    closed: bool,
}

struct Pack {
    key: String,
    size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Fetching { wanted: bool },
    Whole,
}

/// Why a pack was not cached.
enum Missed {
    Unwanted,
    Store(StoreError),
    Folder(io::Error),
}

impl From<StoreError> for Missed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for Missed {
    fn from(error: io::Error) -> Self {
        Self::Folder(error)
    }
}

impl CachedStore {
    /// Uses at most `limit` bytes of a folder, and removes what an earlier cache left there. A folder that
    /// cannot be used, or belongs to another user, is reported as [`trouble`](Self::trouble) and is no error.
    pub fn new(store: Arc<dyn Store>, folder: &Path, limit: u64) -> Result<Self, StoreError> {
        let threads = store.concurrency().clamp(1, FETCHERS);
        let own = own_folder(folder).and_then(|own| Ok(empty(&own).map(|()| own)?));
        let (folder, refusal) = match own {
            Ok(own) => (own, None),
            Err(refusal) => (folder.to_owned(), Some(refusal)),
        };
        let shared = Arc::new(Shared { store, folder, limit, state: Mutex::default(), changed: Condvar::new() });
        let cached = Self { shared };
        if let Some(refusal) = refusal {
            cached.shared.refuse(&mut cached.shared.state(), &refusal);
        }
        for _ in 0..threads {
            let shared = cached.shared.clone();
            let thread = thread::Builder::new().name("ahead".into()).stack_size(STACK);
            let no_threads = |source| StoreError::NoThreads { url: cached.url().to_owned(), source };
            thread.spawn(move || work(&shared)).map_err(no_threads)?;
        }
        Ok(cached)
    }

    /// Fetches these packs, given by key and size, as room allows, and drops all others.
    pub fn want(&self, packs: impl IntoIterator<Item = (String, u64)>) {
        let mut state = self.shared.state();
        if state.broken {
            return;
        }
        let packs: Vec<Pack> =
            packs.into_iter().filter(|(key, _)| is_pack(key)).map(|(key, size)| Pack { key, size }).collect();
        let named: HashSet<&str> = packs.iter().map(|pack| &*pack.key).collect();
        for (key, (_, part)) in &mut state.there {
            if let Part::Fetching { wanted } = part {
                *wanted = named.contains(&**key);
            }
        }
        let unnamed = |(key, (_, part)): &(&String, &(u64, Part))| *part == Part::Whole && !named.contains(&***key);
        let dropped: Vec<String> = state.there.iter().filter(unnamed).map(|(key, _)| key.clone()).collect();
        dropped.iter().for_each(|key| self.shared.forget(&mut state, key));
        state.failed.clear();
        state.crowded_out.clear();
        state.asked = packs.into_iter().filter(|pack| !state.there.contains_key(&pack.key)).collect();
        self.shared.changed.notify_all();
    }

    /// Stops fetching. A fetch in progress ends after its current request.
    pub fn stop(&self) {
        self.shared.state().stop();
    }

    /// Retries the packs that the store did not deliver.
    pub fn try_again(&self) {
        let mut state = self.shared.state();
        let failed = std::mem::take(&mut state.failed);
        state.asked.extend(failed);
        self.shared.changed.notify_all();
    }

    /// Whether nothing is queued or in progress: all packs that fit are there, except failed ones.
    pub fn is_settled(&self) -> bool {
        self.shared.state().is_settled()
    }

    /// The latest problem since the last call, as one sentence.
    pub fn trouble(&self) -> Option<String> {
        self.shared.state().trouble.take()
    }

    /// Reads a range of a pack from the folder; None if the pack is not there.
    fn read_folder(&self, key: &str, range: &Range<u64>) -> Option<Vec<u8>> {
        let size = match self.shared.state().there.get(key) {
            Some((size, Part::Whole)) => *size,
            _ => return None,
        };
        if range.start > range.end || range.end > size {
            return None;
        }
        let mut data = vec![0; (range.end - range.start) as usize];
        let file = open_file(&self.shared.path(WHOLE, key));
        match file.and_then(|file| file.read_exact_at(&mut data, range.start)) {
            Ok(()) => Some(data),
            // Another process has changed the folder.
            Err(_) => {
                self.shared.forget(&mut self.shared.state(), key);
                None
            }
        }
    }

    #[cfg(test)]
    fn settle(&self) {
        let mut state = self.shared.state();
        while !state.is_settled() {
            state = self.shared.changed.wait(state).unwrap();
        }
    }
}

impl Drop for CachedStore {
    fn drop(&mut self) {
        self.stop();
        let mut state = self.shared.state();
        state.closed = true;
        self.shared.changed.notify_all();
        // A broken folder is empty, or not ours.
        if !state.broken {
            let _ = empty(&self.shared.folder);
        }
    }
}

impl Store for CachedStore {
    fn prepare(&self) -> Result<Fencing, StoreError> {
        self.shared.store.prepare()
    }

    fn put(&self, key: &str, data: Bytes, mode: PutMode) -> Result<(), StoreError> {
        self.shared.forget(&mut self.shared.state(), key);
        self.shared.store.put(key, data, mode)
    }

    fn get(&self, key: &str, limit: u64) -> Result<(Vec<u8>, Version), StoreError> {
        self.shared.store.get(key, limit)
    }

    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        match self.read_folder(key, &range) {
            Some(data) => Ok(data),
            None => self.shared.store.get_range(key, range),
        }
    }

    fn forget_copy(&self, key: &str) -> bool {
        self.shared.forget(&mut self.shared.state(), key);
        // Also if it is gone already: another reader of the same copy may have dropped it.
        is_pack(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.shared.store.list(prefix)
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.shared.forget(&mut self.shared.state(), key);
        self.shared.store.delete(key)
    }

    fn clean(&self, older_than: Duration) -> Result<u64, StoreError> {
        self.shared.store.clean(older_than)
    }

    fn start_nothing_more(&self) {
        self.shared.store.start_nothing_more();
    }

    fn concurrency(&self) -> usize {
        self.shared.store.concurrency()
    }

    fn url(&self) -> &str {
        self.shared.store.url()
    }
}

impl State {
    fn is_settled(&self) -> bool {
        let fetching = |(_, part): &(u64, Part)| matches!(part, Part::Fetching { .. });
        self.asked.is_empty() && !self.there.values().any(fetching)
    }

    fn stop(&mut self) {
        self.asked.clear();
        self.failed.clear();
        self.crowded_out.clear();
        for (_, part) in self.there.values_mut() {
            if let Part::Fetching { wanted } = part {
                *wanted = false;
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, prefix: &str, key: &str) -> PathBuf {
        self.folder.join(format!("{prefix}{}", key.trim_start_matches(PACKS)))
    }

    fn forget(&self, state: &mut State, key: &str) {
        if let Some((size, Part::Whole)) = state.there.get(key) {
            state.bytes -= size;
            state.there.remove(key);
            let _ = fs::remove_file(self.path(WHOLE, key));
        }
    }

    /// Stops using the folder and empties it: if the disk is full, the service's files may need the room.
    fn refuse(&self, state: &mut State, error: &dyn Display) {
        if !state.broken {
            let folder = self.folder.display();
            state.trouble = Some(format!(
                "packs are not fetched ahead, because the folder {folder} cannot be used ({error}), so a restore will \
                 take longer. Set --standby-cache to a writable folder with enough space"
            ));
        }
        state.broken = true;
        state.stop();
        let whole: Vec<String> = state.there.keys().cloned().collect();
        whole.iter().for_each(|key| self.forget(state, key));
    }

    /// Waits for a pack that fits, and reserves its room. None after the end.
    fn next(&self) -> Option<Pack> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            match state.asked.pop_front() {
                Some(pack) if state.there.contains_key(&pack.key) => self.changed.notify_all(),
                Some(pack) if pack.size > self.limit - state.bytes => {
                    state.crowded_out.push(pack);
                    self.changed.notify_all();
                }
                Some(pack) => {
                    state.bytes += pack.size;
                    state.there.insert(pack.key.clone(), (pack.size, Part::Fetching { wanted: true }));
                    return Some(pack);
                }
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn is_wanted(&self, key: &str) -> bool {
        matches!(self.state().there.get(key), Some((_, Part::Fetching { wanted: true })))
    }

    /// Fetches a pack piece by piece into a temporary file, which is renamed when it is complete.
    fn fetch(&self, pack: &Pack) -> Result<(), Missed> {
        let part = self.path(PART, &pack.key);
        let _ = fs::remove_file(&part);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        let result = self.fill(&mut file, pack).and_then(|()| Ok(fs::rename(&part, self.path(WHOLE, &pack.key))?));
        if result.is_err() {
            let _ = fs::remove_file(&part);
        }
        result
    }

    fn fill(&self, file: &mut File, pack: &Pack) -> Result<(), Missed> {
        let mut at = 0;
        while at < pack.size {
            if !self.is_wanted(&pack.key) {
                return Err(Missed::Unwanted);
            }
            let end = pack.size.min(at + PIECE);
            file.write_all(&self.store.get_range(&pack.key, at..end)?)?;
            at = end;
        }
        Ok(())
    }

    fn fetched(&self, pack: Pack, result: Result<(), Missed>) {
        let mut state = self.state();
        match result {
            Ok(()) => {
                state.there.insert(pack.key.clone(), (pack.size, Part::Whole));
                if state.broken {
                    self.forget(&mut state, &pack.key);
                }
            }
            Err(missed) => {
                let wanted = matches!(state.there.remove(&pack.key), Some((_, Part::Fetching { wanted: true })));
                state.bytes -= pack.size;
                let crowded_out = std::mem::take(&mut state.crowded_out);
                state.asked.extend(crowded_out);
                match missed {
                    // Dropped, and then wanted again.
                    Missed::Unwanted if wanted => state.asked.push_back(pack),
                    Missed::Store(error) if wanted => {
                        state.trouble = Some(format!("cannot fetch a pack ahead: {error}"));
                        state.failed.push(pack);
                    }
                    Missed::Folder(error) => self.refuse(&mut state, &error),
                    Missed::Unwanted | Missed::Store(_) => {}
                }
            }
        }
        self.changed.notify_all();
    }
}

fn work(shared: &Shared) {
    while let Some(pack) = shared.next() {
        let result = shared.fetch(&pack);
        shared.fetched(pack, result);
    }
}

fn is_pack(key: &str) -> bool {
    key.strip_prefix(PACKS).is_some_and(is_id)
}

fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Our own folder inside `folder`. `folder` may be a world-writable volume, but must belong to us or to root.
fn own_folder(folder: &Path) -> Result<PathBuf, NotOurs> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let metadata = fs::symlink_metadata(folder)?;
    if !metadata.is_dir() {
        return Err(NotOurs::NotAFolder);
    }
    if ![0, nix::unistd::geteuid().as_raw()].contains(&metadata.uid()) {
        return Err(NotOurs::Foreign(metadata.uid()));
    }
    let own = folder.join(OWN);
    private_folder::prepare(&own)?;
    Ok(own)
}

/// Removes the files with names of ours.
fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(WHOLE).or_else(|| name.strip_prefix(PART)));
        if id.is_some_and(is_id) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Opens a regular file. A reader could block on anything else.
fn open_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

#[cfg(test)]
mod tests;
