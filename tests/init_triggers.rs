//! Who asks for a checkpoint, what runs beside it, and who has the service afterwards. The workers are played: see
//! init_support/play.rs.

mod init_support;

use std::{fs, process::ExitCode};

use freeze::control::client::Client;
use freeze::control::protocol::{Awaited, Event, Named, Op, Pace, Phase, Reason, State, Wanted};
use init_support::{play::*, *};

fn main() -> ExitCode {
    be_all_three(TESTS)
}

const TESTS: &[(&str, fn())] = &[
    ("the_signal_checkpoints", the_signal_checkpoints),
    ("the_timer_checkpoints_and_the_service_runs_on", the_timer_checkpoints_and_the_service_runs_on),
    ("sigterm_checkpoints", sigterm_checkpoints),
    ("sigterm_goes_on_to_the_service_where_that_fails", sigterm_goes_on_to_the_service_where_that_fails),
    ("sigterm_does_not_wait_for_ever", sigterm_does_not_wait_for_ever),
    ("sigterm_joins_and_overtakes", sigterm_joins_and_overtakes),
    ("hooks_are_told_what_happens", hooks_are_told_what_happens),
    ("a_hook_that_fails_stops_the_checkpoint", a_hook_that_fails_stops_the_checkpoint),
    ("a_hook_has_its_time", a_hook_has_its_time),
    ("a_hook_may_be_a_signal", a_hook_may_be_a_signal),
    ("a_handover_ends_where_somebody_has_it", a_handover_ends_where_somebody_has_it),
    ("a_handover_that_nobody_takes_is_taken_back", a_handover_that_nobody_takes_is_taken_back),
    ("what_a_dead_worker_leaves_open_is_settled", what_a_dead_worker_leaves_open_is_settled),
    ("sigterm_leaves_what_is_offered", sigterm_leaves_what_is_offered),
    ("waiting_and_cancelling", waiting_and_cancelling),
    ("a_subscriber_hears_all", a_subscriber_hears_all),
    ("a_standby_waits_without_a_limit", a_standby_waits_without_a_limit),
    ("who_has_lost_ends", who_has_lost_ends),
];

const HANDOVER: Op =
    Op::Checkpoint(Wanted { leave_running: false, handover_ms: Some(60_000), pace: Pace::DEFAULT, named: Named::NONE });

/// The last line of the answer to a checkpoint.
fn end(client: &mut Client) -> Event {
    loop {
        let event = client.next_event().unwrap();
        if matches!(event, Event::Checkpointed(_) | Event::Failed { .. }) {
            return event;
        }
    }
}

fn failure(event: Event) -> String {
    match event {
        Event::Failed { message, .. } => message,
        other => panic!("{other:?}"),
    }
}

fn the_signal_checkpoints() {
    for (options, signal) in [(&[][..], 35), (&["--checkpoint-signal", "USR1"], 10)] {
        let play = running(Place::Pid1, options, "committed kill-tree checkpointed");
        play.init.signal(signal);
        let (code, error) = play.init.end();
        assert_eq!(code, 172);
        assert!(error.contains("generation 5 is committed, requested by the checkpoint signal"), "{error}");
    }
    let play = running(Place::Pid1, &[], "fail");
    play.init.signal(35);
    assert_eq!(failure(play.ask(Op::Wait { until: Awaited::Checkpointed }).next_event().unwrap()), "no luck");
    play.runs_on();
}

fn the_timer_checkpoints_and_the_service_runs_on() {
    let play = running(Place::Pid1, &["--every", "20ms"], "committed checkpointed");
    let done = wait_for(|| Some(play.status()).filter(|status| status.checkpoints > 2));
    let last = done.checkpoint.unwrap();
    assert!(last.reason == Reason::Timer && !last.report.ended && last.at_ms > 1_600_000_000_000);
    assert_eq!(done.failures, 0);
    play.runs_on();
}

const ON_TERM: [&str; 2] = ["--on-term", "checkpoint"];

fn sigterm_checkpoints() {
    for place in [Place::Host, Place::Pid1] {
        let play = running(place, &ON_TERM, "committed kill-tree checkpointed");
        play.init.signal(15);
        let (code, error) = play.init.end();
        assert_eq!(code, 172);
        assert!(error.contains("generation 5 is committed, requested by SIGTERM; the service has ended"), "{error}");
    }
}

fn sigterm_goes_on_to_the_service_where_that_fails() {
    for steps in ["fail", "progress die", "progress stop-service die", "garbage hang"] {
        let play = running(Place::Pid1, &ON_TERM, steps);
        play.init.signal(15);
        let (code, error) = play.init.end();
        assert_eq!(code, 9, "{steps}: {error}");
        assert!(error.contains("the checkpoint requested by SIGTERM failed"), "{steps}: {error}");
    }
}

fn sigterm_does_not_wait_for_ever() {
    let options = [&ON_TERM[..], &["--term-grace", "500ms"]].concat();
    let play = running(Place::Pid1, &options, "progress hang");
    play.init.signal(15);
    // A second one changes nothing.
    play.init.signal(15);
    let (code, error) = play.init.end();
    assert_eq!(code, 9, "{error}");
    assert!(error.contains("was cancelled because it exceeded the grace time of SIGTERM"), "{error}");
}

fn sigterm_joins_and_overtakes() {
    // One that ends the service serves SIGTERM as well.
    let play = running(Place::Pid1, &ON_TERM, "progress wait committed kill-tree checkpointed");
    let mut client = play.checkpoint();
    assert_eq!(client.next_event().unwrap(), PROGRESS);
    play.init.signal(15);
    assert_eq!(play.state(), State::Checkpointing);
    play.go();
    assert_eq!(client.next_event().unwrap(), Event::Checkpointed(REPORT));
    drop(client);
    assert_eq!(play.init.end().0, 172);
    // One that lets it run on is waited for, and those behind it are not.
    let play = running(Place::Pid1, &ON_TERM, "progress wait committed checkpointed");
    let mut first = play.ask(LEFT_RUNNING);
    assert_eq!(first.next_event().unwrap(), PROGRESS);
    let mut second = play.ask(LEFT_RUNNING);
    play.init.signal(15);
    assert_eq!(play.state(), State::Checkpointing);
    play.go();
    assert!(matches!(first.next_event().unwrap(), Event::Checkpointed(report) if !report.ended));
    assert!(failure(second.next_event().unwrap()).contains("the service was checkpointed and has ended"));
    drop((first, second));
    assert_eq!(play.init.end().0, 172);
}

/// A hook that writes down its environment.
fn note(play_folder: &str) -> String {
    let text = "echo $FREEZE_HOOK,$FREEZE_HOOK_GENERATION,$FREEZE_HOOK_REASON,$FREEZE_HOOK_RESULT,$FREEZE_HOOK_PEER";
    format!("sh -c '{text} >>{play_folder}'")
}

fn hooks_are_told_what_happens() {
    let folder = folder();
    let notes = folder.path().join("notes");
    let note = note(notes.to_str().unwrap());
    let names = ["--before-checkpoint", "--after-checkpoint", "--on-restore", "--on-app-ready"];
    let options: Vec<&str> = names.into_iter().flat_map(|name| [name, &note]).collect();
    let all = |restore, checkpoint, asks: &[Op]| {
        let mut play = start(Place::Pid1, &options, restore, checkpoint);
        play.init.line();
        play.wait_until(Awaited::Idle);
        for op in asks {
            let mut client = play.ask(op.clone());
            while !matches!(client.next_event().unwrap(), Event::Checkpointed(_) | Event::Failed { .. }) {}
        }
        let ended = *asks != [LEFT_RUNNING];
        if !ended {
            play.wait_until(Awaited::Idle);
            play.init.signal(15);
        }
        play.init.end();
        let text = fs::read_to_string(&notes).unwrap();
        fs::remove_file(&notes).unwrap();
        text
    };
    assert_eq!(
        all("nothing", "fail", &[LEFT_RUNNING]),
        "on-app-ready,0,start,,\nbefore-checkpoint,0,command,,\nafter-checkpoint,0,command,failed,\n"
    );
    assert_eq!(
        all("restored claimed", "committed kill-tree checkpointed", &[Op::Checkpoint(Wanted::default())]),
        "on-restore,4,restore,,\non-app-ready,4,restore,,\nbefore-checkpoint,4,command,,\nafter-checkpoint,5,command,committed,\n"
    );
    assert_eq!(
        all("nothing", "committing committed taken kill-tree checkpointed", &[HANDOVER]),
        "on-app-ready,0,start,,\nbefore-checkpoint,0,command,,\nafter-checkpoint,5,command,handed-over,other\n"
    );
}

fn a_hook_that_fails_stops_the_checkpoint() {
    for (hook, why) in [
        ("false", "ended with status 1"),
        ("/no/such/hook", "ended with status 127"),
        ("sh -c 'kill -9 $$'", "signal 9"),
    ] {
        let play = running(Place::Pid1, &["--before-checkpoint", hook], "committed checkpointed");
        let message = play.refused();
        assert!(message.contains(why) && message.contains("nothing was frozen"), "{message}");
        play.runs_on();
    }
    let play = running(Place::Pid1, &["--before-checkpoint", "false", "--hook-may-fail"], "committed checkpointed");
    assert!(matches!(play.ask(LEFT_RUNNING).next_event().unwrap(), Event::Checkpointed(_)));
    play.runs_on();
    // Of no consequence but a warning.
    let mut play = start(Place::Pid1, &["--on-app-ready", "false", "--after-checkpoint", "false"], "nothing", "fail");
    play.init.expect("ready");
    assert_eq!(play.refused(), "no luck");
    play.runs_on();
}

fn a_hook_has_its_time() {
    let play = running(Place::Pid1, &["--before-checkpoint", "sleep 1000", "--hook-timeout", "100ms"], "");
    assert!(play.refused().contains("took too long"));
    // The client has gone.
    let play = running(Place::Pid1, &["--before-checkpoint", "sleep 1000"], "");
    let client = play.checkpoint();
    wait_for(|| (play.state() == State::Checkpointing).then_some(()));
    drop(client);
    play.runs_on();
}

fn a_hook_may_be_a_signal() {
    let play = running(Place::Pid1, &["--after-checkpoint", "signal:TERM"], "fail");
    play.refused();
    assert_eq!(play.init.end().0, 9);
}

fn a_handover_ends_where_somebody_has_it() {
    let play = running(
        Place::Pid1,
        &["--checkpoint-timeout", "300ms"],
        "committing committed wait taken kill-tree checkpointed",
    );
    let mut client = play.ask(HANDOVER);
    wait_for(|| (play.state() == State::HandingOver).then_some(()));
    // It has all the time of the handover, not that of a checkpoint.
    std::thread::sleep(std::time::Duration::from_millis(400));
    play.go();
    assert!(matches!(end(&mut client), Event::Checkpointed(report) if report.ended));
    drop(client);
    assert_eq!(play.init.end().0, 172);
}

fn a_handover_that_nobody_takes_is_taken_back() {
    let play = running(Place::Pid1, &[], "committing committed withdrawn fail");
    assert_eq!(failure(end(&mut play.ask(HANDOVER))), "no luck");
    play.runs_on();
    // Before its time, if somebody asks for that.
    let play = running(Place::Pid1, &[], "committing committed order withdrawn fail");
    let mut client = play.ask(HANDOVER);
    wait_for(|| (play.state() == State::HandingOver).then_some(()));
    assert_eq!(play.ask(Op::Cancel).next_event().unwrap(), Event::Done);
    assert_eq!(failure(end(&mut client)), "no luck");
    play.runs_on();
}

fn settled(checkpoint: &str, settle: &str) -> Play {
    let steps = [("PLAY_RESTORE", "nothing"), ("PLAY_CHECKPOINT", checkpoint), ("PLAY_SETTLE", settle)];
    let mut play = start_with(Place::Pid1, &[], &steps);
    play.init.expect("ready");
    play
}

fn what_a_dead_worker_leaves_open_is_settled() {
    for steps in ["committing stop-service die", "committing committed stop-service die"] {
        let play = settled(steps, "taken");
        let answer = end(&mut play.ask(HANDOVER));
        assert!(matches!(answer, Event::Checkpointed(report) if report.generation == 5), "{answer:?}");
        assert_eq!(play.init.end().0, 172, "{steps}");
        let play = settled(steps, "withdrawn");
        assert!(failure(end(&mut play.ask(HANDOVER))).contains("generation 5 was withdrawn"));
        play.runs_on();
    }
    // As long as nobody can tell, the service stands still.
    let play = settled("committing stop-service die", "die");
    let _client = play.ask(HANDOVER);
    let (_, service) = play.init.tree();
    wait_for(|| state(service).filter(|state| state == "T"));
    play.wait_for_workers(3);
    assert_eq!(state(service).as_deref(), Some("T"));
    // One that was no handover is settled in the same way.
    let play = settled("committing die", "withdrawn");
    assert!(play.refused().contains("generation 5 was withdrawn"));
    play.runs_on();
}

fn sigterm_leaves_what_is_offered() {
    for (checkpoint, settle) in [("committing committed hang", ""), ("committing committed stop-service die", "hang")] {
        let steps = [("PLAY_RESTORE", "nothing"), ("PLAY_CHECKPOINT", checkpoint), ("PLAY_SETTLE", settle)];
        let mut play = start_with(Place::Pid1, &ON_TERM, &steps);
        play.init.expect("ready");
        let mut client = play.ask(HANDOVER);
        wait_for(|| (play.state() == State::HandingOver).then_some(()));
        play.init.signal(15);
        assert!(matches!(end(&mut client), Event::Checkpointed(report) if report.ended));
        drop(client);
        assert_eq!(play.init.end().0, 172);
    }
}

fn waiting_and_cancelling() {
    let mut play = start(Place::Pid1, &[], "wait nothing", "progress hang");
    let mut waits = play.ask(Op::Wait { until: Awaited::Running });
    let mut for_restored = play.ask(Op::Wait { until: Awaited::Restored });
    play.go();
    assert_eq!(waits.next_event().unwrap(), Event::Reached);
    assert!(failure(for_restored.next_event().unwrap()).contains("was started afresh"));
    play.init.expect("ready");
    assert!(
        failure(play.ask(Op::Cancel).next_event().unwrap()).contains("there is no checkpoint or handover to cancel")
    );
    let mut client = play.checkpoint();
    let mut idle = play.ask(Op::Wait { until: Awaited::Idle });
    assert_eq!(client.next_event().unwrap(), PROGRESS);
    assert_eq!(play.ask(Op::Cancel).next_event().unwrap(), Event::Done);
    assert!(failure(client.next_event().unwrap()).contains("`freeze cancel`"));
    assert_eq!(idle.next_event().unwrap(), Event::Reached);
    play.runs_on();
}

fn a_subscriber_hears_all() {
    let play = running(Place::Pid1, &[], "preflight warn committed checkpointed");
    let mut subscriber = play.ask(Op::Subscribe);
    let _client = play.ask(LEFT_RUNNING);
    let mut heard = Vec::new();
    while heard.len() < 5 {
        heard.push(match subscriber.next_event().unwrap() {
            Event::Status(status) => format!("{:?}", status.state),
            Event::Progress { phase: Phase::Preflight, .. } => "preflight".to_owned(),
            Event::Warning { message } => message,
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(heard, ["Running", "Checkpointing", "preflight", "held: 4 2", "Running"]);
    play.runs_on();
}

fn a_standby_waits_without_a_limit() {
    let mut play = start(Place::Pid1, &["--restore-timeout", "200ms"], "waiting wait restored claimed", "");
    wait_for(|| (play.state() == State::Standby).then_some(()));
    assert!(play.refused().contains("this container is a standby"));
    std::thread::sleep(std::time::Duration::from_millis(300));
    play.go();
    play.init.expect("restored");
    play.wait_until(Awaited::Restored);
    // From the moment when it does not wait any more it has that of a restore.
    let play = start(Place::Pid1, &["--restore-timeout", "200ms"], "waiting preflight hang", "");
    assert_eq!(play.init.end().0, 171);
    let play = start(Place::Pid1, &[], "waiting hang", "");
    wait_for(|| (play.state() == State::Standby).then_some(()));
    play.init.signal(15);
    assert_eq!(play.init.end().0, 143);
}

fn who_has_lost_ends() {
    for (steps, code, why) in [
        ("lost", 173, "another container has it"),
        ("waiting pids-exhausted", 174, "no PIDs are left"),
        ("volume-changed", 175, "the volume is newer"),
        ("clock-back", 176, "the clock would go back"),
    ] {
        let (status, error) = start(Place::Pid1, &[], steps, "").init.end();
        assert_eq!(status, code);
        assert!(error.contains(why), "{error}");
    }
    let exclusive = |hold| {
        let steps = [("PLAY_RESTORE", "nothing"), ("PLAY_HEARTBEAT", hold), ("PLAY_CHECKPOINT", "fail")];
        let mut play = start_with(Place::Pid1, &["--exclusive=20ms"], &steps);
        play.init.expect("ready");
        play
    };
    let (code, error) = exclusive("lost").init.end();
    assert_eq!((code, error.contains("another container has it")), (173, true), "{error}");
    for heartbeat in ["still-owner", "die", "fail"] {
        let play = exclusive(heartbeat);
        play.wait_for_workers(3);
        play.runs_on();
    }
}
