//! Heartbeats of `--exclusive`: when they are sent, counted and told.

use super::*;

#[test]
fn the_application_is_looked_after_beside_hooks_and_not_beside_a_checkpoint() {
    let hook = || Some(Hook::Command(vec![c"/hook".into()]));
    let mut machine = running(|config| {
        config.exclusive = Some(Duration::from_secs(10));
        config.hooks.before_checkpoint = hook();
    });
    does(&mut machine, asked(0, END));
    assert!(starts(&does(&mut machine, Input::Elapsed(Timer::Heartbeat)), Task::Heartbeat));
    let due = does(&mut machine, Input::HookOver { failure: None });
    assert!(due.contains(&Action::DismissWorker) && !starts(&due, Task::Checkpoint(AfterCommit::Stop)));
    assert!(starts(&does(&mut machine, gone()), Task::Checkpoint(AfterCommit::Stop)));
    assert!(!starts(&does(&mut machine, Input::Elapsed(Timer::Heartbeat)), Task::Heartbeat));
}

/// What is said at `seconds`, when the heartbeat that is due then ends with `event`, or with its worker's death.
fn beat(machine: &mut Machine, seconds: u64, event: Option<Event>) -> Vec<String> {
    let now = Now { ms: seconds * 1000, wall_ms: seconds * 1000 };
    let inputs = [Some(Input::Elapsed(Timer::Heartbeat)), event.map(Input::Said), Some(gone())];
    let actions = inputs.into_iter().flatten().flat_map(|input| machine.step(now, input)).collect::<Vec<_>>();
    actions.into_iter().filter_map(|action| if let Action::Say(text) = action { Some(text) } else { None }).collect()
}

#[test]
fn heartbeats_that_fail_are_told_at_times() {
    let mut machine = running(|config| config.exclusive = Some(Duration::from_secs(10)));
    let away = || Some(failed("the store is away".to_owned()));
    assert_eq!(beat(&mut machine, 10, Some(Event::StillOwner)), [""; 0]);
    let told = beat(&mut machine, 20, away());
    assert!(told.len() == 1 && told[0].contains("the store is away") && told[0].contains("30s"), "{told:?}");
    let told: Vec<_> = (3..10).flat_map(|n| beat(&mut machine, n * 10, None)).collect();
    assert!(told.len() == 1 && told[0].contains("(7 in a row)") && told[0].contains("died"), "{told:?}");
    let told = beat(&mut machine, 100, Some(Event::StillOwner));
    assert!(told.len() == 1 && told[0].contains("again") && told[0].contains('8'), "{told:?}");
    // One that comes and goes is not told each time.
    let told: Vec<_> = (11..14)
        .flat_map(|n| beat(&mut machine, n * 10, if n % 2 == 1 { away() } else { Some(Event::StillOwner) }))
        .collect();
    assert_eq!(told, [""; 0]);
    let told = beat(&mut machine, 140, away());
    assert!(told.len() == 1 && told[0].contains("(2 in a row)"), "{told:?}");
    let heartbeat = HeartbeatReport { at_ms: Some(120_000), failures: 11, in_a_row: 2 };
    assert_eq!(machine.status.heartbeat, Some(heartbeat));
}

/// A counter that begins at its first failure shows no increase for it.
#[test]
fn heartbeats_are_counted_before_the_first() {
    let machine = running(|config| config.exclusive = Some(Duration::from_secs(10)));
    assert_eq!(machine.status.heartbeat, Some(HeartbeatReport::default()));
    assert_eq!(running(|_| {}).status.heartbeat, None);
}

/// The minute without warnings covers short outages, and none that costs the application.
#[test]
fn a_new_outage_is_told_before_the_takeover() {
    let mut machine = running(|config| config.exclusive = Some(Duration::from_secs(10)));
    assert_eq!(beat(&mut machine, 10, None).len(), 1);
    assert_eq!(beat(&mut machine, 20, Some(Event::StillOwner)).len(), 1);
    let told = [30, 40, 50, 60].map(|seconds| beat(&mut machine, seconds, None));
    assert_eq!(told.each_ref().map(Vec::len), [0, 1, 0, 0], "{told:?}");
    assert!(told[1][0].contains("(2 in a row)"), "{told:?}");
}

#[test]
fn a_heartbeat_that_hangs_is_told_and_one_that_gives_way_to_a_checkpoint_is_no_failure() {
    let mut machine = running(|config| config.exclusive = Some(Duration::from_secs(10)));
    let at = |seconds: u64| Now { ms: seconds * 1000, wall_ms: seconds * 1000 };
    let failures = |machine: &Machine| machine.status.heartbeat.map(|heartbeat| heartbeat.failures);
    assert!(starts(&machine.step(at(10), Input::Elapsed(Timer::Heartbeat)), Task::Heartbeat));
    let said = machine.step(at(20), Input::Elapsed(Timer::Heartbeat));
    assert!(matches!(&said[..], [.., Action::Say(text)] if text.contains("not answered for 10s")), "{said:?}");
    machine.step(at(21), gone());
    assert_eq!(failures(&machine), Some(2));
    machine.step(at(30), Input::Elapsed(Timer::Heartbeat));
    machine.step(at(30), asked(0, END));
    let due = machine.step(at(30), gone());
    assert!(starts(&due, Task::Checkpoint(AfterCommit::Stop)), "{due:?}");
    assert_eq!(failures(&machine), Some(2));
}
