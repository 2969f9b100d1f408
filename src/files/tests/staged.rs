//! What others see is prepared beside its place, and takes it later.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::files::half_done::Mark;
use crate::files::leftovers;
use crate::files::mounts::Mounts;
use crate::files::put_back::staged::{self, Staged};
use crate::sys::xattr;

fn new<'a>() -> Staged<'a> {
    Staged::new(Path::new("/var/tmp"), Mark::default())
}

/// The only entry of freeze's own.
fn staging(top: &Path) -> PathBuf {
    let own: Vec<_> = names(top).into_iter().filter(|name| name.starts_with(".freeze-")).collect();
    let [name] = own.as_slice() else { panic!("{own:?}") };
    top.join(name)
}

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
    let mut staged = new();
    assert!(staged.stage(shared, &mut captured.fetcher).unwrap().is_empty());
    assert_eq!(fs::read(top.join("file")).unwrap(), b"written since");
    // A missing link is made at once: a socket's path may lead over it.
    assert_eq!((names(&top).len(), top.join("to").exists()), (5, true));
    let moved = staged.elsewhere_of(|path| path.ends_with("other")).moved;
    assert_eq!(moved.iter().map(|one| one.from.clone()).collect::<Vec<_>>(), [top.join("other")]);
    assert_eq!(fs::read(&moved[0].to).unwrap(), b"captured");

    staged.take_places().unwrap();
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
    new().stage(shared, &mut captured.fetcher).unwrap();
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
        let mut staged = new();
        staged.stage(shared, &mut captured.fetcher).unwrap();
        assert_eq!(fs::read(top.join("file")).unwrap(), b"written since");
        assert_eq!(staged.elsewhere_of(|path| path.ends_with("file")).resized, [top.join("file")]);
        // From here on the store is not needed.
        captured._store.close().unwrap();
        staged.take_places().unwrap();
        assert_eq!(fs::read(top.join("file")).unwrap(), b"captured");
        assert!(xattr::names(&top.join("file")).unwrap().is_empty(), "the mark is gone");
    });
}

/// As for a file that is not replaced, with the room of a file system of its own.
#[test]
fn without_room_for_both_a_file_is_written_in_place_or_refused_before() {
    let (_folder, top) = volume();
    fs::write(top.join("file"), noise(100_000)).unwrap();
    let mut captured = capture(&[top.join("file")]).unwrap();
    fs::write(top.join("file"), "written since").unwrap();
    let place = File::open(&top).unwrap();
    let mut refused = |room: u64, spare: u64| {
        let mut staged = new();
        staged.room.set(&place, room);
        staged.room.set(&File::open("/var/tmp").unwrap(), spare);
        staged.stage(captured.files.iter().collect(), &mut captured.fetcher).err().map(|error| {
            let text = error.to_string();
            assert!(
                text.contains(" bytes beside what is there, and neither") && text.contains("/var/tmp has room"),
                "{text}"
            );
        })
    };
    assert_eq!([refused(99_999, 99_999), refused(90_000, 1 << 20)], [Some(()), Some(())], "it needs as much in place");
    fs::write(top.join("file"), noise(60_000)).unwrap();
    assert_eq!([refused(99_999, 99_999), refused(99_999, 100_000)], [Some(()), None]);
    assert_eq!(fs::read(top.join("file")).unwrap(), noise(60_000));
    assert_eq!(names(&top), ["file"]);
}

#[test]
fn only_a_living_restore_keeps_what_it_has_prepared() {
    let (_folder, top, mut captured) = changed();
    let mut staged = new();
    staged.stage(captured.files.iter().collect(), &mut captured.fetcher).unwrap();
    let dead = top.join(".freeze-0123456789abcdef");
    let made = top.join(".freeze-aaaaaaaaaaaaaaaa");
    for folder in [&dead, &made] {
        fs::create_dir(folder).unwrap();
    }
    fs::write(dead.join("lock"), "").unwrap();
    fs::write(dead.join("1"), "captured").unwrap();
    mkfifo(&dead.join("2"), Mode::S_IRWXU).unwrap();
    symlink("file", dead.join("3")).unwrap();
    fs::write(made.join("1"), "it has no lock").unwrap();
    leftovers::remove(&File::open(&top).unwrap()).unwrap();
    assert!(!dead.exists() && made.exists());
    fs::remove_dir_all(made).unwrap();
    assert_eq!(fs::read_dir(staging(&top)).unwrap().count(), 4, "a lock and three files");
    staged.take_places().unwrap();
    assert_eq!(names(&top), ["file", "other", "pipe", "to"]);
}

/// Root gives files to the service before it moves them.
#[test]
fn as_root_leftovers_of_every_user_are_removed() {
    let (_folder, top) = volume();
    let [file, folder] = ["0123456789abcdef", "aaaaaaaaaaaaaaaa"].map(|name| top.join(format!(".freeze-{name}")));
    fs::write(&file, "").unwrap();
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("lock"), "").unwrap();
    for path in [&file, &folder, &folder.join("lock")] {
        chown(path, Some(1000), Some(1000)).unwrap();
    }
    let remove = || leftovers::remove(&File::open(&top).unwrap()).unwrap();
    without(&[Capability::CAP_FOWNER], remove);
    assert!(file.exists() && folder.exists(), "another user's may be locked where this one may not look");
    remove();
    assert_eq!(names(&top), [] as [&str; 0]);
}

#[test]
fn what_others_did_to_prepared_files_is_noticed_before_they_take_their_places() {
    let disturbed = |act: fn(&Path)| {
        let (_folder, top, mut captured) = changed();
        let mut staged = new();
        staged.stage(captured.files.iter().collect(), &mut captured.fetcher).unwrap();
        staged.check().unwrap();
        act(&staging(&top).join("1"));
        assert!(matches!(staged.check(), Err(PutBackError::Disturbed { path }) if path == top.join("file")));
        assert!(staged.take_places().is_err());
        assert_eq!(fs::read(top.join("file")).unwrap(), b"written since");
    };
    disturbed(|file| fs::remove_file(file).unwrap());
    disturbed(|file| {
        fs::rename(file, file.with_file_name("other")).unwrap();
        fs::write(file, "captured").unwrap();
    });
}

/// CRIU makes such names at a dump, and removes them once it has opened the files.
#[test]
fn a_name_that_criu_has_removed_is_not_missed() {
    let (_folder, top) = volume();
    let name = top.join("link_remap.7");
    fs::write(&name, "captured").unwrap();
    let mut captured = capture(std::slice::from_ref(&name)).unwrap();
    fs::remove_file(&name).unwrap();
    let mut staged = new();
    staged.stage(captured.files.iter().collect(), &mut captured.fetcher).unwrap();
    fs::remove_file(staging(&top).join("1")).unwrap();
    staged.check().unwrap();
    staged.take_places().unwrap();
    assert_eq!(names(&top), [] as [&str; 0]);
}

/// A service has lost its lock with the container, and takes it again on the prepared file.
#[test]
fn the_service_may_lock_a_prepared_file() {
    let (_folder, top, mut captured) = changed();
    let mut staged = new();
    staged.stage(captured.files.iter().collect(), &mut captured.fetcher).unwrap();
    File::open(staging(&top).join("1")).unwrap().try_lock().unwrap();
}

/// A file system that is full only later stands for whatever ends a restore while it writes.
#[test]
fn as_root_a_file_that_is_half_written_is_marked_until_it_is_whole() {
    with_own_mounts(|| {
        let (_folder, top) = volume();
        mount(&["-t", "tmpfs", "-o", "size=400k", "none", top.to_str().unwrap()].map(OsStr::new));
        let file = top.join("file");
        fs::write(&file, noise(100_000)).unwrap();
        let mut captured = capture(std::slice::from_ref(&file)).unwrap();
        fs::write(&file, "old").unwrap();
        mount(&["--bind".as_ref(), file.as_os_str(), file.as_os_str()]);
        let mark = Mark::of(&Manifest { generation: 7, ..Manifest::default() });
        let mut put_back = |filler: usize| {
            let mut staged = Staged::new(Path::new("/var/tmp"), mark.clone());
            staged.stage(captured.files.iter().collect(), &mut captured.fetcher).unwrap();
            fs::write(top.join("filler"), noise(filler)).unwrap();
            staged.take_places()
        };
        assert!(matches!(put_back(350_000), Err(PutBackError::Unwritable { .. })));
        assert!(mark.is_on(&file) && fs::metadata(&file).unwrap().len() > 3);
        fs::remove_file(top.join("filler")).unwrap();
        put_back(0).unwrap();
        assert!(!mark.is_on(&file) && fs::read(&file).unwrap() == noise(100_000));
    });
}

#[test]
fn the_mark_does_not_travel() {
    let (_folder, top) = volume();
    let file = top.join("file");
    fs::write(&file, "half done").unwrap();
    Mark::default().set(&File::open(&file).unwrap()).unwrap();
    xattr::set(&file, c"user.note", b"kept").unwrap();
    let attributes = &capture(&[file]).unwrap().files[0].attributes;
    assert_eq!(attributes.iter().map(|one| one.name.as_slice()).collect::<Vec<_>>(), [b"user.note"]);
}
