//! A standby has the memory of the last generation: of the next one it reads the pages that have changed, and the service has
//! all of its memory as it was.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting, in_all_settings};

in_all_settings! {
    only_what_changed_is_read;
    memory_is_whole_whatever_changes;
}

const STANDBY: [&str; 5] = ["--standby", "--standby-poll", "20ms", "--standby-cache", "/runtime/cache"];

/// Waits until the standby has taken this generation in.
fn prepared(standby: &Container, generation: u64) {
    let prepared = format!(r#""state":"standby","service":0,"generation":{generation}"#);
    standby.eventually("it does not prepare", || standby.status()?.contains(&prepared).then_some(()));
}

/// Bytes that the last restore has brought back, and those of them that were there before.
fn restored(container: &Container) -> (u64, u64) {
    let status: serde_json::Value = serde_json::from_str(&container.status().unwrap()).unwrap();
    let bytes = |name: &str| status["restore"][name].as_u64().unwrap();
    (bytes("bytes"), bytes("ahead"))
}

fn hands_over(from: &Container, to: &Container) {
    // Without rounds, which are generations as well.
    from.checkpoint(&["--handover", "--max-downtime=10m"]);
    assert_eq!(from.wait(), 172, "{}", from.story());
    to.verified();
}

/// A standby that has taken in what the service has now.
fn standby(app: &App, from: &Container, generation: u64) -> Container {
    let standby = app.start_with(&STANDBY);
    standby.reaches("standby");
    from.checkpoint(&["--leave-running"]);
    prepared(&standby, generation);
    standby
}

fn only_what_changed_is_read(setting: Setting) {
    let app = App::new(setting, &["mixed"]);
    let here = app.start();
    here.verified();
    let there = standby(&app, &here, 1);
    here.verified();
    hands_over(&here, &there);
    let (bytes, ahead) = restored(&there);
    assert!(ahead * 2 > bytes && ahead < bytes, "{ahead} of {bytes}: {}", there.story());
}

/// After some generations that it has taken in, and changes after each, a standby gets the service.
fn changes_arrive(setting: Setting, workers: u32, seed: u32) {
    let app = App::new(setting, &["changes", &workers.to_string(), &seed.to_string()]);
    let mut here = app.start();
    here.verified();
    for generation in [1, 4] {
        let there = standby(&app, &here, generation);
        for next in [1, 2] {
            assert_eq!(here.ask("change"), "ok", "{}", here.story());
            if next == 1 {
                here.checkpoint(&["--leave-running"]);
                prepared(&there, generation + next);
            }
        }
        here.verified();
        hands_over(&here, &there);
        let (bytes, ahead) = restored(&there);
        assert!(ahead * 8 > bytes && ahead < bytes, "{ahead} of {bytes}: {}", there.story());
        assert_eq!(there.ask("change"), "ok", "{}", there.story());
        there.verified();
        here = there;
    }
}

fn memory_is_whole_whatever_changes(setting: Setting) {
    changes_arrive(setting, 3, 1);
}

#[test]
fn memory_of_one_process_is_whole() {
    (10..14).for_each(|seed| changes_arrive(Setting::Restricted, 0, seed));
}

#[test]
fn memory_of_sixteen_workers_is_whole() {
    changes_arrive(Setting::Restricted, 16, 5);
}

/// The restore then starts a criu of its own.
#[test]
fn without_the_waiting_criu_all_is_read() {
    let app = App::new(Setting::Restricted, &["changes", "2", "7"]);
    let here = app.start();
    here.verified();
    let there = standby(&app, &here, 1);
    let criu = there.find(&["/opt/freeze/criu", "ahead"]).unwrap();
    kill(Pid::from_raw(criu), Signal::SIGKILL).unwrap();
    assert_eq!(here.ask("change"), "ok", "{}", here.story());
    hands_over(&here, &there);
    assert_eq!(restored(&there).1, 0);
}

/// Only an ancestor of the service may attach to it here, and that is made with it.
#[test]
fn below_tracers_nothing_comes_ahead() {
    let app = App::new(Setting::Restricted, &["changes", "1", "8"]).under_yama(1);
    let here = app.start();
    here.verified();
    let there = standby(&app, &here, 1);
    hands_over(&here, &there);
    assert_eq!(restored(&there).1, 0);
}
