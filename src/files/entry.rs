//! A name in a folder that is open. What is to have the name is made under a temporary one, and takes its place whole.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::Path;

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::resolve::{self, Unresolved};
use crate::sys::random;

/// A name, of something or of nothing yet.
#[derive(Debug)]
pub struct Entry {
    /// The folder, as a place.
    pub folder: File,
    pub name: OsString,
}

impl Entry {
    /// The last part of `path`; folders that are missing on the way are made.
    pub fn at(path: &Path) -> Result<Self, Unresolved> {
        let Some((parent, name)) = path.parent().zip(path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
        };
        Ok(Self { folder: resolve::make_folder(parent)?, name: name.to_owned() })
    }

    /// What has the name now, as a place.
    pub fn present(&self) -> io::Result<File> {
        resolve::place_in(&self.folder, &self.name)
    }

    /// A new name in the same folder.
    pub fn temporary(&self) -> Temporary<'_> {
        let mut number = [0; 8];
        random::fill(&mut number);
        Temporary { entry: self, name: format!(".freeze-{:016x}", u64::from_ne_bytes(number)).into() }
    }
}

/// A temporary name; what has it is removed when this is dropped.
#[derive(Debug)]
pub struct Temporary<'a> {
    entry: &'a Entry,
    name: OsString,
}

impl Temporary<'_> {
    /// The name.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// A new file of this name, which nobody else may open.
    pub fn create(&self) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(&self.entry.folder, self.name(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into())
    }

    /// Gives what has this name the entry's, in the place of what had that.
    pub fn take_place(self) -> io::Result<()> {
        let folder = &self.entry.folder;
        Ok(renameat(folder, self.name(), folder, self.entry.name.as_os_str())?)
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        let _ = unlinkat(&self.entry.folder, self.name(), UnlinkatFlags::NoRemoveDir);
    }
}
