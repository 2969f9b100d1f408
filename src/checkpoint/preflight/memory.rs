//! Mappings: rings, devices, huge pages, and files that no path leads to.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::{Finding, Findings, Place, Service, descriptors, devices, not_inspectable, system_v};
use crate::privileges::DumpPlan;
use crate::proc::maps::{self, Mapping};
use crate::proc::tree::Process;

const DELETED: &str = " (deleted)";

pub fn look(service: &Service, findings: &mut Findings) {
    let rules = Rules { open: open_but_deleted(service), reach_all: DumpPlan::of(service.abilities).deleted_mappings };
    for one in &service.processes {
        let maps = match maps::read(one.process.pid) {
            Ok(maps) => maps,
            Err(error) if super::is_alive(one.process.pid) => {
                findings.add(not_inspectable(one.process, &error));
                continue;
            }
            Err(_) => continue,
        };
        for mapping in maps {
            if let Some(finding) = rules.judge(one.process, &mapping) {
                findings.add(finding.at(Place::Mapping(mapping.start)));
            }
        }
    }
}

struct Rules {
    /// Inode and name of deleted files that a process has open.
    open: BTreeSet<(u64, String)>,
    reach_all: bool,
}

impl Rules {
    fn judge(&self, process: &Process, mapping: &Mapping) -> Option<Finding> {
        let refused = |what: &str, advice| Some(Finding::refused(Some(process), what, advice));
        let name = &*mapping.name.to_string_lossy();
        if let Some((object, advice)) = descriptors::anonymous(name) {
            return refused(&format!("has {object} mapped, which cannot be checkpointed"), advice);
        }
        if system_v::is_segment(mapping) {
            return None;
        }
        if name == "/secretmem (deleted)" {
            return Some(descriptors::secret_memory(process));
        }
        if name.starts_with("/anon_hugepage") {
            return Some(descriptors::huge_pages(process));
        }
        if name.starts_with("/dev/") && !name.ends_with(DELETED) && is_device(name) {
            return Some(devices::device(process, name));
        }
        self.is_out_of_reach(mapping, name).then(|| deleted(process, name))
    }

    /// CRIU opens deleted files through a descriptor of any process, and dumps shared memory without a name
    /// as memory.
    fn is_out_of_reach(&self, mapping: &Mapping, name: &str) -> bool {
        let Some(path) = name.strip_suffix(DELETED) else { return false };
        let as_memory = mapping.shared && (path.starts_with("/memfd:") || path == "/dev/zero");
        let reached = self.reach_all || self.open.contains(&(mapping.inode, name.to_owned()));
        path.starts_with('/') && !path.starts_with("/[aio]") && !as_memory && !reached
    }
}

fn deleted(process: &Process, name: &str) -> Finding {
    let what = format!("has {name} mapped, and no process has it open, so it cannot be read");
    let advice = "restart the service if an upgrade replaced this program or library; keep the file open if it is the service's own; or add the capability CHECKPOINT_RESTORE";
    Finding::refused(Some(process), &what, advice)
}

fn is_device(path: &str) -> bool {
    fs::metadata(path).is_ok_and(|meta| {
        let kind = meta.file_type();
        let memory = nix::libc::major(meta.rdev()) == 1;
        (kind.is_char_device() && !memory) || kind.is_block_device()
    })
}

fn open_but_deleted(service: &Service) -> BTreeSet<(u64, String)> {
    let all = service.processes.iter().flat_map(|one| &one.descriptors);
    all.filter(|descriptor| descriptor.target.ends_with(DELETED))
        .filter_map(|descriptor| Some((descriptor.inode?, descriptor.target.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(line: &str, open: &[(u64, &str)], reach_all: bool) -> Option<String> {
        let open = open.iter().map(|(inode, name)| (*inode, (*name).to_owned())).collect();
        let process = Process { pid: 7, comm: "app".into(), ..Process::default() };
        let finding = Rules { open, reach_all }.judge(&process, &maps::parse(line.as_bytes()).pop()?)?;
        Some(finding.what)
    }

    #[test]
    fn ordinary_mappings_are_fine() {
        for line in [
            "7f00-7f01 r-xp 00000000 00:32 1024                       /usr/lib/libc.so.6",
            "7f00-7f01 rw-p 00000000 00:00 0 ",
            "7f00-7f01 rw-s 00000000 00:01 9                          /dev/zero (deleted)",
            "7f00-7f01 rw-s 00000000 00:01 9                          /memfd:x (deleted)",
            "7f00-7f01 rw-s 00000000 00:0f 9                          /[aio] (deleted)",
            "7f00-7f01 rw-p 00000000 00:0f 9                          /dev/zero",
            "7f00-7f01 rw-s 00000000 00:01 9                          /SYSV00000000 (deleted)",
            "7ffd-7ffe r-xp 00000000 00:00 0                          [vdso]",
        ] {
            assert_eq!(judged(line, &[], false), None, "{line}");
        }
    }

    #[test]
    fn what_is_deleted_is_reached_through_a_descriptor_or_by_privilege() {
        let line = "7f00-7f01 r-xp 00000000 00:32 1024 /usr/lib/libold.so (deleted)";
        assert!(judged(line, &[], false).is_some_and(|what| what.contains("/usr/lib/libold.so (deleted)")));
        assert!(judged(line, &[(1025, "/usr/lib/libold.so (deleted)")], false).is_some());
        assert_eq!(judged(line, &[(1024, "/usr/lib/libold.so (deleted)")], false), None);
        assert_eq!(judged(line, &[], true), None);
        assert!(judged("7f00-7f01 rw-p 00000000 00:01 9 /memfd:x (deleted)", &[], false).is_some());
    }

    #[test]
    fn kinds_are_named() {
        let of = |name: &str| judged(&format!("7f00-7f01 rw-s 00000000 00:01 9 {name}"), &[], true).unwrap();
        insta::assert_snapshot!(of("anon_inode:[io_uring]"), @"has io_uring mapped, which cannot be checkpointed");
        insta::assert_snapshot!(of("/secretmem (deleted)"), @"has secret memory (memfd_secret), which no other process can read");
        insta::assert_snapshot!(of("/anon_hugepage (deleted)"), @"uses huge pages (MAP_HUGETLB or hugetlbfs), which cannot be checkpointed");
    }
}
