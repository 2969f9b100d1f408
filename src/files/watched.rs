//! Finds the paths of inotify watches, which know a device and an inode but no path. CRIU needs the paths,
//! since it opens files by handle only with CAP_DAC_READ_SEARCH. A fresh container needs the files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::search;
use crate::proc::fdinfo::Inode;

/// Paths of the files that are found on their mounts.
pub fn find(wanted: &BTreeSet<Inode>) -> BTreeMap<Inode, PathBuf> {
    search::by_inode(wanted, |_| true)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Metadata};
    use std::ops::ControlFlow;
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    use super::search::Wanted;
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
        let below = |wanted: Wanted, look: &mut dyn FnMut(PathBuf, &Metadata) -> ControlFlow<()>| {
            search::below([folder.path().to_owned()].into(), wanted, look)
        };
        let found = search::by_inode_with(&wanted, |_| true, below);
        assert_eq!(found, BTreeMap::from([(watched(&file), file)]));
    }

    #[test]
    fn a_watched_mount_is_found_without_a_search() {
        let root = fs::metadata("/").unwrap();
        let wanted = BTreeSet::from([(root.dev(), root.ino())]);
        assert_eq!(find(&wanted).into_values().collect::<Vec<_>>(), [PathBuf::from("/")]);
    }
}
