//! The identity of a file of the image: its build-id and a hash of its content. Path and size alone may be those of
//! another version.
//!
//! A checkpoint does not carry programs and libraries, so a restore compares them. It must not continue a process in
//! the middle of code that was replaced.
//!
//! Hashes are taken before the freeze, and kept in the runtime folder for the next checkpoint by the file's
//! [`Stamp`]. A hash is kept only if a later change would have another stamp ([`ahead::open`]).

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use prost::Message;

pub use super::build_id::build_id;
use super::survey::Stamp;
use super::used::Written;
use super::{ahead, resolve};

/// Name of the file in the runtime folder.
pub const FILE: &str = "identities";
/// Its name while it is written.
pub const NEW: &str = ".identities.new";
/// Most bytes of the file, enough for 100,000 files.
const LIMIT: u64 = 16 << 20;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Empty if the file has none.
    pub build_id: Vec<u8>,
    /// BLAKE3 of the content.
    pub hash: Vec<u8>,
}

impl Identity {
    pub fn of(file: &File) -> io::Result<Self> {
        Ok(Self { build_id: build_id(file), hash: hash(file)? })
    }

    /// Reads the regular file at `path`; follows no link.
    fn at(path: &Path) -> io::Result<Self> {
        let place = resolve::place(path).map_err(io::Error::other)?;
        // Opening a pipe or a device may block or act.
        if !place.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Self::of(&resolve::reopen(&place, OpenOptions::new().read(true))?)
    }
}

/// Reads the whole file, from its beginning.
pub fn hash(file: &File) -> io::Result<Vec<u8>> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize().as_bytes().to_vec())
}

/// Identities of files.
#[derive(Debug, Default)]
pub struct Identities {
    by_stamp: HashMap<Stamp, Identity>,
    are_new: bool,
}

impl Identities {
    /// Those of `paths`: what an earlier checkpoint kept in the runtime folder, and what is read now. `written` may
    /// change without a new stamp.
    pub fn read(runtime_dir: &Path, paths: &BTreeSet<PathBuf>, written: &Written) -> Self {
        let kept = decode(&runtime_dir.join(FILE)).unwrap_or_default();
        let mut found = HashMap::new();
        let mut are_new = false;
        for path in paths {
            let Ok(meta) = fs::symlink_metadata(path) else { continue };
            let stamp = Stamp::of(&meta);
            if written.inodes.contains(&meta.ino()) {
                continue;
            }
            if let Some(identity) = kept.get(&stamp) {
                found.insert(stamp, identity.clone());
            } else if let Ok((file, stamp)) = ahead::open(path, written.since)
                && let Ok(identity) = Identity::of(&file)
            {
                are_new = true;
                found.insert(stamp, identity);
            }
        }
        if are_new {
            // Without it the next checkpoint reads the files again.
            let _ = keep(runtime_dir, &found);
        }
        Self { by_stamp: found, are_new }
    }

    /// Whether files were read, which takes time.
    pub fn are_new(&self) -> bool {
        self.are_new
    }

    /// The identity of the file at `path`; an empty one if it cannot be read.
    pub fn of(&self, path: &Path, meta: &fs::Metadata) -> Identity {
        match self.by_stamp.get(&Stamp::of(meta)) {
            Some(identity) => identity.clone(),
            None => Identity::at(path).unwrap_or_default(),
        }
    }
}

/// The file in the runtime folder.
#[derive(Clone, PartialEq, Message)]
struct Kept {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Entry>,
}

/// A [`Stamp`] of a regular file, and its [`Identity`].
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(uint64, tag = "1")]
    device: u64,
    #[prost(uint64, tag = "2")]
    inode: u64,
    #[prost(int64, tag = "3")]
    seconds: i64,
    #[prost(int64, tag = "4")]
    nanoseconds: i64,
    #[prost(uint64, tag = "5")]
    size: u64,
    #[prost(uint64, tag = "6")]
    bytes: u64,
    #[prost(bytes = "vec", tag = "7")]
    build_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "8")]
    hash: Vec<u8>,
}

fn keep(runtime_dir: &Path, found: &HashMap<Stamp, Identity>) -> io::Result<()> {
    let entry = |(stamp, identity): (&Stamp, &Identity)| Entry {
        device: stamp.inode.0,
        inode: stamp.inode.1,
        seconds: stamp.changed.0,
        nanoseconds: stamp.changed.1,
        size: stamp.size,
        bytes: stamp.bytes,
        build_id: identity.build_id.clone(),
        hash: identity.hash.clone(),
    };
    let new = runtime_dir.join(NEW);
    fs::write(&new, Kept { entries: found.iter().map(entry).collect() }.encode_to_vec())?;
    fs::rename(new, runtime_dir.join(FILE))
}

fn decode(path: &Path) -> Option<HashMap<Stamp, Identity>> {
    if fs::metadata(path).ok()?.len() > LIMIT {
        return None;
    }
    let kept = Kept::decode(&*fs::read(path).ok()?).ok()?;
    let stamp = |entry: &Entry| Stamp {
        inode: (entry.device, entry.inode),
        changed: (entry.seconds, entry.nanoseconds),
        size: entry.size,
        bytes: entry.bytes,
        is_file: true,
    };
    let both = |entry: Entry| (stamp(&entry), Identity { build_id: entry.build_id, hash: entry.hash });
    Some(kept.entries.into_iter().map(both).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::thread;
    use std::time::Duration;

    use nix::time::{ClockId, clock_gettime};

    use super::*;

    fn unwritten() -> Written {
        let since = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).unwrap().into();
        Written { inodes: [].into(), since }
    }

    /// A settled file on the root, and a runtime folder.
    fn settled() -> (tempfile::TempDir, PathBuf, tempfile::TempDir) {
        let folder = resolve::folder_on_root();
        let path = folder.path().canonicalize().unwrap().join("library");
        fs::write(&path, "version 1").unwrap();
        thread::sleep(Duration::from_millis(60));
        (folder, path, tempfile::tempdir().unwrap())
    }

    fn hash(content: &str) -> Vec<u8> {
        blake3::hash(content.as_bytes()).as_bytes().to_vec()
    }

    #[test]
    fn a_second_checkpoint_reads_nothing() {
        let (_folder, path, runtime) = settled();
        let paths = BTreeSet::from([path.clone()]);
        let first = Identities::read(runtime.path(), &paths, &unwritten());
        assert!(first.are_new());
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(first.of(&path, &meta), Identity { build_id: vec![], hash: hash("version 1") });
        // What is kept counts, so another hash there is believed.
        let told = Identity { build_id: vec![7], hash: vec![8] };
        keep(runtime.path(), &HashMap::from([(Stamp::of(&meta), told.clone())])).unwrap();
        let second = Identities::read(runtime.path(), &paths, &unwritten());
        assert_eq!((second.of(&path, &meta), second.are_new()), (told, false));
    }

    #[test]
    fn a_file_that_was_replaced_or_changed_is_read_again() {
        let (folder, path, runtime) = settled();
        let paths = BTreeSet::from([path.clone()]);
        let before = Identities::read(runtime.path(), &paths, &unwritten());
        let other = folder.path().join("upgrade");
        fs::write(&other, "version 2").unwrap();
        fs::rename(&other, &path).unwrap();
        let now = || fs::metadata(&path).unwrap();
        assert_eq!(before.of(&path, &now()).hash, hash("version 2"), "after it was read ahead");
        thread::sleep(Duration::from_millis(60));
        let after = Identities::read(runtime.path(), &paths, &unwritten());
        assert_eq!(after.of(&path, &now()).hash, hash("version 2"));
        OpenOptions::new().write(true).open(&path).unwrap().write_all(b"version 3").unwrap();
        assert_eq!(after.of(&path, &now()).hash, hash("version 3"));
    }

    #[test]
    fn what_may_change_without_a_stamp_is_not_kept() {
        let (_folder, path, runtime) = settled();
        let paths = BTreeSet::from([path.clone()]);
        let inodes = [fs::metadata(&path).unwrap().ino()].into();
        assert!(Identities::read(runtime.path(), &paths, &Written { inodes, ..unwritten() }).by_stamp.is_empty());
        let since = Duration::ZERO;
        assert!(Identities::read(runtime.path(), &paths, &Written { inodes: [].into(), since }).by_stamp.is_empty());
        assert_eq!(Identities::read(runtime.path(), &paths, &unwritten()).by_stamp.len(), 1);
    }

    #[test]
    fn a_damaged_list_is_made_anew() {
        let (_folder, path, runtime) = settled();
        fs::write(runtime.path().join(FILE), "no such list").unwrap();
        let found = Identities::read(runtime.path(), &[path].into(), &unwritten());
        assert_eq!((found.by_stamp.len(), decode(&runtime.path().join(FILE)).unwrap().len()), (1, 1));
    }

    #[test]
    fn a_pipe_blocks_nobody() {
        let folder = resolve::folder_on_root();
        let path = folder.path().canonicalize().unwrap().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(Identity::at(&path).is_err());
    }
}
