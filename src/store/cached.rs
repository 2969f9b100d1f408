//! A store whose packs are fetched ahead into a folder, so that a restore reads them from there. Must never hold anything up: what
//! is not in the folder, or not whole, comes from the store; and must never start a thread after [`CachedStore::new`].

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
/// Bytes of a request. A fetch that is no longer wanted ends between two.
const PIECE: u64 = 1 << 20;
/// How many packs are fetched at once, at most.
const FETCHERS: usize = 4;
const WHOLE: &str = "pack-";
const PART: &str = ".part-";
/// The folder in the one that was named.
const OWN: &str = "packs";

/// A store of which some packs are in a folder too.
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
    /// To be fetched, in this order.
    asked: VecDeque<Pack>,
    /// Those that are in the folder, whole or not.
    there: HashMap<String, (u64, Part)>,
    /// Bytes of these.
    bytes: u64,
    /// The store did not give them.
    failed: Vec<Pack>,
    /// There was no room for them, and there may be when what is being fetched is given up.
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

/// Why a pack did not come into the folder.
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
    /// Takes a folder for at most `limit` bytes of packs, and removes what an earlier one left there. A folder that cannot be used, or
    /// that others can write, is [`trouble`](Self::trouble), and no error.
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

    /// Fetches these packs, by key and size, as far as there is room, and drops all others.
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

    /// Fetches no more. What is under way ends within a piece.
    pub fn stop(&self) {
        self.shared.state().stop();
    }

    /// Asks once more for what the store did not give.
    pub fn try_again(&self) {
        let mut state = self.shared.state();
        let failed = std::mem::take(&mut state.failed);
        state.asked.extend(failed);
        self.shared.changed.notify_all();
    }

    /// Whether all is there that there is room for.
    pub fn is_settled(&self) -> bool {
        self.shared.state().is_settled()
    }

    /// What went wrong since the last call: one sentence.
    pub fn trouble(&self) -> Option<String> {
        self.shared.state().trouble.take()
    }

    /// Bytes of a pack from the folder.
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
            // Somebody has emptied the folder.
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
        // One that is broken is empty, or not ours.
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
        // Of several that read the same copy, one finds it forgotten by another.
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

    /// Uses the folder no more. Where it is full, the service's files may need the room.
    fn refuse(&self, state: &mut State, error: &dyn Display) {
        if !state.broken {
            let folder = self.folder.display();
            state.trouble = Some(format!(
                "packs are not fetched ahead, as the folder {folder} cannot be used ({error}): a restore will take longer. Give the \
                 container a writable folder with room for them"
            ));
        }
        state.broken = true;
        state.stop();
        let whole: Vec<String> = state.there.keys().cloned().collect();
        whole.iter().for_each(|key| self.forget(state, key));
    }

    /// The next pack that there is room for, and whose room is taken from now on.
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

    /// Fetches a pack piece by piece, into a file that has its name when it is whole.
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
                    // Wanted again, since it was given up.
                    Missed::Unwanted if wanted => state.asked.push_back(pack),
                    Missed::Store(error) if wanted => {
                        state.trouble = Some(format!("a pack could not be fetched ahead: {error}"));
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

/// A folder of our own in `folder`, which may be a volume that all can write, but not one that another user has put in our way.
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

/// Removes from a folder what has a name of ours.
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

/// Opens a file, and nothing that its reader could wait for.
fn open_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

#[cfg(test)]
mod tests;
