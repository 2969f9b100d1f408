//! What was made or changed in the container's own file systems, and a fresh container would lack.
//!
//! An overlay keeps what is changed in its upper layer, with all folders above, each made when the first thing in it
//! is changed. So below a folder of the image that is as old as the image nothing was changed.
//!
//! The first look is while the service runs. The second, while it stands still, passes over the folders in which
//! the container's user can have changed nothing: that saves time where the root is no overlay.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, eaccess};

use super::entry;
use super::groups::{self, Group};
use super::mounts::Kind;
use super::resolve;
use super::used::{LookupError, Rules, captured_kind};
use super::user::User;

/// Most files that travel: half of what a manifest may hold.
const MOST: usize = 1 << 19;

/// What was found in one look.
#[derive(Debug, Default)]
pub struct Survey {
    pub changed: BTreeMap<PathBuf, Stamp>,
    /// Topmost folders in which the container's user can change nothing.
    still: HashSet<PathBuf>,
}

/// What changes when a file changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    pub inode: (u64, u64),
    /// Time of the last change: seconds and nanoseconds.
    pub changed: (i64, i64),
    pub size: u64,
    /// Bytes without holes; 0 for what is no regular file.
    pub bytes: u64,
    pub is_file: bool,
}

impl Stamp {
    pub fn of(meta: &Metadata) -> Self {
        let is_file = meta.is_file();
        Self {
            inode: (meta.dev(), meta.ino()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            size: meta.len(),
            bytes: if is_file { meta.len().min(meta.blocks() * 512) } else { 0 },
            is_file,
        }
    }
}

impl Survey {
    /// Looks at all of the container's own file systems.
    pub fn look(rules: &Rules) -> Result<Self, LookupError> {
        Walk::new(rules, &HashSet::new()).all()
    }

    /// Looks again at what can have changed since.
    pub fn again(&self, rules: &Rules) -> Result<Self, LookupError> {
        Walk::new(rules, &self.still).all()
    }

    /// Refuses more bytes than the `limit`, and more files than a manifest holds.
    pub fn check(&self, limit: u64) -> Result<(), LookupError> {
        if self.changed.len() > MOST {
            let fullest = largest(self.changed.keys().map(|path| (path.as_path(), 1)));
            return Err(LookupError::Many { files: self.changed.len(), limit: MOST, fullest });
        }
        let bytes = self.changed.values().map(|stamp| stamp.bytes).sum();
        if bytes <= limit {
            return Ok(());
        }
        Err(LookupError::Large { bytes, limit, largest: largest(self.files()) })
    }

    /// Regular files with their sizes.
    pub fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.changed.iter().filter(|(_, stamp)| stamp.is_file).map(|(path, stamp)| (path.as_path(), stamp.bytes))
    }
}

/// The folders that a message names.
fn largest<'a>(files: impl Iterator<Item = (&'a Path, u64)>) -> Vec<Group> {
    let mut largest = groups::groups(files, 8);
    largest.truncate(3);
    largest
}

type Entries = Box<dyn Iterator<Item = io::Result<(OsString, io::Result<Metadata>)>>>;

struct Walk<'a> {
    rules: &'a Rules,
    user: User,
    /// Folders to pass over.
    known: &'a HashSet<PathBuf>,
    /// Mount points, and what is freeze's own.
    stops: HashSet<PathBuf>,
    found: Survey,
}

impl<'a> Walk<'a> {
    fn new(rules: &'a Rules, known: &'a HashSet<PathBuf>) -> Self {
        let stops = rules.mounts.points().chain(&rules.ours).cloned().collect();
        Self { rules, user: User::ours(), known, stops, found: Survey::default() }
    }

    fn all(mut self) -> Result<Survey, LookupError> {
        for (top, kind) in self.rules.mounts.own() {
            if let Ok(meta) = fs::symlink_metadata(top)
                && meta.is_dir()
                && !self.rules.is_ours(top)
            {
                self.folder(top, &meta, kind)?;
            }
        }
        Ok(self.found)
    }

    /// Looks at everything in a folder. Returns whether the user can change anything there.
    fn folder(&mut self, folder: &Path, meta: &Metadata, kind: Kind) -> Result<bool, LookupError> {
        let entries = match self.entries(folder, meta) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !self.user.owns(meta) => {
                // Others than its owner can have changed what is in it if they can enter it.
                let is_changed = kind == Kind::Own || self.rules.is_new(meta);
                let may_be_lost = is_changed && eaccess(folder, AccessFlags::X_OK).is_ok();
                return if may_be_lost { Err(unreadable(folder, error)) } else { Ok(false) };
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(unreadable(folder, error)),
        };
        let mut is_live = self.user.may_change(meta);
        let mut still = Vec::new();
        for entry in entries {
            let failed = |error| unreadable(folder, error);
            let (name, meta_of) = match entry {
                // The folder was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                entry => entry.map_err(failed)?,
            };
            let path = folder.join(name);
            if self.is_left_out(&path) {
                continue;
            }
            let meta_of = match meta_of {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                meta => meta.map_err(failed)?,
            };
            is_live |= self.user.may_change(&meta_of);
            let is_new = self.rules.is_new(&meta_of);
            if (kind == Kind::Own || is_new)
                && captured_kind(&meta_of)
                && self.in_reach(&path, &meta_of, kind, (folder, meta))
            {
                self.add(&path, &meta_of)?;
            }
            if meta_of.is_dir() {
                // What is in a folder that was moved may be as old as before.
                let is_moved = kind == Kind::Root && is_new && self.rules.names.lack(&path);
                let kind = if is_moved { Kind::Own } else { kind };
                if kind == Kind::Root && self.rules.mounts.root_is_overlay() && !is_new {
                    // It may change until the second look.
                    is_live = true;
                } else if self.known.contains(&path) || !self.folder(&path, &meta_of, kind)? {
                    still.push(path);
                } else {
                    is_live = true;
                }
            }
        }
        if is_live {
            self.found.still.extend(still);
        }
        Ok(is_live)
    }

    /// What is in a folder, also if its mode no longer lets its owner read it.
    fn entries(&self, folder: &Path, meta: &Metadata) -> io::Result<Entries> {
        match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && self.user.owns(meta) => {
                let place = resolve::place(folder).map_err(|_| error)?;
                let opened = Dir::from_fd(resolve::open_to_read(&place)?.into())?;
                let folder = folder.to_owned();
                let listed = opened.into_iter().map(move |entry| {
                    let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
                    let meta = fs::symlink_metadata(folder.join(&name));
                    Ok((name, meta))
                });
                Ok(Box::new(listed.filter(|entry| !entry.as_ref().is_ok_and(|(name, _)| name == "." || name == ".."))))
            }
            entries => Ok(Box::new(entries?.map(|entry| entry.map(|entry| (entry.file_name(), entry.metadata()))))),
        }
    }

    /// Whether the user can have made or changed the file at `path`, in a folder.
    fn in_reach(&self, path: &Path, meta: &Metadata, kind: Kind, (folder, above): (&Path, &Metadata)) -> bool {
        let can_write = || meta.is_file() && self.user.can_write(path, meta);
        self.user.owns(meta)
            || (self.rules.is_new(meta)
                && (can_write() || (kind == Kind::Root && self.user.can_rename_in(folder, above))))
    }

    fn is_left_out(&self, path: &Path) -> bool {
        self.stops.contains(path)
            || path.file_name().is_some_and(entry::is_temporary)
            || self.rules.selection.named.excludes(path)
    }

    fn add(&mut self, path: &Path, meta: &Metadata) -> Result<(), LookupError> {
        if meta.is_file() && !self.user.owns(meta) {
            match eaccess(path, AccessFlags::R_OK) {
                Err(Errno::ENOENT) => return Ok(()),
                readable => readable.map_err(|errno| unreadable(path, errno))?,
            }
        }
        self.found.changed.insert(path.to_owned(), Stamp::of(meta));
        Ok(())
    }
}

fn unreadable(path: &Path, error: impl Into<io::Error>) -> LookupError {
    LookupError::Changed { path: path.to_owned(), error: error.into() }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::thread;
    use std::time::{Duration, SystemTime};

    use nix::unistd::{Uid, setfsuid};

    use super::*;
    use crate::files::mounts::Mounts;
    use crate::files::selection::{Named, Selection};
    use crate::files::tests::{mount, with_own_mounts};
    use crate::proc::mountinfo;

    /// Rules for a container whose root is `top`, which began when that was made.
    fn rules(top: &Path, mounts: &str) -> Rules {
        let selection = Selection::default().with(&Named { exclude: vec!["*.tmp".parse().unwrap()], ..Named::NONE });
        let mut rules = Rules::of_this_container(std::process::id() as i32, vec![top.join("ours")], selection).unwrap();
        let mounts = format!("1 0 0:1 / {} rw - ext4 ext4 rw\n{mounts}", top.display());
        rules.mounts = Mounts::at(top, mountinfo::parse(mounts.as_bytes()));
        rules.began(SystemTime::now() - Duration::from_secs(3600));
        rules
    }

    fn names(survey: &Survey, top: &Path) -> Vec<String> {
        survey.changed.keys().map(|path| path.strip_prefix(top).unwrap().display().to_string()).collect()
    }

    #[test]
    fn what_is_new_is_found_and_what_is_not_the_containers_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        for name in ["a/file", "a/x.tmp", "ours/file", "volume/file", ".freeze-0123456789abcdef"] {
            fs::create_dir_all(top.join(name).parent().unwrap()).unwrap();
            fs::write(top.join(name), "five!").unwrap();
        }
        symlink("a", top.join("link")).unwrap();
        let rules = rules(top, &format!("2 1 0:2 / {} rw - ext4 ext4 rw\n", top.join("volume").display()));
        let survey = Survey::look(&rules).unwrap();
        assert_eq!(names(&survey, top), ["a", "a/file", "link"]);
        assert_eq!(survey.files().map(|(_, bytes)| bytes).collect::<Vec<_>>(), [5]);
        assert!(survey.check(5).is_ok());
        let said = survey.check(4).unwrap_err().to_string();
        assert!(said.contains("have 5 B") && said.ends_with(&format!("{} (5 B)", top.join("a").display())), "{said}");
    }

    #[test]
    fn more_files_than_a_manifest_holds_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = Stamp::of(&file.as_file().metadata().unwrap());
        let at = |number: usize| (PathBuf::from(format!("/many/{number}")), stamp);
        let mut survey = Survey { changed: (0..MOST).map(at).collect(), ..Survey::default() };
        assert!(survey.check(u64::MAX).is_ok());
        survey.changed.extend([at(MOST)]);
        let said = survey.check(u64::MAX).unwrap_err().to_string();
        assert!(
            said.starts_with("524289 files were changed") && said.ends_with("The fullest folders: /many"),
            "{said}"
        );
    }

    #[test]
    fn what_is_older_than_the_container_is_the_images() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let mut rules = rules(folder.path(), "");
        rules.began(SystemTime::now() + Duration::from_secs(3600));
        assert_eq!(Survey::look(&rules).unwrap().changed, BTreeMap::new());
    }

    /// On a real overlay: what is below an old folder need not be looked at, as nothing there can be new.
    #[test]
    fn as_root_on_an_overlay_every_change_makes_the_folders_above_it_new() {
        let folder = resolve::folder_on_root();
        let [lower, upper, work, root] = ["lower", "upper", "work", "root"].map(|name| folder.path().join(name));
        for path in [&upper, &work, &root] {
            fs::create_dir(path).unwrap();
        }
        for name in ["a/b/write", "a/b/stays", "c/d/mode", "e/f/gone", "g/h/stays"] {
            fs::create_dir_all(lower.join(name).parent().unwrap()).unwrap();
            fs::write(lower.join(name), "").unwrap();
        }
        thread::sleep(Duration::from_millis(50));
        let began = SystemTime::now();
        thread::sleep(Duration::from_millis(50));
        let layers = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        with_own_mounts(|| {
            mount(&["-t".as_ref(), "overlay".as_ref(), "-o".as_ref(), layers.as_ref(), "none".as_ref(), root.as_ref()]);
            let mut rules = rules(&root, "");
            rules.mounts = Mounts::at(
                &root,
                mountinfo::parse(format!("1 0 0:1 / {} rw - overlay overlay rw\n", root.display()).as_bytes()),
            );
            rules.began(began);
            assert_eq!(names(&Survey::look(&rules).unwrap(), &root), [""; 0]);
            fs::write(root.join("a/b/write"), "new").unwrap();
            fs::set_permissions(root.join("c/d/mode"), Permissions::from_mode(0o600)).unwrap();
            fs::remove_file(root.join("e/f/gone")).unwrap();
            let changed = ["a", "a/b", "a/b/write", "c", "c/d", "c/d/mode", "e", "e/f"];
            assert_eq!(names(&Survey::look(&rules).unwrap(), &root), changed);
        });
    }

    #[test]
    fn the_second_look_sees_what_was_made_since() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        fs::create_dir(top.join("a")).unwrap();
        let rules = rules(top, "");
        let first = Survey::look(&rules).unwrap();
        fs::create_dir_all(top.join("a/b")).unwrap();
        File::create(top.join("a/b/c")).unwrap();
        assert_eq!(names(&first.again(&rules).unwrap(), top), ["a", "a/b", "a/b/c"]);
    }

    /// As a user without privileges: folders of others are passed over in the second look, and their files are
    /// not taken for the service's.
    #[test]
    fn as_root_where_the_user_can_change_nothing_nothing_is_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        for name in ["theirs/deep/file", "shared/sticky", "mine/file", "open"] {
            fs::create_dir_all(top.join(name).parent().unwrap()).unwrap();
            File::create(top.join(name)).unwrap();
        }
        let mode = |name: &str, mode| fs::set_permissions(top.join(name), Permissions::from_mode(mode)).unwrap();
        mode("", 0o755);
        mode("shared", 0o1777);
        mode("open", 0o666);
        for name in ["mine", "mine/file"] {
            chown(top.join(name), Some(1000), Some(1000)).unwrap();
        }
        let rules = rules(top, "");
        let known = HashSet::new();
        let mut walk = Walk::new(&rules, &known);
        walk.user = User { uid: 1000, is_free: false };
        let survey = walk.all().unwrap();
        assert_eq!(survey.still, HashSet::from([top.join("theirs")]));
        // This test is root, so access(2) lets it write everything.
        assert_eq!(names(&survey, top), ["mine", "mine/file", "open"]);
    }

    /// What uid 1000 finds without privileges.
    fn look_as_user(rules: &Rules) -> Result<Survey, LookupError> {
        let look = || {
            setfsuid(Uid::from_raw(1000));
            Walk { user: User { uid: 1000, is_free: false }, ..Walk::new(rules, &HashSet::new()) }.all()
        };
        thread::scope(|scope| scope.spawn(look).join().unwrap())
    }

    /// /var/lib/php/sessions is such a folder.
    #[test]
    fn as_root_a_folder_of_another_that_can_be_entered_and_not_listed_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        fs::create_dir(top.join("sessions")).unwrap();
        fs::set_permissions(top, Permissions::from_mode(0o755)).unwrap();
        let mut rules = rules(top, "");
        fs::set_permissions(top.join("sessions"), Permissions::from_mode(0o1733)).unwrap();
        let said = look_as_user(&rules).unwrap_err().to_string();
        assert!(
            said.starts_with(&format!("{} was changed in this container", top.join("sessions").display())),
            "{said}"
        );
        rules.began(SystemTime::now() + Duration::from_secs(3600));
        assert_eq!(names(&look_as_user(&rules).unwrap(), top), [""; 0]);
    }

    #[test]
    fn as_root_in_a_tmpfs_what_the_user_has_written_of_anothers_files_travels() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let top = folder.path();
        for (name, mode) in [("open", 0o666), ("theirs", 0o644)] {
            File::create(top.join(name)).unwrap();
            fs::set_permissions(top.join(name), Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(top, Permissions::from_mode(0o1777)).unwrap();
        let mut rules = rules(top, "");
        rules.mounts = Mounts::at(
            Path::new("/"),
            mountinfo::parse(format!("1 0 0:1 / {} rw - tmpfs tmpfs rw\n", top.display()).as_bytes()),
        );
        assert_eq!(names(&look_as_user(&rules).unwrap(), top), ["open"]);
    }
}
