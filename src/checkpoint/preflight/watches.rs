//! inotify: instances are carried, and so are watches whose file is found by its inode.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::{Finding, Service};
use crate::files::watched;
use crate::proc::fd::Descriptor;
use crate::proc::fdinfo::{FdInfo, Inode};
use crate::proc::tree::Process;

/// Limits of the paths that CRIU gets: number and bytes. They are arguments, of which Linux takes 2 MiB with
/// the usual limit of the stack (execve(2)), and CRIU looks up each while the service stands still.
const LIMIT: usize = 4096;
const BYTES: usize = 1 << 20;

/// All inotify watches of a service.
pub struct Watches {
    /// By process and descriptor.
    of: BTreeMap<(i32, i32), Vec<Inode>>,
    found: BTreeMap<Inode, PathBuf>,
}

impl Watches {
    pub fn of(service: &Service) -> Self {
        let all = service.processes.iter().flat_map(|one| {
            let instances = one.descriptors.iter().filter(|descriptor| descriptor.target == "anon_inode:inotify");
            instances.map(|descriptor| (one.process.pid, descriptor.fd))
        });
        let watches = |(pid, fd)| ((pid, fd), FdInfo::read(pid, fd).unwrap_or_default().watches);
        let of: BTreeMap<_, _> = all.map(watches).collect();
        let wanted: BTreeSet<Inode> = of.values().flatten().copied().collect();
        Self { of, found: watched::find(&wanted) }
    }

    pub fn finding(&self, process: &Process, descriptor: &Descriptor) -> Option<Finding> {
        let inodes = self.of.get(&(process.pid, descriptor.fd))?;
        let lost = inodes.iter().filter(|inode| !self.found.contains_key(inode)).count();
        let what = match lost {
            0 if self.fit() => return None,
            0 => format!(
                "has more than {LIMIT} inotify watches, or watches on very long paths, which cannot be checkpointed"
            ),
            1 => "has an inotify watch on a file that freeze cannot find, which cannot be checkpointed".to_owned(),
            lost => {
                format!("has {lost} inotify watches on files that freeze cannot find, which cannot be checkpointed")
            }
        };
        Some(Finding::refused(Some(process), &what, "switch off file watching in the service"))
    }

    fn fit(&self) -> bool {
        let bytes: usize = self.found.values().map(|path| path.as_os_str().len()).sum();
        self.found.len() <= LIMIT && bytes <= BYTES
    }

    /// Paths that CRIU needs and a fresh container must have.
    pub fn paths(self) -> Vec<PathBuf> {
        self.found.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watches(found: &[(u64, &str)], watched: &[u64]) -> Watches {
        Watches {
            of: BTreeMap::from([((7, 5), watched.iter().map(|inode| (1, *inode)).collect())]),
            found: found.iter().map(|(inode, path)| ((1, *inode), PathBuf::from(path))).collect(),
        }
    }

    fn judged(watches: &Watches) -> Option<String> {
        let process = Process { pid: 7, comm: "app".into(), ..Process::default() };
        let descriptor =
            Descriptor { fd: 5, target: "anon_inode:inotify".into(), inode: None, device: 0, mode: 0, rdev: 0 };
        watches.finding(&process, &descriptor).map(|finding| finding.what)
    }

    #[test]
    fn what_is_found_moves() {
        let watches = watches(&[(1, "/app"), (2, "/app/src"), (3, "/etc/app.conf")], &[1, 2, 3]);
        assert_eq!(judged(&watches), None);
        assert_eq!(watches.paths(), ["/app", "/app/src", "/etc/app.conf"].map(PathBuf::from));
    }

    #[test]
    fn what_is_not_found_is_counted() {
        insta::assert_snapshot!(judged(&watches(&[(1, "/app")], &[1, 2, 3])).unwrap(), @"has 2 inotify watches on files that freeze cannot find, which cannot be checkpointed");
        insta::assert_snapshot!(judged(&watches(&[(1, "/app")], &[1, 2])).unwrap(), @"has an inotify watch on a file that freeze cannot find, which cannot be checkpointed");
    }

    #[test]
    fn more_than_fit_into_a_command_line_are_too_many() {
        let many: Vec<(u64, &str)> = (0..=LIMIT as u64).map(|inode| (inode, "/a")).collect();
        insta::assert_snapshot!(judged(&watches(&many, &[1])).unwrap(), @"has more than 4096 inotify watches, or watches on very long paths, which cannot be checkpointed");
        let long = "/a".repeat(2048);
        let many: Vec<(u64, &str)> = (0..300).map(|inode| (inode, long.as_str())).collect();
        assert!(judged(&watches(&many, &[1])).is_some() && judged(&watches(&many[..100], &[1])).is_none());
    }
}
