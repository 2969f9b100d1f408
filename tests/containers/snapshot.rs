//! Copies of a service that is left running: its memory is read from them after it runs on, and nothing in the service, or of
//! it, shows that they were there. The service is `tests/services/writers.c`, which writes all of its memory all the time.

use std::fs;

use freeze::fail_points::Point::CheckpointCopied;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting, in_all_settings, text};
use crate::isolate::checkpoint;

in_all_settings! {
    memory_is_of_the_frozen_moment;
}

/// In two of its processes, that is; two more have another share of it.
const MIB: &str = "8";
/// A child that has just been forked may be another one.
const PROCESSES: usize = 3;

fn writers(setting: Setting) -> App {
    App::new(setting, &["writers", MIB]).with_fail_points()
}

/// A container's end, and another one that goes on from the last generation.
fn replaced(app: &App, container: &Container) -> Container {
    container.kill("KILL");
    container.wait();
    let next = app.start();
    next.verified();
    next
}

fn goes_on_from_each(app: &App, mut container: Container) {
    for _ in 0..2 {
        container.verified();
        container.checkpoint(&["--leave-running"]);
        let of_copies = |warning: &String| warning.contains("stood still");
        assert!(!container.warnings().iter().any(of_copies), "{}", container.story());
        container.verified();
        container = replaced(app, &container);
    }
    checkpoint(&container);
    app.start().verified();
}

/// Each page that is read too late, or not at all, ends a writer that goes on from it.
fn memory_is_of_the_frozen_moment(setting: Setting) {
    let app = writers(setting);
    goes_on_from_each(&app, app.start());
}

#[test]
fn memory_is_of_the_frozen_moment_below_tracers() {
    let app = writers(Setting::Restricted).under_yama(1);
    goes_on_from_each(&app, app.start());
}

/// What a process's folder in /proc tells.
fn number(pid: i32, key: &str) -> i64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(-1)
}

/// All of the container's processes that are the service.
fn service(container: &Container) -> Vec<i32> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let ours = namespace(container.pid());
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_service = |pid: &i32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        namespace(*pid) == ours && line.starts_with("/services/service\0")
    };
    pids.filter(is_service).collect()
}

/// Those that somebody traces while the service runs.
fn copies(container: &Container) -> Vec<i32> {
    service(container).into_iter().filter(|pid| number(*pid, "TracerPid") > 0).collect()
}

/// The service's first process, whose children come and go.
fn first(container: &Container) -> i32 {
    container.find(&["/services/service", "writers"]).unwrap()
}

/// What a checkpoint must leave as it is: mappings, signals, threads, descriptors, and who is stopped or traced.
fn state(pid: i32) -> String {
    let path = |name: &str| format!("/proc/{pid}/{name}");
    let status = fs::read_to_string(path("status")).unwrap();
    let stays = |line: &&str| {
        ["Tgid", "PPid", "TracerPid", "FDSize", "Threads", "SigBlk", "SigIgn", "SigCgt", "NStgid", "NSpgid", "NSsid"]
            .iter()
            .any(|key| line.starts_with(key))
    };
    let names = |name: &str| {
        let mut names: Vec<_> = fs::read_dir(path(name)).unwrap().flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        format!("{names:?}")
    };
    let vdso = || {
        let maps = fs::read_to_string(path("maps")).unwrap();
        let (start, end) = maps.lines().find(|line| line.ends_with("[vdso]")).unwrap().split_once('-').unwrap();
        let at = |hex: &str| u64::from_str_radix(hex.split(' ').next().unwrap(), 16).unwrap();
        let mut code = vec![0; (at(end) - at(start)) as usize];
        let memory = fs::File::open(path("mem")).unwrap();
        std::os::unix::fs::FileExt::read_exact_at(&memory, &mut code, at(start)).unwrap();
        format!("{code:?}")
    };
    [status.lines().filter(stays).collect::<Vec<_>>().join("\n"), names("task"), names("fd"), vdso()].join("\n")
}

/// The workers of the service: they have a steady state.
fn workers(container: &Container) -> Vec<i32> {
    let first = first(container);
    let of_first = |pid: &i32| number(*pid, "PPid") == i64::from(first) && number(*pid, "NSpid") > 0;
    let mut workers: Vec<i32> = service(container).into_iter().filter(of_first).collect();
    workers.sort_unstable();
    workers.truncate(2);
    workers
}

fn states(workers: &[i32]) -> Vec<String> {
    workers.iter().map(|pid| state(*pid)).collect()
}

/// A container whose next checkpoint stops when there are copies, its workers, and how they are.
fn about_to_be_copied(app: &App) -> (Container, Vec<i32>, Vec<String>) {
    let container = app.start();
    container.verified();
    let workers = workers(&container);
    let before = states(&workers);
    container.stop_at(CheckpointCopied);
    (container, workers, before)
}

#[test]
fn a_copy_has_nothing_that_shows() {
    let app = writers(Setting::Restricted);
    let (container, workers, before) = about_to_be_copied(&app);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| container.try_checkpoint(&["--leave-running"]));
        let worker = container.stopped();
        assert!(container.ask("verify").starts_with("ok"), "{}", container.story());
        // Nor has CRIU, but for the container's output, which is its own.
        let criu = container.find(&["/opt/freeze/criu"]).unwrap();
        let own = files(criu);
        assert!(
            !files(first(&container)).iter().any(|file| file.starts_with("socket:") && own.contains(file)),
            "{own:?}"
        );
        let copies = copies(&container);
        assert!(copies.len() >= PROCESSES, "{copies:?}{}", container.story());
        for copy in copies {
            let path = |name: &str| format!("/proc/{copy}/{name}");
            assert_eq!(fs::read_dir(path("fd")).unwrap().count(), 0);
            assert_eq!(fs::read_to_string(path("oom_score_adj")).unwrap().trim(), "1000");
            let maps = fs::read_to_string(path("maps")).unwrap();
            assert!(!maps.lines().any(|line| line.contains("rw-s")), "{maps}");
            // Signals to the service's groups and sessions pass it by.
            assert_eq!(session(copy), copy);
            assert!(!service(&container).iter().any(|pid| i64::from(*pid) == number(copy, "PPid")));
        }
        kill(Pid::from_raw(worker), Signal::SIGCONT).unwrap();
        let out = client.join().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
    });
    container.verified();
    assert_eq!(copies(&container), Vec::<i32>::new());
    assert_eq!(before, states(&workers));
    replaced(&app, &container);
}

/// What a process has open.
fn files(pid: i32) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    open.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_str()?.to_owned())).collect()
}

/// The session of a process, by its number outside (proc(5)).
fn session(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().parse().unwrap()
}

/// Copies end with each of the two processes that read them, and nothing of them is left in the service.
#[test]
fn copies_end_with_their_reader() {
    for victim in ["/opt/freeze/criu", "/proc/self/exe\0worker"] {
        let app = writers(Setting::Restricted);
        let (container, workers, before) = about_to_be_copied(&app);
        let out = std::thread::scope(|scope| {
            let client = scope.spawn(|| container.try_checkpoint(&["--leave-running"]));
            let worker = container.stopped();
            assert!(copies(&container).len() >= PROCESSES, "{}", container.story());
            kill(Pid::from_raw(container.find(&[victim]).unwrap()), Signal::SIGKILL).unwrap();
            let _ = kill(Pid::from_raw(worker), Signal::SIGCONT);
            client.join().unwrap()
        });
        assert!(!out.status.success(), "{}", text(&out.stdout));
        container.eventually("a copy is left", || copies(&container).is_empty().then_some(()));
        container.verified();
        assert_eq!(before, states(&workers), "{victim}");
        assert!(!app.store().join("head").exists());
        container.checkpoint(&["--leave-running"]);
        replaced(&app, &container);
    }
}

/// A limit on processes prevents copies: the service is read while it stands still, and freeze says so.
#[test]
fn without_copies_the_service_is_read_while_it_stands_still() {
    let app = App::new(Setting::Restricted, &["writers", MIB, "limited"]).with_fail_points();
    let container = app.start();
    container.verified();
    container.checkpoint(&["--leave-running"]);
    let warnings = container.warnings();
    assert!(
        warnings.len() == 1 && warnings[0].contains("could not be copied (Resource temporarily unavailable"),
        "{warnings:?}{}",
        container.story()
    );
    container.verified();
    assert_eq!(copies(&container), Vec::<i32>::new());
    replaced(&app, &container);
}
