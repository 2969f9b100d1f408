//! What a process watches by inotify, as far as CRIU finds it again: a watch knows an inode and no path, and without
//! CAP_DAC_READ_SEARCH only a search of folders leads from one to the other.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc;

/// The folders that CRIU searches, with all below them (criu/irmap.c, hints); of the root it looks at that folder alone.
const SEARCHED: &[&str] = &[
    "/etc",
    "/var/spool",
    "/var/log",
    "/usr/share/dbus-1/services",
    "/usr/share/dbus-1/system-services",
    "/var/lib/polkit-1/localauthority",
    "/usr/share/polkit-1/actions",
    "/lib/udev",
];

/// Most files that are looked at; what is behind them counts as not found.
const LIMIT: usize = 50_000;

/// A device and an inode.
type File = (u64, u64);

/// The searched folders' files, read when the first is asked for.
#[derive(Debug, Default)]
pub struct Searched(OnceCell<BTreeMap<File, PathBuf>>);

impl Searched {
    /// The path of what is watched; none where CRIU would not find it.
    pub fn path(&self, file: File) -> Option<&Path> {
        self.0.get_or_init(|| search(SEARCHED)).get(&file).map(PathBuf::as_path)
    }
}

fn search(folders: &[&str]) -> BTreeMap<File, PathBuf> {
    let mut found = BTreeMap::new();
    let mut open: Vec<PathBuf> = folders.iter().map(PathBuf::from).collect();
    if let Ok(root) = fs::metadata("/") {
        found.insert((root.dev(), root.ino()), PathBuf::from("/"));
    }
    while let Some(path) = open.pop().filter(|_| found.len() < LIMIT) {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            open.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        found.entry((meta.dev(), meta.ino())).or_insert(path);
    }
    found
}

/// What an inotify descriptor watches, from its fdinfo: `inotify wd:1 ino:9e7e sdev:800013 mask:…` (proc_pid_fdinfo(5)). The kernel's
/// own form of a device number has 20 bits of minor.
pub fn files(info: &str) -> Vec<File> {
    let hex = |line: &str, word: &str| {
        let field = line.split(' ').find_map(|field| field.strip_prefix(word))?;
        u64::from_str_radix(field, 16).ok()
    };
    let watches = info.lines().filter(|line| line.starts_with("inotify "));
    watches
        .map(|line| {
            let device = hex(line, "sdev:").unwrap_or(0);
            let device = libc::makedev((device >> 20) as u32, (device & 0xf_ffff) as u32);
            (device, hex(line, "ino:").unwrap_or(0))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    use super::*;

    fn watched(path: &Path) -> Vec<File> {
        let instance = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        instance.add_watch(path, AddWatchFlags::IN_CREATE).unwrap();
        let info = format!("/proc/self/fdinfo/{}", instance.as_fd().as_raw_fd());
        files(&fs::read_to_string(info).unwrap())
    }

    #[test]
    fn a_watched_file_below_a_searched_folder_is_found_by_its_inode() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("below/file");
        fs::create_dir(folder.path().join("below")).unwrap();
        fs::write(&file, "").unwrap();
        let found = search(&[folder.path().to_str().unwrap()]);
        assert_eq!(watched(&file).iter().map(|file| found.get(file)).collect::<Vec<_>>(), [Some(&file)]);
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(found.get(&watched(elsewhere.path())[0]), None);
    }

    #[test]
    fn without_a_watch_there_is_none() {
        assert_eq!(files("pos:\t0\nflags:\t02000000\nmnt_id:\t16\nino:\t1044\n"), []);
    }
}
