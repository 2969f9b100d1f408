//! A restore that is interrupted: nothing of the service has run, and the container's next start restores it.

use freeze::exit::RESTORE_FAILED;
use freeze::fail_points::Point::{self, *};

use super::Victim::{self, Container, Criu, Worker};
use super::{each, ticks};
use crate::harness::{App, Setting};

/// What is killed at each step before the service runs.
const STEPS: &[(Point, &[Victim])] = &[
    (RestoreBegun, &[Worker, Container]),
    (RestoreFound, &[Worker, Container]),
    (RestoreRemembered, &[Worker, Container]),
    (RestoreChecked, &[Worker, Container]),
    (RestoreFiles, &[Worker, Container]),
    (RestoreCriu, &[Worker, Criu, Container]),
    (RestoreHeld, &[Worker, Criu, Container]),
    (RestoreTaken, &[Worker, Criu, Container]),
    (RestoreLetGo, &[Worker, Container]),
    (RestoreRunning, &[Worker, Container]),
];

/// The service runs already, and does so without the worker.
const RUNS: [Point; 2] = [RestoreReported, RestoreClaimed];

pub fn points() -> Vec<Point> {
    STEPS.iter().map(|step| step.0).chain(RUNS).collect()
}

/// The container that restores, also when it is started again.
const IT: [&str; 2] = ["--instance", "it"];

/// An application that has ended with a generation that nobody has taken, and how far it had counted.
fn offered() -> (App, u64) {
    let app = App::new(Setting::Restricted, &["big", "4"]).with_fail_points();
    let container = app.start_with(&["--instance", "former"]);
    let counted = ticks(&container.verified());
    container.checkpoint(&[]);
    assert_eq!(container.wait(), 172, "{}", container.story());
    (app, counted)
}

#[test]
fn before_the_service_runs() {
    let cases = STEPS.iter().flat_map(|(point, victims)| victims.iter().map(|victim| (*point, *victim)));
    each(&cases.collect::<Vec<_>>(), |(point, victim)| {
        let (app, counted) = offered();
        let container = app.start_stopping_at(Some(*point), &IT);
        victim.die(&container);
        let status = container.wait();
        assert!(*victim == Container || status == i32::from(RESTORE_FAILED), "{status}\n{}", container.story());
        let next = app.start_with(&IT);
        assert!(ticks(&next.verified()) >= counted, "{}", next.story());
        next.checkpoint(&["--leave-running"]);
    });
}

#[test]
fn once_the_service_runs() {
    each(&RUNS, |point| {
        let (app, counted) = offered();
        let container = app.start_stopping_at(Some(*point), &IT);
        Worker.die(&container);
        assert!(ticks(&container.verified()) >= counted);
        container.checkpoint(&[]);
        assert_eq!(container.wait(), 172, "{}", container.story());
    });
}
