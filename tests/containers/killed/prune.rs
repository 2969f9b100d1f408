//! A prune that is interrupted: what it keeps can be restored, and the next prune ends what it began.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use freeze::fail_points::{self, Point};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Victim, each, output};
use crate::harness::{App, BUILT, Container, Setting, states};

const STEPS: [Point; 10] = [
    Point::PruneBegun,
    Point::PruneMarked,
    Point::PruneLifted,
    Point::PruneRemoving,
    Point::PruneRemoved,
    Point::PruneCondemned,
    Point::PruneMarkedAgain,
    Point::PruneSweeping,
    Point::PruneSwept,
    Point::PruneCleaned,
];

pub fn points() -> Vec<Point> {
    STEPS.into()
}

/// No grace, so that it removes all at once: nothing else uses the store meanwhile.
const PRUNE: [&str; 5] = ["prune", "--keep-last", "2", "--grace", "0s"];

#[test]
fn what_is_kept_restores() {
    each(&STEPS, |point| {
        let app = App::new(Setting::Restricted, &["big", "4"]).with_fail_points();
        // Two services, so that the generations that go have pages of their own.
        for interrupted in [true, false] {
            let container = app.start_with(&["--restore", "never"]);
            container.verified();
            (0..2).for_each(|_| drop(container.checkpoint(&["--leave-running"])));
            if interrupted {
                interrupted_checkpoint(&container);
            }
            container.kill("KILL");
            container.wait();
        }
        prune_killed_at(&app, *point);
        output(&app, &["verify"]);
        for generation in ["4", "5"] {
            app.start_with(&["--restore", generation]).verified();
        }
        output(&app, &PRUNE);
        output(&app, &["verify"]);
        let left = |folder: &str| fs::read_dir(app.store().join(folder)).map_or(0, Iterator::count);
        assert_eq!((left("generations"), left("condemned")), (2, 0));
        app.start().verified();
    });
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
fn prune_killed_at(app: &App, point: Point) {
    let file = app.keys().join("fail-point");
    fs::write(&file, point.name()).unwrap();
    let mut prune = Command::new(BUILT)
        .args(PRUNE)
        .arg(format!("--store=file:{}", app.store().display()))
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
