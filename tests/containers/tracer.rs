//! Under `kernel.yama.ptrace_scope` 1 CRIU runs in a tracer, an ancestor of the service. The tests claim the scope, so
//! that they show the way on any kernel; one with Yama refuses every other (integration/machines). What is killed at
//! each step is in `killed`.

use std::fs;

use freeze::fail_points::Point::CheckpointHeld;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting, WORKER, states, text};

fn app(setting: Setting, service: &[&str]) -> App {
    App::new(setting, service).under_yama(1)
}

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// A field of /proc/PID/status.
fn field(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("no {name}: {status}")).trim().to_owned()
}

fn parent(pid: i32) -> i32 {
    field(pid, "PPid").parse().unwrap()
}

/// The tracers above the subreaper, the outermost first, as seen from outside, once a restore's worker has ended.
fn tracers(container: &Container) -> Vec<i32> {
    let no_worker = || container.find(&WORKER).is_none().then_some(());
    container.eventually("the worker does not end", no_worker);
    let subreaper = container.find(&["freeze-subreaper"]).expect("there is a subreaper");
    let mut above: Vec<i32> = std::iter::successors(Some(parent(subreaper)), |pid| Some(parent(*pid)))
        .take_while(|pid| *pid != container.pid())
        .collect();
    above.reverse();
    above
}

fn gone(container: &Container, pid: i32) {
    container.eventually("it does not end", || states(pid).is_empty().then_some(()));
}

fn has_left(container: &Container, number: u64) {
    container.eventually("another number of tracers is left", || (container.tracers()? == number).then_some(()));
}

/// Moves a service twice.
fn moves(setting: Setting) {
    let app = app(setting, &["prefork", "4"]);
    for _ in 0..3 {
        let container = app.start();
        container.verified();
        assert_eq!((container.tracers(), tracers(&container).len()), (Some(2), 2), "{}", container.story());
        container.checkpoint(&["--leave-running"]);
        container.verified();
        assert_eq!(container.tracers(), Some(2), "{}", container.story());
        container.checkpoint(&[]);
        assert_eq!(container.wait(), 172, "{}", container.story());
    }
}

mod moves {
    use super::Setting;

    #[test]
    fn restricted() {
        super::moves(Setting::Restricted);
    }

    #[test]
    fn restricted_podman() {
        super::moves(Setting::RestrictedPodman);
    }

    #[test]
    fn caps() {
        super::moves(Setting::Caps);
    }
}

#[test]
fn criu_runs_in_the_outermost_and_is_above_all_that_it_attaches_to() {
    let app = app(Setting::Restricted, &["one"]);
    let container = app.start();
    container.verified();
    let before = tracers(&container);
    container.stop_at(CheckpointHeld);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| container.checkpoint(&["--leave-running"]));
        let worker = container.stopped();
        assert_eq!(container.find(&["/opt/freeze/criu"]), Some(before[0]));
        let subreaper = container.find(&["freeze-subreaper"]).unwrap();
        assert_eq!(field(subreaper, "TracerPid"), before[0].to_string());
        send(worker, Signal::SIGCONT);
        client.join().unwrap();
    });
    assert_eq!(tracers(&container), before);
}

#[test]
fn tracers_at_rest_are_small_and_do_not_wake_up() {
    let app = app(Setting::Restricted, &["one"]);
    let container = app.start();
    container.verified();
    container.checkpoint(&["--leave-running"]);
    let all = tracers(&container);
    let named = || all.iter().all(|pid| field(*pid, "Name") == "freeze-tracer");
    container.eventually("the tracers are not at rest", || named().then_some(()));
    let wakes = || all.iter().map(|pid| field(*pid, "voluntary_ctxt_switches")).collect::<Vec<_>>();
    let before = wakes();
    container.verified();
    container.checkpoint(&["--leave-running"]);
    for pid in &all {
        let kib: u32 = field(*pid, "VmRSS").trim_end_matches(" kB").parse().unwrap();
        assert!(kib <= 64, "{kib} KiB");
        assert_eq!(fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(), 4);
        assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    }
    // The inner one takes no part in a checkpoint.
    assert_eq!(wakes()[1], before[1]);
    let score = |pid: i32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    container.eventually("a tracer is preferred by the OOM killer", || {
        all.iter().all(|pid| score(*pid) == score(container.pid())).then_some(())
    });
}

/// Tracers that are killed at rest, and a checkpoint that fails while none is lost.
#[test]
fn without_tracers_the_service_runs_on_and_a_checkpoint_is_refused_by_name() {
    let app = app(Setting::Restricted, &["one"]);
    let container = app.start();
    container.verified();
    let all = tracers(&container);
    send(all[0], Signal::SIGKILL);
    has_left(&container, 1);
    container.checkpoint(&["--leave-running"]);
    assert_eq!(tracers(&container), all[1..]);
    send(all[1], Signal::SIGKILL);
    has_left(&container, 0);
    let out = container.try_checkpoint(&["--leave-running"]);
    assert!(text(&out.stderr).contains("has no tracer left"), "{}", text(&out.stderr));
    container.verified();
    let said = container.logs().1;
    assert!(said.contains("the last tracer above the service was killed"), "{said}");
    let service = container.find(&["/services/service"]).unwrap();
    send(service, Signal::SIGKILL);
    assert_eq!(container.wait(), 137);
}

/// The service has their user, and may send all of its processes a signal, as by `kill -STOP -1`.
#[test]
fn signals_but_sigkill_cost_no_tracer_and_no_checkpoint() {
    let app = app(Setting::Restricted, &["one"]);
    let container = app.start();
    container.verified();
    let all = tracers(&container);
    for signal in [Signal::SIGTERM, Signal::SIGURG, Signal::SIGSEGV, Signal::SIGSTOP] {
        all.iter().for_each(|pid| send(*pid, signal));
    }
    container.checkpoint(&["--leave-running"]);
    container.verified();
    assert_eq!((tracers(&container), container.tracers()), (all.clone(), Some(2)));
    all.iter().for_each(|pid| send(*pid, Signal::SIGSTOP));
    container.checkpoint(&[]);
    assert_eq!(container.wait(), 172, "{}", container.story());
}

/// Then nothing is between the outer one and the service.
#[test]
fn the_inner_tracer_takes_the_outer_one_along() {
    let app = app(Setting::Restricted, &["one"]);
    let container = app.start();
    container.verified();
    let all = tracers(&container);
    send(all[1], Signal::SIGKILL);
    gone(&container, all[0]);
    has_left(&container, 0);
    container.verified();
}

#[test]
fn the_inner_tracer_dies_while_criu_runs_in_the_outer_one() {
    let app = app(Setting::Restricted, &["one"]);
    let container = app.start();
    container.verified();
    let all = tracers(&container);
    container.stop_at(CheckpointHeld);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| container.try_checkpoint(&["--leave-running"]));
        let worker = container.stopped();
        send(all[1], Signal::SIGKILL);
        send(worker, Signal::SIGCONT);
        client.join().unwrap();
    });
    has_left(&container, 0);
    container.verified();
}

/// A dump that CRIU gives up costs no tracer.
#[test]
fn a_dump_that_fails_leaves_both_tracers() {
    let app = app(Setting::Restricted, &["big", "4"]);
    let container = app.start();
    container.verified();
    let before = tracers(&container);
    for _ in 0..3 {
        container.stop_at(CheckpointHeld);
        std::thread::scope(|scope| {
            let client = scope.spawn(|| container.try_checkpoint(&[]));
            send(container.stopped(), Signal::SIGKILL);
            assert!(!client.join().unwrap().status.success());
        });
        container.verified();
    }
    assert_eq!((tracers(&container), container.tracers()), (before, Some(2)));
    container.checkpoint(&["--leave-running"]);
}

#[test]
fn an_exit_status_passes_through_them() {
    for (script, status) in [("exit 7", 7), ("kill -9 $$", 137), ("(sleep 0.1; exit 3) & exit 0", 0)] {
        let app = App::with_options(Setting::Restricted, &[], &["sh", "-c", script]).under_yama(1);
        assert_eq!(app.start().wait(), status, "{script}");
    }
}

#[test]
fn the_subreaper_is_killed_and_the_service_runs_on() {
    let app = app(Setting::Restricted, &["one"]);
    let container = app.start();
    container.verified();
    let all = tracers(&container);
    send(container.find(&["freeze-subreaper"]).unwrap(), Signal::SIGKILL);
    all.iter().for_each(|pid| gone(&container, *pid));
    assert!(container.ask("verify").contains("pid ppid"), "it has another parent now");
    container.kill("TERM");
    assert!(container.wait() < 160);
}

#[test]
fn scopes_2_and_3_are_refused_by_name() {
    for scope in [2, 3] {
        let app = App::new(Setting::Restricted, &["one"]).under_yama(scope);
        let container = app.start();
        container.verified();
        assert_eq!(container.tracers(), None);
        let out = container.try_checkpoint(&[]);
        let said = format!("ptrace of non-children is missing (kernel.yama.ptrace_scope is {scope})");
        assert!(text(&out.stderr).contains(&said), "{}", text(&out.stderr));
        container.verified();
    }
}

#[test]
fn the_doctor_knows_that_they_are_enough() {
    let app = app(Setting::Restricted, &["one"]);
    let container = app.start();
    container.verified();
    let doctor = |options: &[&str]| {
        let out = container.exec(&[&["/opt/freeze/freeze", "doctor", "--runtime-dir", "/runtime"], options].concat());
        text(&out.stdout)
    };
    for (options, wanted) in [
        (&[][..], "ptrace of non-children       no "),
        (&[], "\nServices can be checkpointed and restored here.\n"),
        (&["--service"], "this service can be checkpointed\n"),
    ] {
        let said = doctor(options);
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}
