//! A name in an open folder. An object is made under a temporary name and renamed, so it appears whole or not
//! at all.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

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
        let mut number = [0; 8];
        random::fill(&mut number);
        Temporary { entry: self, name: format!("{PREFIX}{:016x}", u64::from_ne_bytes(number)).into() }
    }

    /// What was left under a temporary name.
    pub fn left(&self, name: OsString) -> Temporary<'_> {
        Temporary { entry: self, name }
    }

    /// Removes temporary files that a killed restore left in the folder. A living one holds locks on its own.
    pub fn remove_leftovers(&self) -> io::Result<()> {
        for found in fs::read_dir(resolve::by_descriptor(&self.folder))? {
            let name = found?.file_name();
            if is_temporary(&name) && is_leftover(&resolve::place_in(&self.folder, &name)?)? {
                unlinkat(&self.folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir)?;
            }
        }
        Ok(())
    }
}

/// Whether an object's name is a temporary one.
pub fn is_temporary(name: &OsStr) -> bool {
    let is_hex = |digit: &u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(digit);
    let number = name.as_bytes().strip_prefix(PREFIX.as_bytes());
    number.is_some_and(|number| number.len() == 16 && number.iter().all(is_hex))
}

fn is_leftover(place: &File) -> io::Result<bool> {
    let meta = place.metadata()?;
    let is_own_file = meta.is_file() && meta.uid() == geteuid().as_raw();
    Ok(is_own_file && resolve::reopen(place, OpenOptions::new().read(true))?.try_lock().is_ok())
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
        let file = File::from(openat(&self.entry.folder, self.name(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        // For `remove_leftovers` of another restore on the same volume.
        let _ = file.try_lock();
        Ok(file)
    }

    /// Leaves the object where it is, for [`Entry::left`].
    pub fn leave(self) -> OsString {
        ManuallyDrop::new(self).name.clone()
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
