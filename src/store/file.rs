//! A store in a folder, safe against crashes and other writers on the same or another machine.
//!
//! An object is a file, written under a temporary name, synced, and then linked (create) or renamed (replace). Names that
//! begin with a dot are the store's own: `.lock`, which replacing and deleting take, and `.tmp-*`. Must never show a
//! file that is not whole, and never follow a name that is not a key.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, SystemTime};

use super::error::Doing;
use super::{ObjectMeta, PutMode, Store, StoreError, Version, key};

const TEMP_PREFIX: &str = ".tmp-";
const LOCK: &str = ".lock";
/// A temporary file this old whose writer holds no lock on it was left behind by a crash.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// A store in a folder; the folder is made by the first write.
pub struct FileStore {
    root: PathBuf,
    url: String,
    swept: Once,
}

impl FileStore {
    /// Takes `file:/path` or `file:///path`.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        let bad = |why| StoreError::BadUrl { url: url.to_owned(), why };
        let rest = url.strip_prefix("file:").ok_or_else(|| bad("it does not begin with file:"))?;
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if !path.starts_with('/') {
            return Err(bad("its path is not absolute"));
        }
        if path.contains('\0') {
            return Err(bad("its path holds a zero byte"));
        }
        let root: PathBuf = Path::new(path).components().collect();
        Ok(Self { url: format!("file:{}", root.display()), root, swept: Once::new() })
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

    /// Serialises everything that replaces or removes; held until the file is dropped.
    fn lock(&self) -> io::Result<File> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.root.join(LOCK))?;
        file.lock()?;
        Ok(file)
    }

    fn put_file(&self, key: &str, path: &Path, data: &[u8], mode: &PutMode) -> io::Result<Outcome> {
        let folder = path.parent().unwrap_or(&self.root);
        make_folder(folder)?;
        self.swept.call_once(|| sweep(&self.root));
        let temp = Temp::write(folder, data)?;
        match mode {
            PutMode::Create => {
                if !temp.link_to(path)? {
                    return Ok(Outcome::Exists);
                }
            }
            PutMode::Overwrite => {
                let _lock = self.lock()?;
                fs::rename(&temp.path, path)?;
            }
            PutMode::Update(version) => {
                let _lock = self.lock()?;
                match self.get(key, u64::MAX) {
                    Ok((_, found)) if found == *version => fs::rename(&temp.path, path)?,
                    Ok(_) | Err(StoreError::NotFound { .. }) => return Ok(Outcome::Changed),
                    Err(e) => return Err(io::Error::other(e)),
                }
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
    fn prepare(&self) -> Result<(), StoreError> {
        let attempt = || {
            make_folder(&self.root)?;
            Temp::write(&self.root, b"freeze").map(drop)?;
            self.lock().map(drop)
        };
        attempt().map_err(self.error("objects", Doing::Write))
    }

    fn put(&self, key: &str, data: &[u8], mode: PutMode) -> Result<Version, StoreError> {
        let path = self.path(key)?;
        let (url, name) = (self.url.clone(), key.to_owned());
        match self.put_file(key, &path, data, &mode).map_err(self.error(key, Doing::Write))? {
            Outcome::Written => Ok(version_of(data)),
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
        let version = version_of(&data);
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

    fn url(&self) -> &str {
        &self.url
    }
}

/// By content, since the times of a file are too coarse to tell two states apart.
fn version_of(data: &[u8]) -> Version {
    Version(blake3::hash(data).to_hex().to_string())
}

/// Makes a folder and those above it, durably.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(Path::new("/"));
    make_folder(parent)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => File::open(parent)?.sync_all(),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

/// A missing folder is an empty one, and what is not a key is somebody else's.
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
            Ok(meta) if meta.is_file() => found.push(ObjectMeta { key, size: meta.len() }),
            Ok(meta) if meta.is_dir() => list_folder(root, &key, found)?,
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// A file under a temporary name, removed when dropped. Its writer holds a lock on it, which ends with the writer.
struct Temp {
    path: PathBuf,
    _file: File,
}

impl Temp {
    fn write(folder: &Path, data: &[u8]) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let path = folder.join(format!("{TEMP_PREFIX}{:016x}", u64::from_ne_bytes(random)));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let mut temp = Self { path, _file: file };
        // A mark for the sweep alone: where a file system cannot lock, age has to do.
        let _ = temp._file.lock();
        temp._file.write_all(data)?;
        temp._file.sync_all()?;
        Ok(temp)
    }

    /// Gives the file its name unless that exists; says whether it did.
    fn link_to(&self, path: &Path) -> io::Result<bool> {
        match fs::hard_link(&self.path, path) {
            Ok(()) => Ok(true),
            // Over NFS the reply to a link that succeeded can be lost, and the second attempt finds the first.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(fs::metadata(&self.path)?.nlink() == 2),
            // Some network file systems have no hard links.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP)) => self.rename_to_new(path),
            Err(e) => Err(e),
        }
    }

    fn rename_to_new(&self, path: &Path) -> io::Result<bool> {
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        match renameat2(AT_FDCWD, &self.path, AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => Ok(true),
            Err(nix::Error::EEXIST) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what crashed writers left, below `folder`. What cannot be looked at is left alone: nothing depends on this.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() && !name.as_encoded_bytes().starts_with(b".") {
            sweep(&entry.path());
        } else if name.as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes()) && is_leftover(&entry.path(), &meta) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_leftover(path: &Path, meta: &fs::Metadata) -> bool {
    let age = meta.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
    meta.is_file()
        && age.is_some_and(|age| age > LEFTOVER_AGE)
        && File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}
