//! `freeze migrate`, run outside of all containers, moves services between them, and says the truth where it cannot.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::{App, Container, Setting, in_all_settings, needed, text};
use crate::trace;

in_all_settings! {
    a_service_moves_and_is_found_there;
}

const STANDBY: [&str; 3] = ["--standby", "--standby-poll", "20ms"];

/// What is executed in the containers finds init and the store by these.
fn app(setting: Setting, service: &str) -> App {
    let runtime = format!("FREEZE_RUNTIME_DIR={}", setting.runtime_dir());
    App::new(setting, &[service]).with_variables(&["FREEZE_STORE=file:/store", &runtime])
}

/// A service, and a container that stands by for it.
fn two(setting: Setting, service: &str) -> (App, Container, Container) {
    let app = app(setting, service);
    let source = app.start();
    source.verified();
    let target = app.start_with(&STANDBY);
    target.reaches("standby");
    (app, source, target)
}

fn command(source: &Container, target: &Container, options: &[&str]) -> Command {
    let mut command = Command::new(Path::new(&needed("FREEZE_TEST_OPT")).join("freeze"));
    command.args(["migrate", "--source", &source.exec_template(), "--target", &target.exec_template()]).args(options);
    command
}

fn migrate(source: &Container, target: &Container, options: &[&str]) -> Output {
    command(source, target, options).output().unwrap()
}

/// Runs it, and does something when it says that it hands over.
fn migrate_and(source: &Container, target: &Container, options: &[&str], meanwhile: impl FnOnce()) -> (i32, String) {
    let mut child = command(source, target, options).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("handing over") {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
    }
    meanwhile();
    stderr.read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code().unwrap(), said)
}

fn said(out: &Output) -> String {
    format!("{}: {}{}", out.status, text(&out.stdout), text(&out.stderr))
}

fn a_service_moves_and_is_found_there(setting: Setting) {
    let (_app, source, target) = two(setting, "mixed");
    let rehearsed = migrate(&source, &target, &["--dry-run"]);
    assert!(
        rehearsed.status.success() && text(&rehearsed.stdout).contains("cannot be predicted"),
        "{}",
        said(&rehearsed)
    );
    source.verified();
    source.checkpoint(&["--leave-running"]);
    let rehearsed = migrate(&source, &target, &["--dry-run", "--json"]);
    assert!(text(&rehearsed.stdout).contains(r#""predicted_ms":"#), "{}", said(&rehearsed));
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("move.json");
    let moved = migrate(&source, &target, &["--trace", trace.to_str().unwrap()]);
    assert!(text(&moved.stdout).starts_with("generation 3 moved the service from "), "{}", said(&moved));
    let spans = trace::spans(&std::fs::read_to_string(&trace).unwrap());
    let downtime = format!("downtime {} ms", trace::frozen_ms(&spans));
    assert!(text(&moved.stdout).contains(&downtime), "{downtime}: {}", said(&moved));
    let steps = ["looking", "preparing", "fetching", "handing over", "verifying"];
    let all = ["preflight", "dump", "files", "commit", "handover", "restore"];
    assert!(steps.iter().chain(&all).all(|name| spans.iter().any(|span| span["name"] == *name)), "{spans:?}");
    target.verified();
    assert_eq!(source.wait(), 172, "{}", source.story());
    let again = migrate(&source, &target, &["--json"]);
    assert!(text(&again.stdout).starts_with(r#"{"event":"moved","generation":3,"#), "{}", said(&again));
    target.verified();
}

#[test]
fn a_target_that_dies_in_the_handover_leaves_the_service_at_the_source() {
    let (app, source, target) = two(Setting::Restricted, "prefork");
    let (status, said) = migrate_and(&source, &target, &["--timeout", "2s"], || target.kill("KILL"));
    match status {
        1 => {
            assert!(said.contains("The service keeps running in the source"), "{said}");
            source.verified();
        }
        // The target died when it had taken the service: it is in the store.
        0 | 10 => {
            assert_eq!(source.wait(), 172, "{said}{}", source.story());
            app.start().verified();
        }
        _ => panic!("{status}: {said}"),
    }
}

#[test]
fn a_question_that_is_cut_off_is_asked_again() {
    let (_app, source, target) = two(Setting::Restricted, "one");
    let cut_off = || {
        let asking = || source.find(&["/opt/freeze/freeze", "checkpoint", "--handover=2000ms"]);
        let pid = source.eventually("nobody asks for the handover", || asking().or(source.has_ended().then_some(0)));
        if pid > 0 {
            // It may have its answer by now.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    };
    let (status, said) = migrate_and(&source, &target, &["--timeout", "2s"], cut_off);
    match status {
        0 => drop(target.verified()),
        1 => drop(source.verified()),
        _ => panic!("{status}: {said}"),
    }
    assert!(said.contains("could not follow the handover to its end") == (status == 1), "{status}: {said}");
}

#[test]
fn without_a_target_nothing_happens() {
    let (_app, source, target) = two(Setting::Restricted, "one");
    target.kill("KILL");
    target.wait();
    let out = migrate(&source, &target, &[]);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    assert!(text(&out.stderr).contains("The service keeps running in the source"), "{}", said(&out));
    source.verified();
}
