//! Whatever a checkpoint cannot carry is refused by name before anything is frozen, and what it can carry is not. The objects are
//! those of `tests/services/holds_*.c`.

use freeze::exit;

use crate::harness::{App, Container, Setting, text};

const EVERYWHERE: &[Setting] = &[Setting::Restricted, Setting::Caps];
const ALL: &[Setting] = &[Setting::Restricted, Setting::Caps, Setting::Unconfined];
const RESTRICTED: &[Setting] = &[Setting::Restricted];
const PODMAN: &[Setting] = &[Setting::RestrictedPodman];
const CLOSED: &str = "has TCP connections, which a restore closes";
const UNCONFINED: &[Setting] = &[Setting::Unconfined];
const PRIVILEGED: &[Setting] = &[Setting::Caps, Setting::Unconfined];

fn holder(setting: Setting, object: &str) -> (App, Container) {
    let app = App::new(setting, &["holds", object]);
    let container = app.start();
    container.verified();
    (app, container)
}

fn doctor(container: &Container, options: &[&str]) -> (Option<i32>, String) {
    let out = container
        .exec(&[&["/opt/freeze/freeze", "doctor", "--service", "--runtime-dir", "/runtime"], options].concat());
    (out.status.code(), text(&out.stdout) + &text(&out.stderr))
}

/// The checkpoint is refused with these words and a process's name, the doctor finds the same, and the service runs on.
fn refused(settings: &[Setting], object: &str, words: &str) {
    for setting in settings {
        let (_app, container) = holder(*setting, object);
        is_refused(&container, &format!("{object} in {setting:?}"), words);
    }
}

fn is_refused(container: &Container, case: &str, words: &str) {
    let out = container.try_checkpoint(&[]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(exit::PREFLIGHT.into()), "{case}: {said}");
    assert!(said.contains(words), "{case}: {said}");
    let (status, table) = doctor(container, &[]);
    assert_eq!(status, Some(1), "{case}: {table}");
    assert!(table.contains(words) && table.contains("this service cannot be checkpointed"), "{case}: {table}");
    container.verified();
}

/// It moves to another container as it is, and the doctor says that it will, and nothing else or just these words.
fn moved(settings: &[Setting], object: &str, words: &str) {
    for setting in settings {
        let (app, container) = holder(*setting, object);
        let (status, table) = doctor(&container, &[]);
        assert_eq!(status, Some(0), "{object} in {setting:?}: {table}");
        let others = table.lines().filter(|line| !line.starts_with("travels: ")).count();
        assert!(if words.is_empty() { others == 1 } else { table.contains(words) }, "{object}: {table}");
        container.checkpoint(&[]);
        assert_eq!(container.wait(), 172, "{}", container.story());
        app.start().verified();
    }
}

#[test]
fn descriptors_that_are_refused() {
    refused(EVERYWHERE, "mqueue", "has the POSIX message queue /holds open");
    refused(UNCONFINED, "userfaultfd", "has userfaultfd open");
    refused(UNCONFINED, "fanotify", "has fanotify open");
    refused(UNCONFINED, "perf", "has a performance counter open");
    refused(RESTRICTED, "landlock", "has a Landlock ruleset open");
    refused(RESTRICTED, "pidfd-outside", "has a pidfd of process 1 outside the service");
    refused(RESTRICTED, "pidfd-thread", "has a pidfd of a thread");
    refused(RESTRICTED, "lease", "has a write lease on a file");
    refused(RESTRICTED, "few-descriptors", "files open and a hard limit of 32");
}

#[test]
fn descriptors_that_move() {
    moved(RESTRICTED, "inotify-none", "");
    moved(RESTRICTED, "pidfd", "");
    moved(RESTRICTED, "pidfd-dead", "");
    moved(RESTRICTED, "pidfd-zombie", "");
    moved(RESTRICTED, "namespace", "");
    moved(RESTRICTED, "proc-outside", "");
    moved(RESTRICTED, "opath-link", "");
    moved(RESTRICTED, "pty", "");
    moved(RESTRICTED, "chardev", "");
    moved(RESTRICTED, "deleted-both", "");
    moved(PRIVILEGED, "lease-read", "");
}

#[test]
fn watches_that_are_refused() {
    refused(ALL, "inotify-removed", "has an inotify watch on a file that freeze cannot find");
}

/// What was made since the start travels; volumes stay where they are.
#[test]
fn watches_that_move() {
    for object in ["inotify-lower", "inotify-lower-file", "inotify-overlay", "inotify-shm", "inotify-bind"] {
        moved(ALL, object, "");
    }
    moved(PRIVILEGED, "inotify-made", "");
    moved(EVERYWHERE, "inotify-root", "");
    moved(RESTRICTED, "inotify-many", "");
}

#[test]
fn memory_that_is_refused() {
    refused(RESTRICTED, "shm-part", "has attached System V shared memory and unmapped a part of it");
    refused(UNCONFINED, "ring-mapped", "has io_uring mapped");
    refused(EVERYWHERE, "secret-closed", "has secret memory");
    refused(EVERYWHERE, "huge", "uses huge pages");
    refused(RESTRICTED, "huge-memfd", "uses huge pages");
    refused(RESTRICTED, "half-vdso", "has unmapped its vDSO and not what that reads");
}

#[test]
fn memory_that_moves() {
    for object in ["shm", "shm-removed", "shm-unattached", "messages", "semaphores"] {
        moved(EVERYWHERE, object, "");
    }
    moved(RESTRICTED, "aio", "");
    moved(RESTRICTED, "memfd-shared", "");
    moved(RESTRICTED, "memfd-closed", "");
    moved(RESTRICTED, "memfd-two", "");
    moved(RESTRICTED, "memfd-private", "");
    moved(RESTRICTED, "deleted-mapped-open", "");
    moved(RESTRICTED, "zero-mapped", "");
    moved(EVERYWHERE, "deleted-mapped", "");
    moved(EVERYWHERE, "memfd-private-closed", "");
    moved(EVERYWHERE, "deleted-shm", "");
}

#[test]
fn sockets_that_are_refused() {
    refused(PODMAN, "vsock", "has a socket of type AF_VSOCK");
    refused(EVERYWHERE, "mptcp", "has a socket of type MPTCP");
}

#[test]
fn sockets_that_move() {
    moved(RESTRICTED, "unix-listen", "");
    moved(RESTRICTED, "unix-linked", "");
    moved(RESTRICTED, "unix-pair", "");
    moved(RESTRICTED, "unix-waiting", "");
    moved(RESTRICTED, "unix-in-flight", "");
    moved(RESTRICTED, "unix-half", "");
    moved(RESTRICTED, "netlink-groups", "");
    moved(EVERYWHERE, "unix-unlinked", "");
    moved(&[Setting::Caps], "packet", "");
    moved(&[Setting::Caps], "raw", "");
    moved(RESTRICTED, "udp-connected", "");
    moved(ALL, "multicast", "");
    moved(RESTRICTED, "tcp-wildcard", "");
    moved(RESTRICTED, "tcp-unconnected", "");
    moved(RESTRICTED, "tcp-established", "");
    moved(RESTRICTED, "tcp-half", "");
    moved(RESTRICTED, "tcp-waiting", "");
}

/// Connections that nobody has accepted are nobody's loss.
#[test]
fn connections_that_wait_never_fail_a_checkpoint() {
    moved(EVERYWHERE, "unix-waiting-closed", "");
    moved(RESTRICTED, "unix-waiting-data", "");
    moved(RESTRICTED, "unix-waiting-half", "");
    moved(RESTRICTED, "tcp-waiting-closed", "");
    moved(RESTRICTED, "tcp-connecting", CLOSED);
}

/// What is different after a restore is said, and refused is nothing.
#[test]
fn what_changes_is_said() {
    moved(RESTRICTED, "tcp-self", CLOSED);
    moved(RESTRICTED, "tcp-waiting-data", CLOSED);
    let (_app, container) = holder(Setting::Restricted, "udp-address");
    let (status, table) = doctor(&container, &[]);
    assert_eq!(status, Some(0), "{table}");
    assert!(table.contains("has the UDP socket 10.9.8.7:7001"), "{table}");
}

#[test]
fn processes_that_are_refused() {
    refused(EVERYWHERE, "seccomp", "has a seccomp filter of its own");
    refused(RESTRICTED, "seccomp-thread", "has a seccomp filter of its own");
    refused(PODMAN, "user-namespace", "is in a user namespace of its own");
    let (_app, container) = holder(Setting::RestrictedPodman, "pid-namespace");
    is_refused(&container, "pid-namespace", "is in a user namespace of its own");
    assert!(doctor(&container, &[]).1.contains("has made a PID namespace for its children"));
    refused(EVERYWHERE, "ptrace", "is being traced by process");
    refused(EVERYWHERE, "not-dumpable", "cannot be inspected");
    refused(RESTRICTED, "vfork", "waits in vfork for a child");
    refused(RESTRICTED, "trap-process", "has a pending SIGTRAP");
    refused(RESTRICTED, "trap-thread", "has a pending SIGTRAP");
    refused(
        &[Setting::RestrictedPodman, Setting::Unconfined],
        "thread-cwd",
        "has a thread with a working directory, root or umask of its own (it is in /tmp)",
    );
    refused(&[Setting::Restricted, Setting::Unconfined], "thread-files", "has a thread with descriptors of its own");
    refused(RESTRICTED, "leader-gone", "has lost its first thread");
}

#[test]
fn processes_that_move() {
    moved(RESTRICTED, "stopped", "");
    moved(ALL, "keep-caps", "");
    moved(RESTRICTED, "vfork-short", "");
    moved(&[Setting::Caps], "chroot-folder", "");
    moved(UNCONFINED, "not-dumpable", "");
}

/// Children that come and go are not taken for strangers.
#[test]
fn a_service_that_makes_children_all_the_time_moves() {
    moved(EVERYWHERE, "churn", "");
}

/// All of them are found, not just the first.
#[test]
fn the_doctor_finds_everything_and_writes_json() {
    let app = App::with_options(
        Setting::Restricted,
        &[],
        &[
            "sh",
            "-c",
            "PORT=7001 /services/service holds lease & PORT=7002 /services/service holds landlock & \
             PORT=7003 /services/service holds mqueue & exec /services/service holds secret-closed",
        ],
    );
    let container = app.start();
    container.verified();
    let found = || {
        let (_, json) = doctor(&container, &["--json"]);
        let answer: serde_json::Value = serde_json::from_str(&json).unwrap();
        let whats =
            answer["findings"].as_array().unwrap().iter().map(|finding| finding["what"].as_str().unwrap().to_owned());
        Some(whats.collect::<Vec<_>>()).filter(|whats| whats.len() == 4)
    };
    let whats = container.eventually("there are not four findings", found).join("; ");
    for words in ["POSIX message queue", "secret memory", "write lease", "Landlock"] {
        assert!(whats.contains(words), "{words} is not in: {whats}");
    }
    let said = text(&container.try_checkpoint(&[]).stderr);
    assert!(said.contains("(and 3 more: freeze doctor --service lists them)"), "{said}");
}

/// A queue that is made while the dump is under way.
#[test]
fn what_is_made_after_the_preflight_moves_too() {
    let app = App::new(Setting::Restricted, &["big", "128"]);
    let container = app.start();
    container.verified();
    let make = ": >/store/ready; until ls /runtime/work-*/dump.log; do :; done; PORT=7009 /services/service holds messages & \
                while [ $(wc -l </proc/sysvipc/msg) -lt 2 ]; do :; done; kill $!";
    std::thread::scope(|scope| {
        scope.spawn(|| container.exec(&["sh", "-c", make]));
        container.eventually("nobody waits for the dump", || app.store().join("ready").exists().then_some(()));
        container.checkpoint(&[]);
    });
    assert_eq!(container.wait(), 172, "{}", container.story());
    let moved = app.start();
    moved.verified();
    let queues = text(&moved.exec(&["cat", "/proc/sysvipc/msg"]).stdout);
    assert_eq!(queues.lines().count(), 2, "{queues}");
}

/// Its connection to init is none of the service's.
#[test]
fn a_doctor_that_the_service_runs_leaves_itself_out() {
    let ask = "until /opt/freeze/freeze doctor --service --runtime-dir /runtime >/store/said; do :; done";
    let command = format!("/services/service one & {ask}; wait");
    let app = App::with_options(Setting::Restricted, &[], &["sh", "-c", &command]);
    let container = app.start();
    container.verified();
    let said = || std::fs::read_to_string(app.store().join("said")).ok().filter(|said| said.ends_with('\n'));
    container
        .eventually("the service is not found healthy", || said().filter(|said| said.contains("can be checkpointed")));
}

/// The doctor sees a tree in a PID namespace below its own by other numbers.
#[test]
fn the_doctor_looks_into_a_namespace() {
    let command = ["/services/service", "holds", "pidfd-thread"];
    let app = App::with_options(Setting::Nested, &["--isolate", "auto"], &command);
    let container = app.start();
    container.verified();
    is_refused(&container, "isolated", "has a pidfd of a thread");
}
