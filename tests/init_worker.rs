//! Workers that fail in every way: what init does then. The workers are played: see init_support/play.rs.

mod init_support;

use std::{fs, io::Write, os::unix::net::UnixStream, process::ExitCode};

use freeze::control::protocol::{Awaited, Event, Phase, Report, State};
use init_support::{play::*, *};

fn main() -> ExitCode {
    be_all_three(TESTS)
}

const TESTS: &[(&str, fn())] = &[
    ("nothing_to_restore_starts_the_command", nothing_to_restore_starts_the_command),
    ("a_failed_restore_is_171_and_tells_why", a_failed_restore_is_171_and_tells_why),
    ("a_restored_service_is_supervised", a_restored_service_is_supervised),
    ("what_a_worker_leaves_behind_is_ended", what_a_worker_leaves_behind_is_ended),
    ("sigterm_ends_a_start_that_hangs", sigterm_ends_a_start_that_hangs),
    ("other_signals_wait_for_the_service", other_signals_wait_for_the_service),
    ("a_failed_checkpoint_leaves_the_service_running", a_failed_checkpoint_leaves_the_service_running),
    ("a_stopped_service_is_continued_after_a_failure", a_stopped_service_is_continued_after_a_failure),
    (
        "whoever_asks_in_time_joins_and_whoever_asks_later_waits",
        whoever_asks_in_time_joins_and_whoever_asks_later_waits,
    ),
    ("a_commit_ends_the_service_and_init_with_172", a_commit_ends_the_service_and_init_with_172),
    (
        "after_the_commit_the_death_of_the_worker_changes_nothing",
        after_the_commit_the_death_of_the_worker_changes_nothing,
    ),
    ("left_running_the_service_runs_on", left_running_the_service_runs_on),
    ("a_lease_is_kept_from_worker_to_worker", a_lease_is_kept_from_worker_to_worker),
    ("it_is_said_where_nobody_could_be_told", it_is_said_where_nobody_could_be_told),
    ("init_waits_for_its_client_but_not_for_ever", init_waits_for_its_client_but_not_for_ever),
    ("a_checkpoint_is_given_up_without_its_client", a_checkpoint_is_given_up_without_its_client),
    ("once_committed_it_needs_no_client", once_committed_it_needs_no_client),
    ("a_client_has_one_request", a_client_has_one_request),
    ("a_restore_may_take_its_time", a_restore_may_take_its_time),
    (
        "a_restored_service_that_ends_at_once_has_its_own_status",
        a_restored_service_that_ends_at_once_has_its_own_status,
    ),
    ("a_client_that_does_not_read_is_dropped", a_client_that_does_not_read_is_dropped),
    (
        "a_service_that_ends_during_its_checkpoint_has_its_own_status",
        a_service_that_ends_during_its_checkpoint_has_its_own_status,
    ),
    ("init_checks_where_the_store_is_and_opens_nothing", init_checks_where_the_store_is_and_opens_nothing),
];

fn nothing_to_restore_starts_the_command() {
    running(Place::Pid1, &[], "fail").runs_on();
}

fn a_failed_restore_is_171_and_tells_why() {
    for (steps, why) in [
        ("fail", "no luck (log: /log)"),
        ("die", "killed by signal 9"),
        ("hang", "exceeded its time limit of 200ms"),
        ("garbage hang", "a message that this version of freeze does not understand"),
        ("huge hang", "a message that this version of freeze does not understand"),
        ("progress", "ended without a result (exit status 0)"),
        ("restored-nobody", "ended before init could take it over"),
    ] {
        for place in [Place::Host, Place::Pid1] {
            let (code, error) = start(place, &["--restore-timeout", "200ms"], steps, "").init.end();
            assert_eq!(code, 171, "{steps}: {error}");
            assert!(error.contains(why), "{steps}: {error}");
        }
    }
}

fn a_restored_service_is_supervised() {
    for place in [Place::Host, Place::Pid1] {
        let mut play = start(place, &[], "restored", "");
        play.init.expect("restored");
        wait_for(|| (play.state() == State::Running).then_some(()));
        assert_eq!(children(play.init.pid).len(), 1);
        play.init.signal(15);
        assert_eq!(play.init.end().0, 6);
    }
}

fn what_a_worker_leaves_behind_is_ended() {
    let mut play = start(Place::Pid1, &[], "orphan nothing", "");
    play.init.expect("ready");
    assert_eq!(children(play.init.pid).len(), 1);
}

fn sigterm_ends_a_start_that_hangs() {
    for place in [Place::Host, Place::Pid1] {
        let play = start(place, &[], "orphan hang", "");
        wait_for(|| (play.state() == State::Starting).then_some(()));
        assert!(play.refused().contains("still starting"));
        play.init.signal(15);
        assert_eq!(play.init.end().0, 143);
    }
}

fn other_signals_wait_for_the_service() {
    let play = start(Place::Pid1, &[], "wait nothing", "");
    wait_for(|| (play.state() == State::Starting).then_some(()));
    play.init.signal(10);
    // Answered after the signal was taken, as init looks at signals first.
    assert_eq!(play.state(), State::Starting);
    play.go();
    assert_eq!(play.init.end().0, 138);
}

fn a_failed_checkpoint_leaves_the_service_running() {
    for (steps, why) in [
        ("fail", "no luck"),
        ("die", "killed by signal 9"),
        ("hang", "exceeded its time limit of 200ms"),
        ("garbage hang", "a message that this version of freeze does not understand"),
        ("checkpointed", "ended without a result"),
    ] {
        let play = running(Place::Pid1, &["--checkpoint-timeout", "200ms"], steps);
        for _ in 0..2 {
            let message = play.refused();
            assert!(message.contains(why), "{steps}: {message}");
        }
        play.runs_on();
    }
}

fn a_stopped_service_is_continued_after_a_failure() {
    let play = running(Place::Pid1, &[], "stop-service die");
    let (_, service) = play.init.tree();
    play.refused();
    wait_for(|| state(service).filter(|state| state != "T"));
    play.runs_on();
}

fn whoever_asks_in_time_joins_and_whoever_asks_later_waits() {
    let play = running(Place::Pid1, &[], "preflight wait progress wait-more fail");
    let mut first = play.checkpoint();
    assert!(matches!(first.next_event().unwrap(), Event::Progress { phase: Phase::Preflight, .. }));
    let mut joined = play.checkpoint();
    let mut left_running = play.ask(LEFT_RUNNING);
    assert_eq!(play.state(), State::Checkpointing);
    play.go();
    for client in [&mut first, &mut joined] {
        assert_eq!(client.next_event().unwrap(), PROGRESS);
    }
    // It is frozen by now.
    let mut late = play.checkpoint();
    assert_eq!(play.state(), State::Checkpointing);
    fs::write(play.init.folder.path().join("go.more"), "").unwrap();
    for client in [&mut first, &mut joined] {
        assert!(matches!(client.next_event().unwrap(), Event::Failed { message, .. } if message == "no luck"));
    }
    for client in [&mut left_running, &mut late] {
        assert!(matches!(client.next_event().unwrap(), Event::Progress { phase: Phase::Preflight, .. }));
        assert_eq!(client.next_event().unwrap(), PROGRESS);
        assert!(matches!(client.next_event().unwrap(), Event::Failed { message, .. } if message == "no luck"));
    }
    play.runs_on();
}

fn a_commit_ends_the_service_and_init_with_172() {
    for (options, kill, code) in [(&[][..], "kill-tree", 172), (&["--checkpointed-status", "0"], "kill-service", 0)] {
        let play = running(Place::Pid1, options, &format!("progress committed {kill} checkpointed"));
        let mut client = play.checkpoint();
        assert_eq!(client.next_event().unwrap(), PROGRESS);
        assert_eq!(client.next_event().unwrap(), Event::Checkpointed(REPORT));
        drop(client);
        assert_eq!(play.init.end(), (code, String::new()));
    }
}

fn after_the_commit_the_death_of_the_worker_changes_nothing() {
    for place in [Place::Host, Place::Pid1] {
        for steps in [
            "committed die",
            "committed stop-service die",
            "committed kill-tree die",
            "committed fail",
            "committed checkpointed",
        ] {
            let play = running(place, &[], steps);
            let (subreaper, service) = play.init.tree();
            let answer = play.checkpoint().next_event().unwrap();
            assert!(
                matches!(answer, Event::Checkpointed(Report { generation: 5, ended: true, .. })),
                "{steps}: {answer:?}"
            );
            assert!(!is_alive(subreaper) && !is_alive(service));
            assert_eq!(play.init.end().0, 172, "{steps}");
        }
    }
}

fn left_running_the_service_runs_on() {
    for steps in ["committed die", "committed checkpointed"] {
        let play = running(Place::Pid1, &[], steps);
        let answer = play.ask(LEFT_RUNNING).next_event().unwrap();
        assert!(matches!(answer, Event::Checkpointed(report) if !report.ended), "{answer:?}");
        play.runs_on();
    }
}

fn a_lease_is_kept_from_worker_to_worker() {
    for (restore, ready) in [("nothing", "ready"), ("restored claimed", "restored")] {
        let mut play = start(Place::Pid1, &[], restore, "warn committed die");
        play.init.expect(ready);
        wait_for(|| (play.state() == State::Running).then_some(()));
        for held in ["held: 4 2", "held: 5 2", "held: 6 2"] {
            let mut client = play.ask(LEFT_RUNNING);
            assert_eq!(client.next_event().unwrap(), Event::Warning { message: held.to_owned() });
            assert!(matches!(client.next_event().unwrap(), Event::Checkpointed(_)));
        }
        play.init.signal(15);
        let (_, error) = play.init.end();
        assert!(error.contains("freeze: warning: held: 6 2"), "{error}");
    }
}

/// A restored service runs in any case.
fn it_is_said_where_nobody_could_be_told() {
    let untold = "before it claimed the lease";
    for (steps, said, unsaid) in [
        ("restored claimed", "", "warning"),
        ("restored warn", "warning: held: 4 2", untold),
        ("warn restored", untold, "nothing else"),
        ("restored die", "was killed by signal 9", "nothing else"),
    ] {
        let mut play = start(Place::Pid1, &[], steps, "");
        play.init.expect("restored");
        play.wait_until(Awaited::Idle);
        play.init.signal(15);
        let (code, error) = play.init.end();
        assert_eq!(code, 6, "{steps}: {error}");
        assert!(error.contains(said) && !error.contains(unsaid), "{steps}: {error}");
    }
}

fn init_waits_for_its_client_but_not_for_ever() {
    let play = running(Place::Pid1, &[], "committed kill-tree checkpointed");
    let mut client = play.checkpoint();
    client.next_event().unwrap();
    assert!(is_alive(play.init.pid));
    assert_eq!(play.init.end().0, 172);
    drop(client);
}

fn a_checkpoint_is_given_up_without_its_client() {
    let play = running(Place::Pid1, &[], "progress hang");
    let mut client = play.checkpoint();
    client.next_event().unwrap();
    drop(client);
    play.runs_on();
}

fn once_committed_it_needs_no_client() {
    let play = running(Place::Pid1, &[], "progress committed progress wait kill-tree checkpointed");
    let mut client = play.checkpoint();
    client.next_event().unwrap();
    client.next_event().unwrap();
    drop(client);
    play.go();
    assert_eq!(play.init.end().0, 172);
}

/// What comes after the request is not read, not even when the client goes.
fn a_client_has_one_request() {
    let play = running(Place::Pid1, &[], "committed kill-tree checkpointed");
    let mut socket = UnixStream::connect(play.init.runtime_dir().join("control.sock")).unwrap();
    let requests = "{\"version\":1,\"op\":\"status\"}\n{\"version\":1,\"op\":\"checkpoint\"}\n";
    socket.write_all(requests.as_bytes()).unwrap();
    drop(socket);
    play.runs_on();
}

/// A large service takes longer than a worker that is done may take to end.
fn a_restore_may_take_its_time() {
    let mut play = start(Place::Pid1, &[], "progress linger restored", "");
    play.init.expect("restored");
    play.init.signal(15);
    assert_eq!(play.init.end().0, 6);
}

fn a_restored_service_that_ends_at_once_has_its_own_status() {
    for place in [Place::Host, Place::Pid1] {
        assert_eq!(start(place, &[], "restored-briefly", "").init.end().0, 4);
    }
}

fn a_client_that_does_not_read_is_dropped() {
    let play = running(Place::Pid1, &[], "flood fail");
    let client = play.checkpoint();
    wait_for(|| (play.state() == State::Running).then_some(()));
    drop(client);
    play.runs_on();
}

fn a_service_that_ends_during_its_checkpoint_has_its_own_status() {
    let play = running(Place::Pid1, &[], "progress kill-service hang");
    let mut client = play.checkpoint();
    client.next_event().unwrap();
    let answer = client.next_event().unwrap();
    assert!(
        matches!(&answer, Event::Failed { message, .. } if message.contains("ended by itself (exit status 137)")),
        "{answer:?}"
    );
    drop(client);
    assert_eq!(play.init.end().0, 137);
}

/// A bucket takes threads, certificates and the configuration of AWS: all of it is for workers.
fn init_checks_where_the_store_is_and_opens_nothing() {
    let bucket = ["--store", "s3://bucket/app", "--s3-ca-file", "/nonexistent/ca.pem"];
    let play = running(Place::Pid1, &bucket, "fail");
    let threads = fs::read_dir(format!("/proc/{}/task", play.init.pid)).unwrap().count();
    assert_eq!(threads, 1);
    play.runs_on();
    for (options, why) in [
        (&["--store", "s3://b"][..], "is not the URL of a store"),
        (
            &["--store", "s3://bucket/app", "--s3-endpoint", "server:9000"],
            "does not have the form http://HOST:PORT or https://HOST:PORT",
        ),
    ] {
        let (code, error) = start(Place::Pid1, options, "nothing", "").init.end();
        assert!(code == 2 && error.contains(why), "{code}: {error}");
    }
}
