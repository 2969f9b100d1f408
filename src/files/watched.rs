//! Finds the paths of inotify watches, which know a device and an inode but no path. CRIU needs the paths,
//! since it opens files by handle only with CAP_DAC_READ_SEARCH. A fresh container needs the files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::search::{self, Wanted};
use crate::proc::fdinfo::Inode;

/// Paths of the files that are found on their mounts. One that the search does not reach counts as not found.
pub fn find(wanted: &BTreeSet<Inode>) -> BTreeMap<Inode, PathBuf> {
    find_with(wanted, |wanted, look| search::all_mounts(wanted, look))
}

fn find_with<S>(wanted: &BTreeSet<Inode>, search: S) -> BTreeMap<Inode, PathBuf>
where
    S: FnOnce(Wanted, &mut dyn FnMut(PathBuf, &Metadata) -> ControlFlow<()>) -> bool,
{
    let mut found = BTreeMap::new();
    if wanted.is_empty() {
        return found;
    }
    let devices = wanted.iter().map(|(device, _)| *device).collect();
    search(Wanted { devices: &devices, kind: |_| true }, &mut |path, meta| {
        let inode = (meta.dev(), meta.ino());
        if wanted.contains(&inode) {
            found.entry(inode).or_insert(path);
        }
        if found.len() == wanted.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    found
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::{AsFd, AsRawFd};
    use std::path::Path;

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
        let found = find_with(&wanted, |wanted, look| search::below([folder.path().to_owned()].into(), wanted, look));
        assert_eq!(found, BTreeMap::from([(watched(&file), file)]));
    }

    #[test]
    fn a_watched_mount_is_found_without_a_search() {
        let root = fs::metadata("/").unwrap();
        let wanted = BTreeSet::from([(root.dev(), root.ino())]);
        assert_eq!(find(&wanted).into_values().collect::<Vec<_>>(), [PathBuf::from("/")]);
    }
}
