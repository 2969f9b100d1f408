//! What belongs to the container rather than to a process: its privileges, and leases.

use std::collections::BTreeMap;
use std::fs;

use super::{Finding, Findings, Place, Service};
use crate::privileges::DumpPlan;

pub fn look(service: &Service, findings: &mut Findings) {
    impossible(service, findings);
    no_tracer(service, findings);
    leases(service, findings);
}

/// The container allows no dump at all.
fn impossible(service: &Service, findings: &mut Findings) {
    if let Some(reason) = DumpPlan::of(service.abilities).impossible {
        let what = format!("does not permit checkpoints: {reason}");
        findings.add(Finding::refused(None, &what, "run freeze doctor to see what to add"));
    }
}

/// Each criu that is killed takes a tracer along, and one that a container needs later than its start was never made.
fn no_tracer(service: &Service, findings: &mut Findings) {
    let is_below_init = service.all.first().is_some_and(|root| root.ppid == service.init);
    if DumpPlan::of(service.abilities).tracer && is_below_init {
        let what =
            "has no tracer left: kernel.yama.ptrace_scope is 1, so only a process above the service may checkpoint it";
        let advice = "set the sysctl to 0 on the host for this checkpoint; a new container has tracers again";
        findings.add(Finding::refused(None, what, advice));
    }
}

/// Write leases. A dump opens the file, which breaks the lease and signals the process; a process without a
/// handler dies. Read leases are carried.
fn leases(service: &Service, findings: &mut Findings) {
    let processes: BTreeMap<i32, _> = service.processes.iter().map(|one| (one.process.pid, one)).collect();
    for (pid, inode) in write_leases() {
        let Some(one) = processes.get(&pid) else { continue };
        let finding = Finding::refused(
            Some(one.process),
            "has a write lease on a file (F_SETLEASE), which a dump would break",
            "release the lease before a checkpoint",
        );
        let fd = one.descriptors.iter().find(|descriptor| descriptor.inode == Some(inode));
        findings.add(match fd {
            Some(descriptor) => finding.at(Place::Descriptor(descriptor.fd)),
            None => finding,
        });
    }
}

/// PIDs and inodes of write leases. An open of such a file by another process breaks the lease (fcntl(2)).
pub fn write_leases() -> Vec<(i32, u64)> {
    let text = fs::read_to_string("/proc/locks").unwrap_or_default();
    text.lines().filter_map(lease).collect()
}

/// PID and inode of `1: LEASE  ACTIVE    WRITE 1234 00:2b:77 0 EOF` (proc_locks(5)).
fn lease(line: &str) -> Option<(i32, u64)> {
    let mut fields = line.split_ascii_whitespace().skip_while(|field| field.ends_with(':') || *field == "->");
    let (kind, mode, pid, file) = (fields.next()?, fields.nth(1)?, fields.next()?, fields.next()?);
    let inode = file.rsplit(':').next()?.parse().ok()?;
    (kind == "LEASE" && mode != "READ").then_some((pid.parse().ok()?, inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn under_yamas_scope_1_a_tracer_has_to_be_left() {
        use crate::privileges::Ability::{MemoryMap, Pidfd, Ptrace, WholeProc};
        let mut abilities = crate::privileges::Abilities::with(&[Ptrace, WholeProc, MemoryMap, Pidfd]);
        abilities.facts.yama = Some(1);
        let refused = |ppid| {
            let all = [crate::proc::tree::Process { pid: 1000, ppid, ..Default::default() }];
            let mut findings = Findings::default();
            let service = Service { abilities: &abilities, init: 1, all: &all, processes: Vec::new() };
            no_tracer(&service, &mut findings);
            findings.into_refused().first().map(ToString::to_string)
        };
        assert_eq!(refused(8), None);
        insta::assert_snapshot!(refused(1).unwrap(), @"the container has no tracer left: kernel.yama.ptrace_scope is 1, so only a process above the service may checkpoint it; set the sysctl to 0 on the host for this checkpoint; a new container has tracers again");
    }

    #[test]
    fn a_lease_is_known_by_its_line() {
        assert_eq!(lease("3: LEASE  ACTIVE    WRITE 1001 00:2b:77 0 EOF"), Some((1001, 77)));
        assert_eq!(lease("3: LEASE  ACTIVE    READ 1001 00:2b:77 0 EOF"), None);
        assert_eq!(lease("4: POSIX  ADVISORY  WRITE 1001 00:2b:78 0 EOF"), None);
        assert_eq!(lease("3: -> FLOCK  ADVISORY  WRITE 1001 00:2b:77 0 EOF"), None);
        assert_eq!(lease(""), None);
    }
}
