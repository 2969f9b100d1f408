//! Removes what killed restores have left under temporary names. What a living one has made stays: it holds a lock on
//! each file, and in each folder.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::entry::{is_temporary, may_give};
use super::resolve;

/// The file in a folder of freeze's own that is locked.
pub const LOCK: &str = "lock";

/// Removes all leftovers in a folder, as far as possible.
pub fn remove(folder: &File) -> io::Result<()> {
    for found in fs::read_dir(resolve::by_descriptor(folder))? {
        let name = found?.file_name();
        if is_temporary(&name) {
            let _ = remove_one(folder, &name);
        }
    }
    Ok(())
}

fn remove_one(folder: &File, name: &OsStr) -> io::Result<()> {
    let place = resolve::place_in(folder, name)?;
    let meta = place.metadata()?;
    if !may_give(&meta) {
        return Ok(());
    }
    if meta.is_dir() {
        return match is_deserted(&place)? {
            true => remove_folder(folder, name, &place),
            false => Ok(()),
        };
    }
    // A pipe or a link has such a name only on this container's own root, where no other restore is.
    let is_left = !meta.is_file() || is_unlocked(&resolve::reopen(&place, OpenOptions::new().read(true))?);
    if is_left { Ok(unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)?) } else { Ok(()) }
}

fn is_unlocked(file: &File) -> bool {
    file.try_lock().is_ok()
}

/// Whether nobody holds the lock. There may be none: then the folder is empty, or stays.
fn is_deserted(place: &File) -> io::Result<bool> {
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    match openat(place, LOCK, flags, Mode::empty()) {
        Ok(lock) => Ok(is_unlocked(&lock.into())),
        Err(Errno::ENOENT) => Ok(fs::read_dir(resolve::by_descriptor(place))?.next().is_none()),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes a folder of freeze's own with its files, the lock last.
pub fn remove_folder(parent: &File, name: &OsStr, folder: &File) -> io::Result<()> {
    for found in fs::read_dir(resolve::by_descriptor(folder))? {
        let name = found?.file_name();
        if name != LOCK {
            unlinkat(folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir)?;
        }
    }
    match unlinkat(folder, LOCK, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) | Ok(()) => Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?),
        Err(errno) => Err(errno.into()),
    }
}
