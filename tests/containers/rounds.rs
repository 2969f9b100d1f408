//! Moves in rounds: memory is saved while the service runs, and at the end only what has changed since. The services are
//! `tests/services/calm.c` and `writers.c`, which know what each page must hold.

use freeze::fail_points::Point;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{App, Container, Setting, WORKER, in_all_settings, text};

in_all_settings! {
    what_is_not_read_again_is_as_it_was;
}

fn standby(app: &App, name: &str) -> Container {
    let standby = app.start_with(&["--standby", "--standby-poll", "20ms", "--instance", name]);
    standby.reaches("standby");
    standby
}

/// Hands the service over to a new container. Gives how many bytes each round has read.
fn handed_over(app: &App, source: &Container, to: &str) -> (Container, Vec<u64>) {
    let target = standby(app, to);
    let out = source.try_checkpoint(&["--handover", "--json"]);
    let said = text(&out.stderr);
    assert!(out.status.success(), "{said}{}", source.story());
    assert_eq!(source.wait(), 172, "{}", source.story());
    let events = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let rounds = events.filter(|event| event["event"] == "round").map(|round| round["read"].as_u64().unwrap());
    (target, rounds.collect())
}

/// Each page that was taken for unchanged, and was not, ends the service that goes on from it.
fn what_is_not_read_again_is_as_it_was(setting: Setting) {
    let app = App::new(setting, &["calm", "4"]).with_rounds();
    let mut container = app.start();
    for name in ["second", "third", "fourth"] {
        container.verified();
        let (target, read) = handed_over(&app, &container, name);
        assert!(read.len() >= 2, "{read:?}{}", container.story());
        container = target;
        container.verified();
    }
}

#[test]
fn what_has_not_changed_is_not_read_again() {
    let app = App::new(Setting::Restricted, &["big", "16"]).with_rounds();
    let container = app.start();
    container.verified();
    let (target, read) = handed_over(&app, &container, "target");
    assert!(read.len() == 2 && read[0] > 16 << 20 && read[1] < 4 << 20, "{read:?}{}", container.story());
    target.verified();
}

/// The service runs on while a standby takes long for a round, and no other container takes this one for dead.
#[test]
fn the_last_step_waits_for_the_standby() {
    let command = ["/services/service", "big", "16"];
    let app = App::with_options(Setting::Restricted, &["--exclusive=1s"], &command).with_fail_points().with_rounds();
    let (source, target) = (app.start(), standby(&app, "target"));
    source.verified();
    source.stop_at(Point::CheckpointReleased);
    let answer = std::thread::scope(|scope| {
        let handover = scope.spawn(|| source.try_checkpoint(&["--handover"]));
        let signal = |pid, signal| kill(Pid::from_raw(pid), signal).unwrap();
        let (in_round, waits) = (source.stopped(), target.find(&WORKER).unwrap());
        signal(waits, Signal::SIGSTOP);
        signal(in_round, Signal::SIGCONT);
        let follows = || source.status()?.contains(r#""phase":"follow""#).then_some(());
        source.eventually("the last step does not wait for the standby", follows);
        assert!(source.ask("verify").starts_with("ok"));
        let heartbeat = || std::fs::read(app.store().join("holder")).ok();
        for _ in 0..2 {
            let last = heartbeat();
            source.eventually("there is no heartbeat", || (heartbeat() != last).then_some(()));
        }
        assert!(follows().is_some(), "it waits no more: {}", source.story());
        signal(waits, Signal::SIGCONT);
        handover.join().unwrap()
    });
    assert!(answer.status.success(), "{}{}{}", text(&answer.stderr), source.story(), target.story());
    target.verified();
}

/// More is written than any round reads.
#[test]
fn a_service_that_writes_all_of_its_memory_is_moved_all_the_same() {
    let app = App::new(Setting::Restricted, &["writers", "8"]).with_rounds();
    let mut container = app.start();
    for name in ["second", "third"] {
        container.verified();
        container = handed_over(&app, &container, name).0;
    }
    container.verified();
}

/// An orchestrator ends this container, and has started the one that waits.
#[test]
fn a_drain_takes_rounds() {
    let exclusive = ["--exclusive=1s", "--on-term", "checkpoint", "--term-grace", "60s"];
    let app = App::with_options(Setting::Restricted, &exclusive, &["/services/service", "big", "16"]).with_rounds();
    let source = app.start_with(&["--instance", "source"]);
    source.verified();
    let target = app.start_with(&["--instance", "target", "--standby-poll", "20ms"]);
    target.reaches("standby");
    source.kill("TERM");
    assert_eq!(source.wait(), 172, "{}", source.story());
    target.verified();
    // At least two rounds came before it.
    let status: Value = serde_json::from_str(&target.status().unwrap()).unwrap();
    assert!(status["restore"]["generation"].as_u64() > Some(2), "{status}{}", target.story());
}
