//! A checkpoint that is interrupted: before the commit the service runs on, and after it the generation counts.

use std::process::Output;

use freeze::fail_points::Point::{self, *};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Victim::{self, Criu, Worker};
use super::{each, newest, ticks};
use crate::harness::{App, Container, Setting, text};

/// What becomes of the service, where nothing is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterCommit {
    RunsOn,
    Ends,
    /// It is held for a moment, and nobody takes it.
    HandedOver,
}

/// What holds after the kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// The checkpoint failed, and the service runs on.
    Failed,
    /// The same, but head names the generation: it is withdrawn.
    Withdrawn,
    /// The service runs on, and the generation counts, whatever the client was told.
    Counts,
    /// The service has ended, and the checkpoint succeeded.
    Ended,
}

use After::{Counts, Ended, Failed, Withdrawn};
use AfterCommit::{Ends, HandedOver, RunsOn};

/// A step of one kind of checkpoint, what holds where the worker is killed there, and where CRIU is, if there is one.
type Step = (Point, AfterCommit, After, Option<After>);

const STEPS: &[Step] = &[
    (CheckpointBegun, RunsOn, Failed, None),
    (CheckpointChecked, RunsOn, Failed, None),
    (CheckpointDumping, RunsOn, Failed, Some(Failed)),
    (CheckpointHeld, RunsOn, Failed, Some(Failed)),
    (CheckpointFiles, RunsOn, Failed, Some(Failed)),
    (CheckpointReleased, RunsOn, Failed, None),
    (CheckpointPacked, RunsOn, Failed, None),
    (CheckpointManifest, RunsOn, Failed, None),
    (CheckpointCommitting, RunsOn, Failed, None),
    (CheckpointHead, RunsOn, Counts, None),
    (CheckpointCommitted, RunsOn, Counts, None),
    (CheckpointBegun, Ends, Failed, None),
    (CheckpointChecked, Ends, Failed, None),
    (CheckpointDumping, Ends, Failed, Some(Failed)),
    (CheckpointHeld, Ends, Failed, Some(Failed)),
    (CheckpointFiles, Ends, Failed, Some(Failed)),
    (CheckpointPacked, Ends, Failed, Some(Failed)),
    (CheckpointStopped, Ends, Failed, Some(Ended)),
    (CheckpointManifest, Ends, Failed, Some(Ended)),
    (CheckpointCommitting, Ends, Failed, Some(Ended)),
    (CheckpointHead, Ends, Withdrawn, Some(Ended)),
    (CheckpointCommitted, Ends, Ended, Some(Ended)),
    (CheckpointEnded, Ends, Ended, None),
    (HandoverOffered, HandedOver, Withdrawn, Some(Withdrawn)),
    (HandoverDecided, HandedOver, Withdrawn, Some(Withdrawn)),
    (HandoverSettled, HandedOver, Withdrawn, Some(Withdrawn)),
    (HandoverReleased, HandedOver, Withdrawn, None),
];

pub fn points() -> Vec<Point> {
    STEPS.iter().map(|step| step.0).chain([SettleBegun, SettleDecided]).collect()
}

fn app() -> App {
    let app = App::with_options(Setting::Restricted, &["--instance", "it"], &["/services/service", "big", "4"]);
    app.with_fail_points()
}

/// Asks for a checkpoint, and does something meanwhile.
fn checkpoint(container: &Container, after_commit: AfterCommit, meanwhile: impl FnOnce()) -> Output {
    let options: &[&str] = match after_commit {
        RunsOn => &["--leave-running"],
        Ends => &[],
        HandedOver => &["--handover=50ms"],
    };
    std::thread::scope(|scope| {
        let client = scope.spawn(|| container.try_checkpoint(options));
        meanwhile();
        client.join().unwrap()
    })
}

/// Kills at one step after the other, as long as the service lives in the same container, else in the next.
fn killed(after_commit: AfterCommit, victim: Victim) {
    let app = app();
    let mut container = app.start();
    container.verified();
    for (point, after) in STEPS.iter().filter(|step| step.1 == after_commit).filter_map(|step| match victim {
        Criu => Some((step.0, step.3?)),
        _ => Some((step.0, step.2)),
    }) {
        let before = ticks(&container.verified());
        let number = newest(&app);
        container.stop_at(point);
        let out = checkpoint(&container, after_commit, || victim.die(&container));
        let told = format!("{point:?}: {}{}\n{}", text(&out.stdout), text(&out.stderr), container.story());
        assert_eq!(newest(&app), number + u64::from(after != Failed), "{told}");
        if after == Ended {
            assert!(out.status.success(), "{told}");
            assert_eq!(container.wait(), 172, "{told}");
            container = app.start();
        } else {
            // A generation may count although its client heard of a failure.
            assert!(after == Counts || !out.status.success(), "{told}");
            assert!(!container.has_ended(), "{told}");
        }
        assert!(ticks(&container.verified()) >= before, "{told}");
        container.checkpoint(&["--leave-running"]);
    }
    assert!(app.start().verified().starts_with("ok"));
}

#[test]
fn the_service_runs_on() {
    each(&[(RunsOn, Worker), (RunsOn, Criu)], |(after_commit, victim)| killed(*after_commit, *victim));
}

#[test]
fn the_service_ends() {
    each(&[(Ends, Worker), (Ends, Criu)], |(after_commit, victim)| killed(*after_commit, *victim));
}

#[test]
fn nobody_takes_it() {
    each(&[(HandedOver, Worker), (HandedOver, Criu)], |(after_commit, victim)| killed(*after_commit, *victim));
}

/// The next container goes on from what was committed.
#[test]
fn the_container_dies() {
    each(STEPS, |(point, after_commit, after, _)| {
        let app = app();
        let container = app.start();
        container.verified();
        container.checkpoint(&["--leave-running"]);
        let before = ticks(&container.verified());
        container.stop_at(*point);
        checkpoint(&container, *after_commit, || Victim::Container.die(&container));
        container.wait();
        let counts = *after != Failed;
        assert_eq!(newest(&app), if counts { 2 } else { 1 });
        let next = app.start();
        let now = ticks(&next.verified());
        assert!(!counts || now >= before, "{now} ticks of at least {before}");
        next.checkpoint(&["--leave-running"]);
    });
}

/// The worker dies where nobody knows whether the generation counts, and then the one that finds it out.
#[test]
fn the_second_worker_dies_too() {
    let app = app();
    let container = app.start();
    for point in [SettleBegun, SettleDecided] {
        let before = ticks(&container.verified());
        container.stop_at(CheckpointHead);
        let out = checkpoint(&container, Ends, || {
            let first = Pid::from_raw(container.stopped());
            container.stop_at(point);
            kill(first, Signal::SIGKILL).unwrap();
            Worker.die(&container);
        });
        assert!(
            !out.status.success() && text(&out.stderr).contains("the service keeps running"),
            "{}",
            text(&out.stderr)
        );
        assert!(ticks(&container.verified()) >= before);
        container.checkpoint(&["--leave-running"]);
    }
}
