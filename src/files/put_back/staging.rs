//! A folder of freeze's own beside the places of files, under a temporary name. What is prepared there takes its place by
//! rename(2): a folder of its own quota, and of a mount of its own, is the same one for both.
//!
//! It is closed to other users, and locked while this restore lives. Dropping it removes it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};

use crate::files::entry::{Entry, Temporary, temporary_name};
use crate::files::folders::inode;
use crate::files::leftovers::{self, LOCK};
use crate::files::resolve;

/// Times that another restore may take a new folder for a leftover before it is locked.
const TRIES: usize = 8;

#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    folder: File,
    _lock: File,
    made: usize,
}

impl Staging {
    /// Makes one in the folder `parent`, which is at `path`.
    pub fn new(parent: &File, path: &Path) -> io::Result<Self> {
        for _ in 0..TRIES {
            let name = temporary_name();
            mkdirat(parent, name.as_os_str(), Mode::S_IRWXU)?;
            let folder = resolve::place_in(parent, &name)?;
            match lock(&folder) {
                Ok(Some(lock)) => return Ok(Self { path: path.join(name), folder, _lock: lock, made: 0 }),
                Ok(None) => {}
                Err(error) => {
                    let _ = leftovers::remove_folder(parent, &name, &folder);
                    return Err(error);
                }
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// A new name here for what will take the place of `entry`.
    pub fn temporary<'a>(&'a mut self, entry: &'a Entry) -> Temporary<'a> {
        self.made += 1;
        entry.from(&self.folder, self.made.to_string().into())
    }

    /// What was left here under `name`.
    pub fn left<'a>(&'a self, entry: &'a Entry, name: OsString) -> Temporary<'a> {
        entry.from(&self.folder, name)
    }

    pub fn place(&self, name: &OsStr) -> io::Result<File> {
        resolve::place_in(&self.folder, name)
    }

    pub fn path(&self, name: &OsStr) -> PathBuf {
        self.path.join(name)
    }
}

/// None if another restore was faster to remove the folder.
fn lock(folder: &File) -> io::Result<Option<File>> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let lock: File = match openat(folder, LOCK, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
        Err(Errno::ENOENT) => return Ok(None),
        lock => lock?.into(),
    };
    // Where the file system has no locks, nobody takes the folder for a leftover either.
    if let Err(std::fs::TryLockError::WouldBlock) = lock.try_lock() {
        return Ok(None);
    }
    let is_there = resolve::place_in(folder, OsStr::new(LOCK)).and_then(|place| Ok(inode(&place)? == inode(&lock)?));
    Ok(is_there.unwrap_or(false).then_some(lock))
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some((parent, name)) = self.path.parent().zip(self.path.file_name())
            && let Ok(parent) = resolve::folder(parent)
        {
            let _ = leftovers::remove_folder(&parent, name, &self.folder);
        }
    }
}
