//! What others see is prepared beside its place, and takes it later.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::files::mounts::Mounts;
use crate::files::put_back::staged;

/// A volume with a file of two names and a pipe in a folder, captured; the file is another one by now.
fn changed() -> (tempfile::TempDir, PathBuf, Captured) {
    let (folder, path) = volume();
    let top = path.join("top");
    fs::create_dir(&top).unwrap();
    fs::write(top.join("file"), "captured").unwrap();
    fs::hard_link(top.join("file"), top.join("other")).unwrap();
    mkfifo(&top.join("pipe"), Mode::S_IRWXU).unwrap();
    symlink("file", top.join("to")).unwrap();
    let names = ["", "file", "other", "pipe", "to"].map(|name| top.join(name));
    let captured = capture(&names).unwrap();
    fs::remove_file(top.join("file")).unwrap();
    fs::write(top.join("file"), "written since").unwrap();
    fs::remove_file(top.join("to")).unwrap();
    (folder, top, captured)
}

fn names(top: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(top).unwrap().map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn nothing_takes_its_place_before_it_may() {
    let (_folder, top, mut captured) = changed();
    let (own, shared) = staged::split(&captured.files, &Mounts::read().unwrap());
    assert_eq!((own.len(), shared.len()), (0, 5));
    let (staged, lost) = staged::stage(shared, &mut captured.fetcher).unwrap();
    assert!(lost.is_empty());
    assert_eq!(fs::read(top.join("file")).unwrap(), b"written since");
    // A missing link is made at once: a socket's path may lead over it.
    assert_eq!((names(&top).len(), top.join("to").exists()), (7, true));
    let moved = staged.elsewhere_of(|path| path.ends_with("other")).moved;
    assert_eq!(moved.iter().map(|one| one.from.clone()).collect::<Vec<_>>(), [top.join("other")]);
    assert_eq!(fs::read(&moved[0].to).unwrap(), b"captured");

    staged.take_places(&mut captured.fetcher).unwrap();
    assert_eq!(names(&top), ["file", "other", "pipe", "to"]);
    assert_eq!(fs::read(top.join("to")).unwrap(), b"captured");
    let [file, other] = ["file", "other"].map(|name| fs::metadata(top.join(name)).unwrap().ino());
    assert_eq!(file, other);
    assert!(fs::metadata(top.join("pipe")).unwrap().file_type().is_fifo());
}

#[test]
fn a_restore_that_ends_before_leaves_what_was_there_as_it_was() {
    let (_folder, top, mut captured) = changed();
    let (_, shared) = staged::split(&captured.files, &Mounts::read().unwrap());
    drop(staged::stage(shared, &mut captured.fetcher).unwrap());
    assert_eq!(names(&top), ["file", "other", "pipe", "to"]);
    assert_eq!(fs::read(top.join("file")).unwrap(), b"written since");
}

/// A file that is mounted, or another user's, keeps its inode. Until then CRIU opens it at its present size.
#[test]
fn as_root_what_cannot_be_replaced_is_written_in_place_in_the_end() {
    with_own_mounts(|| {
        let (_folder, top) = volume();
        fs::write(top.join("file"), "captured").unwrap();
        let mut captured = capture(&[top.join("file")]).unwrap();
        fs::write(top.join("file"), "written since").unwrap();
        mount(&["--bind".as_ref(), top.join("file").as_os_str(), top.join("file").as_os_str()]);
        let (_, shared) = staged::split(&captured.files, &Mounts::read().unwrap());
        let (staged, _) = staged::stage(shared, &mut captured.fetcher).unwrap();
        assert_eq!(fs::read(top.join("file")).unwrap(), b"written since");
        assert_eq!(staged.elsewhere_of(|path| path.ends_with("file")).resized, [top.join("file")]);
        staged.take_places(&mut captured.fetcher).unwrap();
        assert_eq!(fs::read(top.join("file")).unwrap(), b"captured");
    });
}
