//! Descriptors: their targets, and the kinds of files other than sockets that cannot be carried.

use std::collections::BTreeSet;
use std::path::PathBuf;

use nix::libc;

use super::mounts::{Mounts, Strange};
use super::watches::Watches;
use super::{Finding, Findings, Inspected, Place, Service, devices};
use crate::proc::fd::Descriptor;
use crate::proc::fdinfo::FdInfo;
use crate::proc::limits::Limits;
use crate::proc::tree::Process;

/// Anonymous inodes that CRIU carries. It refuses all others: `Can't dump file … of that type` (criu/files.c,
/// dump_one_file).
const CARRIED: &[&str] = &["[eventfd]", "[eventpoll]", "inotify", "[signalfd]", "[timerfd]", "[pidfd]"];

/// Prefixes of other anonymous inodes, their names for users, and advice.
const OBJECTS: &[(&str, &str, &str)] = &[
    ("[io_uring]", "io_uring", "switch off io_uring in the service (for node: UV_USE_IO_URING=0)"),
    ("[userfaultfd]", "userfaultfd", "switch off the part of the service that uses it"),
    ("[perf_event]", "a performance counter", "stop the profiler and try again"),
    ("[fanotify]", "fanotify", "switch off file watching in the service"),
    ("[landlock-ruleset]", "a Landlock ruleset", "switch off the service's own sandbox"),
    ("[kvm-vm]", "a virtual machine (KVM)", "run it outside the service"),
    ("[kvm-vcpu", "a virtual machine (KVM)", "run it outside the service"),
    ("bpf-", "BPF", "switch off the part of the service that uses BPF"),
    ("[seccomp notify]", "a seccomp listener", "switch off the service's own sandbox"),
];

/// The object behind an anonymous inode that cannot be carried, and advice.
pub fn anonymous(target: &str) -> Option<(String, &'static str)> {
    let kind = target.strip_prefix("anon_inode:")?;
    if CARRIED.contains(&kind) {
        return None;
    }
    let known = OBJECTS.iter().find(|(name, ..)| kind.starts_with(name));
    Some(match known {
        Some((_, object, advice)) => ((*object).to_owned(), *advice),
        None => (kind.trim_matches(['[', ']']).to_owned(), "close it before a checkpoint"),
    })
}

/// Returns the paths that the service watches.
pub fn look(service: &Service, findings: &mut Findings) -> Vec<PathBuf> {
    let known = Mounts::read(service.init);
    let terminals = devices::Terminals::of(service);
    let watches = Watches::of(service);
    let pids: BTreeSet<i32> = service.all.iter().map(|process| process.pid).collect();
    for one in &service.processes {
        for descriptor in &one.descriptors {
            let found = kind(one.process, descriptor, &known)
                .or_else(|| devices::descriptor(one.process, descriptor, &terminals))
                .or_else(|| watches.finding(one.process, descriptor))
                .or_else(|| pidfd(one.process, descriptor, &pids));
            if let Some(finding) = found {
                findings.add(finding.at(Place::Descriptor(descriptor.fd)));
            }
        }
        room(one, findings);
    }
    watches.paths()
}

fn kind(process: &Process, descriptor: &Descriptor, mounts: &Mounts) -> Option<Finding> {
    if let Some((object, advice)) = anonymous(&descriptor.target) {
        return Some(Finding::refused(
            Some(process),
            &format!("has {object} open, which cannot be checkpointed"),
            advice,
        ));
    }
    if descriptor.target == "/secretmem (deleted)" {
        return Some(secret_memory(process));
    }
    match mounts.judge(process.pid, descriptor)? {
        Strange::Queue => Some(Finding::refused(
            Some(process),
            &format!("has the POSIX message queue {} open, which cannot be checkpointed", descriptor.target),
            "close it before a checkpoint, or use a socket",
        )),
        Strange::HugePages => Some(huge_pages(process)),
        Strange::Detached => Some(Finding::refused(
            Some(process),
            &format!("has {} open, which is on a mount that the container does not have", descriptor.target),
            "close it before a checkpoint",
        )),
    }
}

/// Other processes cannot read what memfd_secret(2) makes.
pub fn secret_memory(process: &Process) -> Finding {
    Finding::refused(
        Some(process),
        "has secret memory (memfd_secret), which no other process can read",
        "switch off the part of the service that uses it",
    )
}

pub fn huge_pages(process: &Process) -> Finding {
    Finding::refused(
        Some(process),
        "uses huge pages (MAP_HUGETLB or hugetlbfs), which cannot be checkpointed",
        "use ordinary pages or transparent huge pages",
    )
}

/// A pidfd of a thread, or of a process outside the tree. Pidfds of zombies and of reaped processes are
/// carried.
fn pidfd(process: &Process, descriptor: &Descriptor, pids: &BTreeSet<i32>) -> Option<Finding> {
    if descriptor.target != "anon_inode:[pidfd]" && !descriptor.target.starts_with("pidfd:") {
        return None;
    }
    let info = FdInfo::read(process.pid, descriptor.fd).unwrap_or_default();
    let what = if info.flags & PIDFD_THREAD != 0 {
        "has a pidfd of a thread (PIDFD_THREAD), which cannot be checkpointed".to_owned()
    } else {
        // A reaped process has the number -1.
        let of = info.process.filter(|of| *of > 0 && !pids.contains(of))?;
        format!("has a pidfd of process {of} outside the service, which cannot be checkpointed")
    };
    Some(Finding::refused(Some(process), &what, "close it before a checkpoint"))
}

/// Since Linux 6.9 (include/uapi/linux/pidfd.h).
const PIDFD_THREAD: i32 = libc::O_EXCL;

/// Free descriptors that CRIU needs in every process during a dump (criu/README.md, 0011).
const ROOM: u64 = 16;

fn room(one: &Inspected, findings: &mut Findings) {
    let open = one.descriptors.len() as u64;
    if let Some(hard) = Limits::read(one.process.pid).hard("Max open files")
        && open + ROOM > hard
    {
        let what = format!("has {open} files open and a hard limit of {hard}: a dump needs {ROOM} more");
        findings.add(Finding::refused(Some(one.process), &what, "raise the hard limit of open files (ulimit -Hn)"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_inodes_are_carried_or_named() {
        for carried in
            ["anon_inode:[eventpoll]", "anon_inode:inotify", "anon_inode:[pidfd]", "pipe:[7]", "/a", "socket:[7]"]
        {
            assert_eq!(anonymous(carried), None, "{carried}");
        }
        let object = |target: &str| anonymous(target).unwrap().0;
        assert_eq!(["anon_inode:[io_uring]", "anon_inode:bpf-map"].map(object), ["io_uring", "BPF"]);
        assert_eq!(object("anon_inode:[what-comes-next]"), "what-comes-next");
    }
}
