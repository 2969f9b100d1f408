//! Threads that a checkpoint finds inside the vDSO, where the kernel lets a program read the time without a system call: none of
//! them reads a time that never was, on whatever host it goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::failures::is_frozen;
use crate::harness::{App, Container, Setting, in_all_settings, needed};
use crate::isolate::{checkpoint, moved_on, number};

in_all_settings! {
    reads_follow_each_other_on_any_host;
    signals_that_arrive_meanwhile_are_handled_once;
}

/// Clocks that differ between the tests' hosts, and clocks that do not.
const OF_THE_HOST: [&str; 2] = ["monotonic", "boottime"];
const OF_THE_WORLD: [&str; 2] = ["realtime", "time_of_day"];

/// Each of the clocks of a host has jumped so often.
fn check_jumps(answer: &str, expected: i64) {
    for (clocks, expected) in [(OF_THE_HOST, expected), (OF_THE_WORLD, 0)] {
        for clock in clocks {
            assert_eq!(number(answer, &format!("{clock}_jumps")), expected, "{clock}: {answer}");
        }
    }
}

/// Every second host has been up for ten hours longer. `each` is the number of jumps that a move makes. A wrong read is a jump
/// there, and one back.
fn moves_to_hosts(app: &App, moves: i64, each: i64) -> Container {
    let mut container = app.start_on_host(10, &[]);
    check_jumps(&container.verified(), 0);
    for done in 1..=moves {
        checkpoint(&container);
        container = app.start_on_host(if done % 2 == 0 { 10 } else { 0 }, &[]);
        let answer = container.verified();
        eprintln!("after {done} moves: {answer}");
        check_jumps(&answer, done * each);
    }
    container
}

fn reads_follow_each_other_on_any_host(setting: Setting) {
    // On other architectures than x86-64 a clock that goes back is refused.
    let policies = [("host", 1), ("auto", 0)].into_iter().take(if cfg!(target_arch = "x86_64") { 2 } else { 1 });
    for (clock, each) in policies {
        moves_to_hosts(&App::with_options(setting, &["--clock", clock], &["/services/service", "reads"]), 3, each);
    }
}

/// While threads are stepped out of the vDSO, too.
fn signals_that_arrive_meanwhile_are_handled_once(setting: Setting) {
    const SIGNALS: i64 = 5000;
    let app = App::new(setting, &["reads"]);
    let container = app.start();
    container.verified();
    let service = container.find(&["/services/service", "reads"]).unwrap();
    let mut sender = Command::new(Path::new(&needed("FREEZE_TEST_SERVICES")).join("service"))
        .args(["signal", &service.to_string(), &SIGNALS.to_string()])
        .spawn()
        .unwrap();
    let mut checkpoints = 0;
    while sender.try_wait().unwrap().is_none() {
        container.checkpoint(&["--leave-running"]);
        checkpoints += 1;
    }
    assert!(sender.wait().unwrap().success());
    eprintln!("{checkpoints} checkpoints under {SIGNALS} signals");
    container.eventually("signals are lost", || (number(&container.verified(), "caught") >= SIGNALS).then_some(()));
    let answer = container.verified();
    assert_eq!(number(&answer, "caught"), SIGNALS, "{answer}");
    assert_eq!(number(&answer, "sum"), SIGNALS * (SIGNALS - 1) / 2, "{answer}");
    check_jumps(&answer, 0);
}

/// They are in the vDSO, and in the code that lets the service's clocks go on on this host. A thread that criu steps when it is
/// killed ends by SIGTRAP.
#[test]
fn readers_survive_a_criu_that_is_killed_at_any_moment() {
    const KILLS: u32 = 60;
    let app = App::new(Setting::Restricted, &["reads"]);
    let container = moves_to_hosts(&app, 1, 0);
    let length = dump_killed_after(&container, None);
    for nth in 0..KILLS {
        // Most of them early, when threads leave that code.
        dump_killed_after(&container, Some(length * nth * nth / (KILLS * KILLS)));
        container.verified();
    }
    checkpoint(&container);
    check_jumps(&app.start_on_host(0, &[]).verified(), 0);
}

/// How long a checkpoint takes after it has frozen the service; its criu is killed when it has taken so long.
fn dump_killed_after(container: &Container, mut limit: Option<Duration>) -> Duration {
    let service = container.find(&["/services/service", "reads"]).unwrap();
    std::thread::scope(|scope| {
        let checkpoint = scope.spawn(|| container.try_checkpoint(&["--leave-running"]));
        let (mut criu, mut frozen) = (None, None);
        while !checkpoint.is_finished() {
            criu = criu.or_else(|| container.find(&["/opt/freeze/criu", "dump"]));
            frozen = frozen.or_else(|| is_frozen(service).then(Instant::now));
            if let (Some(criu), Some(frozen)) = (criu, frozen)
                && limit.take_if(|limit| frozen.elapsed() >= *limit).is_some()
            {
                // It may have ended.
                let _ = kill(Pid::from_raw(criu), Signal::SIGKILL);
            }
        }
        checkpoint.join().unwrap();
        frozen.map_or(Duration::ZERO, |frozen| frozen.elapsed())
    })
}

/// A step or a breakpoint would take its handling away from a process that ignores or blocks SIGTRAP.
#[test]
fn sigtrap_stays_ignored_or_blocked() {
    for how in ["ignoring", "blocking"] {
        let app = App::new(Setting::Restricted, &["reads", how]);
        let mut container = app.start();
        for _ in 0..2 {
            container = moved_on(&app, &container);
        }
        container.verified();
    }
}

/// Another kernel has another vDSO. A restore there leaves the old one where it was, and its functions lead to the new one. This
/// criu acts as on such a kernel.
#[test]
fn reads_follow_each_other_through_another_kernels_vdso() {
    let app = App::with_options(Setting::Restricted, &["--clock", "host"], &["/services/service", "reads"])
        .with_own_programs();
    let criu = app.programs().join("criu");
    fs::rename(&criu, app.programs().join("criu-itself")).unwrap();
    fs::write(&criu, "#!/bin/sh\nCRIU_FAULT=127 exec /opt/freeze/criu-itself \"$@\"\n").unwrap();
    fs::set_permissions(&criu, fs::Permissions::from_mode(0o755)).unwrap();
    let container = moves_to_hosts(&app, 4, 1);
    let (told, mapped) = vdsos(container.find(&["/services/service", "reads"]).unwrap());
    assert_ne!(told, mapped, "it has one vDSO only");
}

/// Where the service was told at its start that the vDSO is, and where the kernel's is.
fn vdsos(pid: i32) -> (u64, u64) {
    let auxv = fs::read(format!("/proc/{pid}/auxv")).unwrap();
    let words: Vec<_> = auxv.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect();
    let told = words.chunks_exact(2).find(|pair| pair[0] == libc::AT_SYSINFO_EHDR).unwrap()[1];
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mapped = maps.lines().find(|line| line.ends_with(" [vdso]")).unwrap().split('-').next().unwrap();
    (told, u64::from_str_radix(mapped, 16).unwrap())
}
