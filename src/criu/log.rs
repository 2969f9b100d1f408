//! Explains CRIU's log in words that a user can act on. Reads a bounded part of the log; never fails.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes that are read from the end of a log, where errors stand.
const TAIL: u64 = 1 << 20;

const TAKEN: &str = "another process, such as a probe or an exec, took a PID that the service needs; start a new container, which has fresh PIDs";

/// Parts of CRIU's messages, and their meaning for a user. The first that matches wins.
const CAUSES: &[(&str, &str)] = &[
    (
        "has bad size",
        "a file that the service uses differs from the file at the checkpoint; use the same application files",
    ),
    (
        "on restore: Permission denied",
        "a file that the service had open may not be opened by this container's user; give the user the right that its mode, or its folder's, denies",
    ),
    (
        "Can't open file",
        "a file that the service had open is missing here; provide it, or --include it at the checkpoint",
    ),
    ("was taken during restore", TAKEN),
    ("IDs in this container have reached", TAKEN),
    (
        "Can't bind inet socket",
        "the service listens on an address that this container does not have; listen on 0.0.0.0, or provide the address",
    ),
    (
        "Unseizable non-zombie",
        "a process runs as a different user than freeze; run the service as one user, or add the capability SYS_PTRACE",
    ),
    (
        "fs.inotify.max_user_instances",
        "the service needs an inotify instance, and none is left: the kernel counts those of all containers of this host that run as the same user; raise the sysctl fs.inotify.max_user_instances on the host, or use another host",
    ),
    (
        "fs.inotify.max_user_watches",
        "the service needs inotify watches, and too few are left: the kernel counts those of all containers of this host that run as the same user; raise the sysctl fs.inotify.max_user_watches on the host, or use another host",
    ),
    (
        "fs.pipe-user-pages-soft",
        "a pipe of the service has more data than the kernel lets its user keep in pipes: it counts the pipes of all containers of this host that run as the same user; raise the sysctl fs.pipe-user-pages-soft on the host, or use another host",
    ),
    (
        "can't be had in this IPC namespace",
        "a System V object of the service needs an ID or a key that this IPC namespace does not give any more; start a container or a pod with an IPC namespace of its own, and nothing else that uses it",
    ),
    ("No space left", "no space is left; free some, or give the container more"),
    (
        "Can't reserve",
        "the service has reserved more memory than this host lets it; set vm.overcommit_memory to 0 or 1 on the host, or raise the container's limit of address space (ulimit -v and -d)",
    ),
    ("Cannot allocate memory", "the container does not have enough memory for the service; raise its memory limit"),
    (
        "has died",
        "a process of the service died during the restore, most often for lack of memory; raise the memory limit",
    ),
];

/// Why CRIU failed: the first known cause among the errors of its log, or else the first error.
pub fn cause(log: &Path) -> String {
    let killed = || "CRIU was killed, probably for lack of memory; raise the container's memory limit".to_owned();
    tail(log).and_then(|text| explain(&text)).unwrap_or_else(killed)
}

/// Whether fresh PIDs or another attempt may cure this cause.
pub fn numbers_were_taken(cause: &str) -> bool {
    cause.starts_with(TAKEN)
}

fn explain(text: &str) -> Option<String> {
    let errors = || text.lines().filter(|line| line.contains("Error ("));
    let known = CAUSES.iter().find_map(|(part, meaning)| Some((errors().find(|line| line.contains(part))?, meaning)));
    let line = known.map(|(line, _)| line).or_else(|| errors().next())?;
    let message = line.split_once("): ").map_or(line, |(_, message)| message).trim();
    Some(match known {
        Some((_, meaning)) => format!("{meaning} (CRIU: {message})"),
        None => format!("CRIU: {message}"),
    })
}

fn tail(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_cause_is_explained() {
        let log = "(00.01) 1000: Error (criu/files-reg.c:2144): File a/log has bad size 150 (expect 55)\n(00.02) Error (criu/cr-restore.c:1): Restoring FAILED.\n";
        insta::assert_snapshot!(explain(log).unwrap(), @"a file that the service uses differs from the file at the checkpoint; use the same application files (CRIU: File a/log has bad size 150 (expect 55))");
    }

    #[test]
    fn a_reservation_is_no_lack_of_memory() {
        let log =
            "(00.01) 1000: Error (criu/mem.c:1): Can't reserve 8 KiB of memory for a mapping: Cannot allocate memory\n";
        insta::assert_snapshot!(explain(log).unwrap(), @"the service has reserved more memory than this host lets it; set vm.overcommit_memory to 0 or 1 on the host, or raise the container's limit of address space (ulimit -v and -d) (CRIU: Can't reserve 8 KiB of memory for a mapping: Cannot allocate memory)");
    }

    #[test]
    fn a_limit_that_the_errno_hides_is_named() {
        let log = "(00.01) 1000: Error (criu/fsnotify.c:560): No inotify watch is left for this user: fs.inotify.max_user_watches\n(00.01) 1000: Error (criu/fsnotify.c:590): Can't add watch for 0x5 with 0x1: No space left on device\n";
        assert!(explain(log).unwrap().contains("raise the sysctl fs.inotify.max_user_watches on the host"));
    }

    #[test]
    fn an_unknown_one_is_quoted() {
        assert_eq!(explain("Error (criu/x.c:1): Odd thing\n").unwrap(), "CRIU: Odd thing");
    }

    #[test]
    fn a_log_without_errors_has_no_cause() {
        assert_eq!(explain("(00.01) all is well\n"), None);
        assert!(cause(Path::new("/nonexistent/log")).starts_with("CRIU was killed"));
    }
}
