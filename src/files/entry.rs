//! A name in an open folder. An object is made under a temporary name and renamed, so it appears whole or not
//! at all.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::resolve::{self, Unresolved};
use crate::sys::random;

/// Start of every temporary name; 16 hexadecimal digits follow.
const PREFIX: &str = ".freeze-";

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
        self.from(&self.folder, temporary_name())
    }

    /// What is made in `folder`, of the same mount, under `name`, to take this place.
    pub fn from<'a>(&'a self, folder: &'a File, name: OsString) -> Temporary<'a> {
        Temporary { entry: self, folder, name }
    }
}

/// A random name that nothing of the service has.
pub fn temporary_name() -> OsString {
    let mut number = [0; 8];
    random::fill(&mut number);
    format!("{PREFIX}{:016x}", u64::from_ne_bytes(number)).into()
}

/// Whether an object's name is a temporary one.
pub fn is_temporary(name: &OsStr) -> bool {
    let is_hex = |digit: &u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(digit);
    let number = name.as_bytes().strip_prefix(PREFIX.as_bytes());
    number.is_some_and(|number| number.len() == 16 && number.iter().all(is_hex))
}

/// Whether freeze may set owner, mode and times. Root may lack the capabilities.
pub fn may_give(meta: &Metadata) -> bool {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    meta.uid() == geteuid().as_raw() || (has(Capability::CAP_CHOWN) && has(Capability::CAP_FOWNER))
}

/// A temporary name. Dropping it removes the object.
#[derive(Debug)]
pub struct Temporary<'a> {
    entry: &'a Entry,
    folder: &'a File,
    name: OsString,
}

impl Temporary<'_> {
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    pub fn folder(&self) -> &File {
        self.folder
    }

    /// Creates a file with this name, for its owner alone.
    pub fn create(&self) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = File::from(openat(self.folder, self.name(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        // For the [`leftovers`](super::leftovers) of a next restore.
        let _ = file.try_lock();
        Ok(file)
    }

    /// Leaves the object where it is, for [`Entry::from`].
    pub fn leave(self) -> OsString {
        ManuallyDrop::new(self).name.clone()
    }

    /// Renames the object to the entry's name and replaces what was there, an empty folder too.
    pub fn take_place(self) -> io::Result<()> {
        let (folder, name) = (&self.entry.folder, self.entry.name.as_os_str());
        let rename = || renameat(self.folder, self.name(), folder, name);
        match rename() {
            Err(Errno::EISDIR) if unlinkat(folder, name, UnlinkatFlags::RemoveDir).is_ok() => Ok(rename()?),
            renamed => Ok(renamed?),
        }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        let _ = unlinkat(self.folder, self.name(), UnlinkatFlags::NoRemoveDir);
    }
}
