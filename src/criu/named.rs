//! What CRIU's images name and do not carry: a restore opens each file by its path, and binds each socket in its
//! folder.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::images::{self, FILES, Malformed, OpenFile, REMAPS, Remap, Unix};

/// The images that name files, and most bytes of one: two million files with long names. One process may have a million
/// (fs.nr_open).
pub const IMAGES: [&str; 2] = ["files.img", "remap-fpath.img"];
pub const LIMIT: usize = 512 << 20;

/// A connection that was accepted has its listener's name, and a peer outside of the tree has its own, maybe by a path
/// of another mount namespace. Neither is bound again.
const ESTABLISHED: u32 = 1;
const EXTERNAL: u32 = 1;
const DATAGRAM: u32 = nix::libc::SOCK_DGRAM as u32;

/// Absolute paths.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Of files and folders that are open, mapped, watched, executed or working directories.
    pub files: BTreeSet<PathBuf>,
    /// Of folders in which sockets are bound. They may lead over symbolic links.
    pub socket_folders: BTreeSet<PathBuf>,
}

/// Reads the [`IMAGES`] of a dump. Decodes one entry at a time: all together would take many times the image.
pub fn named(dump: &BTreeMap<&str, Vec<u8>>) -> Result<Named, Malformed> {
    let all = |name, magic| dump.get(name).map_or(Ok(Vec::new()), |image| images::entries(image, magic));
    let files = all(IMAGES[0], FILES)?;
    let mut elsewhere = BTreeSet::new();
    for remap in all(IMAGES[1], REMAPS)? {
        let remap: Remap = images::decode(remap)?;
        // A ghost is in the dump. What has a link is named by that. A process has no file.
        elsewhere.insert(remap.file);
    }
    for file in &files {
        // The new container has a terminal of its own.
        elsewhere.extend(images::decode::<OpenFile>(file)?.tty.map(|tty| tty.file));
    }
    let mut named = Named::default();
    for file in files {
        let file: OpenFile = images::decode(file)?;
        if !elsewhere.contains(&file.id) {
            named.add(&file);
        }
    }
    Ok(named)
}

impl Named {
    fn add(&mut self, file: &OpenFile) {
        let regular = file.regular.iter().filter(|file| !file.is_external).map(|file| &file.name);
        let watched = file.inotify.iter().flat_map(|it| &it.watches).filter_map(|watch| watch.handle.as_ref());
        let marks = file.fanotify.iter().flat_map(|it| &it.marks);
        let inodes = marks.clone().filter_map(|mark| mark.inode.as_ref()?.handle.as_ref());
        let mounts = marks.filter_map(|mark| mark.mount.as_ref());
        let watched = watched.chain(inodes).map(|handle| &handle.path).chain(mounts.map(|mount| &mount.path));
        self.files.extend(regular.chain(watched).filter_map(|name| absolute(name)));
        for name in file.unix.iter().flat_map(names_of) {
            self.socket_folders.extend(name.parent().map(Path::to_owned));
        }
    }
}

/// Whether a dump has made the name, for a file that has lost its own: a restore removes it again.
pub fn is_for_one_dump(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"link_remap."))
}

fn absolute(name: &[u8]) -> Option<PathBuf> {
    Some(Path::new(OsStr::from_bytes(name))).filter(|path| path.is_absolute()).map(Path::to_owned)
}

/// Paths by which the socket is bound again.
fn names_of(socket: &Unix) -> Vec<PathBuf> {
    let is_accepted = socket.kind != DATAGRAM && socket.state == ESTABLISHED && !socket.has_own_name;
    let is_external = socket.flags & EXTERNAL != 0;
    // An abstract name begins with a zero byte.
    if is_accepted || is_external || socket.name.first().is_none_or(|byte| *byte == 0) {
        return Vec::new();
    }
    let own = socket.name.strip_suffix(b"\0").unwrap_or(&socket.name);
    let own = Path::new(OsStr::from_bytes(&socket.folder)).join(OsStr::from_bytes(own));
    let own = Some(own).filter(|_| !socket.is_deleted);
    own.into_iter().chain(socket.links.iter().filter_map(|link| absolute(link))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criu::images::{
        Fanotify, FanotifyMark, Handle, InodeMark, Inotify, MountMark, Regular, Tty, Watch, encode,
    };

    fn of(files: &[OpenFile], remaps: &[Remap]) -> Named {
        let images = [(IMAGES[0], encode(FILES, files)), (IMAGES[1], encode(REMAPS, remaps))];
        named(&images.into()).unwrap()
    }

    fn regular(id: u32, name: &str) -> OpenFile {
        let regular = Some(Regular { name: name.into(), is_external: false });
        OpenFile { kind: 1, id, regular, ..OpenFile::default() }
    }

    fn files(named: Named) -> Vec<String> {
        named.files.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn an_open_file_is_named_and_one_that_the_engine_opens_is_not() {
        let outside = Regular { name: b"file[2a:7]".to_vec(), is_external: true };
        let outside = OpenFile { id: 2, regular: Some(outside), ..OpenFile::default() };
        assert_eq!(files(of(&[regular(1, "/tmp/file"), outside], &[])), ["/tmp/file"]);
    }

    #[test]
    fn a_ghost_is_carried_and_a_deleted_file_is_named_by_its_link() {
        let all = [regular(1, "/tmp/ghost"), regular(2, "/tmp/gone"), regular(3, "/tmp/link_remap.3")];
        assert_eq!(files(of(&all, &[Remap { file: 1 }, Remap { file: 2 }])), ["/tmp/link_remap.3"]);
    }

    #[test]
    fn a_terminal_is_that_of_the_new_container() {
        let terminal = OpenFile { id: 2, tty: Some(Tty { file: 1 }), ..OpenFile::default() };
        assert_eq!(of(&[regular(1, "/dev/pts/0"), terminal], &[]), Named::default());
    }

    #[test]
    fn what_is_watched_is_named() {
        let handle = |path: &str| Some(Handle { path: path.into() });
        let watches = vec![Watch { handle: handle("/watched") }, Watch { handle: handle("") }];
        let inode = FanotifyMark { inode: Some(InodeMark { handle: handle("/marked") }), mount: None };
        let mount = FanotifyMark { inode: None, mount: Some(MountMark { path: b"/mount".to_vec() }) };
        let inotify = OpenFile { inotify: Some(Inotify { watches }), ..OpenFile::default() };
        let fanotify = OpenFile { fanotify: Some(Fanotify { marks: vec![inode, mount] }), ..OpenFile::default() };
        assert_eq!(files(of(&[inotify, fanotify], &[])), ["/marked", "/mount", "/watched"]);
    }

    #[test]
    fn a_socket_needs_the_folder_of_each_of_its_names() {
        let socket =
            |name: &str, folder: &str| Unix { kind: 1, name: name.into(), folder: folder.into(), ..Unix::default() };
        let folders = |unix: Unix| -> Vec<PathBuf> {
            of(&[OpenFile { unix: Some(unix), ..OpenFile::default() }], &[]).socket_folders.into_iter().collect()
        };
        assert_eq!(folders(socket("/run/a/socket\0", "")), [Path::new("/run/a")]);
        assert_eq!(folders(socket("b/socket\0", "/run")), [Path::new("/run/b")]);
        let moved =
            Unix { links: vec![b"/run/new/socket".to_vec()], is_deleted: true, ..socket("/run/old/socket\0", "") };
        assert_eq!(folders(moved), [Path::new("/run/new")]);
        let accepted = Unix { state: ESTABLISHED, ..socket("/run/a/socket\0", "") };
        assert_eq!(folders(Unix { has_own_name: true, ..accepted.clone() }), [Path::new("/run/a")]);
        let outside = Unix { flags: EXTERNAL, ..socket("/run/host/log\0", "") };
        for nameless in [accepted, outside, socket("\0abstract", ""), socket("", "")] {
            assert_eq!(folders(nameless), [] as [&Path; 0]);
        }
    }
}
