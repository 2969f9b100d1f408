//! Finds mapped files under another name than they were mapped by. The kernel appends ` (deleted)` to the name that a
//! mapping has, although the file may be alive under another: the C library makes, links and unlinks named semaphores.
//! CRIU and a fresh container need the present name, or each process would get a file of its own.
//!
//! Looks in the folder of the former name, and through all of a tmpfs. A file on another file system that was linked
//! into another folder counts as one without a name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};

use super::search;
use crate::proc::fdinfo::Inode;
use crate::proc::maps::Mapping;
use crate::proc::mountinfo;

/// A file whose name was removed, and its former path; None for all other mappings.
pub fn former_path(mapping: &Mapping) -> Option<(Inode, PathBuf)> {
    Some(((mapping.device, mapping.inode), mapping.former_path()?.to_owned()))
}

/// Present paths of the files, by their former ones.
pub fn find(mut wanted: BTreeMap<Inode, PathBuf>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    wanted.retain(|inode, path| match path.parent().and_then(|folder| beside(folder, *inode)) {
        Some(present) => {
            found.push(present);
            false
        }
        None => true,
    });
    if !wanted.is_empty() {
        let mounts = mountinfo::read("self").unwrap_or_default();
        let in_memory: BTreeSet<u64> =
            mounts.iter().filter(|mount| mount.fstype == "tmpfs").map(|mount| mount.device).collect();
        let wanted = wanted.into_keys().filter(|(device, _)| in_memory.contains(device)).collect();
        found.extend(search::by_inode(&wanted, |kind| kind.is_file()).into_values());
    }
    found
}

fn beside(folder: &Path, file: Inode) -> Option<PathBuf> {
    let on_overlay = statfs(folder).ok()?.filesystem_type() == OVERLAYFS_SUPER_MAGIC;
    let is_it = |inode: Inode| inode == file || on_overlay && is_of_its_layer(inode, file);
    let mut entries = fs::read_dir(folder).ok()?.flatten().filter(|entry| is_it((file.0, entry.ino())));
    entries.find_map(|entry| entry.metadata().is_ok_and(|meta| is_it((meta.dev(), meta.ino()))).then(|| entry.path()))
}

/// Whether a file in an overlay is the one that a kernel before 6.12 shows as mapped: with the device of its layer, and with
/// another number in the upper bits if the option xino is on (criu/README.md, 0080).
fn is_of_its_layer((_, stat): Inode, (_, shown): Inode) -> bool {
    stat as u32 == shown as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::maps;

    fn at(path: &Path) -> Inode {
        let meta = fs::metadata(path).unwrap();
        (meta.dev(), meta.ino())
    }

    #[test]
    fn a_file_is_found_beside_its_former_name() {
        let folder = tempfile::tempdir().unwrap();
        let [former, present] = ["sem.Xy12ab", "sem.queue"].map(|name| folder.path().join(name));
        fs::write(&present, "").unwrap();
        fs::write(folder.path().join("other"), "").unwrap();
        let wanted = BTreeMap::from([(at(&present), former.clone())]);
        assert_eq!(find(wanted.clone()), std::slice::from_ref(&present));
        fs::remove_file(&present).unwrap();
        assert!(find(wanted).is_empty());
    }

    #[test]
    fn in_an_overlay_a_mapped_file_has_the_device_of_its_layer() {
        let (mapped, other) = ((0xfe00, 77), (0xfe00, 78));
        assert!(is_of_its_layer((0x2a, 77), mapped) && is_of_its_layer((0x2a, 1 << 32 | 77), mapped));
        assert!(!is_of_its_layer((0x2a, 77), other));
    }

    #[test]
    fn only_a_deleted_name_is_a_former_one() {
        let of = |name: &str| {
            let line = format!("7f00-7f01 rw-s 00000000 00:1a 9                          {name}");
            former_path(&maps::parse(line.as_bytes())[0])
        };
        let inode = (nix::libc::makedev(0, 0x1a), 9);
        assert_eq!(of("/dev/shm/sem.Xy12ab (deleted)"), Some((inode, "/dev/shm/sem.Xy12ab".into())));
        assert_eq!(of("/dev/shm/sem.queue"), None);
        assert_eq!(of("[heap]"), None);
    }
}
