//! A checkpoint that is interrupted: before the commit the service runs on, and after it the generation counts.

use std::process::Output;

use freeze::fail_points::Point::{self, *};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::application::Application;
use super::table::End::{Absent, Committed, Earlier, Ended, Newer, RunsOn, Withdrawn};
use super::table::Table;
use super::table::Victim::{self, Client, Container as Box, Criu, Worker};
use super::{Share, below_tracers, criu, each, has_tracers, on_both_stores, ticks};
use crate::harness::{Container, text};

pub static TABLES: [Table; 4] = [
    Table {
        name: "A checkpoint that leaves the service running",
        victims: &[Worker, Criu, Client, Box],
        steps: &[
            (CheckpointBegun, &[RunsOn, Absent, RunsOn, Earlier]),
            (CheckpointChecked, &[RunsOn, Absent, RunsOn, Earlier]),
            (CheckpointDumping, &[RunsOn, RunsOn, RunsOn, Earlier]),
            (CheckpointHeld, &[RunsOn, RunsOn, RunsOn, Earlier]),
            (CheckpointFiles, &[RunsOn, RunsOn, RunsOn, Earlier]),
            (CheckpointCopied, &[RunsOn, RunsOn, RunsOn, Earlier]),
            (CheckpointReleased, &[RunsOn, Absent, RunsOn, Earlier]),
            (CheckpointPacked, &[RunsOn, Absent, RunsOn, Earlier]),
            (CheckpointManifest, &[RunsOn, Absent, RunsOn, Earlier]),
            (CheckpointCommitting, &[RunsOn, Absent, RunsOn, Earlier]),
            (CheckpointHead, &[Committed, Absent, Committed, Newer]),
            (CheckpointCommitted, &[Committed, Absent, Committed, Newer]),
        ],
    },
    Table {
        name: "A checkpoint that ends the service",
        victims: &[Worker, Criu, Client, Box],
        steps: &[
            (CheckpointBegun, &[RunsOn, Absent, RunsOn, Earlier]),
            (CheckpointChecked, &[RunsOn, Absent, RunsOn, Earlier]),
            (CheckpointDumping, &[RunsOn, RunsOn, RunsOn, Earlier]),
            (CheckpointHeld, &[RunsOn, RunsOn, RunsOn, Earlier]),
            (CheckpointFiles, &[RunsOn, RunsOn, RunsOn, Earlier]),
            (CheckpointPacked, &[RunsOn, RunsOn, RunsOn, Earlier]),
            (CheckpointStopped, &[RunsOn, Ended, RunsOn, Earlier]),
            (CheckpointManifest, &[RunsOn, Ended, RunsOn, Earlier]),
            (CheckpointCommitting, &[RunsOn, Ended, RunsOn, Earlier]),
            (CheckpointHead, &[Withdrawn, Ended, Withdrawn, Newer]),
            (CheckpointCommitted, &[Ended, Ended, Ended, Newer]),
            (CheckpointEnded, &[Ended, Absent, Ended, Newer]),
        ],
    },
    Table {
        name: "The second worker, if the first one dies at `CheckpointHead`",
        victims: &[Worker, Client, Box],
        steps: &[(SettleBegun, &[Withdrawn, Withdrawn, Newer]), (SettleDecided, &[Withdrawn, Withdrawn, Newer])],
    },
    Table {
        name: "A handover that no container takes",
        victims: &[Worker, Criu, Client, Box],
        steps: &[
            (HandoverOffered, &[Withdrawn, Withdrawn, Withdrawn, Newer]),
            (HandoverDecided, &[Withdrawn, Withdrawn, Withdrawn, Newer]),
            (HandoverSettled, &[Withdrawn, Withdrawn, Withdrawn, Newer]),
            (HandoverReleased, &[Withdrawn, Absent, Withdrawn, Newer]),
        ],
    },
];

const LEAVE_RUNNING: &[&str] = &["--leave-running"];
/// How `freeze checkpoint` is called, in the order of the tables.
const OPTIONS: [&[&str]; 4] = [LEAVE_RUNNING, &[], &[], &["--handover=50ms"]];

fn play(share: Share) {
    let runs = |table: usize| TABLES[table].victims.iter().map(move |victim| (table, *victim));
    let runs: Vec<_> = (0..TABLES.len()).flat_map(runs).collect();
    each(&runs, |(table, victim)| play_one(share, *table, *victim));
}

on_both_stores!(play);
below_tracers!(play);

/// Kills the victim at one step after the other: in the same container as long as the service lives there, else in the
/// next one.
fn play_one(share: Share, table: usize, victim: Victim) {
    let steps: Vec<_> = TABLES[table].of(victim).into_iter().filter(|step| (share.plays)(step.0)).collect();
    let app = Application::new(share, &["--instance", "it"]);
    let mut container = app.start(&[]);
    for (point, end) in steps {
        let earlier = ticks(&container.verified());
        container.checkpoint(LEAVE_RUNNING);
        let (before, committed) = (ticks(&container.verified()), app.generations());
        let out = checkpoint(&container, OPTIONS[table], point, || {
            // In a tracer it tells its end just before it executes the tracer.
            let here = || (criu(&container).is_some() == TABLES[table].has(point, Criu)).then_some(());
            if victim == Worker {
                container.eventually(&format!("{point:?}: whether there is a criu"), here);
            }
            victim.die(&container);
        });
        let told = format!("{point:?}: {}{}\n{}", text(&out.stdout), text(&out.stderr), container.story());
        if matches!(end, Ended | Earlier | Newer) {
            let status = container.wait();
            assert!(end != Ended || status == 172, "{status} {told}");
            container = app.start(&[]);
        }
        assert!(victim != Worker || (end == Ended) == out.status.success() || end == Committed, "{told}");
        assert!(victim != Criu || (end == Ended) == out.status.success(), "{told}");
        let now = ticks(&container.verified());
        assert!(now >= if end == Earlier { earlier } else { before }, "{now} ticks, {told}");
        let generations = app.generations();
        let new = !matches!(end, RunsOn | Earlier);
        assert!(generations.starts_with(&committed), "{committed:?} became {generations:?}, {told}");
        assert_eq!(
            generations.len(),
            committed.len() + usize::from(new),
            "{committed:?} became {generations:?}, {told}"
        );
        assert!(end != Withdrawn || is_withdrawn(&app, generations.last().unwrap()), "{told}");
        if share.below_tracers {
            let alone = victim == Criu && end != Ended;
            has_tracers(&container, if alone { 1 } else { 2 });
            if alone {
                // The next container has both again.
                container.checkpoint(&[]);
                assert_eq!(container.wait(), 172, "{}", container.story());
                container = app.start(&[]);
            }
        }
    }
}

/// Asks for a checkpoint, and kills at this point.
fn checkpoint(container: &Container, options: &[&str], point: Point, die: impl FnOnce()) -> Output {
    let second = matches!(point, SettleBegun | SettleDecided);
    container.stop_at(if second { CheckpointHead } else { point });
    std::thread::scope(|scope| {
        let client = scope.spawn(|| container.try_checkpoint(options));
        if second {
            let first = Pid::from_raw(container.stopped());
            container.stop_at(point);
            kill(first, Signal::SIGKILL).unwrap();
        }
        container.stopped();
        die();
        client.join().unwrap()
    })
}

fn is_withdrawn(app: &Application, generation: &u64) -> bool {
    let (outcome, _) = app.store().get(&format!("outcomes/{generation}"), 4096).unwrap();
    text(&outcome).contains(r#""outcome":"withdrawn""#)
}
