//! Processes and their threads: tracers, filters, namespaces, roots, and states that prevent a dump.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc;

use super::{Finding, Findings, Place, Service, not_inspectable};
use crate::proc::tree::{Process, is_alive};
use crate::proc::{self, status::Status};

const NAMESPACES: &[&str] = &["user", "pid", "pid_for_children", "mnt", "net", "ipc", "uts", "cgroup"];

const SANDBOX: &str = "switch off the service's own sandbox";

/// Limit of the time that one look waits for vforks, all together. A vfork that takes longer is a refusal, so
/// [`super::settle`] looks again.
const VFORK: Duration = Duration::from_millis(200);

pub fn look(service: &Service, findings: &mut Findings) {
    let container = Container::of(service);
    let mut times = Vec::new();
    for process in service.all {
        if process.is_zombie() {
            // A zombie with several threads has lost only its first thread; an ended process shows one
            // thread.
            if process.threads.len() > 1 {
                findings.add(Finding::refused(
                    Some(process),
                    "has lost its first thread while other threads run, which cannot be checkpointed",
                    "make the first thread wait for the others (pthread_join) before it ends",
                ));
            }
            continue;
        }
        for tid in &process.threads {
            thread(process, *tid, &container, findings);
        }
        if let Err(error) = places(process, &container, &mut times, findings)
            && is_alive(process.pid)
        {
            findings.add(not_inspectable(process, &error));
        }
    }
}

/// Properties of init, and so of the container.
struct Container {
    filters: Filters,
    /// Deadline for vforks.
    until: Instant,
    namespaces: Vec<Option<PathBuf>>,
    /// None if processes may have another root: with CAP_SYS_CHROOT a restore can change it.
    root: Option<PathBuf>,
}

impl Container {
    fn of(service: &Service) -> Self {
        let init = service.init;
        let link = |name: &str| fs::read_link(proc::path(init, name)).ok();
        Self {
            filters: Filters::of(&Status::read(init).unwrap_or_default()),
            until: Instant::now() + VFORK,
            namespaces: NAMESPACES.iter().map(|name| link(&format!("ns/{name}"))).collect(),
            root: link("root").filter(|_| !service.abilities.facts.has("SYS_CHROOT")),
        }
    }
}

fn status_in(folder: &Path) -> Option<Status> {
    fs::read(folder.join("status")).ok().map(|text| Status::parse(&text))
}

/// Seccomp state of a task.
#[derive(Debug, Default, PartialEq, Eq)]
struct Filters {
    /// Since Linux 5.9.
    number: Option<u32>,
    /// SECCOMP_MODE_*; 0 is none.
    mode: Option<u32>,
}

impl Filters {
    fn of(status: &Status) -> Self {
        Self { number: status.seccomp_filters, mode: status.seccomp }
    }

    /// Whether the task has more filters than the container. Without a count by the kernel, only the first
    /// filter of all is visible.
    fn exceed(&self, container: &Self) -> bool {
        match (self.number, container.number) {
            (Some(own), Some(theirs)) => own > theirs,
            _ => container.mode == Some(0) && self.mode != Some(0),
        }
    }
}

fn thread(process: &Process, tid: i32, container: &Container, findings: &mut Findings) {
    let folder = proc::path(process.pid, &format!("task/{tid}"));
    let Some(status) = status_in(&folder) else { return };
    let mut add = |what: &str, advice| {
        let finding = Finding::refused(Some(process), what, advice);
        findings.add(if tid == process.pid { finding } else { finding.at(Place::Thread(tid)) });
    };
    if let Some(tracer) = status.tracer.filter(|&tracer| tracer != 0) {
        add(&format!("is being traced by process {tracer}"), "detach the debugger and try again");
    }
    let filters = Filters::of(&status);
    if filters.mode == Some(STRICT) {
        add("runs in seccomp's strict mode, which cannot be checkpointed", SANDBOX);
    } else if filters.exceed(&container.filters) {
        add("has a seccomp filter of its own, which cannot be checkpointed", SANDBOX);
    }
    if has_pending_trap(&status, tid == process.pid) {
        add(
            "has a pending SIGTRAP, which cannot be checkpointed",
            "let the process take the signal: unblock it, and let the process go on if it is stopped",
        );
    }
    if stays_in_vfork(&folder, status, container.until) {
        add(
            "waits in vfork for a child that has not executed a program yet, so it cannot be stopped",
            "try again; if that does not help, use posix_spawn or fork",
        );
    }
}

/// Whether SIGTRAP waits for the thread, or, once for all threads, for the process: criu's own traps in the
/// injected code would take its place.
fn has_pending_trap(status: &Status, is_first: bool) -> bool {
    let shared = status.shared_pending.filter(|_| is_first).unwrap_or(0);
    (status.pending.unwrap_or(0) | shared) & 1 << (libc::SIGTRAP - 1) != 0
}

/// SECCOMP_MODE_STRICT.
const STRICT: u32 = 1;

/// Whether a thread waits in the same vfork until `until`.
fn stays_in_vfork(folder: &Path, mut status: Status, until: Instant) -> bool {
    let begun = status.voluntary_switches;
    loop {
        let waits = status.state == Some('D') && is_in_vfork(folder);
        if !waits || status.voluntary_switches != begun {
            return false;
        }
        if Instant::now() > until {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
        let Some(now) = status_in(folder) else { return false };
        status = now;
    }
}

/// Whether a thread waits in vfork(2), in clone(2) with CLONE_VFORK in its first argument, or in clone3(2),
/// whose flags are in memory (proc_pid_syscall(5)).
fn is_in_vfork(folder: &Path) -> bool {
    let text = fs::read_to_string(folder.join("syscall")).unwrap_or_default();
    let mut fields = text.split_whitespace();
    let call: Option<libc::c_long> = fields.next().and_then(|number| number.parse().ok());
    match (call, fields.next()) {
        // Other architectures have only clone.
        #[cfg(target_arch = "x86_64")]
        (Some(libc::SYS_vfork), _) => true,
        (Some(libc::SYS_clone3), _) => true,
        (Some(libc::SYS_clone), Some(flags)) => {
            let flags = u64::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
            flags & libc::CLONE_VFORK as u64 != 0
        }
        _ => false,
    }
}

fn places(
    process: &Process,
    container: &Container,
    times: &mut Vec<PathBuf>,
    findings: &mut Findings,
) -> io::Result<()> {
    let link = |name: &str| fs::read_link(proc::path(process.pid, name));
    for (namespace, ours) in NAMESPACES.iter().zip(&container.namespaces) {
        match (ours, link(&format!("ns/{namespace}"))) {
            (Some(ours), Ok(theirs)) if *ours != theirs => findings.add(own_namespace(process, namespace)),
            (Some(_), Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // A namespace without a first process cannot be read.
            (Some(_), Err(_)) if *namespace == "pid_for_children" && is_alive(process.pid) => {
                findings.add(own_namespace(process, namespace));
            }
            _ => {}
        }
    }
    // A restore can create one time namespace, for the whole service.
    for name in ["ns/time", "ns/time_for_children"] {
        let Ok(time) = link(name) else { continue };
        if !times.contains(&time) {
            times.push(time);
            if times.len() > 1 {
                findings.add(own_namespace(process, "time"));
            }
        }
    }
    let root = link("root")?;
    if container.root.as_ref().is_some_and(|ours| *ours != root) {
        let what = format!("has changed its root to {}, which cannot be checkpointed", root.display());
        findings.add(Finding::refused(
            Some(process),
            &what,
            "run the service without chroot, or add the capability SYS_CHROOT",
        ));
    }
    Ok(())
}

fn own_namespace(process: &Process, namespace: &str) -> Finding {
    let what = match namespace {
        "pid_for_children" => "has made a PID namespace for its children, which cannot be checkpointed".to_owned(),
        namespace => format!("is in a {namespace} namespace of its own, which cannot be checkpointed"),
    };
    Finding::refused(Some(process), &what, SANDBOX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_its_own() {
        let filters = |number, mode| Filters { number, mode: Some(mode) };
        let table = [
            (filters(Some(2), 2), filters(Some(1), 2), true),
            (filters(Some(1), 2), filters(Some(1), 2), false),
            (filters(None, 2), filters(None, 0), true),
            (filters(None, 2), filters(None, 2), false),
            (filters(None, 0), filters(None, 0), false),
        ];
        for (own, container, exceed) in table {
            assert_eq!(own.exceed(&container), exceed, "{own:?} in {container:?}");
        }
    }

    /// Each wait is short and begins with another number of switches.
    #[test]
    fn one_vfork_after_another_is_none_that_stays() {
        let folder = tempfile::tempdir().unwrap();
        let status = |switches: u32| format!("State:\tD (disk sleep)\nvoluntary_ctxt_switches:\t{switches}\n");
        fs::write(folder.path().join("syscall"), format!("{} 0x0\n", libc::SYS_clone3)).unwrap();
        fs::write(folder.path().join("status"), status(8)).unwrap();
        let until = Instant::now() + Duration::from_millis(1);
        assert!(stays_in_vfork(folder.path(), Status::parse(status(8).as_bytes()), until));
        assert!(!stays_in_vfork(folder.path(), Status::parse(status(7).as_bytes()), Instant::now() + VFORK));
    }

    #[test]
    fn vfork_is_known_by_its_system_call() {
        let folder = tempfile::tempdir().unwrap();
        let waits = |text: &str| {
            fs::write(folder.path().join("syscall"), text).unwrap();
            is_in_vfork(folder.path())
        };
        let (clone, clone3, read) = (libc::SYS_clone, libc::SYS_clone3, libc::SYS_read);
        assert!(waits(&format!("{clone} 0x4111 0x7f00 0x0\n")) && waits(&format!("{clone3} 0x7ffd 0x58\n")));
        #[cfg(target_arch = "x86_64")]
        assert!(waits(&format!("{} 0x0 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7f00\n", libc::SYS_vfork)));
        assert!(!waits(&format!("{clone} 0x1200011 0x0 0x0\n")) && !waits(&format!("{read} 0x3 0x7ffe 0x400\n")));
        assert!(!waits("running\n"));
    }
}
