//! /proc/PID/fdinfo/N (proc_pid_fdinfo(5)): details of a descriptor that its link does not show.

use std::fmt::Display;
use std::fs;
use std::io;

use nix::libc;

use super::{field, hexadecimal, lines, number, octal};

/// Device and inode of a file.
pub type Inode = (u64, u64);

/// Details of a descriptor. A field is None if the kernel does not report it, or the file is of another kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FdInfo {
    /// O_* flags; 0 (read-only) if the kernel does not report them.
    pub flags: i32,
    /// ID of the mount that the file is on.
    pub mount: Option<i32>,
    /// PID of a pidfd's process; -1 if it was reaped.
    pub process: Option<i32>,
    /// Number of the terminal whose master this is.
    pub terminal: Option<i32>,
    /// Descriptors sent to a unix socket and not yet received (SCM_RIGHTS); Linux 5.11.
    pub in_flight: Option<u32>,
    /// Files that an inotify instance watches.
    pub watches: Vec<Inode>,
    /// Number of descriptors that an epoll watches.
    pub polled: u64,
}

impl FdInfo {
    /// Reads the details of descriptor `fd`; `pid` is a number or `self`.
    ///
    /// # Errors
    /// If there is no such descriptor, or the process may not be inspected.
    pub fn read(pid: impl Display, fd: impl Display) -> io::Result<Self> {
        Ok(Self::parse(&fs::read(super::path(pid, &format!("fdinfo/{fd}")))?))
    }

    /// Skips fields that no caller needs.
    pub fn parse(text: &[u8]) -> Self {
        let mut found = Self::default();
        for line in lines(text) {
            if let Some(fields) = line.strip_prefix(b"inotify ") {
                found.watches.extend(watch(fields));
                continue;
            }
            match field(line) {
                Some((b"tfd", _)) => found.polled += 1,
                Some((b"flags", digits)) => found.flags = octal(digits).unwrap_or_default(),
                Some((b"mnt_id", digits)) => found.mount = number(digits),
                Some((b"Pid", digits)) => found.process = number(digits),
                Some((b"tty-index", digits)) => found.terminal = number(digits),
                Some((b"scm_fds", digits)) => found.in_flight = number(digits),
                _ => {}
            }
        }
        found
    }

    /// Whether each write goes to the end of the file.
    pub fn appends(&self) -> bool {
        self.flags & libc::O_APPEND != 0
    }

    pub fn is_writable(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }
}

/// Parses `wd:1 ino:9e7e sdev:800013 mask:…`. The kernel's internal device numbers have 20 bits of minor.
fn watch(line: &[u8]) -> Option<Inode> {
    let hex = |name: &[u8]| line.split(|&byte| byte == b' ').find_map(|word| hexadecimal(word.strip_prefix(name)?));
    let device = hex(b"sdev:")?;
    Some((libc::makedev((device >> 20) as u32, (device & 0xf_ffff) as u32), hex(b"ino:")?))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use proptest::prelude::*;

    use super::*;
    use crate::fuzz;

    const SAMPLE: &[u8] = b"pos:\t0\nflags:\t02000202\nmnt_id:\t18\nino:\t1044\ntty-index:\t4\nscm_fds: 3\nPid:\t-1\nNSpid:\t7\n\
        inotify wd:2 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e0000640d1b6d\n\
        inotify wd:1 ino:1 sdev:15 mask:2\ntfd:        5 events:       19 data: ffff  pos:0 ino:61af sdev:7\n";

    #[test]
    fn each_field_is_taken_from_its_line() {
        let expected = FdInfo {
            flags: 0o2000202,
            mount: Some(18),
            process: Some(-1),
            terminal: Some(4),
            in_flight: Some(3),
            watches: vec![(libc::makedev(8, 0x13), 0x9e7e), (libc::makedev(0, 0x15), 1)],
            polled: 1,
        };
        assert_eq!(FdInfo::parse(SAMPLE), expected);
    }

    #[test]
    fn what_is_not_told_is_not_guessed() {
        assert_eq!(FdInfo::parse(b""), FdInfo::default());
        let cut = FdInfo::parse(b"flags:\t9\nmnt_id:\nPid\ninotify wd:1 ino:9e7e\ninotify ino:x sdev:1\nscm_fds: -1\n");
        assert_eq!(cut, FdInfo::default());
    }

    #[test]
    fn a_file_is_open_for_writing_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = fs::File::create(folder.path().join("file")).unwrap();
        let read = fs::File::open(folder.path().join("file")).unwrap();
        let is_writable = |file: &fs::File| FdInfo::read("self", file.as_raw_fd()).unwrap().is_writable();
        assert!(is_writable(&write) && !is_writable(&read));
        assert!(FdInfo::read("self", -1).is_err());
    }

    proptest! {
        #[test]
        fn fuzz_any_bytes_parse(any: Vec<u8>, edits in fuzz::edits()) {
            let _ = FdInfo::parse(&any);
            let _ = FdInfo::parse(&fuzz::damaged(SAMPLE, &edits));
        }

        #[test]
        fn fuzz_a_descriptor_comes_back(
            (flags, mount, process) in (0..i32::MAX, any::<i32>(), any::<i32>()),
            watches in prop::collection::vec((0u32..1 << 12, 0u32..1 << 20, any::<u64>()), 0..4),
        ) {
            let mut text = format!("pos:\t0\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nPid:\t{process}\n");
            for (major, minor, inode) in &watches {
                text += &format!("inotify wd:1 ino:{inode:x} sdev:{:x} mask:2\n", u64::from(*major) << 20 | u64::from(*minor));
            }
            let watches = watches.into_iter().map(|(major, minor, inode)| (libc::makedev(major, minor), inode)).collect();
            let expected = FdInfo { flags, mount: Some(mount), process: Some(process), watches, ..FdInfo::default() };
            prop_assert_eq!(FdInfo::parse(text.as_bytes()), expected);
        }
    }
}
