//! The folder in which one worker and its CRIU meet: sockets, CRIU's log and figures. It goes with the worker; the log is kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const PREFIX: &str = "work-";

/// A work folder, removed when dropped.
#[derive(Debug)]
pub struct Work {
    folder: tempfile::TempDir,
    /// Where the log is to be kept.
    kept: PathBuf,
    log: PathBuf,
}

impl Work {
    /// Makes one in `runtime_dir`, whose log named `log` will be kept there under the same name.
    pub fn new(runtime_dir: &Path, log: &str) -> io::Result<Self> {
        for entry in fs::read_dir(runtime_dir)?.flatten() {
            // There is one worker at a time, so this one's maker was killed.
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(runtime_dir)?;
        let work = Self { log: folder.path().join(log), kept: runtime_dir.join(log), folder };
        // One that a killed worker left behind is of no use any more.
        let _ = fs::remove_file(&work.kept);
        Ok(work)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// CRIU's log, if there is one by now: where it will be found once this is dropped.
    pub fn kept_log(&self) -> Option<PathBuf> {
        self.log.exists().then(|| self.kept.clone())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Of one file system, so that nothing is copied; where there was no log there is nothing to keep.
        let _ = fs::rename(&self.log, &self.kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_outlives_the_folder() {
        let runtime = tempfile::tempdir().unwrap();
        let work = Work::new(runtime.path(), "dump.log").unwrap();
        assert_eq!(work.kept_log(), None);
        fs::write(work.path().join("dump.log"), "cause").unwrap();
        let (folder, kept) = (work.path().to_owned(), work.kept_log().unwrap());
        drop(work);
        assert!(!folder.exists());
        assert_eq!(fs::read_to_string(kept).unwrap(), "cause");
    }

    #[test]
    fn a_new_worker_begins_without_the_old_log() {
        let runtime = tempfile::tempdir().unwrap();
        fs::write(runtime.path().join("dump.log"), "old").unwrap();
        let _work = Work::new(runtime.path(), "dump.log").unwrap();
        assert!(!runtime.path().join("dump.log").exists());
    }
}
