//! Checks the files that a restore finds or puts back here. Changes nothing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use nix::fcntl::readlinkat;
use nix::unistd::{AccessFlags, eaccess};

use crate::demands::Unfit;
use crate::files::resolve::{self, Unresolved};
use crate::files::{identity, swapped};
use crate::image::{Executable, File, Kind, Manifest};

/// Programs and libraries that are missing here or have another size.
pub fn executables(manifest: &Manifest) -> Vec<Unfit> {
    // Files that were made at run time are in the checkpoint.
    let travels: BTreeSet<&[u8]> = manifest.files.iter().map(|file| file.path.as_slice()).collect();
    let stay = manifest.executables.iter().filter(|file| !travels.contains(file.path.as_slice()));
    let moved = swapped::moved(&manifest.folder_links);
    let unfit = stay.filter_map(|file| {
        let path = file.path();
        let here = swapped::here(path, &moved);
        let what = match fs::metadata(&here) {
            Err(error) => format!("cannot be used here ({error})"),
            Ok(meta) if meta.len() != file.size => {
                format!("has {} bytes here and had {} at the checkpoint", meta.len(), file.size)
            }
            Ok(meta) => other_content(file, &meta, &here)?,
        };
        Some(Unfit::Executable { path: path.to_owned(), what })
    });
    unfit.collect()
}

/// How the content of a file differs, if its size is equal. None if the checkpoint has no hash of it, since an older
/// freeze took it or the file could not be read.
///
/// The build-id comes first, because it is fast. Only the hash proves that the content is the same: strip and patchelf
/// keep the build-id. Hashing takes up to 1 ms per MiB, which is short beside the restore of a process that maps it.
fn other_content(file: &Executable, meta: &fs::Metadata, here: &Path) -> Option<String> {
    if file.hash.is_empty() || !meta.is_file() {
        return None;
    }
    let open = fs::File::open(here).ok()?;
    let build_id = identity::build_id(&open);
    if build_id != file.build_id {
        return Some(format!("has {} here and had {} at the checkpoint", named(&build_id), named(&file.build_id)));
    }
    let is_other = identity::hash(&open).is_ok_and(|hash| hash != file.hash);
    is_other.then(|| "has the same size as at the checkpoint, but other content".into())
}

fn named(build_id: &[u8]) -> String {
    if build_id.is_empty() { "no build-id".into() } else { format!("the build-id {}", HEXLOWER.encode(build_id)) }
}

/// Captured files that cannot be put back, at most one per folder.
pub fn unwritable(manifest: &Manifest) -> Vec<Unfit> {
    let deleted: BTreeSet<&Path> = manifest.deleted.iter().map(|path| Path::new(OsStr::from_bytes(path))).collect();
    let is_deleted = |path: &Path| path.ancestors().any(|path| deleted.contains(path));
    let mut folders = BTreeSet::new();
    let mut unfit = Vec::new();
    for file in &manifest.files {
        let path = file.path();
        let reason = match link_on(path, file).filter(|link| !is_deleted(link)) {
            Some(link) => Unfit::Link { path: path.to_owned(), link },
            None => match can_put_back(path, file, &is_deleted) {
                Err(reason) => Unfit::Unwritable { path: path.to_owned(), reason },
                Ok(()) => continue,
            },
        };
        if folders.insert(path.parent()) {
            unfit.push(reason);
        }
    }
    unfit
}

/// The symbolic link in the place of a folder that the file needs.
fn link_on(path: &Path, file: &File) -> Option<PathBuf> {
    let folder = if file.kind() == Kind::Directory { Some(path) } else { path.parent() };
    match resolve::folder(folder?) {
        Err(Unresolved::Link(link)) => Some(link),
        _ => None,
    }
}

/// Mirrors `files::put_back`: existing files are overwritten or replaced, folders are created. What `is_deleted` is
/// gone by then.
fn can_put_back(path: &Path, file: &File, is_deleted: &dyn Fn(&Path) -> bool) -> Result<(), String> {
    let place = |(parent, name)| resolve::place_in(&resolve::folder(parent).ok()?, name).ok();
    if !is_deleted(path)
        && let Some(present) = path.parent().zip(path.file_name()).and_then(place)
        && can_stay(&present, path, file)?
    {
        return Ok(());
    }
    for folder in path.ancestors().skip(1).filter(|folder| !is_deleted(folder)) {
        match resolve::folder(folder) {
            Err(Unresolved::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.to_string()),
            Ok(place) => {
                let writable = eaccess(&resolve::by_descriptor(&place), AccessFlags::W_OK | AccessFlags::X_OK);
                return writable.map_err(|errno| errno.desc().to_owned());
            }
        }
    }
    Ok(())
}

/// Whether what is at `path` need not be replaced; an error if it cannot be.
fn can_stay(present: &fs::File, path: &Path, file: &File) -> Result<bool, String> {
    let at = resolve::by_descriptor(present);
    let is = |kind: fn(&fs::Metadata) -> bool| present.metadata().is_ok_and(|meta| kind(&meta));
    let has_content = || fs::read_dir(&at).is_ok_and(|mut names| names.next().is_some());
    match file.kind() {
        Kind::Directory if resolve::folder(path).is_ok() => Ok(true),
        Kind::Directory => Err("it is not a folder here".into()),
        _ if is(fs::Metadata::is_dir) && has_content() => Err("it is a folder here, with content".into()),
        Kind::Symlink => Ok(readlinkat(present, "").is_ok_and(|target| target.as_bytes() == file.target)),
        Kind::Regular => Ok(is(fs::Metadata::is_file) && eaccess(&at, AccessFlags::W_OK).is_ok()),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::identity::Identity;
    use crate::image::FolderLink;

    fn bytes(path: &Path) -> Vec<u8> {
        path.as_os_str().as_bytes().to_vec()
    }

    #[test]
    fn a_changed_library_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let executables = vec![Executable { path: bytes(&path), size: 5, ..Executable::default() }];
        let unfit = super::executables(&Manifest { executables, ..Manifest::default() });
        assert_eq!(unfit, [Unfit::Executable { path, what: "has 0 bytes here and had 5 at the checkpoint".into() }]);
    }

    #[test]
    fn a_library_of_equal_size_is_told_by_its_build_id_or_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("library");
        let mut library = fs::read(std::env::current_exe().unwrap()).unwrap();
        let identity = |path: &Path| Identity::of(&fs::File::open(path).unwrap()).unwrap();
        fs::write(&path, &library).unwrap();
        let Identity { build_id, hash } = identity(&path);
        let recorded = Executable { path: bytes(&path), size: library.len() as u64, build_id, hash };
        let unfit = |recorded: &Executable| match super::executables(&Manifest {
            executables: vec![recorded.clone()],
            ..Manifest::default()
        })
        .as_slice()
        {
            [Unfit::Executable { what, .. }] => Some(what.clone()),
            _ => None,
        };
        assert_eq!(unfit(&recorded), None);
        let other = Executable { build_id: vec![0xab, 1], ..recorded.clone() };
        let said = unfit(&other).unwrap();
        assert!(
            said.starts_with("has the build-id ")
                && said.ends_with(" here and had the build-id ab01 at the checkpoint")
        );
        assert!(
            unfit(&Executable { build_id: vec![], ..recorded.clone() })
                .unwrap()
                .ends_with("no build-id at the checkpoint")
        );
        *library.last_mut().unwrap() ^= 1;
        fs::write(&path, &library).unwrap();
        assert_eq!(identity(&path).build_id, recorded.build_id);
        assert_eq!(unfit(&recorded).unwrap(), "has the same size as at the checkpoint, but other content");
        let older = Executable { build_id: vec![], hash: vec![], ..recorded };
        assert_eq!(unfit(&older), None, "an older version recorded the size alone");
    }

    #[test]
    fn a_program_that_travels_need_not_be_here() {
        let path = b"/tmp/made at run time".to_vec();
        let files = vec![File { path: path.clone(), ..Default::default() }];
        let executables = vec![Executable { path, size: 5, ..Executable::default() }];
        assert_eq!(super::executables(&Manifest { executables, files, ..Manifest::default() }), []);
    }

    #[test]
    fn a_library_in_a_folder_with_another_name_must_be_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        fs::create_dir(top.join("2")).unwrap();
        fs::write(top.join("2/lib"), "12345").unwrap();
        std::os::unix::fs::symlink("2", top.join("current")).unwrap();
        let unfit = |size: u64| {
            let executables = vec![Executable { path: bytes(&top.join("1/lib")), size, ..Executable::default() }];
            let folder_links = vec![FolderLink { folder: bytes(&top.join("1")), link: bytes(&top.join("current")) }];
            super::executables(&Manifest { executables, folder_links, ..Manifest::default() }).len()
        };
        assert_eq!((unfit(5), unfit(6)), (0, 1));
    }

    #[test]
    fn of_each_folder_that_cannot_be_written_one_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        // Not even root can create anything below a regular file.
        let no_folder = folder.path().join("file");
        fs::write(&no_folder, "").unwrap();
        let file = |path: &str, kind: Kind| File {
            path: bytes(&folder.path().join(path)),
            kind: kind.into(),
            ..Default::default()
        };
        let files = vec![
            file("file/new", Kind::Regular),
            file("file/newer", Kind::Fifo),
            file("file/folder/new", Kind::Regular),
            file("file", Kind::Regular),
            file("", Kind::Directory),
            file("a/new/one", Kind::Regular),
        ];
        let reason = "Not a directory (os error 20)";
        let unfit = |name: &str| Unfit::Unwritable { path: no_folder.join(name), reason: reason.into() };
        assert_eq!(unwritable(&Manifest { files, ..Manifest::default() }), [unfit("new"), unfit("folder/new")]);
    }

    #[test]
    fn a_link_where_the_files_had_a_folder_is_named_once() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        let link = top.join("link");
        std::os::unix::fs::symlink(&top, &link).unwrap();
        let file = |path: &Path, kind: Kind| File { path: bytes(path), kind: kind.into(), ..Default::default() };
        let unfit = |files: Vec<File>| unwritable(&Manifest { files, ..Manifest::default() });
        let one = link.join("one");
        let below = vec![file(&one, Kind::Regular), file(&link.join("two"), Kind::Regular)];
        assert_eq!(unfit(below), [Unfit::Link { path: one, link: link.clone() }]);
        assert_eq!(unfit(vec![file(&link, Kind::Directory)]), [Unfit::Link { path: link.clone(), link: link.clone() }]);
        // A link that was a link is replaced.
        assert_eq!(unfit(vec![file(&link, Kind::Symlink)]), []);
    }

    #[test]
    fn what_is_in_the_way_of_a_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        for name in ["full/content", "empty"] {
            fs::create_dir_all(top.join(name)).unwrap();
        }
        fs::write(top.join("file"), "").unwrap();
        std::os::unix::fs::symlink("full", top.join("to-full")).unwrap();
        let file =
            |name: &str, kind: Kind| File { path: bytes(&top.join(name)), kind: kind.into(), ..Default::default() };
        let unfit =
            |name: &str, kind: Kind| unwritable(&Manifest { files: vec![file(name, kind)], ..Manifest::default() });
        let because =
            |name: &str, reason: &str| vec![Unfit::Unwritable { path: top.join(name), reason: reason.into() }];
        for kind in [Kind::Regular, Kind::Symlink, Kind::Fifo, Kind::HardLink] {
            assert_eq!(unfit("full", kind), because("full", "it is a folder here, with content"), "{kind:?}");
            assert_eq!((unfit("empty", kind), unfit("to-full", kind)), (vec![], vec![]), "{kind:?}");
        }
        assert_eq!(unfit("file", Kind::Directory), because("file", "it is not a folder here"));
    }

    #[test]
    fn what_was_deleted_at_the_checkpoint_is_not_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        fs::create_dir(top.join("full")).unwrap();
        fs::write(top.join("full/content"), "").unwrap();
        std::os::unix::fs::symlink("full", top.join("link")).unwrap();
        let file = |name: &str, kind: Kind| File { path: bytes(&top.join(name)), kind: kind.into(), ..File::default() };
        let files = vec![
            file("full", Kind::Symlink),
            file("link", Kind::Directory),
            file("link/folder", Kind::Directory),
            file("link/folder/one", Kind::Regular),
        ];
        let unfit = |deleted: &[&str]| {
            let deleted = deleted.iter().map(|name| bytes(&top.join(name))).collect();
            unwritable(&Manifest { files: files.clone(), deleted, ..Manifest::default() }).len()
        };
        assert_eq!((unfit(&["full", "link"]), unfit(&["full"]), unfit(&["link"])), (0, 3, 1));
    }
}
