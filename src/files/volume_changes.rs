//! Files on volumes that have changed since a checkpoint: the service, or another program, has written to them.
//!
//! A checkpoint records the files that the service writes, maps or works among, and a restore compares them. A file is the
//! same if its size and its time of modification are: copies keep both (`rsync -a`, `cp -a`), while device,
//! inode and time of change are new in each copy, and change without a write. What a service only reads, and
//! folders, are not compared: others change them as a matter of course. Closed files are compared where the
//! service works: an idle database holds none open.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use nix::sys::stat::major;

use super::entry;
use super::half_done::Mark;
use super::how_used::Use;
use super::mounts::{Kind, Mounts};
use super::used::{Rules, Used};
use super::{swapped, times};
use crate::image::{self, Manifest, VolumeFile};

/// Most names that are looked at for closed files.
const CLOSED_MAX: usize = 16_384;
/// How deep they are looked for.
const DEPTH_MAX: usize = 16;

/// Records the files on volumes, while the service stands still: those that are `used`, and those below a working
/// directory. Of a file system of this container alone too, which another container of its pod may outlive it with.
/// A program is not data.
pub fn record(used: &Used, rules: &Rules) -> Vec<VolumeFile> {
    let matters = used.0.iter().filter(|(_, how)| how.written || (how.mapped && !how.executed));
    let mut recorded: Vec<VolumeFile> = matters.filter_map(|(path, how)| open_file(path, how, rules)).collect();
    let mut left = CLOSED_MAX;
    let is_volume = |path: &Path| rules.mounts.is_on_volume(path) && !rules.is_left_behind(path);
    for (folder, _) in used.0.iter().filter(|(folder, how)| how.worked_in && is_volume(folder)) {
        let is_recorded = |path: &Path| used.0.get(path).is_some_and(|how| how.written || how.mapped);
        let is_other = |path: &Path| is_volume(path) && !is_recorded(path);
        closed_files(folder, &is_other, DEPTH_MAX, &mut left, &mut recorded);
    }
    recorded
}

fn open_file(path: &Path, how: &Use, rules: &Rules) -> Option<VolumeFile> {
    let appended = how.written && !how.overwritten && !how.mapped;
    Some(VolumeFile { appended, ..described(path, &outlives(path, rules)?) })
}

/// What the file is, if another container may find it.
fn outlives(path: &Path, rules: &Rules) -> Option<Metadata> {
    let outlives = rules.mounts.is_on_volume(path) || rules.mounts.kind(path) == Kind::Own;
    fs::symlink_metadata(path).ok().filter(|meta| outlives && meta.is_file() && !rules.is_ours(path))
}

/// The recorded files that are written by mappings.
pub fn mapped(used: &Used, rules: &Rules) -> Vec<PathBuf> {
    let mapped = used.0.iter().filter(|(_, how)| how.mapped && how.written).map(|(path, _)| path);
    mapped.filter(|path| outlives(path, rules).is_some()).cloned().collect()
}

/// A database holds few of its files open, and PostgreSQL none while it is idle.
fn closed_files(
    folder: &Path,
    is_wanted: &dyn Fn(&Path) -> bool,
    depth: usize,
    left: &mut usize,
    found: &mut Vec<VolumeFile>,
) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if *left == 0 {
            return;
        }
        *left -= 1;
        if path.file_name().is_some_and(entry::is_temporary) || !is_wanted(&path) {
            continue;
        }
        if meta.is_dir() && depth > 0 {
            closed_files(&path, is_wanted, depth - 1, left, found);
        } else if meta.is_file() {
            found.push(VolumeFile { closed: true, ..described(&path, &meta) });
        }
    }
}

fn described(path: &Path, meta: &Metadata) -> VolumeFile {
    VolumeFile {
        path: path.as_os_str().as_bytes().to_vec(),
        size: meta.len(),
        mtime_ns: times::modified(meta),
        ctime_ns: times::changed(meta),
        device: meta.dev(),
        inode: meta.ino(),
        ..VolumeFile::default()
    }
}

/// A file that is not what it was at the checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    pub path: PathBuf,
    /// Bytes at the checkpoint.
    then: u64,
    now: Now,
    /// Whether the service can go on with the file, or has its own content put back.
    pub can_go_on: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Now {
    Written { size: u64, mtime_ns: i64 },
    Absent(io::ErrorKind),
}

impl Change {
    pub fn is_longer(&self) -> bool {
        matches!(self.now, Now::Written { size, .. } if size > self.then)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, then) = (self.path.display(), self.then);
        match self.now {
            Now::Written { size, mtime_ns } => {
                let at = UNIX_EPOCH + Duration::from_nanos(u64::try_from(mtime_ns).unwrap_or(0));
                let at = humantime::format_rfc3339_seconds(at);
                write!(f, "{path} has changed since the checkpoint: {then} bytes then, {size} now, written at {at}")
            }
            Now::Absent(why) => write!(f, "{path} had {then} bytes at the checkpoint and cannot be found now ({why})"),
        }
    }
}

/// Files that others have made for this container's pod since the checkpoint, such as an init container on an `emptyDir`,
/// and in whose place a restore puts the captured content. Leaves out the [`changes`].
pub fn overwritten(manifest: &Manifest, mounts: &Mounts) -> Vec<Change> {
    let mark = Mark::of(manifest);
    let shared = manifest.files.iter().filter(|file| file.kind() == image::Kind::Regular);
    let shared = shared.filter(|file| mounts.kind(file.path()) == Kind::Own);
    let change = |file: &image::File| {
        let meta = fs::symlink_metadata(file.path()).ok()?;
        let recorded = manifest.volume_files.iter().find(|then| then.path == file.path);
        newer(file, &meta, &mark).filter(|_| !recorded.is_some_and(|then| is_same_file(then, &meta)))
    };
    shared.filter_map(change).collect()
}

/// The files of a generation that have changed since. A captured file counts as changed if it is newer here: a restore
/// would overwrite it, unless that is what has begun to ([`half_done`](super::half_done)).
pub fn changes(manifest: &Manifest, mounts: &Mounts) -> Vec<Change> {
    let moved = swapped::moved(&manifest.folder_links);
    let recorded: BTreeMap<&[u8], &VolumeFile> =
        manifest.volume_files.iter().map(|file| (file.path.as_slice(), file)).collect();
    let mark = Mark::of(manifest);
    let captured: BTreeMap<&[u8], &image::File> =
        manifest.files.iter().map(|file| (file.path.as_slice(), file)).collect();
    let in_use = recorded.values().filter(|file| !captured.contains_key(file.path.as_slice()));
    // Of a folder that was replaced as a whole, the service gets the new revision (docs/explanation/files.md).
    let in_use = in_use.filter(|file| *swapped::here(file.path(), &moved) == *file.path());
    let in_use = in_use.filter_map(|file| change(file, fs::metadata(file.path())));
    let overwritten = captured.values().filter(|file| file.kind() == image::Kind::Regular).filter_map(|file| {
        let at = file.path();
        let meta = fs::symlink_metadata(at).ok().filter(Metadata::is_file)?;
        let same_file = || recorded.get(file.path.as_slice()).is_some_and(|then| is_same_file(then, &meta));
        let outlived = mounts.is_on_volume(at) || (mounts.kind(at) == Kind::Own && same_file());
        outlived.then(|| newer(file, &meta, &mark))?
    });
    in_use.chain(overwritten).collect()
}

fn change(then: &VolumeFile, now: io::Result<Metadata>) -> Option<Change> {
    let (now, can_go_on) = match now {
        Err(error) => (Now::Absent(error.kind()), then.closed),
        Ok(meta) => {
            let (size, mtime_ns) = (meta.len(), times::modified(&meta));
            if size == then.size && is_same_time(mtime_ns, then.mtime_ns) {
                return None;
            }
            let fits = size == then.size || (then.appended && size > then.size);
            (Now::Written { size, mtime_ns }, then.closed || fits)
        }
    };
    Some(Change { path: then.path().to_owned(), then: then.size, now, can_go_on })
}

fn newer(captured: &image::File, meta: &Metadata, mark: &Mark) -> Option<Change> {
    let mtime_ns = times::modified(meta);
    let is_newer = meta.is_file() && mtime_ns > captured.mtime_ns && !is_same_time(mtime_ns, captured.mtime_ns);
    let now = Now::Written { size: meta.len(), mtime_ns };
    (is_newer && !mark.is_on(captured.path())).then(|| Change {
        path: captured.path().to_owned(),
        then: captured.size,
        now,
        can_go_on: true,
    })
}

/// False on a file system without a block device: its device number may belong to another one after the next mount.
fn is_same_file(then: &VolumeFile, meta: &Metadata) -> bool {
    major(then.device) != 0 && (then.device, then.inode) == (meta.dev(), meta.ino())
}

/// A copy may keep whole seconds only.
fn is_same_time(one: i64, other: i64) -> bool {
    let is_cut = |cut: i64, whole: i64| {
        cut % times::SECOND == 0 && whole.div_euclid(times::SECOND) == cut.div_euclid(times::SECOND)
    };
    one == other || is_cut(one, other) || is_cut(other, one)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};
    use std::time::SystemTime;

    use super::*;

    fn recorded(at: &Path, appended: bool) -> VolumeFile {
        VolumeFile { appended, ..described(at, &fs::metadata(at).unwrap()) }
    }

    /// A file of five bytes, and what a checkpoint says of it.
    fn file(appended: bool) -> (tempfile::TempDir, PathBuf, Manifest) {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap().join("data");
        fs::write(&at, "12345").unwrap();
        set_time(&at, Duration::from_nanos(1_000_000_000_123_456_789));
        let manifest = Manifest { volume_files: vec![recorded(&at, appended)], ..Manifest::default() };
        (folder, at, manifest)
    }

    fn set_time(at: &Path, since_1970: Duration) {
        let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + since_1970);
        File::options().write(true).open(at).unwrap().set_times(times).unwrap();
    }

    /// The sentence, and whether the service can go on.
    fn said(manifest: &Manifest, at: &Path) -> Vec<(String, bool)> {
        let sentence = |change: &Change| change.to_string().replace(at.to_str().unwrap(), "PATH");
        changes(manifest, &Mounts::read().unwrap()).iter().map(|change| (sentence(change), change.can_go_on)).collect()
    }

    #[test]
    fn a_copy_with_size_and_time_is_the_same() {
        let (_folder, at, manifest) = file(false);
        assert_eq!(said(&manifest, &at), []);
        fs::copy(&at, at.with_extension("new")).unwrap();
        fs::rename(at.with_extension("new"), &at).unwrap();
        for time in [1_000_000_000_123_456_789, 1_000_000_000_000_000_000] {
            set_time(&at, Duration::from_nanos(time));
            assert_eq!(said(&manifest, &at), [], "{time}");
        }
    }

    #[test]
    fn what_was_written_is_said_with_its_time() {
        let (_folder, at, manifest) = file(false);
        set_time(&at, Duration::from_secs(1_000_000_060));
        let same_size = "PATH has changed since the checkpoint: 5 bytes then, 5 now, written at 2001-09-09T01:47:40Z";
        assert_eq!(said(&manifest, &at), [(same_size.to_owned(), true)]);
        set_time(&at, Duration::from_secs(999_999_999));
        assert_eq!(said(&manifest, &at).len(), 1, "an older copy is another file, too");
    }

    /// A descriptor that writes at a position of its own would write over what has come.
    #[test]
    fn a_service_goes_on_with_a_longer_file_only_if_it_appends() {
        for (appended, content, can_go_on) in [(true, "123456", true), (true, "1234", false), (false, "123456", false)]
        {
            let (_folder, at, manifest) = file(appended);
            fs::write(&at, content).unwrap();
            assert_eq!(said(&manifest, &at)[0].1, can_go_on, "{appended} {content}");
        }
    }

    #[test]
    fn files_that_are_closed_are_found_below_a_folder_and_hinder_no_restore() {
        let (folder, at, _) = file(false);
        let deep = folder.path().join("deep");
        fs::create_dir(&deep).unwrap();
        fs::write(deep.join("log"), "").unwrap();
        let find = |mut left: usize| {
            let mut found = Vec::new();
            closed_files(at.parent().unwrap(), &|path| !path.ends_with("other"), 1, &mut left, &mut found);
            Manifest { volume_files: found, ..Manifest::default() }
        };
        fs::write(deep.join("other"), "").unwrap();
        assert_eq!((find(9).volume_files.len(), find(0).volume_files.len()), (2, 0));
        let manifest = find(9);
        fs::write(&at, "123").unwrap();
        fs::remove_file(deep.join("log")).unwrap();
        assert_eq!(said(&manifest, &at).iter().map(|change| change.1).collect::<Vec<_>>(), [true, true]);
    }

    #[test]
    fn a_missing_file_is_said() {
        let (_folder, at, manifest) = file(true);
        fs::remove_file(&at).unwrap();
        let gone = "PATH had 5 bytes at the checkpoint and cannot be found now (entity not found)";
        assert_eq!(said(&manifest, &at), [(gone.to_owned(), false)]);
    }

    /// Of the root: what a container image has there is overwritten, whatever its time.
    #[test]
    fn a_captured_file_matters_only_where_it_outlives_the_container() {
        let folder = crate::files::resolve::folder_on_root();
        let at = folder.path().canonicalize().unwrap().join("data");
        fs::write(&at, "12345").unwrap();
        let kind = image::Kind::Regular.into();
        let files = vec![image::File { kind, path: at.as_os_str().as_bytes().to_vec(), ..image::File::default() }];
        let manifest = Manifest { files, volume_files: vec![recorded(&at, false)], ..Manifest::default() };
        fs::write(&at, "123456").unwrap();
        assert_eq!(said(&manifest, &at), []);
    }

    #[test]
    fn what_a_pod_has_written_since_is_overwritten() {
        let shared = tempfile::tempdir_in("/dev/shm").unwrap();
        let at = shared.path().join("token");
        fs::write(&at, "12345").unwrap();
        let mtime_ns = described(&at, &fs::metadata(&at).unwrap()).mtime_ns;
        let found = |mtime_ns| {
            let path = at.as_os_str().as_bytes().to_vec();
            let file = image::File { path, kind: image::Kind::Regular.into(), mtime_ns, ..image::File::default() };
            let manifest = Manifest { files: vec![file], ..Manifest::default() };
            overwritten(&manifest, &Mounts::read().unwrap()).len()
        };
        assert_eq!([found(mtime_ns - 1), found(mtime_ns), found(mtime_ns + 1)], [1, 0, 0]);
    }

    /// In an `emptyDir`, which this container has outlived or not.
    #[test]
    fn what_has_changed_is_not_overwritten_as_well() {
        let folder = crate::files::resolve::folder_on_root();
        let at = folder.path().canonicalize().unwrap().join("data");
        fs::write(&at, "12345").unwrap();
        let top = at.parent().unwrap().display();
        let mounts =
            format!("1 0 0:1 / / rw - overlay o rw\n2 1 8:1 /kubernetes.io~empty-dir/data {top} rw - ext4 e rw\n");
        let mounts = Mounts::of(crate::proc::mountinfo::parse(mounts.as_bytes()));
        let kind = image::Kind::Regular.into();
        let files = vec![image::File { kind, path: at.as_os_str().as_bytes().to_vec(), ..image::File::default() }];
        let found = |volume_files| {
            let manifest = Manifest { files: files.clone(), volume_files, ..Manifest::default() };
            (changes(&manifest, &mounts).len(), overwritten(&manifest, &mounts).len())
        };
        assert_eq!(found(vec![recorded(&at, false)]), (1, 0));
        assert_eq!(found(vec![]), (0, 1));
    }

    #[test]
    fn a_captured_file_that_is_newer_here_would_be_lost() {
        let (_folder, at, manifest) = file(false);
        let (path, meta) = (at.as_os_str().as_bytes(), fs::metadata(&at).unwrap());
        let captured = |mtime_ns| image::File { path: path.into(), size: 5, mtime_ns, ..image::File::default() };
        let mark = Mark::of(&manifest);
        let is_newer = |mtime_ns| newer(&captured(mtime_ns), &meta, &mark).is_some();
        let modified = 1_000_000_000_123_456_789;
        assert_eq!([modified - 1, modified, modified + 1].map(is_newer), [true, false, false]);
        Mark::of(&Manifest { generation: 8, ..manifest }).set(&File::open(&at).unwrap()).unwrap();
        assert!(is_newer(modified - 1), "another generation's half-done work");
        mark.set(&File::open(&at).unwrap()).unwrap();
        assert!(!is_newer(modified - 1), "its own");
        Mark::remove(&File::open(&at).unwrap()).unwrap();
        assert!(is_newer(modified - 1));
    }
}
