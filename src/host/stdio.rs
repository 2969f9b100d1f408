//! The targets of descriptors 0, 1 and 2, by CRIU's names: recorded by a checkpoint, replaced by a restore.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::image::Stdio;
use crate::proc::fdinfo::FdInfo;
use crate::proc::mountinfo;

/// Prefix of CRIU's name for a file on a mount that the container does not have.
pub(crate) const OUTSIDE: &str = "file[";

/// Prefix of CRIU's name for a terminal.
pub(crate) const TERMINAL: &str = "tty[";

/// The targets of descriptors 0, 1 and 2 of this process, without closed ones.
pub fn record() -> Vec<Stdio> {
    let outside = outside();
    let target = |fd: u32| {
        let key = outside.iter().find(|one| one.fd == fd).map(|one| one.key.clone()).or_else(|| terminal(fd));
        let link = || fs::read_link(format!("/proc/self/fd/{fd}")).ok().map(|path| path.into_os_string().into_vec());
        key.map(String::into_bytes).or_else(link)
    };
    (0..3).filter_map(|fd| Some(Stdio { fd, target: target(fd)? })).collect()
}

/// CRIU's names for what it cannot carry itself: the container's terminal, and files on mounts that the
/// container does not have.
pub fn external() -> Vec<String> {
    let terminals: BTreeSet<String> = (0..3).filter_map(terminal).collect();
    terminals.into_iter().chain(outside().into_iter().map(|file| file.key)).collect()
}

/// CRIU's name for the terminal that descriptor `fd` of this process is.
pub fn terminal(fd: u32) -> Option<String> {
    let meta = is_terminal(fd).then(|| fs::metadata(format!("/proc/self/fd/{fd}")).ok()).flatten()?;
    Some(format!("{TERMINAL}{:x}:{:x}]", meta.rdev(), meta.dev()))
}

/// Whether descriptor 0, 1 or 2 of this process is a terminal.
pub fn is_terminal(fd: u32) -> bool {
    match fd {
        0 => io::stdin().is_terminal(),
        1 => io::stdout().is_terminal(),
        _ => io::stderr().is_terminal(),
    }
}

/// A descriptor of this process for a file on a mount that the container does not have.
#[derive(Debug)]
pub struct Outside {
    fd: u32,
    /// CRIU's name for the file.
    pub key: String,
    /// The file's path outside. In this container it names nothing, or another file.
    pub path: PathBuf,
}

/// Looks at descriptors 0, 1 and 2, but at no terminal.
pub fn outside() -> Vec<Outside> {
    let here: BTreeSet<i32> = mountinfo::read("self").unwrap_or_default().iter().map(|mount| mount.id).collect();
    let one = |fd: u32| {
        let path = fs::read_link(format!("/proc/self/fd/{fd}")).ok().filter(|path| path.is_absolute())?;
        let mount = FdInfo::read("self", fd).ok()?.mount?;
        let inode = fs::metadata(format!("/proc/self/fd/{fd}")).ok()?.ino();
        let foreign = !here.is_empty() && !here.contains(&mount);
        foreign.then(|| Outside { fd, key: format!("{OUTSIDE}{mount:x}:{inode:x}]"), path })
    };
    (0..3).filter(|fd| !is_terminal(*fd)).filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_here_was_opened_outside() {
        assert!(outside().is_empty());
    }
}
