//! A container that has restored a service and does not know yet whether it may run it: CRIU holds all processes. What
//! happens if a process is killed there is in `killed/restore.rs`.

use std::fs;
use std::path::PathBuf;

use freeze::fail_points::Point;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting};

const REPLACED: i32 = 173;

/// A service that leaves a trace in its container's runtime folder as soon as it runs.
const TRACES: &str = "while :; do echo >> /runtime/traces; sleep 0.05; done";

fn traces(container: &Container) -> PathBuf {
    container.runtime().join("traces")
}

/// A part of the store is damaged, and put back, while CRIU makes the processes. The next attempt needs their PIDs, and the end of the
/// first ones is not that of the service.
fn what_was_half_made_is_in_nobodys_way(setting: Setting) {
    let app = App::new(setting, &["big", "48"]);
    let source = app.start();
    source.verified();
    source.checkpoint(&[]);
    let whole = damage_memory(&app);
    let target = app.start_with(&["--restore-failure", "retry"]);
    target.eventually("the damage was not found", || target.logs().1.contains("is damaged").then_some(()));
    whole.into_iter().for_each(|(path, data)| fs::write(path, data).unwrap());
    target.running();
    target.verified();
}

/// Damages the end of the memory in every large pack, and returns what they held.
fn damage_memory(app: &App) -> Vec<(PathBuf, Vec<u8>)> {
    let packs = fs::read_dir(app.store().join("packs")).unwrap().map(|pack| pack.unwrap().path());
    let packs = packs.map(|path| (path.clone(), fs::read(path).unwrap())).filter(|(_, data)| data.len() > 1 << 20);
    packs
        .map(|(path, whole)| {
            let mut data = whole.clone();
            let at = data.len() * 3 / 4;
            data[at..][..4096].fill(0);
            fs::write(&path, data).unwrap();
            (path, whole)
        })
        .collect()
}

/// Both have restored it when the first of them may ask.
fn of_two_one_runs(setting: Setting) {
    let app = App::with_options(setting, &[], &["sh", "-c", TRACES]).with_fail_points();
    let source = app.start();
    source.eventually("the service leaves no trace", || traces(&source).exists().then_some(()));
    source.checkpoint(&[]);
    let start = |name| app.start_stopping_at(Some(Point::RestoreHeld), &["--instance", name]);
    let both = ["this", "that"].map(start);
    let workers = both.each_ref().map(Container::stopped);
    assert!(both.iter().all(|container| !traces(container).exists()));
    workers.iter().for_each(|worker| kill(Pid::from_raw(*worker), Signal::SIGCONT).unwrap());
    let winner = both[0].eventually("nobody runs it", || both.iter().position(|one| traces(one).exists()));
    let loser = &both[1 - winner];
    assert_eq!(loser.wait(), REPLACED, "{}", loser.story());
    assert!(!traces(loser).exists(), "{}", loser.story());
    both[winner].running();
}

#[test]
fn of_two_in_restricted_one_runs() {
    of_two_one_runs(Setting::Restricted);
}

#[test]
fn of_two_in_restricted_podman_one_runs() {
    of_two_one_runs(Setting::RestrictedPodman);
}

#[test]
fn what_was_half_made_in_unconfined_is_in_nobodys_way() {
    what_was_half_made_is_in_nobodys_way(Setting::Unconfined);
}
