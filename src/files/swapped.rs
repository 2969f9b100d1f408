//! Folders of volumes that are replaced at once, by making a symbolic link lead to another one: a ConfigMap's
//! `..data`, a release's `current`.
//!
//! An open file's path has the folder's own name, which is another one in the next container. So a checkpoint
//! records the links that lead to folders in use, and a restore looks where they lead now. A folder that is
//! there under its old name counts. A link that leads out of its own folder does not count, since others may
//! change it.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::mounts::{Kind, Mounts};
use super::resolve;
use crate::criu::command::Moved;
use crate::image::FolderLink;

/// Most names that are looked at in one folder.
const LIMIT: usize = 4096;

/// The links that lead to folders of these paths on volumes.
pub fn links<'a>(paths: impl Iterator<Item = &'a PathBuf>, mounts: &Mounts) -> Vec<FolderLink> {
    let on_volumes = |folder: &&Path| mounts.kind(folder) == Kind::Foreign;
    let folders: BTreeSet<&Path> = paths.flat_map(|path| path.ancestors()).filter(on_volumes).collect();
    let mut links = Vec::new();
    for parent in &folders {
        for link in links_in(parent) {
            if let Some(folder) = leads_to(&link).filter(|folder| folders.contains(folder.as_path())) {
                links.push(FolderLink { folder: bytes(&folder), link: bytes(&link) });
            }
        }
    }
    links
}

/// The folders of the checkpoint that have another name here.
pub fn moved(links: &[FolderLink]) -> Vec<Moved> {
    let mut moved: Vec<Moved> = Vec::new();
    for link in links {
        let from = Path::new(OsStr::from_bytes(&link.folder));
        let is_here = fs::symlink_metadata(from).is_ok() || moved.iter().any(|one| one.from == from);
        if let Some(to) = leads_to(Path::new(OsStr::from_bytes(&link.link))).filter(|_| !is_here) {
            moved.push(Moved { from: from.to_owned(), to });
        }
    }
    moved
}

/// Where a path of the checkpoint is here.
pub fn here<'a>(path: &'a Path, moved: &[Moved]) -> Cow<'a, Path> {
    let below = |one: &Moved| path.strip_prefix(&one.from).ok().map(|rest| one.to.join(rest));
    moved.iter().find_map(below).map_or(Cow::Borrowed(path), Cow::Owned)
}

/// The folder below the link's own folder that it leads to.
fn leads_to(link: &Path) -> Option<PathBuf> {
    let (_, real) = resolve::follow(link).ok()?;
    let parent = link.parent()?;
    (real != parent && real.starts_with(parent) && real.is_dir()).then_some(real)
}

fn links_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let is_link = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_symlink());
    let names = fs::read_dir(folder).into_iter().flatten().take(LIMIT).flatten();
    names.filter(is_link).map(|entry| entry.path())
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::proc::mountinfo;

    /// A ConfigMap's volume, by its real path: `key -> ..data/key`, `..data -> ..1`, `..1/key`.
    fn volume() -> (tempfile::TempDir, PathBuf, Mounts) {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        fs::create_dir(top.join("..1")).unwrap();
        fs::write(top.join("..1/key"), "one").unwrap();
        symlink("..1", top.join("..data")).unwrap();
        symlink("..data/key", top.join("key")).unwrap();
        let mounts = format!("1 0 0:1 / / rw - overlay o rw\n2 1 0:2 / {} ro - ext4 e rw\n", top.display());
        (folder, top, Mounts::of(mountinfo::parse(mounts.as_bytes())))
    }

    fn link(folder: PathBuf, link: PathBuf) -> FolderLink {
        FolderLink { folder: bytes(&folder), link: bytes(&link) }
    }

    #[test]
    fn a_folder_is_found_again_where_its_link_leads() {
        let (_folder, top, mounts) = volume();
        let links = links([top.join("..1/key")].iter(), &mounts);
        assert_eq!(links, [link(top.join("..1"), top.join("..data"))]);
        assert_eq!(moved(&links), [], "it is here");
        fs::rename(top.join("..1"), top.join("..2")).unwrap();
        assert_eq!(moved(&links), [], "the link leads nowhere");
        fs::remove_file(top.join("..data")).unwrap();
        symlink("..2", top.join("..data")).unwrap();
        let moved = moved(&links);
        assert_eq!(moved, [Moved { from: top.join("..1"), to: top.join("..2") }]);
        assert_eq!(here(&top.join("..1/key"), &moved), top.join("..2/key"));
        assert_eq!(here(&top.join("..1"), &moved), top.join("..2"), "a working directory");
        assert_eq!(here(&top.join("..10/key"), &moved), top.join("..10/key"));
    }

    #[test]
    fn a_link_leads_over_several_folders() {
        let (_folder, top, mounts) = volume();
        fs::create_dir_all(top.join("releases/1/lib")).unwrap();
        symlink("releases/1", top.join("current")).unwrap();
        let links = links([top.join("releases/1/lib")].iter(), &mounts);
        assert_eq!(links, [link(top.join("releases/1"), top.join("current"))]);
    }

    #[test]
    fn what_is_not_on_a_volume_has_no_links() {
        let (_folder, top, _) = volume();
        let mounts = Mounts::of(mountinfo::parse(b"1 0 0:1 / / rw - overlay o rw\n"));
        assert_eq!(links([top.join("..1/key")].iter(), &mounts), []);
    }

    #[test]
    fn a_link_out_of_its_folder_is_not_followed() {
        let (_folder, top, mounts) = volume();
        fs::create_dir(top.join("below")).unwrap();
        for (target, name) in [("../..1", "below/out"), (".", "self"), ("/", "root")] {
            symlink(target, top.join(name)).unwrap();
        }
        let links = links([top.join("..1/key"), top.join("below")].iter(), &mounts);
        assert_eq!(links, [link(top.join("..1"), top.join("..data"))]);
        let gone = link(top.join("gone"), top.join("below/out"));
        assert_eq!(moved(&[gone]), []);
    }
}
