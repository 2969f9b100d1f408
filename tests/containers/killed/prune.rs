//! A prune that is interrupted: what it keeps can be restored, and the next prune ends what it began.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use freeze::fail_points::{self, Point};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::application::Application;
use super::table::End::Kept;
use super::table::{Table, Victim};
use super::{Share, each, on_both_stores};
use crate::harness::{BUILT, Container, states};

pub static TABLE: Table = Table {
    name: "A prune",
    victims: &[Victim::Prune],
    steps: &[
        (Point::PruneBegun, &[Kept]),
        (Point::PruneMarked, &[Kept]),
        (Point::PruneLifted, &[Kept]),
        (Point::PruneRemoving, &[Kept]),
        (Point::PruneRemoved, &[Kept]),
        (Point::PruneCondemned, &[Kept]),
        (Point::PruneMarkedAgain, &[Kept]),
        (Point::PruneSweeping, &[Kept]),
        (Point::PruneSwept, &[Kept]),
        (Point::PruneCleaned, &[Kept]),
    ],
};

/// No grace, so that it removes all at once: nothing else uses the store meanwhile.
const PRUNE: [&str; 5] = ["prune", "--keep-last", "2", "--grace", "0s"];

fn play(share: Share) {
    let cases: Vec<_> = TABLE.cases().into_iter().filter(|case| (share.plays)(case.0)).collect();
    each(&cases, |(point, _, _)| play_one(share, *point));
}

on_both_stores!(play);

fn play_one(share: Share, point: Point) {
    let app = Application::new(share, &[]);
    // Two services, so that the generations that go have pages of their own.
    for interrupted in [true, false] {
        let container = app.start(&["--restore", "never"]);
        container.verified();
        (0..2).for_each(|_| drop(container.checkpoint(&["--leave-running"])));
        if interrupted {
            interrupted_checkpoint(&container);
        }
        container.kill("KILL");
        container.wait();
    }
    prune_killed_at(&app, point);
    app.freeze(&["verify"]);
    for generation in ["4", "5"] {
        app.start(&["--restore", generation]).verified();
    }
    app.freeze(&PRUNE);
    app.freeze(&["verify"]);
    let left = |folder: &str| app.store().list(folder).unwrap().len();
    assert_eq!((left("generations/"), left("condemned/")), (2, 0));
    app.start(&[]).verified();
}

/// Leaves a manifest and packs behind that no generation needs.
fn interrupted_checkpoint(container: &Container) {
    container.stop_at(Point::CheckpointManifest);
    thread::scope(|scope| {
        let client = scope.spawn(|| container.try_checkpoint(&["--leave-running"]));
        Victim::Worker.die(container);
        assert!(!client.join().unwrap().status.success());
    });
}

/// Prunes the application's store from outside, up to this point.
fn prune_killed_at(app: &Application, point: Point) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fail-point");
    fs::write(&file, point.name()).unwrap();
    let mut prune = Command::new(BUILT)
        .args(PRUNE)
        .args(["--store", &app.location().url])
        .env(fail_points::VARIABLE, &file)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = prune.id() as i32;
    let stands = || states(pid).iter().all(|state| *state == 'T');
    while file.exists() || !stands() {
        assert!(prune.try_wait().unwrap().is_none(), "it never came to {point:?}");
        thread::sleep(Duration::from_millis(1));
    }
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    prune.wait().unwrap();
}
