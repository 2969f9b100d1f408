//! inotify: an instance is carried, and so is a watch whose file is found again by its inode.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::descriptors::{Descriptor, info};
use super::{Finding, Service};
use crate::files::watched::{self, Inode};
use crate::tree::Process;

/// Most paths that CRIU is told, as it searches all that is below each.
const LIMIT: usize = 64;

/// Everything that a service watches.
pub struct Watches {
    /// By process and descriptor.
    of: BTreeMap<(i32, i32), Vec<Inode>>,
    found: BTreeMap<Inode, PathBuf>,
    /// Whether CRIU can open any file by its handle, so that it is left to it.
    by_handle: bool,
}

impl Watches {
    pub fn of(service: &Service) -> Self {
        let all = service.processes.iter().flat_map(|one| {
            let instances = one.descriptors.iter().filter(|descriptor| descriptor.target == "anon_inode:inotify");
            instances.map(|descriptor| (one.process.pid, descriptor.fd))
        });
        let of: BTreeMap<_, _> = all.map(|(pid, fd)| ((pid, fd), watched::inodes(&info(pid, fd)))).collect();
        let by_handle = service.abilities.facts.has("DAC_READ_SEARCH");
        let wanted: BTreeSet<Inode> = of.values().flatten().copied().filter(|_| !by_handle).collect();
        Self { of, found: watched::find(&wanted), by_handle }
    }

    pub fn finding(&self, process: &Process, descriptor: &Descriptor) -> Option<Finding> {
        let inodes = self.of.get(&(process.pid, descriptor.fd))?;
        let lost = inodes.iter().filter(|inode| !self.found.contains_key(inode)).count();
        if self.by_handle || lost == 0 && self.tops().len() <= LIMIT {
            return None;
        }
        let what = match lost {
            0 => format!("has inotify watches in more than {LIMIT} places, which cannot be checkpointed"),
            lost => {
                format!("has {lost} inotify watches of files that are not found any more, which cannot be checkpointed")
            }
        };
        Some(Finding::refused(Some(process), &what, "switch off the service's file watching"))
    }

    /// The paths that all others are below.
    fn tops(&self) -> Vec<PathBuf> {
        let paths: BTreeSet<&PathBuf> = self.found.values().collect();
        // In this order a folder comes before what is in it.
        paths.into_iter().fold(Vec::new(), |mut tops: Vec<PathBuf>, path| {
            if !tops.iter().any(|top| path.starts_with(top)) {
                tops.push(path.clone());
            }
            tops
        })
    }

    /// What CRIU has to be told and a fresh container has to have.
    pub fn watched(self) -> Watched {
        Watched { tops: self.tops(), paths: self.found.into_values().collect() }
    }
}

/// Paths that a service watches.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Those that all others are below.
    pub tops: Vec<PathBuf>,
    /// All of them.
    pub paths: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watches(found: &[(u64, &str)], watched: &[u64]) -> Watches {
        Watches {
            of: BTreeMap::from([((7, 5), watched.iter().map(|inode| (1, *inode)).collect())]),
            found: found.iter().map(|(inode, path)| ((1, *inode), PathBuf::from(path))).collect(),
            by_handle: false,
        }
    }

    fn judged(watches: &Watches) -> Option<String> {
        let process = Process { pid: 7, comm: "app".into(), ..Process::default() };
        let descriptor =
            Descriptor { fd: 5, target: "anon_inode:inotify".into(), inode: None, device: 0, mode: 0, rdev: 0 };
        watches.finding(&process, &descriptor).map(|finding| finding.what)
    }

    #[test]
    fn what_is_found_moves_with_the_folders_above_all() {
        let watches = watches(&[(1, "/app"), (2, "/app/src"), (3, "/etc/app.conf"), (4, "/apps")], &[1, 2, 3, 4]);
        assert_eq!(judged(&watches), None);
        assert_eq!(watches.watched().tops, ["/app", "/apps", "/etc/app.conf"].map(PathBuf::from));
    }

    #[test]
    fn what_is_not_found_is_counted() {
        insta::assert_snapshot!(judged(&watches(&[(1, "/app")], &[1, 2, 3])).unwrap(), @"has 2 inotify watches of files that are not found any more, which cannot be checkpointed");
        let many: Vec<(u64, String)> = (0..65).map(|inode| (inode, format!("/{inode}"))).collect();
        let many: Vec<(u64, &str)> = many.iter().map(|(inode, path)| (*inode, path.as_str())).collect();
        insta::assert_snapshot!(judged(&watches(&many, &[1])).unwrap(), @"has inotify watches in more than 64 places, which cannot be checkpointed");
    }
}
