//! Devices: those of every container, terminals, and all others, which belong to the old host.

use std::collections::BTreeSet;

use nix::libc;

use super::{Finding, Inspected, Service};
use crate::proc::fd::{self, Descriptor};
use crate::proc::fdinfo::FdInfo;
use crate::proc::tree::Process;

/// Major and minor numbers of memory devices that are alike everywhere: null, zero, full, random, urandom
/// (Documentation/admin-guide/devices.txt).
const MEMORY: (u32, &[u32]) = (1, &[3, 5, 7, 8, 9]);
/// Major number of /dev/tty, /dev/console, /dev/ptmx.
const TTY_AUX: u32 = 5;
/// Major numbers of /dev/pts/N.
const PTS: std::ops::RangeInclusive<u32> = 136..=143;

/// Terminals that move.
#[derive(Debug, Default)]
pub struct Terminals {
    /// Numbers of those whose masters the service has open: both ends are carried.
    masters: BTreeSet<i32>,
    /// The container's own, by file system and device: the next container's takes its place.
    container: BTreeSet<(u64, u64)>,
}

impl Terminals {
    pub fn of(service: &Service) -> Self {
        let all =
            service.processes.iter().flat_map(|one| one.descriptors.iter().map(move |descriptor| (one, descriptor)));
        let masters = all.filter(|(_, descriptor)| descriptor.target.ends_with("/ptmx"));
        let number =
            |(one, descriptor): (&Inspected, &Descriptor)| FdInfo::read(one.process.pid, descriptor.fd).ok()?.terminal;
        let stdio = fd::read(service.init).unwrap_or_default().into_iter().filter(|descriptor| descriptor.fd < 3);
        Self {
            masters: masters.filter_map(number).collect(),
            container: stdio.map(|descriptor| (descriptor.device, descriptor.rdev)).collect(),
        }
    }

    fn move_with(&self, descriptor: &Descriptor) -> bool {
        let number = descriptor.target.strip_prefix("/dev/pts/").and_then(|number| number.parse().ok());
        self.container.contains(&(descriptor.device, descriptor.rdev))
            || number.is_some_and(|number: i32| self.masters.contains(&number))
    }
}

pub fn descriptor(process: &Process, descriptor: &Descriptor, terminals: &Terminals) -> Option<Finding> {
    let (major, minor) = (libc::major(descriptor.rdev), libc::minor(descriptor.rdev));
    match descriptor.mode & libc::S_IFMT {
        libc::S_IFBLK => Some(device(process, &descriptor.target)),
        libc::S_IFCHR if PTS.contains(&major) => (!terminals.move_with(descriptor)).then(|| terminal(process)),
        libc::S_IFCHR if major == TTY_AUX || is_memory(major, minor) => None,
        libc::S_IFCHR => Some(device(process, &descriptor.target)),
        _ => None,
    }
}

fn is_memory(major: u32, minor: u32) -> bool {
    major == MEMORY.0 && MEMORY.1.contains(&minor)
}

fn terminal(process: &Process) -> Finding {
    Finding::refused(
        Some(process),
        "has a terminal that is neither the container's nor the service's own, which cannot be checkpointed",
        "close it before a checkpoint",
    )
}

/// A device that another host may lack, or that has state of its own.
pub fn device(process: &Process, path: &str) -> Finding {
    let what = format!("uses the device {path}, whose state cannot be checkpointed");
    Finding::refused(Some(process), &what, advice(path))
}

fn advice(path: &str) -> &'static str {
    let is = |prefixes: &[&str]| prefixes.iter().any(|prefix| path.starts_with(prefix));
    if is(&["/dev/nvidia", "/dev/dri", "/dev/kfd"]) {
        "run the service without the GPU, or close the GPU before a checkpoint (--before-checkpoint)"
    } else {
        "close it before a checkpoint (--before-checkpoint)"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The container's own terminal is /dev/pts/1.
    fn found(path: &str, kind: u32, major: u32, minor: u32, masters: &[i32]) -> Option<String> {
        let rdev = libc::makedev(major, minor);
        let device = Descriptor { fd: 3, target: path.into(), inode: Some(1), device: 5, mode: kind, rdev };
        let process = Process { pid: 7, comm: "app".into(), ..Process::default() };
        let masters = masters.iter().copied().collect();
        let terminals = Terminals { masters, container: BTreeSet::from([(5, libc::makedev(136, 1))]) };
        descriptor(&process, &device, &terminals).map(|finding| finding.to_string())
    }

    #[test]
    fn what_every_container_has_is_fine() {
        for (path, major, minor) in
            [("/dev/null", 1, 3), ("/dev/urandom", 1, 9), ("/dev/tty", 5, 0), ("/dev/ptmx", 5, 2)]
        {
            assert_eq!(found(path, libc::S_IFCHR, major, minor, &[]), None, "{path}");
        }
        assert_eq!(found("/dev/mem", libc::S_IFREG, 0, 0, &[]), None);
    }

    #[test]
    fn a_terminal_is_fine_with_its_master_and_if_it_is_the_containers() {
        assert_eq!(found("/dev/pts/4", libc::S_IFCHR, 136, 4, &[4]), None);
        assert_eq!(found("/dev/console", libc::S_IFCHR, 136, 1, &[4]), None);
        insta::assert_snapshot!(found("/dev/pts/0", libc::S_IFCHR, 136, 0, &[4]).unwrap(), @"process 7 (app) has a terminal that is neither the container's nor the service's own, which cannot be checkpointed; close it before a checkpoint");
    }

    #[test]
    fn other_devices_are_named() {
        insta::assert_snapshot!(found("/dev/nvidia0", libc::S_IFCHR, 195, 0, &[]).unwrap(), @"process 7 (app) uses the device /dev/nvidia0, whose state cannot be checkpointed; run the service without the GPU, or close the GPU before a checkpoint (--before-checkpoint)");
        insta::assert_snapshot!(found("/dev/sda", libc::S_IFBLK, 8, 0, &[]).unwrap(), @"process 7 (app) uses the device /dev/sda, whose state cannot be checkpointed; close it before a checkpoint (--before-checkpoint)");
        assert!(found("/dev/mem", libc::S_IFCHR, 1, 1, &[]).is_some());
    }
}
