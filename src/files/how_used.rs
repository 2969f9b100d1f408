//! How processes use a file, and which files they may write at any moment.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::ops::BitOrAssign;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::lookup_error::LookupError;
use crate::proc::fdinfo::FdInfo;
use crate::proc::maps::{self, Mapping};
use crate::proc::tree::{self, Process};
use crate::proc::{self, fd};

/// How processes use a file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Open for writing, or mapped so that writes reach it.
    pub written: bool,
    /// Written elsewhere than at its end.
    pub overwritten: bool,
    pub mapped: bool,
    /// A program or library.
    pub executed: bool,
    /// A working directory.
    pub worked_in: bool,
}

impl Use {
    pub fn open(info: &FdInfo) -> Self {
        let written = info.is_writable();
        Self { written, overwritten: written && !info.appends(), ..Self::default() }
    }

    pub fn mapped(mapping: &Mapping) -> Self {
        let written = mapping.writable && mapping.shared;
        Self { written, overwritten: written, mapped: true, executed: mapping.executable, worked_in: false }
    }
}

impl BitOrAssign for Use {
    fn bitor_assign(&mut self, other: Self) {
        self.written |= other.written;
        self.overwritten |= other.overwritten;
        self.mapped |= other.mapped;
        self.executed |= other.executed;
        self.worked_in |= other.worked_in;
    }
}

/// What was read of a process. One that runs may have ended meanwhile: then it uses nothing.
pub fn unless_ended<T: Default>(pid: i32, read: io::Result<T>) -> Result<T, LookupError> {
    match read {
        Err(_) if !tree::is_alive(pid) => Ok(T::default()),
        read => read.map_err(LookupError::Proc),
    }
}

/// Files that may be written without a new time of change.
#[derive(Debug)]
pub struct Written {
    /// Their inode numbers, on any device: on an overlay a mapping has another one than stat(2) tells.
    pub inodes: HashSet<u64>,
    /// When freeze began to look, by the clock of file times.
    pub since: Duration,
}

/// Files that running processes have open for writing, or mapped shared and writable, whatever names they have left. A
/// process may end meanwhile.
pub fn written(processes: &[Process]) -> io::Result<Written> {
    let since = clock_gettime(ClockId::CLOCK_REALTIME_COARSE)?.into();
    let mut inodes = HashSet::new();
    for Process { pid, .. } in processes {
        let links = fd::links(*pid).unwrap_or_default().into_iter();
        let open = links.filter(|(fd, _)| FdInfo::read(*pid, *fd).unwrap_or_default().is_writable());
        let open = open.filter_map(|(fd, _)| fs::metadata(proc::path(*pid, &format!("fd/{fd}"))).ok());
        inodes.extend(open.map(|meta| meta.ino()));
        let mapped = maps::read(*pid).unwrap_or_default().into_iter();
        for mapping in mapped.filter(|mapping| mapping.writable && mapping.shared) {
            inodes.extend(mapping.path().and_then(|path| fs::symlink_metadata(path).ok()).map(|meta| meta.ino()));
            inodes.insert(mapping.inode);
        }
    }
    Ok(Written { inodes, since })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_has_ended_uses_nothing() {
        let mut ended = Command::new("true").spawn().unwrap();
        let pid = ended.id() as i32;
        ended.wait().unwrap();
        assert_eq!(unless_ended(pid, maps::read(pid)).unwrap().len(), 0);
        let denied = Err::<Vec<u8>, _>(io::ErrorKind::PermissionDenied.into());
        assert!(unless_ended(std::process::id() as i32, denied).is_err());
    }
}
