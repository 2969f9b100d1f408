//! Memory at the limit: a checkpoint or a restore works with what there is, or is refused with numbers. It does not
//! get the service killed, whatever its oom_score_adj.
//!
//! The limits come from freeze's own numbers, so that they are just too little and just enough.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use freeze::exit;
use freeze::fail_points::Point;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting, text};
use crate::s3::Remote;

/// MiB of the service. Most of a checkpoint's memory depends on no size.
const SERVICE: u64 = 120;
/// oom_score_adj in a Burstable pod of Kubernetes.
const BURSTABLE: u16 = 992;

/// In MiB.
fn limit_memory(app: &mut App, limit: u64) {
    app.set_sandbox(&["--memory-limit", &limit.to_string()]);
}

/// The folder of its memory cgroup, of v1 or v2.
fn cgroup(container: &Container) -> PathBuf {
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
    let of = |name: &str| cgroups.lines().find_map(|line| line.split_once(name)).map(|(_, path)| path.to_owned());
    let version_1 = of(":memory:").map(|path| format!("/sys/fs/cgroup/memory{path}"));
    version_1.unwrap_or_else(|| format!("/sys/fs/cgroup{}", of("0::").unwrap())).into()
}

/// Gives all its processes this oom_score_adj, as a runtime does.
fn adjust(container: &Container, adjustment: u16) {
    for pid in fs::read_to_string(cgroup(container).join("cgroup.procs")).unwrap().lines() {
        fs::write(format!("/proc/{pid}/oom_score_adj"), adjustment.to_string()).unwrap();
    }
}

/// A container of a service at this limit.
fn started(service: &[&str], limit: u64, adjustment: u16) -> (App, Container) {
    launched(App::new(Setting::Restricted, service).with_fail_points(), limit, adjustment)
}

fn launched(mut app: App, limit: u64, adjustment: u16) -> (App, Container) {
    limit_memory(&mut app, limit);
    let container = app.start();
    container.verified();
    adjust(&container, adjustment);
    (app, container)
}

fn big(limit: u64, adjustment: u16) -> (App, Container) {
    launched(with_big_service().with_fail_points(), limit, adjustment)
}

/// The number after these words.
fn number(said: &str, words: &str) -> u64 {
    let rest = said.split_once(words).unwrap_or_else(|| panic!("no \"{words}\" in: {said}")).1;
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// By how many MiB the limit is to be raised, as the refusal says.
fn refused(container: &Container) -> u64 {
    let out = container.try_checkpoint(&["--leave-running"]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(exit::PREFLIGHT.into()), "{said}{}", container.story());
    container.verified();
    number(&said, "raise the limit by ")
}

/// At limits from too little to enough. `limit` is too little.
fn survives<A>(start: impl Fn(u64) -> (A, Container), limit: u64) {
    let enough = limit + refused(&start(limit).1);
    // What the container itself takes differs a little.
    refused(&start(enough - 2).1);
    for limit in [enough + 2, enough + 10, enough + 30] {
        let (_app, container) = start(limit);
        container.checkpoint(&["--leave-running"]);
        container.verified();
    }
}

/// Takes memory of the cgroup, as files of a tmpfs do, until less than `left` MiB are free.
fn fill(cgroup: &Path, files: &Path, left: u64) {
    let number = |name: &str| fs::read_to_string(cgroup.join(name)).ok()?.trim().parse::<u64>().ok();
    let first = |names: [&str; 2]| names.into_iter().find_map(number).unwrap();
    let free = || {
        let stat = fs::read_to_string(cgroup.join("memory.stat")).unwrap();
        let limit = first(["memory.max", "memory.limit_in_bytes"]);
        (limit + cache(&stat)).saturating_sub(first(["memory.current", "memory.usage_in_bytes"]))
    };
    for number in 0.. {
        if free() < left << 20 {
            return;
        }
        let script = format!(
            "echo $$ >{}/cgroup.procs; exec head -c 1M /dev/zero >{}/{number}",
            cgroup.display(),
            files.display()
        );
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    }
}

/// Cached files, which the kernel drops.
fn cache(stat: &str) -> u64 {
    let line = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok());
    let of = |prefix: &str| Some(line(&format!("{prefix}inactive_file "))? + line(&format!("{prefix}active_file "))?);
    of("total_").or_else(|| of("")).unwrap_or(0)
}

#[test]
fn a_checkpoint_at_the_limit_never_ends_the_service() {
    survives(|limit| big(limit, 0), SERVICE + 10);
}

#[test]
fn a_checkpoint_at_the_limit_never_ends_a_service_that_is_to_be_killed_first() {
    survives(|limit| big(limit, 900), SERVICE + 10);
}

#[test]
fn a_checkpoint_at_the_limit_never_ends_a_burstable_pod() {
    survives(|limit| big(limit, BURSTABLE), SERVICE + 10);
}

#[test]
fn a_checkpoint_at_the_limit_never_ends_many_processes_or_threads() {
    survives(|limit| started(&["prefork", "128"], limit, BURSTABLE), 40);
    survives(|limit| started(&["threads", "256"], limit, BURSTABLE), 40);
}

#[test]
fn a_checkpoint_to_a_bucket_at_the_limit_never_ends_the_service() {
    let start = |limit| {
        let remote = Remote::new(&[]).with_memory(limit);
        let container = remote.started();
        adjust(&container, BURSTABLE);
        (remote, container)
    };
    survives(start, 34);
}

/// Somebody else takes the memory while CRIU holds the service, and while the worker stores what was dumped.
fn is_given_up(app: impl Fn() -> App) {
    for point in [Point::CheckpointChecked, Point::CheckpointHeld, Point::CheckpointReleased] {
        let (app, container) = launched(app(), SERVICE + 80, BURSTABLE);
        let tracers = container.tracers();
        let files = tempfile::tempdir_in("/dev/shm").unwrap();
        container.stop_at(point);
        let out = std::thread::scope(|scope| {
            let client = scope.spawn(|| container.try_checkpoint(&["--leave-running"]));
            let worker = container.stopped();
            fill(&cgroup(&container), files.path(), 3);
            kill(Pid::from_raw(worker), Signal::SIGCONT).unwrap();
            client.join().unwrap()
        });
        let said = text(&out.stderr);
        assert!(!out.status.success() && said.contains("nearly used up"), "{point:?}: {said}{}", container.story());
        container.verified();
        assert!(!app.store().join("head").exists(), "{point:?}");
        files.close().unwrap();
        container.checkpoint(&["--leave-running"]);
        assert_eq!(container.tracers(), tracers, "{point:?}: {}", container.story());
    }
}

fn with_big_service() -> App {
    App::new(Setting::Restricted, &["big", &SERVICE.to_string()])
}

#[test]
fn a_checkpoint_is_given_up_once_the_memory_is_nearly_gone() {
    is_given_up(|| with_big_service().with_fail_points());
}

#[test]
fn a_checkpoint_that_is_given_up_costs_no_tracer() {
    is_given_up(|| with_big_service().under_yama(1));
}

/// Somebody takes the memory after it was compared.
#[test]
fn a_restore_that_the_kernel_kills_says_why() {
    let (app, first) = big(SERVICE + 80, 0);
    first.checkpoint(&[]);
    assert_eq!(first.wait(), i32::from(exit::CHECKPOINTED), "{}", first.story());
    let target = app.start_stopping_at(Some(Point::RestoreChecked), &[]);
    let worker = target.stopped();
    let files = tempfile::tempdir_in("/dev/shm").unwrap();
    fill(&cgroup(&target), files.path(), 60);
    kill(Pid::from_raw(worker), Signal::SIGCONT).unwrap();
    assert_eq!(target.wait(), i32::from(exit::RESTORE_FAILED), "{}", target.story());
    let said = target.logs().1;
    assert!(said.contains("the kernel killed a process of the service, or CRIU, for lack of memory"), "{said}");
    drop(files);
    app.start().verified();
}

/// It leaves the generation where it is refused.
#[test]
fn a_restore_needs_a_little_more_than_the_service() {
    for (service, too_little) in [(["big", "120"], 120), (["prefork", "128"], 20), (["threads", "256"], 20)] {
        comes_back(&service, too_little);
    }
}

fn comes_back(service: &[&str], too_little: u64) {
    let mut app = App::new(Setting::Restricted, service);
    let first = app.start();
    first.verified();
    first.checkpoint(&[]);
    assert_eq!(first.wait(), i32::from(exit::CHECKPOINTED), "{}", first.story());
    limit_memory(&mut app, too_little);
    let small = app.start();
    assert_eq!(small.wait(), i32::from(exit::RESTORE_FAILED), "{}", small.story());
    let needed = number(&small.logs().1, "a restore of the service needs ");
    limit_memory(&mut app, needed + 2);
    app.start().verified();
}
