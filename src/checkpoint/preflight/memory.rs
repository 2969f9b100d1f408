//! Mappings: rings, devices, huge pages and secret memory. System V segments are carried, and so are deleted
//! files that are mapped, also if no process has them open.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use super::{Finding, Findings, Place, Service, descriptors, devices, not_inspectable, system_v};
use crate::files::mapped;
use crate::proc::maps::{self, Mapping};
use crate::proc::tree::{Process, is_alive};

/// Returns the present paths of files that are mapped under a former one.
pub fn look(service: &Service, findings: &mut Findings) -> Vec<PathBuf> {
    let mut former = BTreeMap::new();
    for one in &service.processes {
        let maps = match maps::read(one.process.pid) {
            Ok(maps) => maps,
            Err(error) if is_alive(one.process.pid) => {
                findings.add(not_inspectable(one.process, &error));
                continue;
            }
            Err(_) => continue,
        };
        if has_half_a_vdso(&maps) {
            findings.add(half_a_vdso(one.process));
        }
        for mapping in maps {
            former.extend(mapped::former_path(&mapping));
            if let Some(finding) = judge(one.process, &mapping) {
                findings.add(finding.at(Place::Mapping(mapping.start)));
            }
        }
    }
    mapped::find(former)
}

/// CRIU restores the vDSO and the memory that it reads, or neither.
fn has_half_a_vdso(maps: &[Mapping]) -> bool {
    let has = |name: &str| maps.iter().any(|mapping| mapping.name == name);
    has("[vvar]") && !has("[vdso]")
}

fn half_a_vdso(process: &Process) -> Finding {
    let what = "has unmapped its vDSO and not what that reads ([vvar]), which cannot be restored";
    Finding::refused(Some(process), what, "unmap both or neither")
}

fn judge(process: &Process, mapping: &Mapping) -> Option<Finding> {
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
    let is_there = mapping.former_path().is_none();
    (name.starts_with("/dev/") && is_there && is_device(name)).then(|| devices::device(process, name))
}

fn is_device(path: &str) -> bool {
    fs::metadata(path).is_ok_and(|meta| {
        let kind = meta.file_type();
        let memory = nix::libc::major(meta.rdev()) == 1;
        (kind.is_char_device() && !memory) || kind.is_block_device()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(line: &str) -> Option<String> {
        let process = Process { pid: 7, comm: "app".into(), ..Process::default() };
        Some(judge(&process, &maps::parse(line.as_bytes()).pop()?)?.what)
    }

    #[test]
    fn ordinary_mappings_are_fine() {
        for line in [
            "7f00-7f01 r-xp 00000000 00:32 1024                       /usr/lib/libc.so.6",
            "7f00-7f01 rw-p 00000000 00:00 0 ",
            "7f00-7f01 rw-s 00000000 00:01 9                          /dev/zero (deleted)",
            "7f00-7f01 rw-s 00000000 00:01 9                          /memfd:x (deleted)",
            "7f00-7f01 rw-p 00000000 00:01 9                          /memfd:x (deleted)",
            "7f00-7f01 rw-s 00000000 00:1a 9                          /dev/shm/sem.x (deleted)",
            "7f00-7f01 r-xp 00000000 00:32 1024                       /usr/lib/libold.so (deleted)",
            "7f00-7f01 rw-s 00000000 00:01 9                          /SYSV00000000 (deleted)",
            "7f00-7f01 rw-s 00000000 00:0f 9                          /[aio] (deleted)",
            "7f00-7f01 rw-p 00000000 00:0f 9                          /dev/zero",
            "7ffd-7ffe r-xp 00000000 00:00 0                          [vdso]",
        ] {
            assert_eq!(judged(line), None, "{line}");
        }
    }

    #[test]
    fn a_vdso_has_both_parts_or_none() {
        let is_half = |names: &[&str]| {
            let lines: String = names.iter().map(|name| format!("7f00-7f01 r--p 00000000 00:00 0 {name}\n")).collect();
            has_half_a_vdso(&maps::parse(lines.as_bytes()))
        };
        assert!(is_half(&["[vvar]"]) && !is_half(&["[vvar]", "[vdso]"]) && !is_half(&["[heap]"]));
    }

    #[test]
    fn kinds_are_named() {
        let of = |name: &str| judged(&format!("7f00-7f01 rw-s 00000000 00:01 9 {name}")).unwrap();
        insta::assert_snapshot!(of("anon_inode:[io_uring]"), @"has io_uring mapped, which cannot be checkpointed");
        insta::assert_snapshot!(of("/secretmem (deleted)"), @"has secret memory (memfd_secret), which no other process can read");
        insta::assert_snapshot!(of("/anon_hugepage (deleted)"), @"uses huge pages (MAP_HUGETLB or hugetlbfs), which cannot be checkpointed");
    }
}
