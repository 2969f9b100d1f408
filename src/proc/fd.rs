//! /proc/PID/fd (proc_pid_fd(5)): a process's descriptors and their targets.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Descriptor {
    pub fd: i32,
    /// The link's target, such as `/var/log/app`, `socket:[77]` or `anon_inode:[eventpoll]`.
    pub target: String,
    /// Of a file with a path, or of a socket.
    pub inode: Option<u64>,
    /// `device`, `mode` and `rdev` are those of a file with a path, else 0.
    pub device: u64,
    pub mode: u32,
    pub rdev: u64,
}

/// The descriptors of a process or thread, with their targets. Descriptors that are closed meanwhile are left
/// out.
///
/// # Errors
/// If there is no such task, or it may not be inspected.
pub fn links(task: i32) -> io::Result<Vec<(i32, PathBuf)>> {
    let all = super::numbered(super::path(task, "fd"))?;
    Ok(all.filter_map(|(fd, link)| Some((fd, fs::read_link(link.path()).ok()?))).collect())
}

/// The descriptors of a process, with their targets and what stat(2) says of files.
///
/// # Errors
/// As [`links`].
pub fn read(pid: i32) -> io::Result<Vec<Descriptor>> {
    Ok(links(pid)?.into_iter().map(|(fd, target)| descriptor(pid, fd, target.to_string_lossy().into_owned())).collect())
}

fn descriptor(pid: i32, fd: i32, target: String) -> Descriptor {
    let mut found = Descriptor { fd, target, ..Descriptor::default() };
    if let Some(inode) = socket(&found.target) {
        found.inode = Some(inode);
    } else if found.target.starts_with('/')
        && let Ok(meta) = fs::metadata(super::path(pid, &format!("fd/{fd}")))
    {
        found =
            Descriptor { inode: Some(meta.ino()), device: meta.dev(), mode: meta.mode(), rdev: meta.rdev(), ..found };
    }
    found
}

/// The inode of `socket:[INODE]`.
fn socket(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn of(file: &impl AsRawFd) -> Descriptor {
        let all = read(std::process::id() as i32).unwrap();
        all.into_iter().find(|descriptor| descriptor.fd == file.as_raw_fd()).unwrap()
    }

    #[test]
    fn a_file_has_what_stat_says() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (found, meta) = (of(file.as_file()), file.as_file().metadata().unwrap());
        assert_eq!((found.inode, found.device, found.mode), (Some(meta.ino()), meta.dev(), meta.mode()));
        assert_eq!(found.target, file.path().to_str().unwrap());
    }

    #[test]
    fn a_socket_has_an_inode_alone() {
        let (socket, _other) = UnixStream::pair().unwrap();
        let found = of(&socket);
        assert_eq!(found.target, format!("socket:[{}]", found.inode.unwrap()));
        assert_eq!((found.device, found.mode, found.rdev), (0, 0, 0));
    }

    #[test]
    fn what_is_no_socket_has_no_inode_of_one() {
        assert_eq!(socket("socket:[77]"), Some(77));
        for target in ["pipe:[77]", "socket:[77", "socket:[]", "/socket:[77]"] {
            assert_eq!(socket(target), None);
        }
    }
}
