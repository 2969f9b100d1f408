//! What belongs to the container rather than to a process: its privileges, System V objects, leases.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{Finding, Findings, Place, Service};
use crate::privileges::DumpPlan;

const SYSTEM_V: &[(&str, &str)] = &[("msg", "a System V message queue"), ("sem", "System V semaphores")];

pub fn look(service: &Service, findings: &mut Findings) {
    impossible(service, findings);
    lost(findings);
    leases(service, findings);
}

/// Objects that a dump would lose without an error.
pub fn lost(findings: &mut Findings) {
    for (file, what) in SYSTEM_V {
        for _ in rows(&format!("sysvipc/{file}")) {
            findings.add(Finding::refused(None, &format!("has {what} (see `ipcs`), which would be lost"), POSIX));
        }
    }
    unattached(findings);
}

const POSIX: &str = "use POSIX shared memory or sockets instead";

/// The container allows no dump at all.
fn impossible(service: &Service, findings: &mut Findings) {
    if let Some(reason) = DumpPlan::of(service.abilities).impossible {
        let what = format!("does not permit checkpoints: {reason}");
        findings.add(Finding::refused(None, &what, "run freeze doctor to see what to add"));
    }
}

/// Shared memory that no process has attached. Attached memory shows in maps.
fn unattached(findings: &mut Findings) {
    for row in rows("sysvipc/shm") {
        // key shmid perms size cpid lpid nattch …
        if row.split_ascii_whitespace().nth(6) == Some("0") {
            let what = "has System V shared memory that no process has attached (see `ipcs`), which would be lost";
            findings.add(Finding::refused(None, what, POSIX));
        }
    }
}

/// Write leases. A dump opens the file, which breaks the lease and signals the process; a process without a
/// handler dies. Read leases are carried.
fn leases(service: &Service, findings: &mut Findings) {
    let processes: BTreeMap<i32, _> = service.processes.iter().map(|one| (one.process.pid, one)).collect();
    let text = fs::read_to_string("/proc/locks").unwrap_or_default();
    for (pid, inode) in text.lines().filter_map(lease) {
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

/// PID and inode of `1: LEASE  ACTIVE    WRITE 1234 00:2b:77 0 EOF` (proc_locks(5)).
fn lease(line: &str) -> Option<(i32, u64)> {
    let mut fields = line.split_ascii_whitespace().skip_while(|field| field.ends_with(':') || *field == "->");
    let (kind, mode, pid, file) = (fields.next()?, fields.nth(1)?, fields.next()?, fields.next()?);
    let inode = file.rsplit(':').next()?.parse().ok()?;
    (kind == "LEASE" && mode != "READ").then_some((pid.parse().ok()?, inode))
}

/// Lines of a table in /proc, without its heading.
fn rows(name: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new("/proc").join(name)).unwrap_or_default();
    text.lines().skip(1).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_known_by_its_line() {
        assert_eq!(lease("3: LEASE  ACTIVE    WRITE 1001 00:2b:77 0 EOF"), Some((1001, 77)));
        assert_eq!(lease("3: LEASE  ACTIVE    READ 1001 00:2b:77 0 EOF"), None);
        assert_eq!(lease("4: POSIX  ADVISORY  WRITE 1001 00:2b:78 0 EOF"), None);
        assert_eq!(lease("3: -> FLOCK  ADVISORY  WRITE 1001 00:2b:77 0 EOF"), None);
        assert_eq!(lease(""), None);
    }
}
