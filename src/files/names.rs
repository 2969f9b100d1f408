//! The names in the container's folders when it started. They alone tell which of the image's files the service has
//! deleted.
//!
//! They are listed before the service starts, where its user can delete anything, and for at most [`TIME`]. What is
//! deleted in a folder that was not listed comes back at a restore; a name that was not listed is never removed.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::mounts::Mounts;
use super::resolve;
use super::start::container_start;
use super::user::User;

/// Name of the file in the runtime folder.
pub const FILE: &str = "names";
/// Its name while it is written.
pub const NEW: &str = ".names.new";
/// How long the listing may keep the service from starting.
const TIME: Duration = Duration::from_millis(200);
/// Most bytes of the list.
const LIMIT: usize = 32 << 20;
/// Most that two readings of one start may differ: one of them is computed from an age.
const TOLERANCE: Duration = Duration::from_secs(1);

/// The names in each folder, and whether each is that of a folder.
type Listed = BTreeMap<PathBuf, HashMap<OsString, bool>>;

/// Names at the start.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    listed: Listed,
    /// Every folder in which the user can delete is listed.
    pub is_complete: bool,
    /// Paths that were deleted before the service came into this container.
    deleted: Vec<PathBuf>,
}

/// Lists the names of this container for later, unless that was done at an earlier start. `deleted` was deleted before
/// a restore.
fn keep(runtime_dir: &Path, init: i32, deleted: Vec<PathBuf>) -> io::Result<()> {
    let mounts = Mounts::read()?;
    let start = container_start(&mounts, init)?;
    let known = read(runtime_dir, start);
    if known.is_some() && deleted.is_empty() {
        return Ok(());
    }
    let (listed, is_complete) = known
        .map(|names| (names.listed, names.is_complete))
        .unwrap_or_else(|| list(Path::new("/"), &mounts, User::ours(), TIME));
    let path = runtime_dir.join(FILE);
    let new = runtime_dir.join(NEW);
    fs::write(&new, encode(&Names { listed, is_complete, deleted }, start)?)?;
    fs::rename(new, path)
}

/// As [`keep`]. Returns what to tell the user if it fails.
pub fn keep_or_warn(runtime_dir: &Path, init: i32, deleted: Vec<PathBuf>) -> Option<String> {
    let error = keep(runtime_dir, init, deleted).err()?;
    Some(format!(
        "the names of the image's files cannot be kept in {} ({error}), so what the service deletes is there again \
         after its next restore",
        runtime_dir.display()
    ))
}

/// The names of the container that began at `start`.
pub fn read(runtime_dir: &Path, start: SystemTime) -> Option<Names> {
    decode(&fs::read(runtime_dir.join(FILE)).ok()?, start)
}

/// Lists for about this `time`. Returns also whether that was enough.
fn list(root: &Path, mounts: &Mounts, user: User, time: Duration) -> (Listed, bool) {
    let until = Instant::now() + time;
    let points: HashSet<&PathBuf> = mounts.points().collect();
    let mut listed = BTreeMap::new();
    let mut open = VecDeque::from([(root.to_owned(), false)]);
    let mut bytes = 0;
    while let Some((folder, above)) = open.pop_front() {
        let Ok(meta) = fs::symlink_metadata(&folder) else { continue };
        let is_wanted = above || user.may_change(&meta);
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let mut names = HashMap::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let path = folder.join(&name);
            if points.contains(&path) {
                continue;
            }
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder {
                open.push_back((path, is_wanted));
            }
            bytes += name.len() + 2;
            names.insert(name, is_folder);
        }
        if is_wanted {
            bytes += folder.as_os_str().len() + 2;
            listed.insert(folder, names);
        }
        if Instant::now() >= until || bytes > LIMIT / 2 {
            break;
        }
    }
    (listed, open.is_empty())
}

impl Names {
    /// Whether the folder at `path` is known to be new.
    pub fn lack(&self, path: &Path) -> bool {
        let names = path.parent().and_then(|folder| self.listed.get(folder));
        names.zip(path.file_name()).is_some_and(|(names, name)| names.get(name) != Some(&true))
    }

    /// What is no longer there, or no longer a folder, or has become one, but for what `stays`. Paths below such a
    /// folder are left out.
    pub fn deleted(&self, is_new: &dyn Fn(&Metadata) -> bool, stays: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
        let mut deleted = self.deleted.clone();
        for (folder, names) in &self.listed {
            // If it is gone, or a link has its place or one above, a folder above says so.
            let Ok(meta) = resolve::folder(folder).and_then(|place| Ok(place.metadata()?)) else { continue };
            if is_new(&meta) {
                let gone = names.iter().map(|(name, is_folder)| (folder.join(name), *is_folder)).filter(is_gone);
                deleted.extend(gone.map(|(path, _)| path));
            }
        }
        deleted.retain(|path| !stays(path));
        deleted.sort();
        deleted.dedup();
        deleted
    }
}

/// Whether what was at the path, a folder or not, is there no more.
fn is_gone((path, was_folder): &(PathBuf, bool)) -> bool {
    match fs::symlink_metadata(path) {
        Ok(meta) => meta.is_dir() != *was_folder,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// The start, whether the list is complete, then each folder with its names, each ended by NUL, and an empty name after the last; a first folder
/// without a path has the deleted paths. A name of a folder has a slash after it.
fn encode(names: &Names, start: SystemTime) -> io::Result<Vec<u8>> {
    let age = start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut text = (age.as_nanos() as u64).to_le_bytes().to_vec();
    text.push(names.is_complete.into());
    let mut add = |folder: &OsStr, names: &[&OsStr]| {
        for part in [&[folder], names, &[OsStr::new("")]].into_iter().flatten() {
            text.extend_from_slice(part.as_bytes());
            text.push(0);
        }
    };
    add(OsStr::new(""), &names.deleted.iter().map(|path| path.as_os_str()).collect::<Vec<_>>());
    for (folder, names) in &names.listed {
        let names: Vec<OsString> = names.iter().map(with_kind).collect();
        add(folder.as_os_str(), &names.iter().map(OsString::as_os_str).collect::<Vec<_>>());
    }
    zstd::bulk::compress(&text, 1)
}

fn with_kind((name, is_folder): (&OsString, &bool)) -> OsString {
    let mut name = name.clone();
    if *is_folder {
        name.push("/");
    }
    name
}

fn name_and_kind(name: OsString) -> (OsString, bool) {
    match name.as_bytes().strip_suffix(b"/") {
        Some(folder) => (OsStr::from_bytes(folder).to_owned(), true),
        None => (name, false),
    }
}

fn decode(object: &[u8], start: SystemTime) -> Option<Names> {
    let text = zstd::bulk::decompress(object, LIMIT).ok()?;
    let (age, text) = text.split_first_chunk::<8>()?;
    let (is_complete, mut text) = text.split_first()?;
    let written = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::from_le_bytes(*age));
    let apart = written.duration_since(start).unwrap_or_else(|error| error.duration());
    if apart > TOLERANCE {
        return None;
    }
    let mut next = || {
        let end = text.iter().position(|byte| *byte == 0)?;
        let (part, rest) = text.split_at(end);
        text = &rest[1..];
        Some(OsString::from_vec(part.to_vec()))
    };
    let mut names = Names { is_complete: *is_complete != 0, ..Names::default() };
    while let Some(folder) = next() {
        let all = std::iter::from_fn(|| next().filter(|name| !name.is_empty()));
        if folder.is_empty() {
            names.deleted = all.map(PathBuf::from).collect();
        } else {
            names.listed.insert(folder.into(), all.map(name_and_kind).collect());
        }
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;
    use crate::proc::mountinfo;

    const USER: User = User { uid: 1000, is_free: false };

    fn mounts(top: &Path, more: &str) -> Mounts {
        let all = format!("1 0 0:1 / {} rw - overlay overlay rw\n{more}", top.display());
        Mounts::at(top, mountinfo::parse(all.as_bytes()))
    }

    /// `theirs` of root, and `mine` of the user with a folder of root in it.
    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in ["theirs/file", "mine/one", "mine/two.tmp", "mine/theirs/deep/file", "mine/volume/file"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        chown(folder.path().join("mine"), Some(1000), Some(1000)).unwrap();
        folder
    }

    fn listed(top: &Path) -> Listed {
        let volume = format!("2 1 0:2 / {} rw - ext4 ext4 rw\n", top.join("mine/volume").display());
        let (listed, is_complete) = list(top, &mounts(top, &volume), USER, Duration::from_secs(60));
        assert!(is_complete);
        listed
    }

    #[test]
    fn as_root_names_are_listed_where_the_user_can_delete() {
        let folder = tree();
        let top = folder.path();
        let listed = listed(top);
        let folders: Vec<_> = listed.keys().map(|path| path.strip_prefix(top).unwrap().to_str().unwrap()).collect();
        assert_eq!(folders, ["mine", "mine/theirs", "mine/theirs/deep"]);
        let names = [("one", false), ("two.tmp", false), ("theirs", true)];
        assert_eq!(listed[&top.join("mine")], names.map(|(name, is_folder)| (name.into(), is_folder)).into());
        assert_eq!(list(top, &mounts(top, ""), USER, Duration::ZERO), (Listed::new(), false));
    }

    #[test]
    fn as_root_what_was_listed_and_is_gone_was_deleted() {
        let folder = tree();
        let top = folder.path();
        let earlier = vec![top.join("theirs/earlier"), top.join("theirs/file")];
        let names = Names { listed: listed(top), deleted: earlier, is_complete: true };
        for name in ["mine/one", "mine/two.tmp", "theirs/file"] {
            fs::remove_file(top.join(name)).unwrap();
        }
        fs::remove_dir_all(top.join("mine/theirs")).unwrap();
        // A file has the place of a folder.
        fs::write(top.join("mine/theirs"), "").unwrap();
        fs::write(top.join("mine/new"), "").unwrap();
        let is_temporary = |path: &Path| path.extension().is_some_and(|end| end == "tmp");
        let deleted = ["mine/one", "mine/theirs", "theirs/earlier", "theirs/file"].map(|name| top.join(name));
        assert_eq!(names.deleted(&|_| true, &is_temporary), deleted);
        assert!(names.lack(&top.join("mine/new")) && names.lack(&top.join("mine/one")));
        assert!(!names.lack(&top.join("mine/theirs")) && !names.lack(&top.join("theirs/new")));
    }

    #[test]
    fn as_root_a_link_in_place_of_a_folder_is_followed_by_nobody() {
        let folder = tree();
        let top = folder.path().canonicalize().unwrap();
        let names = Names { listed: listed(&top), ..Names::default() };
        fs::rename(top.join("mine/theirs"), top.join("elsewhere")).unwrap();
        symlink("../elsewhere", top.join("mine/theirs")).unwrap();
        fs::remove_file(top.join("elsewhere/deep/file")).unwrap();
        fs::remove_file(top.join("mine/one")).unwrap();
        fs::create_dir(top.join("mine/one")).unwrap();
        let deleted = ["mine/one", "mine/theirs"].map(|name| top.join(name));
        assert_eq!(names.deleted(&|_| true, &|_| false), deleted);
    }

    #[test]
    fn names_are_those_of_one_container() {
        let folder = tempfile::tempdir().unwrap();
        let init = std::process::id() as i32;
        let deleted = vec![PathBuf::from("/gone"), PathBuf::from(OsStr::from_bytes(b"/with \n and \xff"))];
        keep(folder.path(), init, deleted.clone()).unwrap();
        let start = container_start(&Mounts::read().unwrap(), init).unwrap();
        let names = read(folder.path(), start).unwrap();
        assert_eq!(names.deleted, deleted);
        assert!(names.listed.values().any(|names| !names.is_empty()));
        keep(folder.path(), init, vec![]).unwrap();
        assert_eq!(read(folder.path(), start).unwrap(), names);
        assert_eq!(read(folder.path(), start - Duration::from_secs(60)), None);
        fs::write(folder.path().join(FILE), "garbled").unwrap();
        assert_eq!(read(folder.path(), start), None);
    }
}
