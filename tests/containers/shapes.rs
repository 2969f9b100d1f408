//! Every shape of service, frozen in one container and restored in a fresh one.

use std::thread;
use std::time::Duration;

use freeze::fail_points::Point;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting, in_all_settings};

in_all_settings! {
    one;
    prefork;
    daemon;
    sessions;
    threads;
    mixed;
    files_in_the_overlay;
    files_in_memory;
    system_v;
    system_v_left_running;
    three_generations;
    left_running;
    exit_status;
    signals;
    registers;
    waits;
    limits_of_waits;
    signal_while_frozen;
}

/// Freezes the service, and restores it.
fn move_once(app: &App, from: &Container) -> Container {
    from.checkpoint(&[]);
    assert_eq!(from.wait(), 172, "{}", from.story());
    let to = app.start();
    to.verified();
    to
}

/// Starts a service, moves it twice, and lets it check itself.
fn moves(setting: Setting, service: &[&str]) {
    let app = App::new(setting, service);
    let first = app.start();
    first.verified();
    let second = move_once(&app, &first);
    move_once(&app, &second);
}

fn one(setting: Setting) {
    moves(setting, &["one"]);
}

fn prefork(setting: Setting) {
    moves(setting, &["prefork", "16"]);
}

fn daemon(setting: Setting) {
    moves(setting, &["daemon"]);
}

fn sessions(setting: Setting) {
    moves(setting, &["sessions"]);
}

/// Threads that compute are stopped with all registers in use.
fn registers(setting: Setting) {
    moves(setting, &["registers", "2"]);
}

fn threads(setting: Setting) {
    moves(setting, &["threads", "64"]);
}

fn mixed(setting: Setting) {
    moves(setting, &["mixed"]);
}

fn files_in_the_overlay(setting: Setting) {
    moves(setting, &["files", "/data"]);
}

fn files_in_memory(setting: Setting) {
    moves(setting, &["files", "/dev/shm"]);
}

/// At last, what a process has done to semaphores is undone at its end.
fn system_v(setting: Setting) {
    let app = App::new(setting, &["sysv"]);
    let first = app.start();
    first.verified();
    let second = move_once(&app, &first);
    let third = move_once(&app, &second);
    third.ask("undo");
    third.verified();
}

/// No message is lost or doubled, in either copy.
fn system_v_left_running(setting: Setting) {
    let app = App::new(setting, &["sysv"]);
    let first = app.start();
    first.verified();
    first.checkpoint(&["--leave-running"]);
    first.verified();
    let second = move_once(&app, &first);
    second.checkpoint(&["--leave-running"]);
    second.ask("undo");
    second.verified();
    second.ask("exit 0");
    assert_eq!(second.wait(), 0);
    app.start().verified();
}

/// Three moves in a row: each container goes on with the very line after the last one's, on stdout and on stderr.
fn three_generations(setting: Setting) {
    let app = App::new(setting, &["one"]);
    let has_spoken = |container: &Container| {
        container.eventually("nothing on stderr", || container.logs().1.contains("tock ").then_some(()));
    };
    let mut containers = vec![app.start()];
    containers[0].verified();
    for _ in 0..3 {
        has_spoken(containers.last().unwrap());
        containers.push(move_once(&app, containers.last().unwrap()));
    }
    let last = containers.last().unwrap();
    has_spoken(last);
    last.ask("exit 0");
    assert_eq!(last.wait(), 0, "{}", last.story());
    let (outs, errs): (Vec<String>, Vec<String>) = containers.iter().map(Container::logs).unzip();
    check_numbers(&outs, "tick ", 1);
    check_numbers(&errs, "tock ", 10);
}

/// The lines that begin with `word` count on by `step` across all containers.
fn check_numbers(logs: &[String], word: &str, step: u64) {
    let numbers = logs.iter().map(|log| log.lines().filter_map(|line| line.strip_prefix(word)?.parse::<u64>().ok()));
    let numbers: Vec<Vec<u64>> = numbers.map(Iterator::collect).collect();
    assert!(numbers.iter().all(|container| !container.is_empty()), "a container wrote no {word}");
    for (at, number) in numbers.concat().iter().enumerate() {
        assert_eq!(*number, (at as u64 + 1) * step, "{word}number {at}: {logs:?}");
    }
}

/// With --leave-running the service goes on, and a later checkpoint ends it.
fn left_running(setting: Setting) {
    let app = App::new(setting, &["prefork", "4"]);
    let first = app.start();
    first.verified();
    let before = first.find(&["/services/service", "prefork"]);
    first.checkpoint(&["--leave-running"]);
    first.verified();
    assert_eq!(first.find(&["/services/service", "prefork"]), before);
    move_once(&app, &first);
}

fn exit_status(setting: Setting) {
    let app = App::new(setting, &["one"]);
    let first = app.start();
    first.verified();
    first.checkpoint(&["--leave-running"]);
    first.ask("exit 7");
    assert_eq!(first.wait(), 7);
    let second = app.start();
    second.verified();
    second.ask("exit 7");
    assert_eq!(second.wait(), 7);
    let third = app.start();
    third.verified();
    third.ask("die 9");
    assert_eq!(third.wait(), 128 + 9);
}

/// Signals to PID 1 reach the restored service.
fn signals(setting: Setting) {
    let app = App::new(setting, &["signals"]);
    let first = app.start();
    first.verified();
    let second = move_once(&app, &first);
    for (signal, seen) in [("TERM", "TERM="), ("USR1", "USR1="), ("HUP", "HUP=")] {
        second.kill(signal);
        second.eventually("the signal does not arrive", || second.ask("verify").contains(seen).then_some(()));
    }
}

/// No wait ends early: in a thread each, without a limit and with one that is far away.
fn waits(setting: Setting) {
    let app = App::new(setting, &["waits"]);
    let first = app.start();
    first.verified();
    first.checkpoint(&["--leave-running"]);
    first.verified();
    let second = move_once(&app, &first);
    move_once(&app, &second);
}

/// What is left of a wait's limit is waited for after a checkpoint, in the same container and in the next one. The service
/// counts the time in which it runs, and fails if a wait was shorter or much longer than its limit.
fn limits_of_waits(setting: Setting) {
    let app = App::new(setting, &["waits"]);
    let first = app.start();
    first.ask("begin");
    first.checkpoint(&["--leave-running"]);
    thread::sleep(Duration::from_secs(4));
    first.verified();
    let second = move_once(&app, &first);
    second.eventually("a wait does not end", || {
        let answer = second.ask("verify");
        (answer.contains("ended=10") || answer.starts_with("error")).then_some(())
    });
    second.verified();
}

/// A signal that comes while the service is frozen ends a wait by EINTR, as ever.
fn signal_while_frozen(setting: Setting) {
    let app = App::new(setting, &["waits"]).with_fail_points();
    let first = app.start();
    first.verified();
    let service = Pid::from_raw(first.find(&["/services/service", "waits"]).unwrap());
    first.stop_at(Point::CheckpointHeld);
    thread::scope(|scope| {
        scope.spawn(|| first.checkpoint(&["--leave-running"]));
        let worker = Pid::from_raw(first.stopped());
        kill(service, Signal::SIGUSR2).unwrap();
        kill(worker, Signal::SIGCONT).unwrap();
    });
    first.eventually("no wait ends", || {
        let answer = first.ask("verify");
        (answer.contains("interrupted=1") || answer.starts_with("error")).then_some(())
    });
    first.verified();
}
