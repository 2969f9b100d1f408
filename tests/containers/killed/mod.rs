//! Whatever takes part is killed at every step of a checkpoint, a handover, a restore and a prune, in a folder and in a
//! bucket, with CRIU beside the service and above it: at each point of [`freeze::fail_points`]. What then holds is in docs/reference/steps.md.
//!
//! Each file has the [tables](table::Table) of its steps, and plays every cell: no service is lost, none runs twice, and
//! what was committed stays.

mod application;
mod checkpoint;
mod handover;
mod prune;
mod restore;
mod table;

use std::fmt::Debug;
use std::thread;

use clap::ValueEnum;
use freeze::fail_points::Point::{self, *};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::application::Place;
use self::table::{Table, Victim};
use crate::harness::{Container, states};

/// How many cases are played at once: most of their time is waiting.
const LANES: usize = 5;

/// Beside the puts that decide who has the service. `make test` plays these in a bucket as well; all others
/// follow by hand.
const DECIDING: [Point; 12] = [
    CheckpointManifest,
    CheckpointCommitting,
    CheckpointHead,
    SettleDecided,
    HandoverOffered,
    HandoverDecided,
    RestoreRemembered,
    RestoreHeld,
    RestoreTaken,
    PruneRemoving,
    PruneCondemned,
    PruneSweeping,
];

/// While CRIU holds the service.
const HOLDING: [Point; 4] = [CheckpointDumping, CheckpointHeld, RestoreCriu, RestoreHeld];

/// Which of the cases a test plays.
#[derive(Debug, Clone, Copy)]
struct Share {
    place: Place,
    /// CRIU runs above the service, and not beside it.
    below_tracers: bool,
    plays: fn(Point) -> bool,
}

const FOLDER: Share = Share { place: Place::Folder, below_tracers: false, plays: |_| true };
const BELOW_TRACERS: Share = Share { below_tracers: true, ..FOLDER };
/// What is played in machines whose kernels have Yama.
const IN_A_MACHINE: Share = Share { plays: |point| HOLDING.contains(&point), ..BELOW_TRACERS };
const BUCKET: Share = Share { place: Place::Bucket, plays: |point| DECIDING.contains(&point), ..FOLDER };
const BUCKET_BY_HAND: Share = Share { plays: |point| !DECIDING.contains(&point), ..BUCKET };

/// Makes a test of each share of a function that takes it.
macro_rules! on_both_stores {
    ($function:ident) => {
        #[test]
        fn folder() {
            $function(crate::killed::FOLDER);
        }

        #[test]
        fn bucket() {
            $function(crate::killed::BUCKET);
        }

        #[test]
        #[ignore = "by hand: it takes minutes"]
        fn bucket_elsewhere() {
            $function(crate::killed::BUCKET_BY_HAND);
        }
    };
}
use on_both_stores;

/// The same below tracers.
macro_rules! below_tracers {
    ($function:ident) => {
        #[test]
        fn below_tracers() {
            $function(crate::killed::BELOW_TRACERS);
        }

        #[test]
        #[ignore = "by hand: integration/machines/cases"]
        fn in_a_machine() {
            $function(crate::killed::IN_A_MACHINE);
        }
    };
}
use below_tracers;

impl Victim {
    /// Kills it once the container's worker has stopped, and lets the others go on.
    fn die(self, container: &Container) {
        let worker = container.stopped();
        let send = |pid, signal| kill(Pid::from_raw(pid), signal).unwrap();
        let gone = |pid| {
            let gone = || states(pid).iter().all(|state| *state == 'Z').then_some(());
            container.eventually("it does not end", gone);
        };
        match self {
            Self::Worker => send(worker, Signal::SIGKILL),
            Self::Container => container.kill("KILL"),
            Self::Criu => {
                let criu = criu(container).expect("there is a criu");
                send(criu, Signal::SIGKILL);
                // Its parent, which has stopped, cannot reap it; init reaps a tracer.
                gone(criu);
                send(worker, Signal::SIGCONT);
            }
            Self::Client => {
                let client = container.find(&["/opt/freeze/freeze", "checkpoint"]).expect("there is a client");
                send(client, Signal::SIGKILL);
                gone(client);
                // Init answers in turn, so it knows now that the client is gone. It may have killed the worker.
                (0..2).for_each(|_| drop(container.status()));
                let _ = kill(Pid::from_raw(worker), Signal::SIGCONT);
            }
            Self::Prune => unreachable!("it runs outside of containers"),
        }
    }
}

/// Waits until so many tracers are left above the service.
fn has_tracers(container: &Container, number: u64) {
    container.eventually("another number of tracers is left", || (container.tracers()? == number).then_some(()));
}

fn criu(container: &Container) -> Option<i32> {
    container.find(&["/opt/freeze/criu"])
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

/// How far a service has counted, by its answer.
fn ticks(answer: &str) -> u64 {
    let ticks =
        answer.strip_prefix("ok ").and_then(|words| words.split(' ').find_map(|word| word.strip_prefix("ticks=")));
    ticks.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

fn tables() -> impl Iterator<Item = &'static Table> {
    checkpoint::TABLES.iter().chain(&handover::TABLES).chain([&restore::TABLE, &prune::TABLE])
}

/// A point in no table would be a step at which nothing is killed.
#[test]
fn every_point_has_its_case() {
    let points: Vec<Point> = tables().flat_map(|table| table.steps.iter().map(|step| step.0)).collect();
    for point in Point::value_variants() {
        assert!(points.contains(point), "nothing is killed at {point:?}");
    }
}

/// With `--nocapture` it prints them.
#[test]
fn the_page_has_these_tables() {
    let printed: Vec<String> = tables().map(Table::markdown).collect();
    let printed = printed.join("\n");
    println!("{printed}");
    let page = include_str!("../../../docs/reference/steps.md");
    assert!(page.contains(&printed), "docs/reference/steps.md has other tables than these:\n{printed}");
}
