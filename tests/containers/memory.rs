//! Memory at the limit: a checkpoint or a restore works with what there is, or is refused with numbers. It does not
//! get the service killed, whatever its oom_score_adj.
//!
//! The limits come from freeze's own numbers, so that they are just too little and just enough.

use std::fs;

use freeze::exit;

use crate::harness::{App, Container, Setting, text};

/// MiB of the service. Most of a checkpoint's memory depends on no size.
const SERVICE: u64 = 120;

/// In MiB.
fn limit_memory(app: &mut App, limit: u64) {
    app.set_sandbox(&["--memory-limit", &limit.to_string()]);
}

/// A container at this limit in which all processes have this oom_score_adj, as a runtime gives it.
fn started(limit: u64, adjustment: u16) -> (App, Container) {
    let mut app = App::new(Setting::Restricted, &["big", &SERVICE.to_string()]);
    limit_memory(&mut app, limit);
    let container = app.start();
    container.verified();
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
    let of = |name: &str| cgroups.lines().find_map(|line| line.split_once(name)).map(|(_, path)| path.to_owned());
    let version_1 = of(":memory:").map(|path| format!("/sys/fs/cgroup/memory{path}"));
    let folder = version_1.unwrap_or_else(|| format!("/sys/fs/cgroup{}", of("0::").unwrap()));
    for pid in fs::read_to_string(format!("{folder}/cgroup.procs")).unwrap().lines() {
        fs::write(format!("/proc/{pid}/oom_score_adj"), adjustment.to_string()).unwrap();
    }
    (app, container)
}

/// The number after these words.
fn number(said: &str, words: &str) -> u64 {
    let rest = said.split_once(words).unwrap_or_else(|| panic!("no \"{words}\" in: {said}")).1;
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// What is refused, and by how many MiB the limit is to be raised.
fn refused(limit: u64, adjustment: u16) -> u64 {
    let (_app, container) = started(limit, adjustment);
    let out = container.try_checkpoint(&["--leave-running"]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(exit::PREFLIGHT.into()), "{said}{}", container.story());
    container.verified();
    number(&said, "raise the limit by ")
}

fn survives(adjustment: u16) {
    let limit = SERVICE + 10;
    let enough = limit + refused(limit, adjustment);
    // What the container itself takes differs a little.
    refused(enough - 2, adjustment);
    for limit in [enough + 2, enough + 10, enough + 30] {
        let (_app, container) = started(limit, adjustment);
        container.checkpoint(&["--leave-running"]);
        container.verified();
    }
}

#[test]
fn a_checkpoint_at_the_limit_never_ends_the_service() {
    survives(0);
}

#[test]
fn a_checkpoint_at_the_limit_never_ends_a_service_that_is_to_be_killed_first() {
    survives(900);
}

#[test]
fn a_checkpoint_at_the_limit_never_ends_a_burstable_pod() {
    survives(992);
}

#[test]
fn a_restore_needs_a_little_more_than_the_service_and_leaves_the_generation_where_it_is_refused() {
    let mut app = App::new(Setting::Restricted, &["big", &SERVICE.to_string()]);
    let first = app.start();
    first.verified();
    first.checkpoint(&[]);
    assert_eq!(first.wait(), i32::from(exit::CHECKPOINTED), "{}", first.story());
    limit_memory(&mut app, SERVICE);
    let small = app.start();
    assert_eq!(small.wait(), i32::from(exit::RESTORE_FAILED), "{}", small.story());
    let needed = number(&small.logs().1, "a restore of the service needs ");
    limit_memory(&mut app, needed + 2);
    app.start().verified();
}
