//! Temporary files of a folder store: objects before they have their names, and leftovers of crashes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::owner;
use crate::sys::random;

/// The dot makes it an invalid key.
const PREFIX: &str = ".tmp-";
/// A temporary file of this age, whose writer holds no lock on it, is the leftover of a crash.
pub(super) const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// A file under a temporary name, removed when dropped. Its writer locks it until the writer ends.
pub(super) struct Temp {
    path: PathBuf,
    /// Open, for the lock.
    file: File,
}

impl Temp {
    /// Writes a new file durably, except for its name.
    pub(super) fn write(folder: &Path, data: &[u8]) -> io::Result<Self> {
        let mut name = [0; 8];
        random::fill(&mut name);
        let path = folder.join(format!("{PREFIX}{:016x}", u64::from_ne_bytes(name)));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let mut temp = Self { path, file };
        owner::give(&temp.file, folder)?;
        // Only a mark for the sweep. If the file system cannot lock, the age alone decides.
        let _ = temp.file.lock();
        temp.file.write_all(data)?;
        temp.file.sync_all()?;
        Ok(temp)
    }

    /// Gives the file its name unless that exists. Returns whether it did.
    pub(super) fn link_to(&self, path: &Path) -> io::Result<bool> {
        match fs::hard_link(&self.path, path) {
            Ok(()) => Ok(true),
            // Over NFS the reply to a successful link can be lost; the retry then finds that link.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(fs::metadata(&self.path)?.nlink() == 2),
            // Some network file systems have no hard links.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP)) => self.rename_to_new(path),
            Err(e) => Err(e),
        }
    }

    /// Gives the file its name, and replaces an existing file.
    pub(super) fn rename_to(&self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)
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

/// Removes what crashed writers left below `folder` at least `age` ago, and returns the number of files.
/// Skips what cannot be inspected, because nothing depends on this.
pub(super) fn sweep(folder: &Path, age: Duration) -> u64 {
    let mut removed = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() && !name.as_encoded_bytes().starts_with(b".") {
            removed += sweep(&entry.path(), age);
        } else if name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) && is_leftover(&entry.path(), &meta, age) {
            removed += u64::from(fs::remove_file(entry.path()).is_ok());
        }
    }
    removed
}

fn is_leftover(path: &Path, meta: &fs::Metadata, least: Duration) -> bool {
    let age = meta.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
    meta.is_file() && age.is_some_and(|age| age >= least) && File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old(folder: &Path, name: &str, age: Duration) -> File {
        let file = File::create(folder.join(name)).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
        file
    }

    #[test]
    fn the_sweep_takes_leftovers_alone() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::create_dir(folder.join("packs")).unwrap();
        old(folder, ".tmp-dead", 2 * LEFTOVER_AGE);
        old(folder, "packs/.tmp-dead", 2 * LEFTOVER_AGE);
        old(folder, ".tmp-young", LEFTOVER_AGE / 2);
        old(folder, "packs/object", 2 * LEFTOVER_AGE);
        let alive = old(folder, ".tmp-alive", 2 * LEFTOVER_AGE);
        alive.lock().unwrap();
        assert_eq!(sweep(folder, LEFTOVER_AGE), 2);
        let left = |path: &str| folder.join(path).exists();
        assert!(!left(".tmp-dead") && !left("packs/.tmp-dead"));
        assert!(left(".tmp-young") && left("packs/object") && left(".tmp-alive"));
    }

    #[test]
    fn renaming_without_links_creates_once_too() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("a");
        assert!(Temp::write(folder.path(), b"1").unwrap().rename_to_new(&name).unwrap());
        assert!(!Temp::write(folder.path(), b"2").unwrap().rename_to_new(&name).unwrap());
        assert_eq!(fs::read(name).unwrap(), b"1");
    }
}
