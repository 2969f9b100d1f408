//! Workers killed at any moment of a checkpoint, and prunes at any moment: the store stays clean, the service goes on, and
//! the last generation that was reported as committed, or a later one, comes back each time.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting, needed, text};

const ROUNDS: u64 = 50;

#[test]
fn nothing_that_was_committed_is_lost() {
    let seed = RandomState::new().hash_one(0u64);
    println!("seed {seed}");
    let moment = |round: u64, what: u64, longest: Duration| {
        let hash = blake3::hash(&[seed, round, what].map(u64::to_le_bytes).concat());
        longest.mul_f64(f64::from(hash.as_bytes()[0]) / 256.0)
    };
    let app = App::new(Setting::Restricted, &["big", "48"]);
    let (checkpoint, prune) = spans(&app);
    let mut committed = newest(&app);
    let mut interrupted = 0;
    for round in 0..ROUNDS {
        let container = app.start();
        container.verified();
        let out = checkpoint_killed_after(&container, moment(round, 0, checkpoint));
        container.running();
        container.verified();
        if out.status.success() {
            committed += 1;
        } else {
            interrupted += 1;
        }
        prune_killed_after(&app, moment(round, 1, prune));
        let verify = freeze(&app, &["verify"]).output().unwrap();
        assert!(verify.status.success(), "round {round}: {}{}", text(&verify.stdout), text(&verify.stderr));
        // The window between head and init's hearing of it: committed, though the client was told otherwise.
        assert!(newest(&app) >= committed, "round {round}: generation {} of {committed}", newest(&app));
        committed = newest(&app);
        container.kill("KILL");
        container.wait();
    }
    app.start().verified();
    assert!(interrupted >= ROUNDS / 5, "only {interrupted} of {ROUNDS} kills came in time to interrupt anything");
}

/// How long a checkpoint and a prune take when nobody kills them; leaves a few generations behind.
fn spans(app: &App) -> (Duration, Duration) {
    let container = app.start();
    container.verified();
    container.checkpoint(&["--leave-running"]);
    let begun = Instant::now();
    container.checkpoint(&["--leave-running"]);
    let checkpoint = begun.elapsed();
    container.checkpoint(&["--leave-running"]);
    let begun = Instant::now();
    let out = freeze(app, PRUNE).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    container.kill("KILL");
    container.wait();
    (checkpoint, begun.elapsed())
}

fn checkpoint_killed_after(container: &Container, moment: Duration) -> Output {
    std::thread::scope(|scope| {
        let checkpoint = scope.spawn(|| container.try_checkpoint(&["--leave-running"]));
        let mut worker = None;
        while worker.is_none() && !checkpoint.is_finished() {
            worker = container.find(&["/proc/self/exe", "worker"]);
        }
        std::thread::sleep(moment);
        if let Some(worker) = worker {
            let _ = kill(Pid::from_raw(worker), Signal::SIGKILL);
        }
        checkpoint.join().unwrap()
    })
}

/// No grace, so that every prune deletes: nothing else uses the store meanwhile.
const PRUNE: &[&str] = &["prune", "--keep-last", "2", "--grace", "0s"];

fn prune_killed_after(app: &App, moment: Duration) {
    let mut prune = freeze(app, PRUNE).spawn().unwrap();
    std::thread::sleep(moment);
    let _ = prune.kill();
    prune.wait().unwrap();
}

/// `freeze` on the application's store, from outside.
fn freeze(app: &App, arguments: &[&str]) -> Command {
    let mut command = Command::new(format!("{}/freeze", needed("FREEZE_TEST_OPT")));
    command.args(arguments).arg("--store").arg(format!("file:{}", app.store().display()));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command
}

fn newest(app: &App) -> u64 {
    let out = freeze(app, &["list", "--json"]).output().unwrap();
    let rows = text(&out.stdout);
    let newest = rows.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    newest.filter(|row| row["newest"] == true).filter_map(|row| row["generation"].as_u64()).next().unwrap_or(0)
}
