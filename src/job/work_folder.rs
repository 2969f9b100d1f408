//! The folder that a worker shares with its CRIU: sockets, CRIU's log and figures. It is removed with the
//! worker; the log is kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const PREFIX: &str = "work-";

/// A work folder, removed when dropped.
#[derive(Debug)]
pub struct Work {
    folder: tempfile::TempDir,
    /// Where the log is moved on drop.
    kept: PathBuf,
    log: PathBuf,
}

impl Work {
    /// Creates a folder in `runtime_dir`. Its file `log` is moved to `runtime_dir` on drop.
    pub fn new(runtime_dir: &Path, log: &str) -> io::Result<Self> {
        for entry in fs::read_dir(runtime_dir)?.flatten() {
            // There is one worker at a time, so the worker of this folder was killed.
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Self::beside(runtime_dir, log)
    }

    /// The same, beside another folder of this worker.
    pub fn beside(runtime_dir: &Path, log: &str) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(runtime_dir)?;
        let work = Self { log: folder.path().join(log), kept: runtime_dir.join(log), folder };
        // An older log must not be taken for this worker's.
        let _ = fs::remove_file(&work.kept);
        Ok(work)
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where CRIU's log will be after the drop, if there is one.
    pub fn log_to_be(&self) -> PathBuf {
        self.kept.clone()
    }

    /// Keeps no log: another folder's is kept.
    pub fn drop_log(&self) {
        let _ = fs::remove_file(&self.log);
    }

    /// Where CRIU's log will be after the drop. None if there is no log yet.
    pub fn kept_log(&self) -> Option<PathBuf> {
        self.log.exists().then(|| self.kept.clone())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Both are on one file system, so nothing is copied. This fails if there is no log to keep.
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
