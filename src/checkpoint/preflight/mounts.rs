//! Files on mounts that CRIU does not see and so cannot open again.

use std::collections::BTreeSet;

use nix::libc;

use crate::proc::fd::Descriptor;
use crate::proc::fdinfo::FdInfo;
use crate::proc::mountinfo::{self, Mount};

/// Why the file of a descriptor cannot be opened again.
#[derive(Debug, PartialEq, Eq)]
pub enum Strange {
    /// A POSIX message queue. No file system keeps its messages.
    Queue,
    /// On the kernel's internal mount of huge pages.
    HugePages,
    /// Its mount is outside the container's mount namespace.
    Detached,
}

pub struct Mounts {
    ids: BTreeSet<i32>,
    devices: BTreeSet<u64>,
    queues: BTreeSet<u64>,
}

impl Mounts {
    pub fn read(pid: i32) -> Self {
        Self::of(&mountinfo::read(pid).unwrap_or_default())
    }

    fn of(all: &[Mount]) -> Self {
        let mut mounts = Self { ids: BTreeSet::new(), devices: BTreeSet::new(), queues: BTreeSet::new() };
        for mount in all {
            mounts.ids.insert(mount.id);
            mounts.devices.insert(mount.device);
            if mount.fstype == "mqueue" {
                mounts.queues.insert(mount.device);
            }
        }
        mounts
    }

    /// Files of an overlay may have a device of their own, so the mount's ID decides. Reading that costs one
    /// more file of /proc.
    pub fn judge(&self, pid: i32, descriptor: &Descriptor) -> Option<Strange> {
        /// The kernel's internal mount of shared memory, which holds memfds, has the first anonymous device
        /// number (mm/shmem.c).
        const MEMFD: u64 = 1;
        let kind = descriptor.mode & libc::S_IFMT;
        if !matches!(kind, libc::S_IFREG | libc::S_IFDIR) || descriptor.device == MEMFD {
            return None;
        }
        if self.queues.contains(&descriptor.device) {
            return Some(Strange::Queue);
        }
        if self.ids.is_empty() || self.devices.contains(&descriptor.device) {
            return None;
        }
        let id = FdInfo::read(pid, descriptor.fd).ok()?.mount?;
        (!self.ids.contains(&id)).then_some(match descriptor.target.starts_with("/memfd:") {
            true => Strange::HugePages,
            false => Strange::Detached,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"\
500 400 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/l
501 500 0:51 / /dev/mqueue rw,nosuid shared:1 - mqueue mqueue rw
";

    fn judged(device: u64, target: &str, kind: u32) -> Option<Strange> {
        let descriptor = Descriptor { fd: -1, target: target.into(), inode: Some(7), device, mode: kind, rdev: 0 };
        Mounts::of(&mountinfo::parse(MOUNTS)).judge(std::process::id() as i32, &descriptor)
    }

    #[test]
    fn queues_are_known_by_their_mount() {
        assert_eq!(judged(libc::makedev(0, 51), "/jobs", libc::S_IFREG), Some(Strange::Queue));
        assert_eq!(judged(libc::makedev(0, 50), "/etc/passwd", libc::S_IFREG), None);
        assert_eq!(judged(libc::makedev(0, 99), "/dev/null", libc::S_IFCHR), None);
    }

    #[test]
    fn a_file_of_another_mount_namespace_is_strange() {
        use std::os::fd::AsRawFd;
        let file = std::fs::File::open("/etc/passwd").unwrap();
        let find = |mounts: &Mounts| {
            let all = crate::proc::fd::read(std::process::id() as i32).unwrap();
            let descriptor = all.into_iter().find(|descriptor| descriptor.fd == file.as_raw_fd()).unwrap();
            mounts.judge(std::process::id() as i32, &descriptor)
        };
        assert_eq!(find(&Mounts::read(std::process::id() as i32)), None);
        assert_eq!(find(&Mounts::of(&mountinfo::parse(MOUNTS))), Some(Strange::Detached));
    }
}
