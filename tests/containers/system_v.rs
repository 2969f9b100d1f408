//! System V objects where the IPC namespace is not the container's alone: neighbours' objects, IDs that are taken, and what an
//! earlier start has left. `shapes.rs` has the service that holds all kinds.

use freeze::exit;
use freeze::fail_points::Point;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Pod, Setting, text};

fn holder(object: &str) -> (App, Container) {
    let app = App::new(Setting::Restricted, &["holds", object]);
    let container = app.start();
    container.verified();
    (app, container)
}

/// What another container of the pod makes: a process of another PID namespace.
fn neighbour_makes(container: &Container, kind: &[&str]) {
    let ipc = format!("--ipc=/proc/{}/ns/ipc", container.init());
    let made = std::process::Command::new("nsenter").args([&ipc, "ipcmk"]).args(kind).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn what_may_clash_with_a_neighbour_is_refused() {
    let (_app, container) = holder("shm");
    neighbour_makes(&container, &["-M", "4096"]);
    let out = container.try_checkpoint(&[]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(exit::PREFLIGHT.into()), "{said}");
    let words = "shares its IPC namespace with another container that has System V shared memory as well";
    assert!(said.contains(words), "{said}");
    container.verified();
}

/// Each kind has IDs of its own.
#[test]
fn what_a_neighbour_has_stays_behind() {
    let (app, container) = holder("semaphores");
    neighbour_makes(&container, &["-M", "4096"]);
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
    neighbour_makes(&second, &["-M", "4096"]);
    kill(Pid::from_raw(worker), Signal::SIGCONT).unwrap();
    assert_eq!(second.wait(), i32::from(exit::RESTORE_FAILED), "{}", second.story());
    let said = second.logs().1;
    assert!(said.contains("a System V object of the service needs an ID or a key"), "{said}");
    assert!(said.contains("System V shared memory 0 with the key 0"), "{said}");
    app.start().verified();
}

/// IDs do not come again, so the container uses what its earlier start has left. Only memory that was to be removed has gone.
#[test]
fn a_container_that_starts_again_in_its_pod_finds_its_objects() {
    for object in ["shm", "shm-removed", "shm-unattached", "messages", "semaphores"] {
        let pod = Pod::new();
        let app = App::new(Setting::Restricted, &["holds", object]).in_pod(&pod);
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
    let app = App::new(Setting::Restricted, &["holds", "semaphores"]).in_pod(&pod);
    let first = app.start_with(&["--instance", "one"]);
    first.verified();
    first.checkpoint(&["--leave-running"]);
    let second = app.start_with(&["--instance", "other"]);
    assert_eq!(second.wait(), i32::from(exit::RESTORE_FAILED), "{}", second.story());
    first.verified();
}
