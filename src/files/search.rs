//! Finds the paths of files of which only device and inode are known. The search is breadth-first, over all
//! mounts.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, FileType, Metadata};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

/// Looks at every file of the type and every folder on the devices, until `look` has all that it wants. Returns
/// whether it has, or has seen every file: beyond the limits there may be more.
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
    while let Some(path) = open.pop_front() {
        if Instant::now() >= until {
            return false;
        }
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() && wanted.devices.contains(&meta.dev()) {
            let queued = open.len();
            open.extend(entries(&path, wanted.kind).take(left));
            left -= open.len() - queued;
        }
        if look(path, &meta).is_break() {
            return true;
        }
    }
    left > 0
}

fn entries(folder: &Path, kind: fn(FileType) -> bool) -> impl Iterator<Item = PathBuf> {
    let is_wanted = move |entry: &fs::DirEntry| entry.file_type().is_ok_and(|it| it.is_dir() || kind(it));
    fs::read_dir(folder).into_iter().flatten().flatten().filter(is_wanted).map(|entry| entry.path())
}
