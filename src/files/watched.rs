//! Finds the paths of inotify watches, which know a device and an inode but no path. CRIU needs the paths,
//! since it opens files by handle only with CAP_DAC_READ_SEARCH. A fresh container needs the files.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::proc::fdinfo::Inode;
use crate::proc::mountinfo;

/// Limits of the search: files on all mounts together, and time. A file beyond them counts as not found.
const LIMIT: usize = 200_000;
const TIME: Duration = Duration::from_secs(2);

/// Paths of the files that are found on their mounts. The search is breadth-first.
pub fn find(wanted: &BTreeSet<Inode>) -> BTreeMap<Inode, PathBuf> {
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    let mounts = mountinfo::read("self").unwrap_or_default();
    find_below(mounts.into_iter().map(|mount| mount.point).collect(), wanted)
}

fn find_below(mut open: VecDeque<PathBuf>, wanted: &BTreeSet<Inode>) -> BTreeMap<Inode, PathBuf> {
    let devices: BTreeSet<u64> = wanted.iter().map(|(device, _)| *device).collect();
    let until = Instant::now() + TIME;
    let mut found = BTreeMap::new();
    let mut left = LIMIT.saturating_sub(open.len());
    while let Some(path) = open.pop_front().filter(|_| found.len() < wanted.len() && Instant::now() < until) {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let inode = (meta.dev(), meta.ino());
        if meta.is_dir() && devices.contains(&meta.dev()) {
            let queued = open.len();
            open.extend(below(&path).take(left));
            left -= open.len() - queued;
        }
        if wanted.contains(&inode) {
            found.entry(inode).or_insert(path);
        }
    }
    found
}

fn below(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    use super::*;
    use crate::proc::fdinfo::FdInfo;

    fn watched(path: &Path) -> Inode {
        let instance = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        instance.add_watch(path, AddWatchFlags::IN_CREATE).unwrap();
        FdInfo::read("self", instance.as_fd().as_raw_fd()).unwrap().watches[0]
    }

    #[test]
    fn a_watched_file_is_found_by_its_inode() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("below/file");
        fs::create_dir(folder.path().join("below")).unwrap();
        fs::write(&file, "").unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let wanted = BTreeSet::from([watched(&file), watched(elsewhere.path())]);
        let found = find_below(VecDeque::from([folder.path().to_owned()]), &wanted);
        assert_eq!(found, BTreeMap::from([(watched(&file), file)]));
    }

    #[test]
    fn a_watched_mount_is_found_without_a_search() {
        let root = fs::metadata("/").unwrap();
        let wanted = BTreeSet::from([(root.dev(), root.ino())]);
        assert_eq!(find(&wanted).into_values().collect::<Vec<_>>(), [PathBuf::from("/")]);
    }
}
