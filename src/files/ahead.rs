//! Reads changed files while the service still runs, so that it stands still only for those that change meanwhile.
//!
//! What was read ahead counts only if the file has the same stamp while the service stands still. A stamp tells of
//! every change, with three exceptions that are not read ahead: a change within one tick of the clock, one through
//! a file that was open for writing or mapped when freeze looked, and one on a tmpfs, which does not note changes through mappings.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use super::capture::content;
use super::resolve;
use super::survey::Stamp;
use super::used::Written;
use crate::image::{BodyId, ImageError, ImageWriter};

/// More than a tick of the clock that stamps files: 10 ms with 100 Hz.
const TICK: Duration = Duration::from_millis(20);
/// The same for a clock of seconds.
const COARSE_TICK: Duration = Duration::from_secs(2);

/// Contents that were read ahead.
#[derive(Debug, Default)]
pub struct Ahead(HashMap<PathBuf, (Stamp, BodyId)>);

impl Ahead {
    /// Reads the regular files of `changed`, but those that are `written` now.
    pub fn read(
        changed: &BTreeMap<PathBuf, Stamp>,
        written: &Written,
        writer: &ImageWriter,
    ) -> Result<Self, ImageError> {
        let mut read = HashMap::new();
        for path in changed.iter().filter(|(_, stamp)| stamp.is_file).map(|(path, _)| path) {
            let Some((file, stamp)) =
                open(path, written.since).ok().filter(|(_, stamp)| !written.inodes.contains(&stamp.inode.1))
            else {
                continue;
            };
            match content(&file, stamp.size, writer) {
                Ok(content) if content.is_whole => drop(read.insert(path.clone(), (stamp, content.body))),
                // The second look decides.
                Ok(_) | Err(ImageError::Source(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self(read))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The content of the file at `path`, if it is still the one that was read.
    pub fn content(&self, path: &Path, meta: &Metadata) -> Option<BodyId> {
        self.0.get(path).filter(|(stamp, _)| *stamp == Stamp::of(meta)).map(|(_, body)| *body)
    }
}

/// Opens a file that was last changed before `since`, so that its stamp will tell of any change.
pub(super) fn open(path: &Path, since: Duration) -> io::Result<(File, Stamp)> {
    let place = resolve::place(path).map_err(io::Error::other)?;
    // Opening a pipe or a device may block or act.
    if !place.metadata()?.is_file() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let file = resolve::reopen(&place, fs::OpenOptions::new().read(true))?;
    let meta = file.metadata()?;
    let changed = Duration::new(meta.ctime().max(0) as u64, meta.ctime_nsec() as u32);
    let is_settled = is_settled(changed, since) && fstatfs(&file)?.filesystem_type() != TMPFS_MAGIC;
    if is_settled { Ok((file, Stamp::of(&meta))) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

/// Whether another change would have another time. File systems with small inodes, such as ext3, note whole seconds.
fn is_settled(changed: Duration, since: Duration) -> bool {
    let tick = if changed.subsec_nanos() == 0 { COARSE_TICK } else { TICK };
    changed + tick <= since
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::thread;

    use nix::time::{ClockId, clock_gettime};

    use super::*;
    use crate::image::test_vault;

    fn now() -> Duration {
        clock_gettime(ClockId::CLOCK_REALTIME_COARSE).unwrap().into()
    }

    #[test]
    fn only_what_has_settled_and_stays_counts() {
        let folder = resolve::folder_on_root();
        let top = folder.path().canonicalize().unwrap();
        let [stays, grows, written] = ["stays", "grows", "written"].map(|name| top.join(name));
        for path in [&stays, &grows, &written] {
            fs::write(path, "content").unwrap();
        }
        thread::sleep(2 * TICK);
        let meta = |path: &Path| fs::symlink_metadata(path).unwrap();
        let all = [&stays, &grows, &written];
        let changed = all.into_iter().map(|path| (path.clone(), Stamp::of(&meta(path)))).collect();
        let store = tempfile::tempdir().unwrap();
        let writer = ImageWriter::new(&test_vault(store.path()), 64 << 20, 1).unwrap();
        let open = Written { inodes: [meta(&written).ino()].into(), since: now() };
        let ahead = Ahead::read(&changed, &open, &writer).unwrap();
        File::options().append(true).open(&grows).unwrap().write_all(b"!").unwrap();
        let counts = all.map(|path| ahead.content(path, &meta(path)).is_some());
        assert_eq!(counts, [true, false, false]);
        assert_eq!(ahead.0.len(), 2);
    }

    #[test]
    fn what_has_just_changed_may_change_again_with_the_same_stamp() {
        let folder = resolve::folder_on_root();
        let path = folder.path().canonicalize().unwrap().join("young");
        let since = now();
        fs::write(&path, "content").unwrap();
        thread::sleep(2 * TICK);
        // What happened since freeze looked at the processes may have been by a mapping.
        assert!(super::open(&path, since).is_err());
        assert!(super::open(&path, now()).is_ok());
    }

    #[test]
    fn a_time_in_whole_seconds_may_be_that_of_a_later_change() {
        let changed = Duration::new(1_700_000_000, 1);
        assert!(is_settled(changed, changed + TICK));
        let whole = Duration::from_secs(changed.as_secs());
        assert!(!is_settled(whole, whole + Duration::from_secs(1)) && is_settled(whole, whole + COARSE_TICK));
    }

    #[test]
    fn a_pipe_blocks_nobody() {
        let folder = resolve::folder_on_root();
        let path = folder.path().canonicalize().unwrap().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(super::open(&path, now()).is_err());
    }
}
