//! Which files of the service a fresh container would lack.
//!
//! Looks while the service stands still. A used file travels if its mount belongs to the container alone
//! ([`Kind::Own`]), or if it is on the root and is open for writing, or was made or changed since the
//! container started.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, eaccess};

use super::bound;
use super::entry;
use super::how_used::{Use, unless_ended};
pub use super::how_used::{Written, written};
pub use super::lookup_error::LookupError;
use super::mounts::{Kind, Mounts};
use super::names::{self, Names};
use super::resolve::{self, Unresolved};
use super::selection::{Scope, Selection};
use super::start::container_start;
use super::swapped;
use crate::image::FolderLink;
use crate::proc::fdinfo::FdInfo;
use crate::proc::maps;
use crate::proc::tree::Process;
use crate::proc::{self, fd};

/// Decides which files travel.
#[derive(Debug)]
pub struct Rules {
    pub(super) mounts: Mounts,
    /// Files that the container image lacks are younger.
    container_start: SystemTime,
    /// freeze's own folders.
    pub(super) ours: Vec<PathBuf>,
    pub(super) selection: Selection,
    pub(super) names: Names,
}

impl Rules {
    /// Rules for the container of this `init`. Nothing below the folders `ours` travels.
    pub fn of_this_container(init: i32, ours: Vec<PathBuf>, selection: Selection) -> io::Result<Self> {
        let mounts = Mounts::read()?;
        let container_start = container_start(&mounts, init)?;
        Ok(Self { mounts, container_start, ours, selection, names: Names::default() })
    }

    #[cfg(test)]
    pub(crate) fn began(&mut self, start: SystemTime) {
        self.container_start = start;
    }

    /// The same, with the names that the container began with, if they are in the runtime folder.
    pub fn with_names(self, runtime_dir: &Path) -> Self {
        let names = names::read(runtime_dir, self.container_start).unwrap_or_default();
        Self { names, ..self }
    }

    /// What was deleted in the container.
    pub fn deleted(&self) -> Vec<PathBuf> {
        let stays = |path: &Path| self.mounts.kind(path) != Kind::Root || self.is_left_behind(path);
        self.names.deleted(&|meta| self.is_new(meta), &stays)
    }

    /// Whether some deletions may not be known.
    pub fn may_miss_deletions(&self) -> bool {
        !self.names.is_complete
    }

    /// Volumes that the container can write to.
    pub fn volumes(&self) -> Vec<PathBuf> {
        self.mounts.volumes().filter(|volume| !self.is_ours(volume)).map(Path::to_owned).collect()
    }

    /// Whether the path, or a folder above it, is freeze's own or excluded.
    pub(super) fn is_left_behind(&self, path: &Path) -> bool {
        self.is_ours(path) || path.ancestors().any(|path| self.selection.named.excludes(path))
    }

    pub fn scope(&self) -> Scope {
        self.selection.scope
    }

    pub(super) fn is_ours(&self, path: &Path) -> bool {
        self.ours.iter().any(|folder| path.starts_with(folder))
    }

    pub(super) fn travels(&self, path: &Path, meta: &Metadata, written: bool) -> bool {
        if self.is_ours(path) {
            return false;
        }
        match self.mounts.kind(path) {
            Kind::Foreign => false,
            Kind::Own => true,
            Kind::Root => written || self.is_new(meta),
        }
    }

    /// Overlay file systems show one device number for a file's lower and upper copy, but a copy made here is
    /// born here.
    pub(super) fn is_new(&self, meta: &Metadata) -> bool {
        let changed = Duration::new(meta.ctime().max(0) as u64, meta.ctime_nsec().clamp(0, 999_999_999) as u32);
        let changed = SystemTime::UNIX_EPOCH + changed;
        meta.created().is_ok_and(|born| born >= self.container_start) || changed >= self.container_start
    }
}

/// Files that processes use, and how.
#[derive(Debug, Default)]
pub struct Used(pub(super) BTreeMap<PathBuf, Use>);

impl Used {
    /// What the processes use, and what was found for them by its inode.
    pub fn by(processes: &[Process], found_by_inode: &[PathBuf]) -> Result<Self, LookupError> {
        let mut used = used_by(processes)?;
        for path in found_by_inode.iter().filter_map(|path| in_place_of_socket(path)) {
            used.entry(path.to_owned()).or_default();
        }
        Ok(Self(used))
    }

    pub(super) fn contains(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }

    /// Whether the file is open for writing.
    pub(super) fn is_written(&self, path: &Path) -> bool {
        self.0.get(path).is_some_and(|how| how.written)
    }

    /// The folders on volumes that the next container may have under another name.
    pub fn folder_links(&self, rules: &Rules) -> Vec<FolderLink> {
        swapped::links(self.0.keys().filter(|path| rules.mounts.kind(path) == Kind::Foreign), &rules.mounts)
    }
}

/// Paths to capture: files that are used, what was `changed`, what is to be included with everything below, and the
/// folders that all these need, and that sockets need.
pub fn paths<'a>(
    used: &Used,
    changed: impl Iterator<Item = &'a PathBuf>,
    rules: &Rules,
) -> Result<BTreeSet<PathBuf>, LookupError> {
    let mut found: BTreeSet<PathBuf> = changed.cloned().collect();
    for (path, how) in &used.0 {
        if let Ok(meta) = fs::symlink_metadata(path)
            && captured_kind(&meta)
            && rules.travels(path, &meta, how.written)
        {
            found.insert(path.clone());
        }
    }
    for path in &rules.selection.named.include {
        include_real(path, rules, &mut found)?;
    }
    let parents: BTreeSet<&Path> = found.iter().filter_map(|path| path.parent()).collect();
    let folders: BTreeSet<PathBuf> = parents
        .into_iter()
        .flat_map(Path::ancestors)
        .filter(|path| !found.contains(*path))
        .map(Path::to_owned)
        .collect();
    for folder in folders {
        if fs::symlink_metadata(&folder).is_ok_and(|meta| rules.travels(&folder, &meta, false)) {
            found.insert(folder);
        }
    }
    found.remove(Path::new("/"));
    Ok(found)
}

/// Looks up what is to be included, to refuse what cannot be read before anything is frozen.
pub fn check_included(rules: &Rules) -> Result<(), LookupError> {
    let mut found = BTreeSet::new();
    rules.selection.named.include.iter().try_for_each(|path| include_real(path, rules, &mut found))?;
    let closed = |path: &PathBuf| {
        let is_file = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
        is_file && eaccess(path, AccessFlags::R_OK) == Err(Errno::EACCES)
    };
    match found.into_iter().find(closed) {
        Some(path) => Err(LookupError::Include { path, error: Errno::EACCES.into() }),
        None => Ok(()),
    }
}

/// CRIU binds a socket again, and needs its folder.
fn in_place_of_socket(path: &Path) -> Option<&Path> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket { path.parent() } else { Some(path) }
}

/// The engine makes devices, and CRIU binds sockets again.
pub(super) fn captured_kind(meta: &Metadata) -> bool {
    let kind = meta.file_type();
    kind.is_file() || kind.is_dir() || kind.is_fifo() || kind.is_symlink()
}

/// Adds what an included path leads to, and the links on the way that a fresh container lacks.
fn include_real(path: &Path, rules: &Rules, found: &mut BTreeSet<PathBuf>) -> Result<(), LookupError> {
    let (links, real) = resolve::follow(path).map_err(|error| at(path, error.into()))?;
    if let Some(link) = links.iter().find(|link| rules.mounts.kind(link) != Kind::Root) {
        return Err(LookupError::Link { path: path.to_owned(), link: link.clone() });
    }
    let lacks = |link: &PathBuf| fs::symlink_metadata(link).is_ok_and(|meta| rules.travels(link, &meta, false));
    found.extend(links.into_iter().filter(lacks));
    walk(&real, &real, rules, found)
}

/// Adds `path` and everything below it, without following links. Skips freeze's own files, temporary ones too, what is
/// excluded, and volumes below a `top` that is on none.
fn walk(top: &Path, path: &Path, rules: &Rules, found: &mut BTreeSet<PathBuf>) -> Result<(), LookupError> {
    let foreign = |path: &Path| rules.mounts.kind(path) == Kind::Foreign;
    let temporary = path.file_name().is_some_and(entry::is_temporary);
    if rules.is_ours(path) || temporary || rules.selection.named.excludes(path) || (foreign(path) && !foreign(top)) {
        return Ok(());
    }
    let meta = match resolve::place(path) {
        Err(Unresolved::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        place => place.and_then(|place| Ok(place.metadata()?)).map_err(|error| at(path, error))?,
    };
    if captured_kind(&meta) {
        found.insert(path.to_owned());
    }
    if meta.is_dir() {
        for name in names_in(path).map_err(|error| at(path, error))? {
            walk(top, &path.join(name), rules, found)?;
        }
    }
    Ok(())
}

/// A path that became a link after [`resolve::follow`] is as unsafe: others can change it.
fn at(path: &Path, error: Unresolved) -> LookupError {
    let path = path.to_owned();
    match error {
        Unresolved::Link(link) => LookupError::Link { path, link },
        Unresolved::Io(error) => LookupError::Include { path, error },
    }
}

fn names_in(path: &Path) -> Result<Vec<OsString>, Unresolved> {
    let folder = resolve::place(path)?;
    let names = fs::read_dir(resolve::by_descriptor(&folder))?.map(|entry| Ok(entry?.file_name()));
    Ok(names.collect::<io::Result<_>>()?)
}

/// Paths that a process has open, mapped, bound or as its working directory.
fn used_by(processes: &[Process]) -> Result<BTreeMap<PathBuf, Use>, LookupError> {
    let sockets = bound::sockets();
    let mut used = BTreeMap::new();
    let mut note = |path: PathBuf, how: Use| *used.entry(path).or_default() |= how;
    for process in processes.iter().filter(|process| !process.is_zombie()) {
        let cwd = proc::path(process.pid, "cwd");
        if let Ok(target) = fs::read_link(&cwd) {
            let how = Use { worked_in: true, ..Use::default() };
            names_of(&cwd, &target).into_iter().for_each(|path| note(path, how));
        }
        for (fd, target) in unless_ended(process.pid, fd::links(process.pid))? {
            if target.is_absolute() {
                let how = Use::open(&FdInfo::read(process.pid, fd).unwrap_or_default());
                let link = proc::path(process.pid, &format!("fd/{fd}"));
                names_of(&link, &target).into_iter().for_each(|path| note(path, how));
            } else if let Some(path) = sockets.get(target.as_os_str().as_bytes()) {
                for folder in folders_of_socket(path)? {
                    note(folder, Use::default());
                }
            }
        }
        for mapping in unless_ended(process.pid, maps::read(process.pid))? {
            if let Some(path) = mapping.path() {
                note(path.to_owned(), Use::mapped(&mapping));
            }
        }
    }
    Ok(used)
}

/// Mapped files that do not travel and must be the same at a restore: programs and libraries, and whatever else is
/// mapped of the image. A volume's data may change. A process may end meanwhile.
pub fn mapped(processes: &[Process], rules: &Rules) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for process in processes {
        for mapping in maps::read(process.pid).unwrap_or_default() {
            // The path of a deleted one leads nowhere.
            let Some((path, meta)) = mapping.path().and_then(|path| Some((path, fs::symlink_metadata(path).ok()?)))
            else {
                continue;
            };
            let is_needed = mapping.executable || rules.mounts.kind(path) == Kind::Root;
            if is_needed && meta.is_file() && !rules.travels(path, &meta, mapping.writable && mapping.shared) {
                found.insert(path.to_owned());
            }
        }
    }
    found
}

/// The folder, and the links that lead to it, in which the restore binds a socket again by its name.
fn folders_of_socket(path: &Path) -> Result<Vec<PathBuf>, LookupError> {
    let Some(folder) = path.parent() else { return Ok(Vec::new()) };
    let (mut found, real) =
        resolve::follow(folder).map_err(|error| LookupError::Socket { folder: folder.to_owned(), error })?;
    found.push(real);
    Ok(found)
}

/// Names of the file behind `link` in /proc: `target`, if that leads to the same file. A file without its
/// name may have hard links in the same folder, such as CRIU's own `link_remap.N`, which the restore needs. If that
/// folder is deleted too, CRIU links the file into the closest one above.
fn names_of(link: &Path, target: &Path) -> Vec<PathBuf> {
    let Ok(open) = fs::metadata(link) else { return Vec::new() };
    let same =
        |path: &Path| fs::symlink_metadata(path).is_ok_and(|meta| (meta.dev(), meta.ino()) == (open.dev(), open.ino()));
    if same(target) {
        return vec![target.to_owned()];
    }
    if !open.is_file() || open.nlink() == 0 {
        return Vec::new();
    }
    let Some(folder) = target.ancestors().skip(1).find(|folder| folder.is_dir()) else { return Vec::new() };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| same(path)).collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::{File, OpenOptions};
    use std::iter;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::files::selection::Named;
    use crate::proc::mountinfo;

    fn this_process() -> Vec<Process> {
        vec![proc::tree::read(std::process::id() as i32).unwrap()]
    }

    /// What is captured of what processes use.
    fn paths_of(
        processes: &[Process],
        found_by_inode: &[PathBuf],
        rules: &Rules,
    ) -> Result<BTreeSet<PathBuf>, LookupError> {
        paths(&Used::by(processes, found_by_inode)?, iter::empty(), rules)
    }

    /// What is captured besides what processes use.
    fn included(include: &[PathBuf], rules: Rules) -> Result<BTreeSet<PathBuf>, LookupError> {
        let selection = rules.selection.clone().with(&Named { include: include.to_vec(), ..Named::NONE });
        paths_of(&[], &[], &Rules { selection, ..rules })
    }

    fn rules_of_us(ours: Vec<PathBuf>) -> Rules {
        Rules::of_this_container(std::process::id() as i32, ours, Selection::default()).unwrap()
    }

    #[test]
    fn open_files_are_seen_with_their_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (read, write) = (folder.path().join("read"), folder.path().join("write"));
        File::create(&read).unwrap();
        let _reader = File::open(&read).unwrap();
        let _writer = OpenOptions::new().create(true).append(true).open(&write).unwrap();
        let used = used_by(&this_process()).unwrap();
        let appended = Use { written: true, ..Use::default() };
        assert_eq!((used.get(&read), used.get(&write)), (Some(&Use::default()), Some(&appended)));
    }

    #[test]
    fn what_is_written_is_known_although_a_process_or_the_name_is_gone() {
        let (_folder, top) = real_and_link();
        let open = OpenOptions::new().write(true).open(top.join("real/file")).unwrap();
        fs::hard_link(top.join("real/file"), top.join("left")).unwrap();
        fs::remove_dir_all(top.join("real")).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = Process { pid: child.id() as i32, state: 'R', ..Process::default() };
        child.wait().unwrap();
        let written = written(&[vec![ended], this_process()].concat()).unwrap();
        assert!(written.inodes.contains(&open.metadata().unwrap().ino()));
    }

    #[test]
    fn a_deleted_file_is_left_to_criu() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gone");
        let _open = File::create(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!used_by(&this_process()).unwrap().keys().any(|found| found.starts_with(folder.path())));
    }

    #[test]
    fn the_names_that_a_deleted_file_has_left_are_needed() {
        let folder = tempfile::tempdir().unwrap();
        let (gone, left) = (folder.path().join("gone"), folder.path().join("left"));
        let _open = File::create(&gone).unwrap();
        fs::hard_link(&gone, &left).unwrap();
        fs::remove_file(&gone).unwrap();
        assert!(used_by(&this_process()).unwrap().contains_key(&left));
    }

    #[test]
    fn so_are_those_above_a_deleted_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (below, left) = (folder.path().join("one/two"), folder.path().join("left"));
        fs::create_dir_all(&below).unwrap();
        let _open = File::create(below.join("gone")).unwrap();
        fs::hard_link(below.join("gone"), &left).unwrap();
        fs::remove_dir_all(folder.path().join("one")).unwrap();
        assert!(used_by(&this_process()).unwrap().contains_key(&left));
    }

    #[test]
    fn a_file_may_be_named_as_if_it_were_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let (live, gone) = (folder.path().join("x (deleted)"), folder.path().join("y"));
        let _open = [File::create(&live).unwrap(), File::create(&gone).unwrap()];
        fs::remove_file(&gone).unwrap();
        let stranger = folder.path().join("y (deleted)");
        File::create(&stranger).unwrap();
        let used = used_by(&this_process()).unwrap();
        let written = Use { written: true, overwritten: true, ..Use::default() };
        assert_eq!((used.get(&live), used.get(&stranger)), (Some(&written), None));
    }

    #[test]
    fn the_folder_of_a_bound_socket_is_needed_whatever_its_name() {
        for name in [b"plain".as_slice(), b"with blank", b" in front", b"two\nlines", b"ends\n", b"\xff\xfe"] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path().join(OsStr::from_bytes(name));
            fs::create_dir(&folder).unwrap();
            let _socket = UnixListener::bind(folder.join(OsStr::from_bytes(name))).unwrap();
            assert!(used_by(&this_process()).unwrap().contains_key(&folder), "{folder:?}");
        }
    }

    #[test]
    fn a_socket_bound_through_a_link_needs_the_link_and_the_folder() {
        let (_folder, top) = real_and_link();
        let _socket = UnixListener::bind(top.join("link/sock")).unwrap();
        let used = used_by(&this_process()).unwrap();
        assert!(["link", "real"].iter().all(|name| used.contains_key(&top.join(name))), "{used:?}");
    }

    #[test]
    fn a_renamed_socket_needs_both_folders() {
        let (_folder, top) = real_and_link();
        fs::create_dir(top.join("new")).unwrap();
        let _socket = UnixListener::bind(top.join("real/sock")).unwrap();
        fs::rename(top.join("real/sock"), top.join("new/sock")).unwrap();
        let rules = Rules { mounts: Mounts::of(mountinfo::parse(ROOT)), ..rules_of_us(Vec::new()) };
        let found = paths_of(&this_process(), &[top.join("new/sock")], &rules).unwrap();
        assert!(["new", "real"].iter().all(|name| found.contains(&top.join(name))), "{found:?}");
        assert!(!found.contains(&top.join("new/sock")));
    }

    #[test]
    fn a_socket_whose_folder_is_a_loop_of_links_now_is_refused_by_its_name() {
        let (_folder, top) = real_and_link();
        let _socket = UnixListener::bind(top.join("link/sock")).unwrap();
        fs::remove_file(top.join("link")).unwrap();
        symlink("link", top.join("link")).unwrap();
        let said = paths_of(&this_process(), &[], &rules_of_us(Vec::new())).unwrap_err().to_string();
        assert!(said.contains(&format!("unix socket in {}", top.join("link").display())), "{said}");
        assert!(!said.contains("/proc"), "{said}");
    }

    #[test]
    fn old_files_of_the_root_travel_only_when_written() {
        let rules = Rules {
            mounts: Mounts::read().unwrap(),
            container_start: SystemTime::now() + Duration::from_secs(3600),
            ours: vec!["/opt/freeze".into()],
            selection: Selection::default(),
            names: Names::default(),
        };
        let meta = fs::metadata("/etc/passwd").unwrap();
        assert!(!rules.travels(Path::new("/etc/passwd"), &meta, false));
        assert!(rules.travels(Path::new("/etc/passwd"), &meta, true));
        assert!(!rules.travels(Path::new("/opt/freeze/freeze"), &meta, true));
    }

    #[test]
    fn nothing_of_ours_is_included() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("store")).unwrap();
        File::create(folder.path().join("store/head")).unwrap();
        let mine = folder.path().join("mine");
        File::create(&mine).unwrap();
        let rules = rules_of_us(vec![folder.path().join("store")]);
        let found = included(&[folder.path().to_owned()], rules).unwrap();
        assert!(found.contains(&mine) && !found.contains(&folder.path().join("store")), "{found:?}");
    }

    #[test]
    fn what_is_excluded_stays_even_if_it_is_below_an_include() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["keep", "a.tmp", "cache/file"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            File::create(path).unwrap();
        }
        let exclude = ["*.tmp".to_owned(), folder.path().join("c*").display().to_string()];
        let exclude = exclude.map(|pattern| pattern.parse().unwrap()).to_vec();
        let selection = Selection::default().with(&Named { exclude, ..Named::NONE });
        let rules = Rules { selection, ..rules_of_us(Vec::new()) };
        let found = included(&[folder.path().to_owned()], rules).unwrap();
        let files: Vec<_> = found.iter().filter(|path| path.starts_with(folder.path())).skip(1).collect();
        assert_eq!(files, [&folder.path().join("keep")]);
    }

    const ROOT: &[u8] = b"1 0 0:1 / / rw - overlay overlay rw\n";

    /// A folder with `real/file`, and `link` to `real`, by its real path.
    fn real_and_link() -> (tempfile::TempDir, PathBuf) {
        let folder = resolve::folder_on_root();
        let top = folder.path().canonicalize().unwrap();
        fs::create_dir(top.join("real")).unwrap();
        File::create(top.join("real/file")).unwrap();
        symlink("real", top.join("link")).unwrap();
        (folder, top)
    }

    #[test]
    fn an_include_through_a_link_takes_the_link_and_what_it_leads_to() {
        let (_folder, top) = real_and_link();
        for path in ["link", "link/file"] {
            let rules = Rules { mounts: Mounts::of(mountinfo::parse(ROOT)), ..rules_of_us(Vec::new()) };
            let found = included(&[top.join(path)], rules).unwrap();
            let below: Vec<&Path> = found.iter().filter_map(|path| path.strip_prefix(&top).ok()).collect();
            assert_eq!(below, ["", "link", "real", "real/file"].map(Path::new), "{path}");
        }
    }

    #[test]
    fn an_include_follows_no_link_that_others_may_change() {
        let (_folder, top) = real_and_link();
        fs::create_dir(top.join("mount")).unwrap();
        symlink("../real", top.join("mount/link")).unwrap();
        let mount = |fstype: &str| format!("2 1 0:2 / {} rw - {fstype} {fstype} rw\n", top.join("mount").display());
        for (fstype, path, link) in [("ext4", "mount/link", "mount/link"), ("tmpfs", "mount/link/file", "mount/link")] {
            let mounts = Mounts::of(mountinfo::parse(&[ROOT, mount(fstype).as_bytes()].concat()));
            let rules = Rules { mounts, ..rules_of_us(Vec::new()) };
            let said = included(&[top.join(path)], rules).unwrap_err().to_string();
            assert!(said.contains(&format!("the symbolic link {},", top.join(link).display())), "{said}");
        }
    }

    #[test]
    fn an_include_follows_a_link_of_the_root_to_a_volume() {
        let (_folder, top) = real_and_link();
        let mount = format!("2 1 0:2 / {} rw - ext4 ext4 rw\n", top.join("real").display());
        let mounts = Mounts::of(mountinfo::parse(&[ROOT, mount.as_bytes()].concat()));
        let found = included(&[top.join("link")], Rules { mounts, ..rules_of_us(Vec::new()) }).unwrap();
        assert!(["link", "real", "real/file"].iter().all(|name| found.contains(&top.join(name))), "{found:?}");
    }

    #[test]
    fn what_a_killed_restore_left_is_not_included() {
        let (_folder, top) = real_and_link();
        let (left, other) = (top.join(".freeze-0123456789abcdef"), top.join(".freeze-notes"));
        File::create(&left).unwrap();
        File::create(&other).unwrap();
        let found = included(std::slice::from_ref(&top), rules_of_us(Vec::new())).unwrap();
        assert!(found.contains(&other) && !found.contains(&left), "{found:?}");
    }

    #[test]
    fn a_file_made_since_the_start_is_new() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let rules = Rules {
            mounts: Mounts::read().unwrap(),
            container_start: SystemTime::now() - Duration::from_secs(60),
            ours: Vec::new(),
            selection: Selection::default(),
            names: Names::default(),
        };
        assert!(rules.is_new(&file.as_file().metadata().unwrap()));
    }
}
