//! Whatever takes part is killed at every step of a checkpoint, a handover, a restore and a prune: at each point of
//! [`freeze::fail_points`]. What then holds is in docs/explanation/architecture.md.

mod checkpoint;
mod handover;
mod prune;
mod restore;

use std::fmt::Debug;
use std::thread;

use clap::ValueEnum;
use freeze::fail_points::Point;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{App, Container, states, text};

/// How many cases are played at once: most of their time is waiting.
const LANES: usize = 5;

/// What is killed while a worker stands at its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Worker,
    Criu,
    Container,
}

impl Victim {
    /// Kills it once the container's worker has stopped, and lets the others go on.
    fn die(self, container: &Container) {
        let worker = container.stopped();
        let send = |pid, signal| kill(Pid::from_raw(pid), signal).unwrap();
        match self {
            Self::Worker => send(worker, Signal::SIGKILL),
            Self::Container => container.kill("KILL"),
            Self::Criu => {
                let criu = container.find(&["/opt/freeze/criu"]).expect("there is a criu");
                send(criu, Signal::SIGKILL);
                // Its parent, which has stopped, cannot reap it.
                container.eventually("CRIU does not end", || (states(criu) == ['Z']).then_some(()));
                send(worker, Signal::SIGCONT);
            }
        }
    }
}

/// Plays all cases, each in a thread that has its name.
fn each<T: Debug + Sync>(cases: &[T], play: impl Fn(&T) + Sync) {
    let play = &play;
    thread::scope(|scope| {
        let lane = |lane: usize| {
            for case in cases.iter().skip(lane).step_by(LANES) {
                let thread = thread::Builder::new().name(format!("{case:?}"));
                thread::scope(|scope| drop(thread.spawn_scoped(scope, || play(case)).unwrap()));
            }
        };
        (0..LANES).for_each(|number| drop(scope.spawn(move || lane(number))));
    });
}

/// The newest generation, 0 for none, of a store in which all must be well.
fn newest(app: &App) -> u64 {
    let rows = output(app, &["list", "--json"]);
    if !rows.is_empty() {
        output(app, &["verify"]);
    }
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.filter(|row| row["newest"] == true).find_map(|row| row["generation"].as_u64()).unwrap_or(0)
}

/// What the command prints; it must succeed.
fn output(app: &App, args: &[&str]) -> String {
    let out = app.freeze(args);
    assert!(out.status.success(), "{args:?}: {}{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

/// How far a service has counted, by its answer.
fn ticks(answer: &str) -> u64 {
    let ticks =
        answer.strip_prefix("ok ").and_then(|words| words.split(' ').find_map(|word| word.strip_prefix("ticks=")));
    ticks.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

/// A point that no case stops at would be a step at which nothing is killed.
#[test]
fn every_point_has_its_case() {
    let cases: Vec<Point> = [checkpoint::points(), handover::points(), restore::points(), prune::points()].concat();
    for point in Point::value_variants() {
        assert!(cases.contains(point), "nothing is killed at {point:?}");
    }
}
