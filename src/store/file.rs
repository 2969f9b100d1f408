//! A store in a folder, safe against crashes and concurrent writers on the same or another machine.
//!
//! An object is a file that is written under a temporary name, synced, and then linked (create) or renamed
//! (replace). Names that begin with a dot are the store's own: `.lock`, which is held while replacing and
//! deleting, and `.tmp-*`. Never shows an incomplete file, and never follows a name that is not a key.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::error::Doing;
use super::temp::{self, Temp};
use super::{Fencing, Location, ObjectMeta, PutMode, Store, StoreError, Version, key, owner};

const LOCK: &str = ".lock";

/// Limit on waiting for the lock. Others need it only for a rename, so one that keeps it this long hangs.
const LOCK_WAIT: Duration = Duration::from_secs(30);
/// Polling interval, because flock(2) has no timeout.
const LOCK_RETRY: Duration = Duration::from_millis(5);

pub struct FileStore {
    root: PathBuf,
    url: String,
    swept: Once,
    lock_wait: Duration,
}

impl FileStore {
    /// Accepts `file:/path` or `file:///path`.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        let root = Location::at(url).folder()?;
        Ok(Self { url: format!("file:{}", root.display()), root, swept: Once::new(), lock_wait: LOCK_WAIT })
    }

    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        let bad = |why| StoreError::BadKey { url: self.url.clone(), key: key.to_owned(), why };
        key::check(key).map_err(bad)?;
        Ok(self.root.join(key))
    }

    fn error(&self, key: &str, doing: Doing) -> impl Fn(io::Error) -> StoreError {
        move |source| StoreError::from_io(&self.url, key, doing, source)
    }

    fn open(&self, key: &str) -> Result<(File, u64), StoreError> {
        let error = self.error(key, Doing::Read);
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.path(key)?)
            .map_err(&error)?;
        let meta = file.metadata().map_err(&error)?;
        if !meta.is_file() {
            return Err(error(io::Error::other("it is not a regular file")));
        }
        Ok((file, meta.len()))
    }

    /// Serialises everything that replaces or deletes. The lock is held until the file is dropped.
    fn lock(&self) -> io::Result<File> {
        let path = self.root.join(LOCK);
        let file = self.open_lock(&path)?;
        let until = Instant::now() + self.lock_wait;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(LOCK_RETRY),
                Err(TryLockError::WouldBlock) => {
                    let (path, seconds) = (path.display(), self.lock_wait.as_secs());
                    let text = format!(
                        "another process has held the lock {path} for {seconds} s (lslocks on its machine shows which)"
                    );
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
            }
        }
    }

    fn open_lock(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        match options.clone().create_new(true).open(path) {
            Ok(file) => owner::give(&file, &self.root).map(|()| file),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => options.open(path),
            Err(e) => Err(e),
        }
    }

    fn put_file(&self, path: &Path, data: &[u8], mode: &PutMode) -> io::Result<Outcome> {
        let folder = path.parent().unwrap_or(&self.root);
        make_folder(folder)?;
        self.swept.call_once(|| {
            temp::sweep(&self.root, temp::LEFTOVER_AGE);
        });
        let temp = Temp::write(folder, data)?;
        match mode {
            PutMode::Create => {
                if !temp.link_to(path)? {
                    return Ok(Outcome::Exists);
                }
            }
            PutMode::Overwrite => {
                let _lock = self.lock()?;
                temp.rename_to(path)?;
            }
            PutMode::Update(version) => {
                let _lock = self.lock()?;
                if version_of(path)?.as_ref() != Some(version) {
                    return Ok(Outcome::Changed);
                }
                temp.rename_to(path)?;
            }
        }
        File::open(folder)?.sync_all()?;
        Ok(Outcome::Written)
    }
}

enum Outcome {
    Written,
    Exists,
    Changed,
}

impl Store for FileStore {
    fn prepare(&self) -> Result<Fencing, StoreError> {
        let attempt = || {
            make_folder(&self.root)?;
            Temp::write(&self.root, b"freeze").map(drop)?;
            self.lock().map(|_| Fencing::Enforced)
        };
        attempt().map_err(self.error("objects", Doing::Write))
    }

    fn put(&self, key: &str, data: Bytes, mode: PutMode) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let (url, name) = (self.url.clone(), key.to_owned());
        match self.put_file(&path, &data, &mode).map_err(self.error(key, Doing::Write))? {
            Outcome::Written => Ok(()),
            Outcome::Exists => Err(StoreError::Exists { url, key: name }),
            Outcome::Changed => Err(StoreError::Changed { url, key: name }),
        }
    }

    fn get(&self, key: &str, limit: u64) -> Result<(Vec<u8>, Version), StoreError> {
        let (file, size) = self.open(key)?;
        if size > limit {
            return Err(StoreError::TooLarge { url: self.url.clone(), key: key.to_owned(), size, limit });
        }
        let mut data = Vec::with_capacity(size as usize);
        file.take(size).read_to_end(&mut data).map_err(self.error(key, Doing::Read))?;
        let version = version(&blake3::hash(&data));
        Ok((data, version))
    }

    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let (mut file, size) = self.open(key)?;
        if range.start > range.end || range.end > size {
            return Err(StoreError::OutOfRange { url: self.url.clone(), key: key.to_owned(), range, size });
        }
        let length = range.end - range.start;
        let mut data = Vec::with_capacity(length as usize);
        let error = self.error(key, Doing::Read);
        file.seek(SeekFrom::Start(range.start)).map_err(&error)?;
        file.take(length).read_to_end(&mut data).map_err(&error)?;
        if (data.len() as u64) < length {
            return Err(error(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(data)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        if !folder.is_empty() {
            self.path(folder)?;
        }
        let mut found = Vec::new();
        list_folder(&self.root, folder, &mut found).map_err(self.error(prefix, Doing::List))?;
        found.retain(|object| object.key.starts_with(prefix));
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let attempt = || {
            if !path.try_exists()? {
                return Ok(());
            }
            let _lock = self.lock()?;
            fs::remove_file(&path)?;
            File::open(path.parent().unwrap_or(&self.root))?.sync_all()
        };
        match attempt() {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.error(key, Doing::Delete)(e)),
            _ => Ok(()),
        }
    }

    fn clean(&self, older_than: Duration) -> Result<u64, StoreError> {
        Ok(temp::sweep(&self.root, older_than))
    }

    fn concurrency(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    fn url(&self) -> &str {
        &self.url
    }
}

/// The hash of the content, because file times are too coarse to tell two states apart.
fn version(hash: &blake3::Hash) -> Version {
    Version(hash.to_hex().to_string())
}

/// The version of a file of any size; None if there is no file.
fn version_of(path: &Path) -> io::Result<Option<Version>> {
    match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        file => Ok(Some(version(&blake3::Hasher::new().update_reader(file?)?.finalize()))),
    }
}

/// Creates a folder and its parents durably.
fn make_folder(folder: &Path) -> io::Result<()> {
    match fs::metadata(folder) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Err(_) => {}
    }
    let parent = folder.parent().unwrap_or(Path::new("/"));
    make_folder(parent)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {
            // Never follows a link that has taken the new folder's place.
            let made = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(folder)?;
            owner::give(&made, parent)?;
            File::open(parent)?.sync_all()
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

/// A missing folder counts as empty. A file whose name is not a key is not ours.
fn list_folder(root: &Path, folder: &str, found: &mut Vec<ObjectMeta>) -> io::Result<()> {
    let entries = match fs::read_dir(root.join(folder)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let key = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        if key::check(&key).is_err() {
            continue;
        }
        match entry.metadata() {
            Ok(meta) if meta.is_file() => {
                found.push(ObjectMeta { key, size: meta.len(), modified: meta.modified()? });
            }
            Ok(meta) if meta.is_dir() => list_folder(root, &key, found)?,
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn store() -> (tempfile::TempDir, FileStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(&format!("file:{}/a/store", folder.path().display())).unwrap();
        (folder, store)
    }

    #[test]
    fn a_link_in_the_place_of_the_lock_leads_nowhere() {
        let (folder, store) = store();
        let outside = folder.path().join("outside");
        fs::write(&outside, b"not the store's").unwrap();
        fs::create_dir_all(&store.root).unwrap();
        symlink(&outside, store.root.join(LOCK)).unwrap();
        store.put("a", Bytes::from_static(b"1"), PutMode::Overwrite).unwrap_err();
        assert!(store.prepare().is_err());
        assert_eq!(fs::read(&outside).unwrap(), b"not the store's");
    }

    #[test]
    fn urls_are_understood() {
        assert_eq!(open(&Location::at("file:/a//b/")).unwrap().url(), "file:/a/b");
        assert_eq!(open(&Location::at("file:///a/b")).unwrap().url(), "file:/a/b");
        for url in ["", "/a", "file:", "file:a", "file://a", "http://a", "file:/a\0b"] {
            assert!(matches!(open(&Location::at(url)), Err(StoreError::BadUrl { .. })), "{url:?}");
        }
    }

    #[test]
    fn only_the_owner_can_read() {
        let (folder, store) = store();
        store.put("packs/a", Bytes::from_static(b"secret"), PutMode::Create).unwrap();
        let mode = |path: &str| fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode("a"), mode("a/store"), mode("a/store/packs")], [0o700; 3]);
        assert_eq!(mode("a/store/packs/a"), 0o600);
    }

    #[test]
    fn what_is_no_key_is_not_listed() {
        let (_folder, store) = store();
        store.put("packs/a", Bytes::from_static(b"x"), PutMode::Overwrite).unwrap();
        fs::write(store.root.join("packs/.tmp-0123"), b"half").unwrap();
        fs::write(store.root.join("packs/b c"), b"whose?").unwrap();
        symlink("/etc/passwd", store.root.join("packs/link")).unwrap();
        let found = store.list("").unwrap();
        assert_eq!(found.iter().map(|object| (object.key.as_str(), object.size)).collect::<Vec<_>>(), [("packs/a", 1)]);
        assert!(store.get("packs/link", u64::MAX).is_err());
    }

    #[test]
    fn nothing_temporary_stays() {
        let (_folder, store) = store();
        store.put("a", Bytes::from_static(b"1"), PutMode::Create).unwrap();
        let version = store.get("a", 1).unwrap().1;
        store.put("a", Bytes::from_static(b"2"), PutMode::Create).unwrap_err();
        store.put("a", Bytes::from_static(b"3"), PutMode::Update(version.clone())).unwrap();
        store.put("a", Bytes::from_static(b"4"), PutMode::Update(version)).unwrap_err();
        store.put("a", Bytes::from_static(b"5"), PutMode::Overwrite).unwrap();
        let names = fs::read_dir(&store.root).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!(names, [LOCK, "a"]);
    }

    #[test]
    fn a_lock_that_is_never_given_back_is_named() {
        let (_folder, mut store) = store();
        store.put("a", Bytes::from_static(b"1"), PutMode::Create).unwrap();
        let held = store.lock().unwrap();
        store.lock_wait = Duration::ZERO;
        let text = store.put("a", Bytes::from_static(b"2"), PutMode::Overwrite).unwrap_err().to_string();
        assert!(text.contains("another process has held") && text.contains("/a/store/.lock"), "{text}");
        drop(held);
        store.put("a", Bytes::from_static(b"2"), PutMode::Overwrite).unwrap();
    }

    #[test]
    fn a_store_that_cannot_be_written_says_why() {
        let (folder, _) = store();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        let store = FileStore::new(&format!("file:{}/store", file.display())).unwrap();
        let text = store.prepare().unwrap_err().to_string();
        assert!(text.contains("Not a directory") && text.contains(store.url()), "{text}");
        let store = FileStore::new("file:/proc/freeze").unwrap();
        assert!(matches!(store.prepare(), Err(StoreError::Io { .. } | StoreError::Denied { .. })));
    }
}
