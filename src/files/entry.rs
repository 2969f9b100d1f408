//! A name in an open folder. An object is made under a temporary name and renamed, so it appears whole or not
//! at all.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::resolve::{self, Unresolved};
use crate::sys::random;

/// A name that need not exist yet.
#[derive(Debug)]
pub struct Entry {
    /// A place ([`resolve`]).
    pub folder: File,
    pub name: OsString,
}

impl Entry {
    /// The last part of `path`. Makes missing folders on the way.
    pub fn at(path: &Path) -> Result<Self, Unresolved> {
        let Some((parent, name)) = path.parent().zip(path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
        };
        Ok(Self { folder: resolve::make_folder(parent)?, name: name.to_owned() })
    }

    /// The object that has the name now, as a place.
    pub fn present(&self) -> io::Result<File> {
        resolve::place_in(&self.folder, &self.name)
    }

    /// A random name in the same folder.
    pub fn temporary(&self) -> Temporary<'_> {
        let mut number = [0; 8];
        random::fill(&mut number);
        Temporary { entry: self, name: format!(".freeze-{:016x}", u64::from_ne_bytes(number)).into() }
    }
}

/// A temporary name. Dropping it removes the object.
#[derive(Debug)]
pub struct Temporary<'a> {
    entry: &'a Entry,
    name: OsString,
}

impl Temporary<'_> {
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Creates a file with this name, for its owner alone.
    pub fn create(&self) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(&self.entry.folder, self.name(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into())
    }

    /// Renames the object to the entry's name and replaces what was there, an empty folder too.
    pub fn take_place(self) -> io::Result<()> {
        let (folder, name) = (&self.entry.folder, self.entry.name.as_os_str());
        let rename = || renameat(folder, self.name(), folder, name);
        match rename() {
            Err(Errno::EISDIR) if unlinkat(folder, name, UnlinkatFlags::RemoveDir).is_ok() => Ok(rename()?),
            renamed => Ok(renamed?),
        }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        let _ = unlinkat(&self.entry.folder, self.name(), UnlinkatFlags::NoRemoveDir);
    }
}
