//! The scratch folder of a proof. It is removed with the proof, or by the next doctor if this one is killed.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::{Builder, TempDir};

/// Parent folders to try, in this order, unless the user names one. Init's own folders there are left alone.
const PARENTS: [&str; 3] = ["/run", "/dev/shm", "/tmp"];

const PREFIX: &str = "freeze-doctor-";
/// Attempts to make a folder: the sweep of another doctor may lock and remove a new one first.
const TRIES: u32 = 10;

/// A folder that is locked while its doctor lives.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    _lock: File,
}

impl Scratch {
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no folder is writable ({0}): mount a tmpfs at /run, /dev/shm or /tmp, or name a folder with --runtime-dir")]
pub struct NoFolder(String);

/// Makes one in `named`, else in the first of [`PARENTS`] that can be written.
///
/// # Errors
/// [`NoFolder`], with the reason for each folder tried.
pub fn make(named: Option<&Path>) -> Result<Scratch, NoFolder> {
    match named {
        None => make_in(&PARENTS.map(PathBuf::from)),
        // `freeze run` would make the named folder; the doctor only has to show that this is possible.
        Some(folder) if folder.is_dir() => make_in(&[folder.to_owned()]),
        Some(folder) => make_in(&[folder.parent().unwrap_or(folder).to_owned()]),
    }
}

fn make_in(parents: &[PathBuf]) -> Result<Scratch, NoFolder> {
    let mut reasons = Vec::new();
    for parent in parents {
        sweep(parent);
        match make_locked(parent) {
            Ok(folder) => return Ok(folder),
            // The kind alone: the whole error names the random folder.
            Err(error) => reasons.push(format!("{}: {}", parent.display(), error.kind())),
        }
    }
    Err(NoFolder(reasons.join("; ")))
}

fn make_locked(parent: &Path) -> io::Result<Scratch> {
    let mut made = Err(io::ErrorKind::ResourceBusy.into());
    for _ in 0..TRIES {
        let folder = Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        // On a file system without locks no other doctor can lock the folder either.
        made = match File::open(folder.path()).map(|lock| (lock.try_lock(), lock)) {
            Err(error) => Err(error),
            Ok((Err(TryLockError::WouldBlock), _)) => Err(io::ErrorKind::ResourceBusy.into()),
            Ok((_, lock)) if folder.path().is_dir() => return Ok(Scratch { folder, _lock: lock }),
            Ok(_) => Err(io::ErrorKind::NotFound.into()),
        };
    }
    made
}

/// Removes the folders of killed doctors: the kernel has released their locks.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_abandoned(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_abandoned(folder: &Path) -> bool {
    File::open(folder).is_ok_and(|folder| folder.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_can_be_written_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let made = make_in(&["/proc".into(), folder.path().into(), "/tmp".into()]).unwrap();
        assert_eq!(made.path().parent(), Some(folder.path()));
    }

    #[test]
    fn one_that_is_still_to_be_made_stands_for_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(make(Some(folder.path())).unwrap().path().parent(), Some(folder.path()));
        let named = folder.path().join("freeze");
        assert_eq!(make(Some(&named)).unwrap().path().parent(), Some(folder.path()));
        assert!(!named.exists());
    }

    #[test]
    fn a_folder_whose_doctor_was_killed_goes_and_others_stay() {
        let parent = tempfile::tempdir().unwrap();
        let [abandoned, other] = ["freeze-doctor-old", "freeze"].map(|name| parent.path().join(name));
        [&abandoned, &other].iter().for_each(|folder| fs::create_dir(folder).unwrap());
        fs::write(abandoned.join("memory"), "").unwrap();
        let first = make(Some(parent.path())).unwrap();
        let second = make(Some(parent.path())).unwrap();
        assert!(!abandoned.exists() && [&other, first.path(), second.path()].iter().all(|folder| folder.exists()));
    }

    #[test]
    fn where_there_is_none_each_reason_is_said() {
        insta::assert_snapshot!(
            make_in(&["/proc".into(), "/nonexistent".into()]).unwrap_err(),
            @"no folder is writable (/proc: entity not found; /nonexistent: entity not found): mount a tmpfs at /run, /dev/shm or /tmp, or name a folder with --runtime-dir"
        );
    }
}
