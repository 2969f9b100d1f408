//! One descriptor of a process: what it leads to, and what fdinfo says of it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use crate::files::used;
use crate::proc::tree;

/// One descriptor of a process.
pub struct Descriptor {
    pub fd: i32,
    /// What its link in /proc says, such as `/var/log/app`, `socket:[77]` or `anon_inode:[eventpoll]`.
    pub target: String,
    /// Inode, device, and mode and device number of what has a name; of sockets the inode alone.
    pub inode: Option<u64>,
    pub device: u64,
    pub mode: u32,
    pub rdev: u64,
}

/// Reads all descriptors of a process.
pub fn of(pid: i32) -> io::Result<Vec<Descriptor>> {
    Ok(used::descriptors(pid)?.into_iter().map(|(fd, target)| descriptor(pid, fd, &target.to_string_lossy())).collect())
}

fn descriptor(pid: i32, fd: i32, target: &str) -> Descriptor {
    let mut found = Descriptor { fd, target: target.to_owned(), inode: None, device: 0, mode: 0, rdev: 0 };
    if let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
        found.inode = inode.parse().ok();
    } else if target.starts_with('/')
        && let Ok(meta) = fs::metadata(tree::proc_path(pid, &format!("fd/{fd}")))
    {
        found =
            Descriptor { inode: Some(meta.ino()), device: meta.dev(), mode: meta.mode(), rdev: meta.rdev(), ..found };
    }
    found
}

/// The lines that fdinfo has of a descriptor.
pub fn info(pid: i32, fd: i32) -> String {
    fs::read_to_string(tree::proc_path(pid, &format!("fdinfo/{fd}"))).unwrap_or_default()
}

/// A number behind a word in fdinfo, such as `mnt_id:`.
pub fn number(info: &str, word: &str) -> Option<i64> {
    info.lines().find_map(|line| line.strip_prefix(word)?.trim().parse().ok())
}
