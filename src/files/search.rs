//! Finds the paths of files of which only device and inode are known. The search is breadth-first, over all
//! mounts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, FileType, Metadata};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::{AccessFlags, access};

use crate::proc::fdinfo::Inode;
use crate::proc::mountinfo;

/// Limits of the search: folders and files of the wanted types on all mounts together, and time.
const LIMIT: usize = 200_000;
const TIME: Duration = Duration::from_secs(2);

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub devices: &'a BTreeSet<u64>,
    pub kind: fn(FileType) -> bool,
}

/// A path of each of these files that is found on its mount. One that the search does not reach counts as not found.
pub fn by_inode(wanted: &BTreeSet<Inode>, kind: fn(FileType) -> bool) -> BTreeMap<Inode, PathBuf> {
    by_inode_with(wanted, kind, |wanted, look| all_mounts(wanted, look))
}

/// The same with another search.
pub(super) fn by_inode_with<S>(
    wanted: &BTreeSet<Inode>,
    kind: fn(FileType) -> bool,
    search: S,
) -> BTreeMap<Inode, PathBuf>
where
    S: FnOnce(Wanted, &mut dyn FnMut(PathBuf, &Metadata) -> ControlFlow<()>) -> bool,
{
    let mut found = BTreeMap::new();
    if wanted.is_empty() {
        return found;
    }
    let devices = wanted.iter().map(|(device, _)| *device).collect();
    search(Wanted { devices: &devices, kind }, &mut |path, meta| {
        let inode = (meta.dev(), meta.ino());
        if wanted.contains(&inode) {
            found.entry(inode).or_insert(path);
        }
        if found.len() == wanted.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    found
}

/// Looks at every file of the type and every folder on the devices, until `look` has all that it wants. Returns
/// whether it has, or has seen every file: beyond the limits, and in folders that cannot be read, there may be more.
pub fn all_mounts(wanted: Wanted, look: impl FnMut(PathBuf, &Metadata) -> ControlFlow<()>) -> bool {
    let mounts = mountinfo::read("self").unwrap_or_default();
    below(mounts.into_iter().map(|mount| mount.point).collect(), wanted, look)
}

/// The same below these folders.
pub fn below(
    mut open: VecDeque<PathBuf>,
    wanted: Wanted,
    mut look: impl FnMut(PathBuf, &Metadata) -> ControlFlow<()>,
) -> bool {
    let until = Instant::now() + TIME;
    let mut left = LIMIT.saturating_sub(open.len());
    let mut has_read_all = true;
    while let Some(path) = open.pop_front() {
        if Instant::now() >= until {
            return false;
        }
        let Ok(meta) = fs::symlink_metadata(&path).inspect_err(|error| has_read_all &= hides_nothing(&path, error))
        else {
            continue;
        };
        if meta.is_dir() && wanted.devices.contains(&meta.dev()) {
            let read = add_entries(&path, wanted.kind, &mut open, &mut left);
            has_read_all &= read.map_or_else(|error| hides_nothing(&path, &error), |()| true);
        }
        if look(path, &meta).is_break() {
            return true;
        }
    }
    has_read_all && left > 0
}

/// Adds the entries of the wanted types, but no more than are `left`.
fn add_entries(
    folder: &Path,
    kind: fn(FileType) -> bool,
    to: &mut VecDeque<PathBuf>,
    left: &mut usize,
) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_wanted = entry.file_type().is_ok_and(|it| it.is_dir() || kind(it));
        if is_wanted && *left > 0 {
            to.push_back(entry.path());
            *left -= 1;
        }
    }
    Ok(())
}

/// Whether what could not be read there can have no name of a file of ours: it is gone, or nobody like us may go
/// through the folder.
fn hides_nothing(path: &Path, error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => true,
        io::ErrorKind::PermissionDenied => access(path, AccessFlags::X_OK).is_err(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use nix::libc;

    use super::*;

    #[test]
    fn what_cannot_be_read_may_hide_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let hides_nothing = |path: &Path, errno| super::hides_nothing(path, &io::Error::from_raw_os_error(errno));
        assert!(hides_nothing(&folder.path().join("gone"), libc::ENOENT));
        // Its entries are secret, and can be reached by their names.
        assert!(!hides_nothing(folder.path(), libc::EACCES));
        assert!(hides_nothing(&folder.path().join("closed"), libc::EACCES));
        assert!(!hides_nothing(folder.path(), libc::EIO));
    }
}
