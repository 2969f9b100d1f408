//! Processes and their threads: tracers, filters, namespaces, roots, and states in which no dump works.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Finding, Findings, Place, Service, is_alive, not_inspectable};
use crate::tree::{self, Process};

const NAMESPACES: &[&str] = &["user", "pid", "pid_for_children", "mnt", "net", "ipc", "uts", "cgroup"];

const SANDBOX: &str = "switch off the service's own sandbox";

pub fn look(processes: &[Process], service: &Service, findings: &mut Findings) {
    let container = Container::of(service);
    let mut times = Vec::new();
    for process in processes {
        if process.is_zombie() {
            // The other threads of a process whose first one has ended; of an ended process there is only the first.
            if process.threads.len() > 1 {
                findings.add(Finding::refused(
                    Some(process),
                    "has lost its first thread while others run on, which cannot be checkpointed",
                    "let the first thread wait for the others (pthread_join) instead of ending by itself",
                ));
            }
            continue;
        }
        for tid in &process.threads {
            thread(process, *tid, container.filters, findings);
        }
        own_descriptors(process, findings);
        if let Err(error) = places(process, &container, &mut times, findings)
            && is_alive(process.pid)
        {
            findings.add(not_inspectable(process, &error));
        }
    }
}

/// What init has, and so the container.
struct Container {
    filters: Option<i64>,
    namespaces: Vec<Option<PathBuf>>,
    /// None where a process may have another: a restore can change its root again.
    root: Option<PathBuf>,
}

impl Container {
    fn of(service: &Service) -> Self {
        let init = service.init;
        let link = |name: &str| fs::read_link(tree::proc_path(init, name)).ok();
        Self {
            filters: fs::read(tree::proc_path(init, "status"))
                .ok()
                .and_then(|text| Status(text).number("Seccomp_filters")),
            namespaces: NAMESPACES.iter().map(|name| link(&format!("ns/{name}"))).collect(),
            root: link("root").filter(|_| !service.abilities.facts.has("SYS_CHROOT")),
        }
    }
}

/// The status of a thread (proc_pid_status(5)).
struct Status(Vec<u8>);

impl Status {
    fn number(&self, name: &str) -> Option<i64> {
        self.field(name)?.parse().ok()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let line = self.0.split(|&byte| byte == b'\n').find(|line| line.starts_with(name.as_bytes()))?;
        str::from_utf8(&line[name.len()..]).ok()?.strip_prefix(':').map(str::trim)
    }
}

fn thread(process: &Process, tid: i32, filters: Option<i64>, findings: &mut Findings) {
    let folder = tree::proc_path(process.pid, &format!("task/{tid}"));
    let Ok(status) = fs::read(folder.join("status")).map(Status) else { return };
    let mut add = |what: &str, advice| {
        let finding = Finding::refused(Some(process), what, advice);
        findings.add(if tid == process.pid { finding } else { finding.at(Place::Thread(tid)) });
    };
    if let Some(tracer) = status.number("TracerPid").filter(|&tracer| tracer != 0) {
        add(&format!("is being traced by process {tracer}"), "detach the debugger and try again");
    }
    if status.number("Seccomp_filters").zip(filters).is_some_and(|(theirs, ours)| theirs > ours) {
        add("has a seccomp filter of its own, which cannot be carried", SANDBOX);
    }
    if status.number("Seccomp") == Some(STRICT) {
        add("runs in seccomp's strict mode, which cannot be carried", SANDBOX);
    }
    if status.field("State").is_some_and(|state| state.starts_with('D')) && is_in_vfork(&folder) {
        add(
            "waits for a child that it has made by vfork and that has not executed anything yet, so it cannot be stopped",
            "try again; if it stays so, let the service use posix_spawn or fork",
        );
    }
}

/// SECCOMP_MODE_STRICT.
const STRICT: i64 = 1;

/// Whether a thread waits in vfork(2), or in clone(2) with CLONE_VFORK, the first argument of which are the flags
/// (proc_pid_syscall(5)).
fn is_in_vfork(folder: &Path) -> bool {
    const VFORK: &str = "58";
    const CLONE: &str = "56";
    const CLONE3: &str = "435";
    let text = fs::read_to_string(folder.join("syscall")).unwrap_or_default();
    let mut fields = text.split_whitespace();
    match (fields.next(), fields.next()) {
        (Some(VFORK | CLONE3), _) => true,
        (Some(CLONE), Some(flags)) => {
            let flags = u64::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
            flags & nix::libc::CLONE_VFORK as u64 != 0
        }
        _ => false,
    }
}

/// A thread with a table of descriptors of its own would get its process's. The folder's size is their number (Linux 6.2; 0
/// before).
fn own_descriptors(process: &Process, findings: &mut Findings) {
    let count =
        |tid: i32| fs::metadata(tree::proc_path(process.pid, &format!("task/{tid}/fd"))).ok().map(|meta| meta.size());
    // Others open and close meanwhile: a difference has to stay one.
    let differs =
        |tid: i32| (0..5).all(|_| matches!((count(process.pid), count(tid)), (Some(first), Some(own)) if first != own));
    for tid in process.threads.iter().copied().filter(|tid| *tid != process.pid) {
        if differs(tid) {
            let finding = Finding::refused(
                Some(process),
                "has a thread with descriptors of its own (unshare(CLONE_FILES)), which would be lost",
                "let the service use a process for that",
            );
            findings.add(finding.at(Place::Thread(tid)));
        }
    }
}

fn places(
    process: &Process,
    container: &Container,
    times: &mut Vec<PathBuf>,
    findings: &mut Findings,
) -> io::Result<()> {
    let link = |name: &str| fs::read_link(tree::proc_path(process.pid, name));
    for (namespace, ours) in NAMESPACES.iter().zip(&container.namespaces) {
        match (ours, link(&format!("ns/{namespace}"))) {
            (Some(ours), Ok(theirs)) if *ours != theirs => findings.add(own_namespace(process, namespace)),
            (Some(_), Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // One that has no process yet cannot be read.
            (Some(_), Err(_)) if *namespace == "pid_for_children" && is_alive(process.pid) => {
                findings.add(own_namespace(process, namespace));
            }
            _ => {}
        }
    }
    // A restore may give the whole service a time namespace, but one to all.
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
    for tid in process.threads.iter().filter(|tid| **tid != process.pid) {
        let own = link(&format!("task/{tid}/cwd")).ok().filter(|own| link("cwd").is_ok_and(|cwd| cwd != *own));
        if let Some(own) = own {
            let what = format!("has a thread in a folder of its own ({}), which would be lost", own.display());
            let finding = Finding::refused(Some(process), &what, "let the service use a process for that");
            findings.add(finding.at(Place::Thread(*tid)));
        }
    }
    Ok(())
}

fn own_namespace(process: &Process, namespace: &str) -> Finding {
    let what = match namespace {
        "pid_for_children" => "has made a pid namespace for its children, which cannot be checkpointed".to_owned(),
        namespace => format!("lives in a {namespace} namespace of its own, which cannot be checkpointed"),
    };
    Finding::refused(Some(process), &what, SANDBOX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_status() {
        let status = Status(b"Name:\t\xd0x\nState:\tD (disk sleep)\nSeccomp:\t2\nSeccomp_filters:\t1\n".to_vec());
        assert_eq!((status.number("Seccomp"), status.number("Seccomp_filters")), (Some(2), Some(1)));
        assert_eq!((status.field("State"), status.number("TracerPid")), (Some("D (disk sleep)"), None));
    }

    #[test]
    fn vfork_is_known_by_its_system_call() {
        let folder = tempfile::tempdir().unwrap();
        let waits = |text: &str| {
            fs::write(folder.path().join("syscall"), text).unwrap();
            is_in_vfork(folder.path())
        };
        assert!(waits("58 0x0 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7f00\n") && waits("56 0x4111 0x7f00 0x0\n"));
        assert!(!waits("56 0x1200011 0x0 0x0\n") && !waits("0 0x3 0x7ffe 0x400\n") && !waits("running\n"));
    }
}
