//! What cannot be dumped, found by name while the service runs. Must change nothing in the service.
//!
//! CRIU would refuse most of it too, but with an errno and while the service stands still; the rest it would lose in silence.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::Path;

use super::tree_of_service::Tree;
use crate::files::used;
use crate::privileges;
use crate::tree::{self, Process};

/// Why a service cannot be checkpointed as it is. Nothing was frozen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something holds a kernel object that cannot be carried.
    #[error("process {process} has {object} open, which cannot be checkpointed; {advice}")]
    Object {
        /// The process.
        process: String,
        /// What it holds.
        object: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A seccomp filter that the service installed itself would be lost.
    #[error(
        "process {process} has a seccomp filter of its own, which cannot be carried; switch off the service's own sandbox"
    )]
    OwnSeccompFilter {
        /// The process.
        process: String,
    },
    /// A process that we may not look at.
    #[error(
        "process {process} cannot be inspected ({reason}): it runs as another user or has made itself non-dumpable; run the service as one user, or add the capability SYS_PTRACE"
    )]
    NotInspectable {
        /// The process.
        process: String,
        /// The system's word for it.
        reason: String,
    },
    /// A debugger is attached.
    #[error("process {process} is being traced by process {tracer}; detach the debugger and try again")]
    Traced {
        /// The process.
        process: String,
        /// The tracer.
        tracer: i32,
    },
    /// A process lives in namespaces of its own.
    #[error(
        "process {process} lives in a {namespace} namespace of its own, which cannot be checkpointed; switch off the service's own sandbox"
    )]
    OwnNamespace {
        /// The process.
        process: String,
        /// Kind of namespace.
        namespace: &'static str,
    },
    /// chroot(2).
    #[error(
        "process {process} has changed its root to {root}, which cannot be checkpointed; run the service without chroot"
    )]
    Chroot {
        /// The process.
        process: String,
        /// Its root.
        root: String,
    },
    /// Yama lets a process be traced by its ancestors only, and CRIU is none.
    #[error(
        "this host restricts ptrace (kernel.yama.ptrace_scope is {scope}), so no process can be checkpointed; add the capability SYS_PTRACE, or set it to 0"
    )]
    Yama {
        /// The setting.
        scope: String,
    },
    /// A terminal belongs to the old container.
    #[error(
        "the service has a terminal, which cannot be carried to another container; run it without one (docker run without -t)"
    )]
    Terminal,
    /// System V objects belong to the IPC namespace and to no process.
    #[error(
        "the container has System V {kind} (see `ipcs`), which would be lost; let the service use POSIX shared memory or sockets instead"
    )]
    SystemV {
        /// Which.
        kind: &'static str,
    },
}

/// Objects by what a descriptor of theirs leads to.
const OBJECTS: &[(&str, &str, &str)] = &[
    ("anon_inode:[io_uring]", "io_uring", "switch io_uring off in the service (for node: UV_USE_IO_URING=0)"),
    ("anon_inode:[userfaultfd]", "userfaultfd", "switch off what uses it in the service"),
    ("anon_inode:[perf_event]", "a performance counter", "stop the profiler and try again"),
    ("anon_inode:[fanotify]", "fanotify", "switch off the service's file watching"),
    ("anon_inode:bpf-map", "a BPF map", "switch off what uses BPF in the service"),
    ("anon_inode:bpf-prog", "a BPF program", "switch off what uses BPF in the service"),
];

const NAMESPACES: &[&str] = &["user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time"];

const SYSTEM_V: &[(&str, &str)] = &[("shm", "shared memory"), ("msg", "message queues"), ("sem", "semaphores")];

/// Looks for everything that cannot be dumped and returns the first that it finds.
pub fn check(tree: &Tree) -> Result<(), Refusal> {
    // Ours are init's, and the service has them from init as well.
    if io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal() {
        return Err(Refusal::Terminal);
    }
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    if !["", "0"].contains(&scope.trim()) && !privileges::can_trace_everyone() {
        return Err(Refusal::Yama { scope: scope.trim().to_owned() });
    }
    for (file, kind) in SYSTEM_V {
        let rows = fs::read_to_string(Path::new("/proc/sysvipc").join(file)).unwrap_or_default();
        if rows.lines().count() > 1 {
            return Err(Refusal::SystemV { kind });
        }
    }
    check_processes(tree)
}

fn check_processes(tree: &Tree) -> Result<(), Refusal> {
    let filters = status_number(std::process::id() as i32, "Seccomp_filters");
    for process in tree.processes().iter().filter(|process| !process.is_zombie()) {
        let checked = check_status(process, filters)
            .and_then(|()| check_namespaces(process))
            .and_then(|()| check_descriptors(process));
        // What ends meanwhile cannot be looked at, and need not be.
        if checked.is_err() && is_alive(process.pid) {
            return checked;
        }
    }
    Ok(())
}

fn is_alive(pid: i32) -> bool {
    tree::read(pid).is_some_and(|process| !process.is_zombie())
}

fn check_status(process: &Process, our_filters: Option<i64>) -> Result<(), Refusal> {
    if let Some(tracer) = status_number(process.pid, "TracerPid").filter(|&tracer| tracer != 0) {
        return Err(Refusal::Traced { process: process.name(), tracer: tracer as i32 });
    }
    for tid in &process.threads {
        let filters = status_number(*tid, "Seccomp_filters");
        if filters.zip(our_filters).is_some_and(|(theirs, ours)| theirs > ours) {
            return Err(Refusal::OwnSeccompFilter { process: process.name() });
        }
    }
    Ok(())
}

fn check_namespaces(process: &Process) -> Result<(), Refusal> {
    let not_inspectable =
        |error: io::Error| Refusal::NotInspectable { process: process.name(), reason: error.to_string() };
    for namespace in NAMESPACES {
        let ours = fs::read_link(Path::new("/proc/self/ns").join(namespace));
        let theirs = fs::read_link(tree::proc_path(process.pid, &format!("ns/{namespace}")));
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) if ours != theirs => {
                return Err(Refusal::OwnNamespace { process: process.name(), namespace });
            }
            (Ok(_), Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(not_inspectable(error));
            }
            _ => {}
        }
    }
    let root = fs::read_link(tree::proc_path(process.pid, "root")).map_err(not_inspectable)?;
    if root != Path::new("/") {
        return Err(Refusal::Chroot { process: process.name(), root: root.display().to_string() });
    }
    Ok(())
}

fn check_descriptors(process: &Process) -> Result<(), Refusal> {
    let descriptors = used::descriptors(process.pid)
        .map_err(|error| Refusal::NotInspectable { process: process.name(), reason: error.to_string() })?;
    for (fd, target) in descriptors {
        let target = target.to_string_lossy();
        let known = OBJECTS.iter().find(|(name, ..)| target == *name);
        if let Some((_, object, advice)) = known {
            return Err(Refusal::Object { process: process.name(), object, advice });
        }
        if target == "anon_inode:inotify" && watches(process.pid, fd) {
            return Err(Refusal::Object {
                process: process.name(),
                object: "inotify watches",
                advice: "switch off the service's file watching",
            });
        }
    }
    Ok(())
}

/// An instance without a watch is carried; a watch names its inode by a handle that only the old file system knows.
fn watches(pid: i32, fd: i32) -> bool {
    let info = fs::read_to_string(tree::proc_path(pid, &format!("fdinfo/{fd}"))).unwrap_or_default();
    info.lines().any(|line| line.starts_with("inotify "))
}

/// A number from /proc/PID/status, which exists for threads as well.
fn status_number(pid: i32, name: &str) -> Option<i64> {
    let status = fs::read(tree::proc_path(pid, "status")).ok()?;
    String::from_utf8_lossy(&status)
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    use super::*;

    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn sleeper(command: &mut Command) -> (Running, Process) {
        let child = Running(command.spawn().unwrap());
        let pid = child.0.id() as i32;
        while fs::read_to_string(tree::proc_path(pid, "comm")).is_ok_and(|comm| comm.trim() != "sleep") {
            std::thread::yield_now();
        }
        (child, tree::read(pid).unwrap())
    }

    #[test]
    fn an_ordinary_process_is_fine() {
        let (_child, process) = sleeper(Command::new("sleep").arg("60"));
        assert_eq!(check_processes(&Tree::of_processes(vec![process])), Ok(()));
    }

    #[test]
    fn inotify_counts_from_the_first_watch_on() {
        let instance = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        let process = tree::read(std::process::id() as i32).unwrap();
        assert_eq!(check_descriptors(&process), Ok(()));
        instance.add_watch("/", AddWatchFlags::IN_CREATE).unwrap();
        insta::assert_snapshot!(
            check_descriptors(&process).unwrap_err().to_string().split_once(") ").unwrap().1,
            @"has inotify watches open, which cannot be checkpointed; switch off the service's file watching"
        );
    }

    #[test]
    fn sentences() {
        let process = || "7 (app)".to_owned();
        insta::assert_snapshot!(Refusal::OwnSeccompFilter { process: process() }, @"process 7 (app) has a seccomp filter of its own, which cannot be carried; switch off the service's own sandbox");
        insta::assert_snapshot!(Refusal::Traced { process: process(), tracer: 9 }, @"process 7 (app) is being traced by process 9; detach the debugger and try again");
        insta::assert_snapshot!(Refusal::OwnNamespace { process: process(), namespace: "net" }, @"process 7 (app) lives in a net namespace of its own, which cannot be checkpointed; switch off the service's own sandbox");
        insta::assert_snapshot!(Refusal::SystemV { kind: "semaphores" }, @"the container has System V semaphores (see `ipcs`), which would be lost; let the service use POSIX shared memory or sockets instead");
    }
}
