//! Which files the service uses that a fresh container would lack.
//!
//! Looked up while the service stands still. A file counts when it lies in the container's own file systems (see
//! [`Mounts`]) and is either in memory, or open for writing, or was made or changed since the container started.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use super::mounts::{Kind, Mounts};
use crate::proc::tree::{self, Process};

/// Access mode bits of the `flags:` line of fdinfo (proc_pid_fdinfo(5)); the octal value 0 is read only.
const ACCESS_MODE: u32 = 0o3;

/// What decides whether a file travels.
#[derive(Debug)]
pub struct Rules {
    mounts: Mounts,
    /// What the image did not have is younger than this.
    container_start: SystemTime,
    /// Folders of our own.
    ours: Vec<PathBuf>,
}

impl Rules {
    /// Rules for the container of this `init`; nothing below the folders `ours` ever counts.
    ///
    /// # Errors
    /// Where there is no such process, or no /proc.
    pub fn of_this_container(init: i32, ours: Vec<PathBuf>) -> io::Result<Self> {
        let mounts = Mounts::read()?;
        let born = mounts.root_is_overlay().then(|| fs::metadata("/")?.created()).transpose().ok().flatten();
        Ok(Self { mounts, container_start: beginning(born, init)?, ours })
    }

    fn is_ours(&self, path: &Path) -> bool {
        self.ours.iter().any(|folder| path.starts_with(folder))
    }

    fn travels(&self, path: &Path, meta: &Metadata, written: bool) -> bool {
        if self.is_ours(path) {
            return false;
        }
        match self.mounts.kind(path) {
            Kind::Foreign => false,
            Kind::Own => true,
            Kind::Root => written || self.is_new(meta),
        }
    }

    /// Overlay file systems show a file's lower and upper copy with one device number, but a copy made here is born here.
    fn is_new(&self, meta: &Metadata) -> bool {
        let changed = Duration::new(meta.ctime().max(0) as u64, meta.ctime_nsec().clamp(0, 999_999_999) as u32);
        let changed = SystemTime::UNIX_EPOCH + changed;
        meta.created().is_ok_and(|born| born >= self.container_start) || changed >= self.container_start
    }
}

/// The paths to capture: those that the processes use or have `watched`, with the folders that they need, and `include` with all below
/// it.
pub fn paths(
    processes: &[Process],
    watched: &[PathBuf],
    include: &[PathBuf],
    rules: &Rules,
) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let watched = watched.iter().map(|path| (path.clone(), false));
    for (path, written) in used_by(processes)?.into_iter().chain(watched) {
        if let Ok(meta) = fs::symlink_metadata(&path)
            && captured_kind(&meta)
            && rules.travels(&path, &meta, written)
        {
            found.insert(path);
        }
    }
    for path in include {
        if !path.exists() {
            // It may come later; but a misspelt one should not go unnoticed.
            let _ = writeln!(io::stderr(), "freeze: warning: --include {}: there is no such file now", path.display());
        }
        walk(path, path, rules, &mut found)?;
    }
    let parents: Vec<PathBuf> = found.iter().flat_map(|path| path.ancestors().skip(1)).map(Path::to_owned).collect();
    for folder in parents {
        if fs::symlink_metadata(&folder).is_ok_and(|meta| rules.travels(&folder, &meta, false)) {
            found.insert(folder);
        }
    }
    found.remove(Path::new("/"));
    Ok(found)
}

/// Devices and sockets are made by others: the engine, or CRIU when it binds a socket again.
fn captured_kind(meta: &Metadata) -> bool {
    let kind = meta.file_type();
    kind.is_file() || kind.is_dir() || kind.is_fifo() || kind.is_symlink()
}

/// `path` and everything below it, without following links. Where `top` is not on a volume itself, volumes below it are passed over,
/// and so is what is ours in any case.
fn walk(top: &Path, path: &Path, rules: &Rules, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let foreign = |path: &Path| rules.mounts.kind(path) == Kind::Foreign;
    if rules.is_ours(path) || (foreign(path) && !foreign(top)) {
        return Ok(());
    }
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta?,
    };
    if captured_kind(&meta) {
        found.insert(path.to_owned());
    }
    if meta.is_dir() {
        let unreadable =
            |error: io::Error| io::Error::new(error.kind(), format!("--include, at {}: {error}", path.display()));
        for entry in fs::read_dir(path).map_err(unreadable)? {
            walk(top, &entry.map_err(unreadable)?.path(), rules, found)?;
        }
    }
    Ok(())
}

/// Every path that a process has open, mapped, bound or as its working directory, and whether it is open for writing.
fn used_by(processes: &[Process]) -> io::Result<BTreeMap<PathBuf, bool>> {
    let sockets = bound_sockets();
    let mut used = BTreeMap::new();
    let mut note = |path: PathBuf, written: bool| *used.entry(path).or_insert(false) |= written;
    for process in processes.iter().filter(|process| !process.is_zombie()) {
        if let Ok(cwd) = fs::read_link(tree::proc_path(process.pid, "cwd")) {
            note(cwd, false);
        }
        for (fd, target) in descriptors(process.pid)? {
            let name = target.as_os_str().as_bytes();
            if is_deleted(&target) {
                other_names(process.pid, fd, &target).into_iter().for_each(|path| note(path, true));
            } else if name.starts_with(b"/") {
                note(target, opened_for_writing(process.pid, fd));
            } else if let Some(folder) = sockets.get(name).and_then(|path| path.parent()) {
                note(folder.to_owned(), false);
            }
        }
        for (path, permissions) in mapped(process.pid)? {
            note(path, permissions[1] == b'w' && permissions[3] == b's');
        }
    }
    used.retain(|path, _| !is_deleted(path));
    Ok(used)
}

/// Descriptors of a process and what they lead to.
pub fn descriptors(pid: i32) -> io::Result<Vec<(i32, PathBuf)>> {
    let entries = fs::read_dir(tree::proc_path(pid, "fd"))?.flatten();
    Ok(entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, fs::read_link(entry.path()).ok()?)))
        .collect())
}

fn opened_for_writing(pid: i32, fd: i32) -> bool {
    let info = fs::read_to_string(tree::proc_path(pid, &format!("fdinfo/{fd}"))).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & ACCESS_MODE != 0)
}

/// Files that a process has mapped, with the permissions: `rwx` or `-`, then `s` where writes reach the file (proc_pid_maps(5)).
fn mapped(pid: i32) -> io::Result<Vec<(PathBuf, [u8; 4])>> {
    let maps = fs::read(tree::proc_path(pid, "maps"))?;
    let lines = maps.split(|&byte| byte == b'\n');
    Ok(lines
        .filter_map(|line| {
            let path = line.iter().position(|&byte| byte == b'/').and_then(|at| line.get(at..))?;
            let permissions = line.split(|&byte| byte == b' ').nth(1)?.try_into().ok()?;
            Some((PathBuf::from(OsStr::from_bytes(path)), permissions))
        })
        .collect())
}

/// Programs and libraries of a process: what it has mapped to be executed, deleted files left out.
pub fn executed(pid: i32) -> io::Result<BTreeSet<PathBuf>> {
    let files = mapped(pid)?.into_iter().filter(|(path, permissions)| permissions[2] == b'x' && !is_deleted(path));
    Ok(files.map(|(path, _)| path).collect())
}

/// Names that an open file has left beside the deleted one, CRIU's own among them: it links such a file to `link_remap.N` in the
/// same folder, and expects to find that at the restore.
fn other_names(pid: i32, fd: i32, deleted: &Path) -> Vec<PathBuf> {
    let Ok(file) = fs::metadata(tree::proc_path(pid, &format!("fd/{fd}"))) else { return Vec::new() };
    let Some(folder) = deleted.parent().filter(|_| file.is_file() && file.nlink() > 0) else { return Vec::new() };
    let same = |meta: Metadata| (meta.dev(), meta.ino()) == (file.dev(), file.ino());
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| fs::symlink_metadata(path).is_ok_and(same)).collect()
}

fn is_deleted(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b" (deleted)")
}

/// Paths of bound unix sockets, by what a descriptor of the socket leads to: `socket:[INODE]`.
fn bound_sockets() -> BTreeMap<Vec<u8>, PathBuf> {
    let text = fs::read_to_string("/proc/self/net/unix").unwrap_or_default();
    let rows = text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (inode, path) = (fields.nth(6)?, fields.next()?);
        path.starts_with('/').then(|| (format!("socket:[{inode}]").into_bytes(), PathBuf::from(path)))
    });
    rows.collect()
}

/// When the container began. The root folder of an overlay is born with it, and it may be started again later. PID 1 says nothing: where
/// containers share a PID namespace it is older than their images.
fn beginning(root_born: Option<SystemTime>, init: i32) -> io::Result<SystemTime> {
    let started = start_of(init)?;
    Ok(root_born.map_or(started, |born| born.min(started)))
}

/// When a process started, by the clock of file times, to a hundredth of a second.
fn start_of(pid: i32) -> io::Result<SystemTime> {
    let stat = fs::read_to_string(tree::proc_path(pid, "stat"))?;
    // Field 22, in ticks since the boot; what follows the name begins with field 3 (proc_pid_stat(5)).
    let ticks: Option<u64> = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)?.parse().ok());
    let ticks = ticks
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has no start time")))?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100) as u64;
    let uptime = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
    let age = uptime.saturating_sub(Duration::from_millis(ticks.saturating_mul(1000) / per_second));
    Ok(SystemTime::now() - age)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};

    use super::*;

    fn this_process() -> Vec<Process> {
        vec![tree::read(std::process::id() as i32).unwrap()]
    }

    fn rules_of_us(ours: Vec<PathBuf>) -> Rules {
        Rules::of_this_container(std::process::id() as i32, ours).unwrap()
    }

    #[test]
    fn open_files_are_seen_with_their_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (read, write) = (folder.path().join("read"), folder.path().join("write"));
        File::create(&read).unwrap();
        let _reader = File::open(&read).unwrap();
        let _writer = OpenOptions::new().create(true).append(true).open(&write).unwrap();
        let used = used_by(&this_process()).unwrap();
        assert_eq!((used.get(&read), used.get(&write)), (Some(&false), Some(&true)));
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
    fn the_folder_of_a_bound_socket_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("sock")).unwrap();
        assert!(used_by(&this_process()).unwrap().contains_key(folder.path()));
    }

    #[test]
    fn old_files_of_the_root_travel_only_when_written() {
        let rules = Rules {
            mounts: Mounts::read().unwrap(),
            container_start: SystemTime::now() + Duration::from_secs(3600),
            ours: vec!["/opt/freeze".into()],
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
        let found = paths(&[], &[], &[folder.path().to_owned()], &rules).unwrap();
        assert!(found.contains(&mine) && !found.contains(&folder.path().join("store")), "{found:?}");
    }

    #[test]
    fn a_container_begins_with_its_own_init_and_its_own_root() {
        let us = std::process::id() as i32;
        let started = start_of(us).unwrap();
        let apart =
            |one: SystemTime, other: SystemTime| one.duration_since(other).unwrap_or_else(|error| error.duration());
        let second = Duration::from_secs(1);
        assert!(apart(beginning(None, us).unwrap(), started) < second);
        assert_eq!(beginning(Some(started - second), us).unwrap(), started - second);
        assert!(
            apart(rules_of_us(Vec::new()).container_start, started) < second
                || Mounts::read().unwrap().root_is_overlay()
        );
    }

    #[test]
    fn a_file_made_since_the_start_is_new() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let rules = Rules {
            mounts: Mounts::read().unwrap(),
            container_start: SystemTime::now() - Duration::from_secs(60),
            ours: Vec::new(),
        };
        assert!(rules.is_new(&file.as_file().metadata().unwrap()));
    }

    #[test]
    fn a_process_starts_when_it_is_started() {
        let before = SystemTime::now() - Duration::from_millis(20);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let start = start_of(child.id() as i32).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(before <= start && start <= SystemTime::now());
    }
}
