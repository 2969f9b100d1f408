//! Restores in a container that has used PIDs of the service, or whose PIDs are taken meanwhile.

use std::fs;
use std::process::Command;

use freeze::exit;
use freeze::fail_points::Point;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting, text};

const USE_UP: [&str; 3] = ["sh", "-c", "i=0; while [ $i -lt 1100 ]; do /bin/true; i=$((i + 1)); done"];

/// Where PIDs end, for this container alone: a PID namespace has its own limit since Linux 6.14.
fn end_pids_at(container: &Container, end: u32) {
    let script = format!("echo {end} > /proc/sys/kernel/pid_max");
    let namespace = format!("--pid=/proc/{}/ns/pid", container.pid());
    let before = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    let out = Command::new("nsenter").args([&namespace, "sh", "-c", &script]).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(fs::read_to_string("/proc/sys/kernel/pid_max").unwrap(), before, "this kernel has one limit for all");
}

/// A worker that is about to restore stops at `point`; then an exec uses the service's PIDs.
fn used_at(app: &App, point: Point, end: u32, options: &[&str]) -> Container {
    let first = app.start();
    first.verified();
    first.checkpoint(&[]);
    assert_eq!(first.wait(), i32::from(exit::CHECKPOINTED), "{}", first.story());
    let container = app.start_stopping_at(Some(point), options);
    let worker = container.stopped();
    end_pids_at(&container, end);
    container.exec(&USE_UP);
    kill(Pid::from_raw(worker), Signal::SIGCONT).unwrap();
    container
}

fn app() -> App {
    App::new(Setting::Restricted, &["mixed"]).with_fail_points()
}

#[test]
fn pids_that_were_used_before_are_had_again_after_a_round() {
    let app = app();
    let container = used_at(&app, Point::RestoreFound, 32_768, &[]);
    container.verified();
    assert!(container.logs().1.contains("counting once round all PIDs takes about"), "{}", container.story());
    container.checkpoint(&[]);
    app.start().verified();
}

#[test]
fn pids_that_were_taken_meanwhile_are_had_again_in_a_second_attempt() {
    let app = app();
    let container = used_at(&app, Point::RestoreChecked, 32_768, &[]);
    container.verified();
    let said = container.logs().1;
    assert!(said.contains("took a PID") && said.contains("Next attempt at once"), "{said}");
}

#[test]
fn where_a_round_takes_longer_than_a_new_container_it_is_offered() {
    let app = app();
    let container = used_at(&app, Point::RestoreChecked, 4_194_304, &[]);
    assert_eq!(container.wait(), i32::from(exit::RESTORE_FAILED), "{}", container.story());
    let said = container.logs().1;
    assert!(said.contains("With --restore-failure retry, this container would have tried again"), "{said}");
    app.start().verified();
}

#[test]
fn a_standby_lives_on_where_a_round_is_quick() {
    let app = App::new(Setting::Restricted, &["mixed"]);
    let (first, standby) = (app.start(), app.start_with(&["--standby", "--standby-poll", "20ms"]));
    first.verified();
    standby.reaches("standby");
    end_pids_at(&standby, 32_768);
    standby.exec(&USE_UP);
    first.checkpoint(&["--handover"]);
    standby.verified();
}
