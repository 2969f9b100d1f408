//! Containers that wait for a service: to be handed over, or for the one that has it to the end of its life.

use crate::harness::{App, Container, Setting, in_all_settings};

in_all_settings! {
    a_service_goes_from_one_to_the_next;
}

const STANDBY: [&str; 5] = ["--standby", "--standby-poll", "20ms", "--standby-cache", "/runtime/cache"];

/// The other one takes the service, and this one ends.
fn hands_over(from: &Container, to: &Container) {
    let said = from.checkpoint(&["--handover"]);
    assert!(said.contains("has the service"), "{said}");
    assert_eq!(from.wait(), 172, "{}", from.story());
    to.verified();
}

/// Three generations, each in a container that stood by.
fn a_service_goes_from_one_to_the_next(setting: Setting) {
    let app = App::new(setting, &["mixed"]);
    let mut here = app.start();
    here.verified();
    for generation in [1, 3] {
        let there = app.start_with(&STANDBY);
        there.reaches("standby");
        // What is left running is prepared for, and not taken.
        here.checkpoint(&["--leave-running"]);
        let prepared = format!(r#""state":"standby","service":0,"generation":{generation}"#);
        there.eventually("it does not prepare", || there.status()?.contains(&prepared).then_some(()));
        here.verified();
        hands_over(&here, &there);
        here = there;
    }
}

/// A drain ends the container; whoever stands by goes on.
#[test]
fn a_drain_is_taken_over() {
    let app = App::new(Setting::Restricted, &["prefork"]);
    let source = app.start_with(&["--on-term", "checkpoint"]);
    source.verified();
    let standby = app.start_with(&STANDBY);
    standby.reaches("standby");
    source.kill("TERM");
    standby.verified();
    assert_eq!(source.wait(), 172, "{}", source.story());
}

/// An orchestrator starts it again, and it must not take back what it gave away; later it may get it again.
#[test]
fn whose_service_has_moved_away_stands_by() {
    let app = App::new(Setting::Restricted, &["one"]);
    let one = app.start_with(&["--instance", "one"]);
    one.verified();
    let two = app.start_with(&[&STANDBY[..], &["--instance", "two"]].concat());
    two.reaches("standby");
    hands_over(&one, &two);
    drop(one);
    let one = app.start_with(&["--instance", "one", "--standby-poll", "20ms"]);
    one.reaches("standby");
    // It crashes, and is the one whose service that is.
    two.kill("KILL");
    two.wait();
    drop(two);
    let two = app.start_with(&[&STANDBY[..], &["--instance", "two"]].concat());
    two.verified();
    one.reaches("standby");
    hands_over(&two, &one);
}

#[test]
fn it_gives_up_its_container_in_time() {
    let app = App::new(Setting::Restricted, &["one"]);
    let standby = app.start_with(&STANDBY);
    standby.reaches("standby");
    standby.exec(&["sh", "-c", "i=0; while [ $i -lt 1000 ]; do /bin/true; i=$((i + 1)); done"]);
    assert_eq!(standby.wait(), 174, "{}", standby.story());
    assert!(standby.logs().1.contains("PID"), "{}", standby.story());
}

const EXCLUSIVE: [&str; 3] = ["--exclusive=200ms", "--standby-poll", "20ms"];

#[test]
fn of_two_exclusive_ones_the_second_waits_for_the_first_to_die() {
    let app = App::with_options(Setting::Restricted, &EXCLUSIVE, &["/services/service", "one"]);
    let first = app.start();
    first.verified();
    let second = app.start();
    second.reaches("standby");
    first.checkpoint(&["--leave-running"]);
    first.verified();
    second.reaches("standby");
    first.kill("KILL");
    second.verified();
    assert!(second.status().unwrap().contains(r#""restore":{"generation":1"#), "{}", second.story());
}

#[test]
fn an_exclusive_one_that_was_replaced_ends() {
    let app = App::new(Setting::Restricted, &["one"]);
    let first = app.start_with(&EXCLUSIVE);
    first.verified();
    first.checkpoint(&["--leave-running"]);
    // It asks nobody.
    let second = app.start();
    second.verified();
    assert_eq!(first.wait(), 173, "{}", first.story());
    second.verified();
}
