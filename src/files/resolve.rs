//! Resolves each path once to a descriptor. A place is an O_PATH descriptor.
//!
//! Another container that shares a volume can exchange a folder for a link at any moment, so no link is
//! followed. A descriptor keeps leading to the same file.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::libc;
use nix::sys::stat::{Mode, fstatat, mkdirat};

use crate::proc::fdinfo::FdInfo;
use crate::sys::mode;

/// Most links in a path, as in Linux (path_resolution(7)).
const LINKS_MAX: usize = 40;

#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    #[error("{0} is a symbolic link")]
    Link(PathBuf),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for Unresolved {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Opens the folder `path` as a place. Follows no link.
pub fn folder(path: &Path) -> Result<File, Unresolved> {
    open(path, OFlag::O_DIRECTORY)
}

/// Opens `path` as a place, whatever its type. Follows no link, and opens a last one itself.
pub fn place(path: &Path) -> Result<File, Unresolved> {
    open(path, OFlag::empty())
}

/// Opens a name in an open folder as a place.
pub fn place_in(folder: &File, name: &OsStr) -> io::Result<File> {
    Ok(openat(folder, name, as_place(OFlag::empty()), Mode::empty())?.into())
}

/// Opens the folder `path` as a place and makes missing folders.
pub fn make_folder(path: &Path) -> Result<File, Unresolved> {
    match (folder(path), path.parent().zip(path.file_name())) {
        (Err(Unresolved::Io(error)), Some((parent, name))) if error.kind() == io::ErrorKind::NotFound => {
            let parent = make_folder(parent)?;
            match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
                Err(Errno::EEXIST) | Ok(()) => {}
                Err(errno) => return Err(errno.into()),
            }
            step(&parent, name, OFlag::O_DIRECTORY, path)
        }
        (opened, _) => opened,
    }
}

/// Opens the file of `place` for reading or writing: the very same file.
pub fn reopen(place: &File, options: &OpenOptions) -> io::Result<File> {
    options.open(by_descriptor(place))
}

/// Opens the file of `place` for reading, also if its mode no longer lets its owner do that: processes keep what
/// they have open.
pub fn open_to_read(place: &File) -> io::Result<File> {
    match reopen(place, OpenOptions::new().read(true)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let meta = place.metadata()?;
            if mode::may_lend(&meta) { mode::open_to_read(place, &meta) } else { Err(error) }
        }
        opened => opened,
    }
}

/// A path to the file of `place`, for calls that reject O_PATH descriptors. Valid while `place` is open.
pub fn by_descriptor(place: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

/// The links on `path`, each by its real path, and the real path that `path` leads to. A missing part counts
/// as no link.
pub fn follow(path: &Path) -> io::Result<(Vec<PathBuf>, PathBuf)> {
    let (mut links, mut real, mut left) = (Vec::new(), PathBuf::from("/"), parts(path));
    while let Some(part) = left.pop() {
        match Path::new(&part).components().next() {
            Some(Component::CurDir) => {}
            Some(Component::ParentDir) => drop(real.pop()),
            // The `/` of an absolute target replaces the whole path.
            _ => match fs::read_link(real.join(&part)) {
                Ok(_) if links.len() == LINKS_MAX => return Err(Errno::ELOOP.into()),
                Ok(target) => {
                    links.push(real.join(&part));
                    left.extend(parts(&target));
                }
                Err(_) => real.push(part),
            },
        }
    }
    Ok((links, real))
}

/// Whether `place` is on the mount of `/`, which belongs to this container alone.
pub fn is_on_root(place: &File) -> io::Result<bool> {
    let mount = |place: &File| Ok::<_, io::Error>(FdInfo::read("self", place.as_raw_fd())?.mount);
    let root = mount(&root()?)?;
    Ok(root.is_some() && mount(place)? == root)
}

/// The parts of a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    path.components().rev().map(|part| part.as_os_str().to_owned()).collect()
}

fn as_place(flags: OFlag) -> OFlag {
    flags | OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn root() -> nix::Result<File> {
    Ok(openat(AT_FDCWD, "/", as_place(OFlag::O_DIRECTORY), Mode::empty())?.into())
}

fn open(path: &Path, flags: OFlag) -> Result<File, Unresolved> {
    let how = OpenHow::new().flags(as_place(flags)).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    match openat2(AT_FDCWD, path, how) {
        // Linux before 5.6 and some seccomp profiles reject the call. For a link, the walk finds its name.
        Err(Errno::ENOSYS | Errno::EPERM | Errno::ELOOP | Errno::ENOTDIR) => walk(path, flags),
        opened => Ok(opened?.into()),
    }
}

/// Opens what [`open`] opens, part by part.
fn walk(path: &Path, flags: OFlag) -> Result<File, Unresolved> {
    let mut at = root()?;
    let mut so_far = PathBuf::from("/");
    let mut parts = path.components().filter(|part| *part != Component::RootDir).peekable();
    while let Some(part) = parts.next() {
        so_far.push(part);
        let flags = if parts.peek().is_some() { OFlag::O_DIRECTORY } else { flags };
        at = step(&at, part.as_os_str(), flags, &so_far)?;
    }
    Ok(at)
}

/// Opens a name in a folder; `path` is the full path, for the error.
fn step(folder: &File, name: &OsStr, flags: OFlag, path: &Path) -> Result<File, Unresolved> {
    match openat(folder, name, as_place(flags), Mode::empty()) {
        // O_DIRECTORY rejects a link with the same error.
        Err(Errno::ENOTDIR) if is_link(folder, name) => Err(Unresolved::Link(path.to_owned())),
        opened => Ok(opened?.into()),
    }
}

fn is_link(folder: &File, name: &OsStr) -> bool {
    fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFLNK)
}

/// A temporary folder on the mount of `/`. Systems that have a tmpfs at /tmp keep /var/tmp there.
#[cfg(test)]
pub(super) fn folder_on_root() -> tempfile::TempDir {
    let parents = ["/tmp", "/var/tmp", env!("CARGO_MANIFEST_DIR")];
    let on_root = |parent: &&&str| File::open(parent).is_ok_and(|folder| is_on_root(&folder).unwrap());
    let parent = parents.iter().find(on_root).expect("one of them is on the root file system");
    tempfile::tempdir_in(parent).unwrap()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    /// `a/b/file`, and `link` to `a`, by real path.
    fn tree() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/file"), "content").unwrap();
        symlink("a", top.join("link")).unwrap();
        (folder, top)
    }

    fn link(opened: Result<File, Unresolved>) -> PathBuf {
        match opened {
            Err(Unresolved::Link(link)) => link,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn with_openat2_and_without_the_same_is_opened() {
        let (_folder, top) = tree();
        for open in [open, walk] {
            let inode = |path: &str, flags| open(&top.join(path), flags).unwrap().metadata().unwrap().ino();
            let of = |path: &str| fs::symlink_metadata(top.join(path)).unwrap().ino();
            assert_eq!(inode("a/b", OFlag::O_DIRECTORY), of("a/b"));
            assert_eq!(inode("a/b/file", OFlag::empty()), of("a/b/file"));
            assert_eq!(inode("link", OFlag::empty()), of("link"), "a link is opened itself");
            assert_eq!(
                open(Path::new("/"), OFlag::O_DIRECTORY).unwrap().metadata().unwrap().ino(),
                fs::metadata("/").unwrap().ino()
            );
            for path in ["link", "link/b", "link/b/file"] {
                assert_eq!(link(open(&top.join(path), OFlag::O_DIRECTORY)), top.join("link"), "{path}");
            }
            assert_eq!(link(open(&top.join("link/b/file"), OFlag::empty())), top.join("link"));
            let missing = |path: &str| matches!(open(&top.join(path), OFlag::empty()), Err(Unresolved::Io(_)));
            assert!(missing("a/none") && missing("none/b") && missing("a/b/file/below"));
        }
    }

    #[test]
    fn missing_folders_are_made_and_not_through_a_link() {
        let (_folder, top) = tree();
        make_folder(&top.join("a/new/one")).unwrap();
        assert!(top.join("a/new/one").is_dir());
        assert_eq!(link(make_folder(&top.join("link/other"))), top.join("link"));
        assert!(!top.join("a/other").exists());
    }

    #[test]
    fn links_are_followed_to_what_is_real() {
        let (_folder, top) = tree();
        symlink("./../../link/b", top.join("a/b/back")).unwrap();
        symlink(top.join("a/b/back"), top.join("absolute")).unwrap();
        symlink("endless", top.join("endless")).unwrap();
        let links = ["absolute", "a/b/back", "link"].map(|name| top.join(name)).to_vec();
        assert_eq!(follow(&top.join("absolute/file")).unwrap(), (links, top.join("a/b/file")));
        assert_eq!(follow(&top.join("a/none/x")).unwrap(), (vec![], top.join("a/none/x")));
        assert!(follow(&top.join("endless")).is_err());
    }

    #[test]
    fn a_place_is_opened_again_whatever_has_its_name_now() {
        let (_folder, top) = tree();
        let place = place(&top.join("a/b/file")).unwrap();
        fs::rename(top.join("a/b/file"), top.join("moved")).unwrap();
        symlink("/etc/passwd", top.join("a/b/file")).unwrap();
        let mut again = reopen(&place, OpenOptions::new().read(true)).unwrap();
        assert_eq!(io::read_to_string(&mut again).unwrap(), "content");
    }
}
