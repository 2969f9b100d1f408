//! The files of unix sockets. A socket knows the name that it was bound to, and the inode of its file: the
//! file may have been renamed, linked or removed since, and a relative name belongs to the folder of that
//! time.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, FileType, Metadata};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::search::{self, Wanted};
use crate::proc::mountinfo::{self, Mount};
use crate::proc::sock_diag::{self, SocketFile, Unix};

/// Absolute paths of bound unix sockets by the link of their descriptors, `socket:[INODE]`.
pub fn sockets() -> BTreeMap<Vec<u8>, PathBuf> {
    // CRIU fails if the kernel does not tell.
    let all = sock_diag::unix_sockets().unwrap_or_default().into_iter();
    let bound = all.filter_map(|(inode, socket)| {
        let path = socket.path().filter(|path| path.is_absolute())?.to_owned();
        Some((format!("socket:[{inode}]").into_bytes(), path))
    });
    bound.collect()
}

/// The present paths of socket files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Those that the name of the socket does not tell.
    pub paths: Vec<PathBuf>,
    /// Files that are not found, although there may be more than the search has seen.
    pub missed: BTreeSet<SocketFile>,
}

/// Those that were bound themselves, as far as the kernel shows it. CRIU needs no file for the name that an accepted
/// socket has of its listener, so nobody has to look for it. After a restore such a socket has the name alone.
pub fn named(all: &BTreeMap<u64, Unix>) -> BTreeMap<u64, &Unix> {
    let mut sharers: BTreeMap<_, usize> = BTreeMap::new();
    for socket in all.values() {
        *sharers.entry((&socket.name, socket.file)).or_default() += 1;
    }
    let listeners: BTreeSet<_> =
        all.values().filter(|one| !one.is_connection && !one.is_datagram).map(|one| &one.name).collect();
    let shares = |socket: &Unix| sharers[&(&socket.name, socket.file)] > 1 || listeners.contains(&socket.name);
    all.iter().map(|(inode, socket)| (*inode, socket)).filter(|(_, it)| !it.is_connection || !shares(it)).collect()
}

/// Looks for the files of these sockets, each with the working directory of a process that has it.
pub fn find<'a>(sockets: impl IntoIterator<Item = (&'a Unix, PathBuf)>) -> Found {
    let mut found = Found::default();
    let mut wanted = BTreeSet::new();
    let mounted = LazyCell::new(Mounted::read);
    for (socket, cwd) in sockets {
        let Some((file, name)) = socket.file.zip(socket.path()) else { continue };
        let path = cwd.join(name);
        match fs::symlink_metadata(&path) {
            Ok(meta) if file_of(&meta) == Some(file) && meta.nlink() == 1 => {
                if name.is_relative() {
                    found.paths.push(path);
                }
            }
            // Only the name is left to go by.
            Ok(meta) if meta.file_type().is_socket() && mounted.numbers_otherwise(meta.dev()) => {}
            _ => {
                wanted.insert(file);
            }
        }
    }
    if !wanted.is_empty() {
        let is_complete =
            look_for(&wanted, &mounted, &mut found.paths, |wanted, look| search::all_mounts(wanted, look));
        if !is_complete {
            let known: BTreeSet<_> = found.paths.iter().filter_map(|path| file_at(path)).collect();
            found.missed = wanted.difference(&known).copied().collect();
        }
    }
    found.paths.sort_unstable();
    found.paths.dedup();
    found
}

/// Adds all paths of these files. Returns whether there cannot be more.
fn look_for<S>(wanted: &BTreeSet<SocketFile>, mounted: &Mounted, paths: &mut Vec<PathBuf>, search: S) -> bool
where
    S: FnOnce(Wanted, &mut dyn FnMut(PathBuf, &Metadata) -> ControlFlow<()>) -> bool,
{
    let devices: BTreeSet<u64> = wanted.iter().map(|(device, _)| *device).collect();
    // Number of paths that are still to be found, of each file that was found.
    let mut left: BTreeMap<SocketFile, u64> = BTreeMap::new();
    let mut is_hidden = false;
    let kind = |kind: FileType| kind.is_socket();
    let is_complete = search(Wanted { devices: &devices, kind }, &mut |path, meta| {
        is_hidden |=
            mounted.numbers_otherwise(meta.dev()) && mounted.device(&path).is_none_or(|it| devices.contains(&it));
        if let Some(file) = file_of(meta).filter(|file| wanted.contains(file)) {
            let left = left.entry(file).or_insert_with(|| meta.nlink());
            *left = left.saturating_sub(1);
            paths.push(path);
        }
        let all = left.len() == wanted.len() && left.values().all(|left| *left == 0);
        if all { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    is_complete && (!is_hidden || left.len() == wanted.len())
}

/// The mounts, to tell where stat(2) gives other numbers than the kernel has: btrfs subvolumes, and overlays
/// of several file systems.
struct Mounted(Vec<Mount>);

impl Mounted {
    fn read() -> Self {
        Self(mountinfo::read("self").unwrap_or_default())
    }

    fn numbers_otherwise(&self, device: u64) -> bool {
        self.0.iter().all(|mount| mount.device != device)
    }

    /// The kernel's number for the file system at `path`.
    fn device(&self, path: &Path) -> Option<u64> {
        Some(mountinfo::holding(&self.0, |mount| &mount.point, path)?.device)
    }
}

fn file_of(meta: &Metadata) -> Option<SocketFile> {
    meta.file_type().is_socket().then(|| (meta.dev(), meta.ino() as u32))
}

fn file_at(path: &Path) -> Option<SocketFile> {
    file_of(&fs::symlink_metadata(path).ok()?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use nix::sys::stat::fstat;

    use super::*;

    fn unix(socket: impl AsFd) -> Unix {
        sock_diag::unix_sockets().unwrap()[&fstat(socket).unwrap().st_ino].clone()
    }

    fn found(socket: &UnixListener) -> Vec<PathBuf> {
        find([(&unix(socket), "/".into())]).paths
    }

    #[test]
    fn a_socket_at_its_name_needs_no_search() {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixListener::bind(folder.path().join("socket")).unwrap();
        assert_eq!(find([(&unix(&socket), "/".into())]), Found::default());
    }

    #[test]
    fn a_renamed_and_a_linked_one_are_found_by_their_inode() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        let [first, second, third] = ["first", "a folder/two\nlines", "third"].map(|name| top.join(name));
        fs::create_dir(top.join("a folder")).unwrap();
        let socket = UnixListener::bind(&first).unwrap();
        fs::rename(&first, &second).unwrap();
        assert_eq!(found(&socket), std::slice::from_ref(&second));
        fs::hard_link(&second, &third).unwrap();
        assert_eq!(found(&socket), [second, third]);
    }

    #[test]
    fn an_accepted_socket_has_no_name_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let _client = UnixStream::connect(folder.path().join("socket")).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let inodes = (fstat(&listener).unwrap().st_ino, fstat(&accepted).unwrap().st_ino);
        let all = sock_diag::unix_sockets().unwrap();
        assert!(named(&all).contains_key(&inodes.0) && !named(&all).contains_key(&inodes.1));
        drop(listener);
        // It may have been bound itself.
        assert!(named(&sock_diag::unix_sockets().unwrap()).contains_key(&inodes.1));
    }

    #[test]
    fn a_relative_name_is_found_in_its_folder_or_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        let socket = UnixListener::bind(top.join("socket")).unwrap();
        let relative = Unix { name: b"socket\0".to_vec(), ..unix(&socket) };
        for cwd in [top.clone(), "/proc".into()] {
            assert_eq!(find([(&relative, cwd)]).paths, [top.join("socket")]);
        }
    }

    #[test]
    fn one_without_a_path_is_missed_only_if_the_search_ended_early() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let socket = UnixListener::bind(&path).unwrap();
        let wanted = BTreeSet::from([unix(&socket).file.unwrap()]);
        fs::remove_file(&path).unwrap();
        let below = |wanted: Wanted, look: &mut dyn FnMut(PathBuf, &Metadata) -> ControlFlow<()>| {
            search::below([folder.path().to_owned()].into(), wanted, look)
        };
        let mounted = Mounted::read();
        assert!(look_for(&wanted, &mounted, &mut Vec::new(), below));
        assert!(!look_for(&wanted, &mounted, &mut Vec::new(), |_, _| false));
        // What stat(2) tells of this file system's files is not what the kernel has.
        let hidden = Mounted(mounted.0.into_iter().map(|mount| Mount { device: 7, ..mount }).collect());
        assert!(!look_for(&BTreeSet::from([(7, 1)]), &hidden, &mut Vec::new(), below));
        assert!(look_for(&wanted, &hidden, &mut Vec::new(), below));
    }
}
