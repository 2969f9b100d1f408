//! Captures and puts back files while other processes change the paths.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use caps::{CapSet, Capability};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, mkfifo, setfsgid};

use super::capture::{self, CaptureError};
use super::put_back::{self, PutBackError};
use super::resolve;
use super::used::Used;
use crate::image::{self, Fetcher, ImageWriter, Manifest, test_vault};

mod attributes;
mod staged;

const MEMORY: u64 = 64 << 20;

/// Captured files, and the store with their content.
struct Captured {
    files: Vec<image::File>,
    fetcher: Fetcher,
    _store: tempfile::TempDir,
}

impl Captured {
    fn put_back(&mut self) -> Result<Vec<put_back::Lost>, PutBackError> {
        put_back::put_back(&self.files.iter().collect::<Vec<_>>(), &mut self.fetcher)
    }

    fn content(&mut self, index: usize) -> Vec<u8> {
        let body = self.files[index].body.clone().unwrap();
        self.fetcher.read_to_vec(&body, "a file", MEMORY).unwrap()
    }
}

/// Captures files that processes use.
fn capture(paths: &[PathBuf]) -> Result<Captured, CaptureError> {
    capture_of(paths, &Used(paths.iter().map(|path| (path.clone(), Default::default())).collect()))
}

fn capture_of(paths: &[PathBuf], used: &Used) -> Result<Captured, CaptureError> {
    let store = tempfile::tempdir().unwrap();
    let vault = test_vault(store.path());
    let writer = ImageWriter::new(&vault, MEMORY, 2).unwrap();
    let captured = capture::capture(paths, used, &|_, _| None, &writer)?;
    let mut written = writer.finish().unwrap();
    let with_body = |(file, id): capture::Captured| image::File { body: id.map(|id| written.take(id)), ..file };
    let files = captured.into_iter().map(with_body).collect();
    let manifest = Manifest { packs: written.packs, chunks: written.chunks, ..Manifest::default() };
    Ok(Captured { files, fetcher: Fetcher::new(&vault, &manifest, MEMORY, 2).unwrap(), _store: store })
}

/// A temporary folder on the root file system, and its real path.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = resolve::folder_on_root();
    let path = folder.path().canonicalize().unwrap();
    (folder, path)
}

fn noise(length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut data);
    data
}

/// The same on a mount of its own, as a volume is.
fn volume() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().to_owned();
    (folder, path)
}

/// Runs `act` in a thread without these capabilities.
fn without(capabilities: &[Capability], act: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let without = scope.spawn(|| {
            for capability in capabilities {
                caps::drop(None, CapSet::Effective, *capability).unwrap();
            }
            act();
        });
        without.join().unwrap();
    });
}

/// Runs `act` in a thread with a mount namespace of its own.
pub(super) fn with_own_mounts(act: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let own = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(&["--make-rprivate".as_ref(), "/".as_ref()]);
            act();
        });
        own.join().unwrap();
    });
}

pub(super) fn mount(args: &[&OsStr]) {
    assert!(Command::new("mount").args(args).status().unwrap().success());
}

/// Owner, group and mode.
fn owner(path: &Path) -> (u32, u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid(), meta.mode() & 0o7777)
}

fn exchange(one: &Path, other: &Path) {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).unwrap();
}

/// Runs `act` while another thread repeats `disturb`.
fn during<T>(disturb: impl Fn() + Sync, act: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                disturb();
            }
        });
        let result = act();
        done.store(true, Relaxed);
        result
    })
}

#[test]
fn a_folder_that_is_a_link_now_is_not_written_through() {
    let (_folder, top) = folder();
    let (keep, etc) = (top.join("keep"), top.join("etc"));
    fs::create_dir(&keep).unwrap();
    fs::write(keep.join("passwd"), "forged").unwrap();
    fs::create_dir(&etc).unwrap();
    fs::write(etc.join("passwd"), "root").unwrap();
    for paths in [vec![keep.join("passwd")], vec![keep.clone(), keep.join("passwd")]] {
        let mut captured = capture(&paths).unwrap();
        fs::rename(&keep, top.join("away")).unwrap();
        symlink(&etc, &keep).unwrap();
        let error = captured.put_back().expect_err("it was written through the link").to_string();
        assert!(error.contains(&format!("{} is a symbolic link here", keep.display())), "{error}");
        assert_eq!(fs::read_to_string(etc.join("passwd")).unwrap(), "root");
        fs::remove_file(&keep).unwrap();
        fs::rename(top.join("away"), &keep).unwrap();
    }
}

#[test]
fn a_file_put_in_the_way_of_one_that_is_written_gets_neither_its_mode_nor_its_owner() {
    let (_folder, top) = folder();
    let (path, theirs) = (top.join("program"), top.join("theirs"));
    fs::write(&path, noise(32 << 20)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o6777)).unwrap();
    let mut captured = capture(std::slice::from_ref(&path)).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&theirs, "theirs").unwrap();
    fs::set_permissions(&theirs, Permissions::from_mode(0o600)).unwrap();
    let swapped = File::open(&theirs).unwrap();
    let swap = || drop(path.exists().then(|| fs::rename(&theirs, &path)));
    during(swap, || captured.put_back()).unwrap();
    assert_eq!(swapped.metadata().unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn what_a_folder_was_exchanged_for_is_not_captured() {
    let (_folder, top) = folder();
    let (shared, link, secret) = (top.join("shared"), top.join("link"), top.join("secret"));
    fs::create_dir(&shared).unwrap();
    fs::create_dir(&secret).unwrap();
    fs::write(shared.join("shadow"), "mine").unwrap();
    fs::write(secret.join("shadow"), "root's").unwrap();
    symlink(&secret, &link).unwrap();
    let paths = [shared.join("shadow")];
    exchange(&shared, &link);
    let error = capture(&paths).err().expect("it was captured through the link").to_string();
    assert!(error.contains(&format!("{} has become a symbolic link", shared.display())), "{error}");
    let mut captured = 0;
    during(
        || exchange(&shared, &link),
        || {
            for _ in 0..100 {
                if let Ok(mut found) = capture(&paths) {
                    assert_eq!(found.content(0), b"mine");
                    captured += 1;
                }
            }
        },
    );
    assert!(captured > 0);
}

#[test]
fn a_file_that_grows_or_shrinks_is_captured_whole_or_refused() {
    let (_folder, top) = folder();
    let path = top.join("file");
    fs::write(&path, noise(8 << 20)).unwrap();
    let grow = || {
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&[7; 4096]).unwrap();
    };
    let file = during(grow, || capture(std::slice::from_ref(&path))).unwrap().files.remove(0);
    assert!(file.size >= 8 << 20 && file.body.unwrap().size() == file.size);
    let cut = || OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(8 << 20)).unwrap();
    for _ in 0..20 {
        grow();
        match during(cut, || capture(std::slice::from_ref(&path))) {
            Ok(captured) => assert_eq!(captured.files[0].body.as_ref().unwrap().size(), captured.files[0].size),
            Err(error) => assert!(error.to_string().contains("it shrank while it was read"), "{error}"),
        }
    }
}

#[test]
fn holes_are_not_read_and_come_back() {
    let (_folder, top) = folder();
    let path = top.join("file");
    let mut file = File::create(&path).unwrap();
    let mut put = |at: u64, data: &[u8]| {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(data).unwrap();
    };
    put(3 << 20, b"middle");
    put((1 << 40) - 5000, b"near the end");
    file.set_len(1 << 40).unwrap();
    let began = Instant::now();
    let mut captured = capture(std::slice::from_ref(&path)).unwrap();
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!((captured.files[0].size, captured.files[0].body.as_ref().unwrap().size()), (1 << 40, 1 << 40));
    fs::remove_file(&path).unwrap();
    captured.put_back().unwrap();
    let meta = path.metadata().unwrap();
    assert_eq!(meta.len(), 1 << 40);
    assert!(meta.blocks() <= 32, "{}", meta.blocks());
    let file = File::open(&path).unwrap();
    for (at, data) in [(3 << 20, b"middle".as_slice()), ((1 << 40) - 5000, b"near the end")] {
        let mut found = vec![0; data.len()];
        file.read_exact_at(&mut found, at).unwrap();
        assert_eq!(found, data);
    }
}

#[test]
fn a_closed_file_may_vanish_shrink_or_change_its_kind_meanwhile() {
    let (_folder, top) = folder();
    let paths = ["gone", "shrinks", "stays"].map(|name| top.join(name));
    for _ in 0..20 {
        fs::write(&paths[1], noise(8 << 20)).unwrap();
        fs::write(&paths[2], "content").unwrap();
        let cut = || OpenOptions::new().write(true).open(&paths[1]).and_then(|file| file.set_len(1 << 20)).unwrap();
        let mut captured = during(cut, || capture_of(&paths, &Used::default())).unwrap();
        assert_eq!(captured.files.len(), 2);
        assert_eq!(captured.files[0].body.as_ref().unwrap().size(), captured.files[0].size);
        assert_eq!(captured.content(1), b"content");
    }
    fs::remove_file(&paths[1]).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(&paths[1]).unwrap();
    assert_eq!(capture_of(&paths, &Used::default()).unwrap().files.len(), 1);
    assert!(capture(&paths).is_err());
}

#[test]
fn what_has_become_a_pipe_is_not_waited_for() {
    let (_folder, top) = folder();
    mkfifo(&top.join("pipe"), Mode::S_IRUSR).unwrap();
    let mut captured = capture(&[top.join("pipe")]).unwrap();
    fs::remove_file(top.join("pipe")).unwrap();
    captured.put_back().unwrap();
    captured.put_back().unwrap();
    let meta = fs::symlink_metadata(top.join("pipe")).unwrap();
    assert!(meta.file_type().is_fifo() && meta.mode() & 0o7777 == 0o400);
}

#[test]
fn names_of_one_file_come_back_as_such_and_other_names_keep_theirs() {
    let (_folder, top) = folder();
    let [first, second, other] = ["first", "second", "other"].map(|name| top.join(name));
    fs::write(&first, "captured").unwrap();
    fs::hard_link(&first, &second).unwrap();
    let mut captured = capture(&[first.clone(), second.clone()]).unwrap();
    fs::write(&first, "of the image").unwrap();
    fs::hard_link(&first, &other).unwrap();
    fs::remove_file(&second).unwrap();
    for _ in 0..2 {
        captured.put_back().unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&first), inode(&second));
        assert_ne!(inode(&first), inode(&other));
        assert_eq!(fs::read_to_string(&second).unwrap(), "captured");
        assert_eq!(fs::read_to_string(&other).unwrap(), "of the image");
    }
    assert_eq!(fs::read_dir(&top).unwrap().count(), 3, "nothing temporary is left");
}

#[test]
fn holes_stay_holes() {
    let (_folder, top) = folder();
    let path = top.join("sparse");
    let mut file = File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"data", 32 << 20).unwrap();
    file.flush().unwrap();
    let mut captured = capture(std::slice::from_ref(&path)).unwrap();
    fs::remove_file(&path).unwrap();
    captured.put_back().unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), 64 << 20);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    let content = fs::read(&path).unwrap();
    assert!(&content[32 << 20..][..4] == b"data" && content.iter().filter(|&&byte| byte != 0).count() == 4);
}

#[test]
fn as_root_another_owner_comes_back_with_mode_and_time() {
    let (_folder, top) = folder();
    let [inner, file, link, pipe] = ["inner", "inner/file", "inner/link", "inner/pipe"].map(|name| top.join(name));
    fs::create_dir(&inner).unwrap();
    fs::write(&file, "content").unwrap();
    symlink("file", &link).unwrap();
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    for path in [&inner, &file, &link, &pipe] {
        std::os::unix::fs::lchown(path, Some(1000), Some(1001)).unwrap();
    }
    fs::set_permissions(&file, Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(&inner, Permissions::from_mode(0o510)).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 7);
    File::open(&file).unwrap().set_modified(time).unwrap();
    File::open(&inner).unwrap().set_modified(time).unwrap();
    let all = [inner.clone(), file.clone(), link.clone(), pipe.clone()];
    let before = all.each_ref().map(|path| owner(path));
    let mut captured = capture(&all).unwrap();
    fs::remove_dir_all(&inner).unwrap();
    captured.put_back().unwrap();
    assert_eq!(all.each_ref().map(|path| owner(path)), before);
    for path in [&file, &inner] {
        assert_eq!(fs::metadata(path).unwrap().modified().unwrap(), time, "{path:?}");
    }
    // Root replaces an existing file of another owner.
    fs::write(&file, "other").unwrap();
    chown(&file, Some(7), Some(7)).unwrap();
    captured.put_back().unwrap();
    assert_eq!((owner(&file), fs::read_to_string(&file).unwrap().as_str()), (before[1], "content"));
}

#[test]
fn a_link_in_the_place_of_a_file_is_replaced() {
    let (_folder, top) = folder();
    let (path, elsewhere) = (top.join("log"), top.join("elsewhere"));
    fs::write(&path, "lines").unwrap();
    let mut captured = capture(std::slice::from_ref(&path)).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&elsewhere, "stays").unwrap();
    symlink(&elsewhere, &path).unwrap();
    captured.put_back().unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(
        (fs::read_to_string(&path).unwrap().as_str(), fs::read_to_string(&elsewhere).unwrap().as_str()),
        ("lines", "stays")
    );
}

/// A mount point cannot be replaced.
#[test]
fn as_root_a_file_that_is_a_mount_is_written_in_place() {
    let (_folder, top) = folder();
    let (path, outside) = (top.join("hosts"), top.join("outside"));
    fs::write(&path, "captured").unwrap();
    let mut captured = capture(std::slice::from_ref(&path)).unwrap();
    fs::write(&outside, "longer than what was captured").unwrap();
    with_own_mounts(|| {
        mount(&["--bind".as_ref(), outside.as_ref(), path.as_ref()]);
        captured.put_back().unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "captured");
        assert_eq!(fs::read_dir(&top).unwrap().count(), 2, "nothing temporary is left");
    });
}

#[test]
fn as_root_a_volume_need_not_have_room_for_a_file_twice() {
    let (_folder, top) = folder();
    with_own_mounts(|| {
        mount(&["-t".as_ref(), "tmpfs".as_ref(), "-osize=10m".as_ref(), "none".as_ref(), top.as_ref()]);
        let path = top.join("large");
        let content = noise(7 << 20);
        fs::write(&path, &content).unwrap();
        let mut captured = capture(std::slice::from_ref(&path)).unwrap();
        fs::write(&path, "other").unwrap();
        fs::write(&path, noise(7 << 20).into_iter().rev().collect::<Vec<u8>>()).unwrap();
        captured.put_back().unwrap();
        assert!(fs::read(&path).unwrap() == content);
        assert_eq!(fs::read_dir(&top).unwrap().count(), 1, "nothing temporary is left");
    });
}

#[test]
fn as_root_an_existing_folder_gets_the_captured_owner() {
    let (_folder, top) = folder();
    let path = top.join("data");
    fs::create_dir(&path).unwrap();
    chown(&path, Some(1000), Some(1001)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    let mut captured = capture(std::slice::from_ref(&path)).unwrap();
    chown(&path, Some(0), Some(0)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    captured.put_back().unwrap();
    assert_eq!(owner(&path), (1000, 1001, 0o700));
}

#[test]
fn as_root_anothers_folder_on_a_volume_keeps_its_owner_and_mode() {
    let (_volume, top) = volume();
    let path = top.join("data");
    fs::create_dir(&path).unwrap();
    chown(&path, Some(1000), Some(1000)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    let mut captured = capture(std::slice::from_ref(&path)).unwrap();
    chown(&path, Some(7), Some(7)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    captured.put_back().unwrap();
    assert_eq!(owner(&path), (7, 7, 0o700));
}

#[test]
fn a_folder_that_another_is_exchanged_for_is_noticed() {
    let (_volume, top) = volume();
    let (shared, theirs) = (top.join("shared"), top.join("theirs"));
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("a"), noise(32 << 20)).unwrap();
    fs::write(shared.join("b"), "later").unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
    for last in ["a", "b"] {
        let all = [shared.clone(), shared.join("a"), shared.join(last)];
        let mut captured = capture(&all[..if last == "a" { 2 } else { 3 }]).unwrap();
        fs::remove_dir_all(&shared).unwrap();
        fs::create_dir(&theirs).unwrap();
        fs::set_permissions(&theirs, Permissions::from_mode(0o700)).unwrap();
        let swapped = File::open(&theirs).unwrap();
        let done = AtomicBool::new(false);
        let swap = || {
            let written = fs::read_dir(&shared).is_ok_and(|mut names| names.next().is_some());
            if written && !done.swap(true, Relaxed) {
                exchange(&shared, &theirs);
            }
        };
        let result = during(swap, || captured.put_back());
        assert_eq!(swapped.metadata().unwrap().mode() & 0o7777, 0o700);
        assert_eq!(fs::read_dir(&shared).unwrap().count(), 0, "nothing is written into their folder");
        let error = result.expect_err("their folder was taken for ours").to_string();
        assert!(error.contains("was replaced by another folder"), "{error}");
        fs::remove_dir(&shared).unwrap();
        fs::rename(&theirs, &shared).unwrap();
        fs::write(shared.join("b"), "later").unwrap();
    }
}

#[test]
fn as_root_without_the_power_to_give_files_anothers_file_stays_theirs() {
    let (_folder, top) = folder();
    let path = top.join("log");
    fs::write(&path, "captured").unwrap();
    chown(&path, Some(1000), Some(1000)).unwrap();
    let mut captured = capture(std::slice::from_ref(&path)).unwrap();
    fs::write(&path, "of the image").unwrap();
    without(&[Capability::CAP_CHOWN, Capability::CAP_FOWNER], || drop(captured.put_back().unwrap()));
    assert_eq!((owner(&path).0, fs::read_to_string(&path).unwrap().as_str()), (1000, "captured"));
}

#[test]
fn as_root_set_id_bits_come_back_with_the_captured_owner_and_group_alone() {
    let (_folder, top) = folder();
    // The group of new files here is 0, and 1001 is one that the thread may give.
    fs::set_permissions(&top, Permissions::from_mode(0o2755)).unwrap();
    let [both, group, none] = [("both", 0, 0), ("group", 1000, 1001), ("none", 1000, 1002)].map(|(name, uid, gid)| {
        let path = top.join(name);
        fs::write(&path, "program").unwrap();
        chown(&path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o6755)).unwrap();
        path
    });
    let all = [both, group, none];
    let mut captured = capture(&all).unwrap();
    all.iter().for_each(|path| fs::remove_file(path).unwrap());
    without(&[Capability::CAP_CHOWN], || {
        setfsgid(Gid::from_raw(1001));
        captured.put_back().unwrap();
    });
    assert_eq!(all.each_ref().map(|path| owner(path)), [(0, 0, 0o6755), (0, 1001, 0o2755), (0, 0, 0o755)]);
}

#[test]
fn an_empty_folder_makes_room_and_a_full_one_stays() {
    let (_folder, top) = folder();
    let [file, name, link, pipe] = ["file", "name", "link", "pipe"].map(|name| top.join(name));
    fs::write(&file, "content").unwrap();
    fs::hard_link(&file, &name).unwrap();
    symlink("file", &link).unwrap();
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let all = [file, name, link, pipe];
    let mut captured = capture(&all).unwrap();
    for path in &all {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }
    captured.put_back().unwrap();
    assert!(all.iter().all(|path| !fs::symlink_metadata(path).unwrap().is_dir()));
    fs::remove_file(&all[0]).unwrap();
    fs::create_dir_all(all[0].join("full")).unwrap();
    assert!(captured.put_back().unwrap_err().to_string().contains("Is a directory"));
    assert!(all[0].join("full").exists());
}

#[test]
fn what_a_killed_restore_left_is_removed() {
    let (_folder, top) = folder();
    fs::write(top.join("file"), "content").unwrap();
    let mut captured = capture(&[top.join("file")]).unwrap();
    let [left, live, pipe, other] =
        [".freeze-0123456789abcdef", ".freeze-0000000000000000", ".freeze-1111111111111111", ".freeze-notes"]
            .map(|name| top.join(name));
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let files = [&left, &live, &other].map(|path| File::create(path).unwrap());
    files[1].try_lock().unwrap();
    captured.put_back().unwrap();
    assert_eq!([left, live, pipe, other].map(|path| path.exists()), [false, true, false, true]);
}

#[test]
fn what_was_deleted_is_deleted_on_the_root_alone_and_through_no_link() {
    let (_folder, top) = folder();
    let (_volume, other) = volume();
    for name in ["a/b/file", "a/file", "keep/file"] {
        fs::create_dir_all(top.join(name).parent().unwrap()).unwrap();
        fs::write(top.join(name), "").unwrap();
    }
    fs::write(other.join("file"), "").unwrap();
    symlink(top.join("keep"), top.join("link")).unwrap();
    symlink(top.join("keep"), top.join("a/b/link")).unwrap();
    let deleted = [top.join("a/b"), top.join("a/file"), top.join("none"), top.join("link/file"), other.join("file")];
    let paths = deleted.map(|path| path.into_os_string().into_vec());
    let said: Vec<String> = put_back::delete(&paths).iter().map(ToString::to_string).collect();
    let busy = format!("{} was deleted by the service and is here again: ", other.join("file").display());
    assert!(matches!(said.as_slice(), [one] if one.starts_with(&busy)), "{said:?}");
    assert_eq!(fs::read_dir(top.join("a")).unwrap().count(), 0);
    assert!(top.join("keep/file").exists() && other.join("file").exists());
}
