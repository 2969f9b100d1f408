//! System V objects where the IPC namespace is not the container's alone: neighbours' objects, IDs that are taken, and what an
//! earlier start has left. `shapes.rs` has the service that holds all kinds.

use freeze::exit;
use freeze::fail_points::Point;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting, text};
use crate::pod::Pod;

fn holder(object: &str) -> (App, Container) {
    let app = App::new(Setting::Restricted, &["holds", object]);
    let container = app.start();
    container.verified();
    (app, container)
}

/// What another container says when it runs `command`: a process of another PID namespace that shares the IPC namespace
/// of `pid`.
fn neighbour(pid: i32, command: &[&str]) -> String {
    let ipc = format!("--ipc=/proc/{pid}/ns/ipc");
    let out = std::process::Command::new("nsenter").arg(ipc).args(command).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    text(&out.stdout)
}

/// Returns the ID.
fn neighbour_makes(pid: i32, kind: &[&str]) -> String {
    let said = neighbour(pid, &[&["ipcmk"], kind].concat());
    said.split_whitespace().next_back().unwrap().to_owned()
}

/// perlfunc(1) has msgsnd and semop.
fn neighbour_does(pid: i32, id: &str, call: &str) {
    neighbour(pid, &["perl", "-e", &format!("my $id = {id}; {call} or die $!")]);
}

/// A column of /proc/sysvipc/KIND for an object.
fn column(pid: i32, kind: &str, id: &str, at: usize) -> String {
    let table = neighbour(pid, &["cat", &format!("/proc/sysvipc/{kind}")]);
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.find(|row| row[1] == id).unwrap_or_else(|| panic!("no {id} in {table}"))[at].to_owned()
}

fn is_refused(container: &Container, words: &str) {
    let out = container.try_checkpoint(&[]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(exit::PREFLIGHT.into()), "{said}");
    assert!(said.contains(words), "{said}");
    container.verified();
}

#[test]
fn what_may_clash_with_a_neighbour_is_refused() {
    let (_app, container) = holder("shm");
    neighbour_makes(container.pid(), &["-M", "4096"]);
    is_refused(&container, "shares its IPC namespace with another container that has System V shared memory as well");
}

/// Who used a queue last does not tell whose it is, but that two use it.
#[test]
fn a_queue_that_a_neighbour_uses_is_refused() {
    let (_app, container) = holder("letter");
    neighbour_does(container.pid(), "0", r#"msgsnd($id, pack("l! a*", 1, "x"), 0)"#);
    is_refused(&container, "has a System V message queue (ID 0) that another container uses as well");
}

/// No process of the service could use them either.
#[test]
fn semaphores_that_only_a_neighbour_may_read_are_the_neighbours() {
    let (app, container) = holder("shm");
    let id = neighbour_makes(container.pid(), &["-S", "1", "-p", "0600"]);
    neighbour_does(container.pid(), &id, r#"semop($id, pack("s!3", 0, 1, 0))"#);
    container.checkpoint(&[]);
    assert_eq!(container.wait(), 172, "{}", container.story());
    app.start().verified();
}

/// Each kind has IDs of its own.
#[test]
fn what_a_neighbour_has_stays_behind() {
    let (app, container) = holder("semaphores");
    neighbour_makes(container.pid(), &["-M", "4096"]);
    container.checkpoint(&[]);
    assert_eq!(container.wait(), 172, "{}", container.story());
    let moved = app.start();
    moved.verified();
    let memory = text(&moved.exec(&["cat", "/proc/sysvipc/shm"]).stdout);
    assert_eq!(memory.lines().count(), 1, "{memory}");
}

#[test]
fn an_id_that_is_taken_is_named() {
    let app = App::new(Setting::Restricted, &["holds", "shm"]).with_fail_points();
    let first = app.start();
    first.verified();
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let second = app.start_stopping_at(Some(Point::RestoreChecked), &[]);
    let worker = second.stopped();
    neighbour_makes(second.pid(), &["-M", "4096"]);
    kill(Pid::from_raw(worker), Signal::SIGCONT).unwrap();
    assert_eq!(second.wait(), i32::from(exit::RESTORE_FAILED), "{}", second.story());
    let said = second.logs().1;
    assert!(said.contains("a System V object of the service needs an ID or a key"), "{said}");
    assert!(said.contains("System V shared memory 0 with the key 0"), "{said}");
    app.start().verified();
}

/// The restore says it before it reads a page.
#[test]
fn an_id_that_a_neighbour_had_first_is_said_before() {
    for (object, kind, name) in [
        ("shm", &["-M", "4096"][..], "shared memory"),
        ("messages", &["-Q"], "a message queue"),
        ("semaphores", &["-S", "1"], "semaphores"),
    ] {
        let app = App::new(Setting::Restricted, &["holds", object]);
        let first = app.start();
        first.verified();
        first.checkpoint(&[]);
        assert_eq!(first.wait(), 172, "{}", first.story());
        let pod = Pod::new();
        let id = neighbour_makes(pod.pid(), kind);
        let app = app.in_pod(pod.pid());
        let second = app.start();
        assert_eq!(second.wait(), i32::from(exit::RESTORE_FAILED), "{}", second.story());
        let said = second.logs().1;
        assert!(said.contains(&format!("the service has System V {name} with the ID {id} and the key")), "{said}");
    }
}

/// IDs do not come again, so the container uses what its earlier start has left. Only memory that was to be removed has gone.
#[test]
fn a_container_that_starts_again_in_its_pod_finds_its_objects() {
    for object in ["shm", "shm-removed", "shm-unattached", "messages", "letter", "semaphores"] {
        let pod = Pod::new();
        let app = App::new(Setting::Restricted, &["holds", object]).in_pod(pod.pid());
        let again = || app.start_with(&["--instance", "it"]);
        let first = again();
        first.verified();
        first.checkpoint(&["--leave-running"]);
        first.checkpoint(&[]);
        assert_eq!(first.wait(), 172, "{}", first.story());
        let second = again();
        second.verified();
        second.kill("KILL");
        second.wait();
        let third = again();
        third.verified();
        third.checkpoint(&["--leave-running"]);
        third.verified();
    }
}

/// Another container may still use them.
#[test]
fn another_container_of_the_pod_does_not_use_them() {
    let pod = Pod::new();
    let app = App::new(Setting::Restricted, &["holds", "semaphores"]).in_pod(pod.pid());
    let first = app.start_with(&["--instance", "one"]);
    first.verified();
    first.checkpoint(&["--leave-running"]);
    let second = app.start_with(&["--instance", "other"]);
    assert_eq!(second.wait(), i32::from(exit::RESTORE_FAILED), "{}", second.story());
    first.verified();
}

/// The first pod's namespace is not the second one's, where a restore is killed and the service then fails.
#[test]
fn a_container_that_fails_after_a_move_finds_its_objects() {
    for object in ["shm", "shm-removed", "shm-unattached", "messages", "letter", "semaphores"] {
        let pods = [Pod::new(), Pod::new()];
        let app = App::new(Setting::Restricted, &["holds", object]).with_fail_points().in_pod(pods[0].pid());
        let first = app.start_with(&["--instance", "one"]);
        first.verified();
        first.checkpoint(&[]);
        assert_eq!(first.wait(), 172, "{}", first.story());
        let app = app.in_pod(pods[1].pid());
        let options = ["--instance", "two"];
        for point in [Point::RestoreCriu, Point::RestoreHeld] {
            let killed = app.start_stopping_at(Some(point), &options);
            killed.stopped();
            killed.kill("KILL");
            killed.wait();
        }
        for _ in 0..2 {
            let moved = app.start_with(&options);
            moved.verified();
            moved.kill("KILL");
            moved.wait();
        }
        let moved = app.start_with(&options);
        moved.verified();
        moved.checkpoint(&["--leave-running"]);
    }
}

/// What nobody has used yet may be anybody's. It is taken along, and left alone where it is.
#[test]
fn what_a_neighbour_has_begun_to_use_is_left_alone() {
    for (object, kind, uses, file, at) in [
        ("messages", &["-Q", "-p", "0666"][..], r#"msgsnd($id, pack("l! a*", 1, "x"), 0)"#, "msg", 4),
        ("semaphores", &["-S", "1", "-p", "0666"], r#"semop($id, pack("s!3", 0, 1, 0))"#, "sem", 8),
    ] {
        let pod = Pod::new();
        let app = App::new(Setting::Restricted, &["holds", object]).in_pod(pod.pid());
        let again = || app.start_with(&["--instance", "it"]);
        let first = again();
        first.verified();
        let id = neighbour_makes(pod.pid(), kind);
        let begun = column(pod.pid(), file, &id, at);
        first.checkpoint(&["--leave-running"]);
        first.kill("KILL");
        first.wait();
        let second = again();
        second.verified();
        assert_eq!(column(pod.pid(), file, &id, at), begun);
        neighbour_does(pod.pid(), &id, uses);
        let used = column(pod.pid(), file, &id, at);
        assert_ne!(used, begun);
        second.kill("KILL");
        second.wait();
        let third = again();
        assert_eq!(third.wait(), i32::from(exit::RESTORE_FAILED), "{}", third.story());
        assert!(third.logs().1.contains("it was used only after the dump"), "{}", third.story());
        assert_eq!(column(pod.pid(), file, &id, at), used);
    }
}
