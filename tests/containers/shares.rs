//! Who shares what is found out exactly, without kcmp(2), and nothing that this changes for a moment stays.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use freeze::exit;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::failures::is_frozen;
use crate::harness::{App, Container, Setting, text};

/// 30 processes, with tables of descriptors and open files that some share.
#[test]
fn descriptors_and_files_stay_shared() {
    for setting in [Setting::Restricted, Setting::RestrictedPodman, Setting::Unconfined] {
        let app = App::new(setting, &["shares"]);
        let first = app.start();
        first.verified();
        first.checkpoint(&["--leave-running"]);
        first.verified();
        first.checkpoint(&[]);
        assert_eq!(first.wait(), 172, "{}", first.story());
        let second = app.start();
        second.verified();
        second.checkpoint(&[]);
        second.wait();
        app.start().verified();
    }
}

/// One pair of them shares what a restore could not give them.
#[test]
fn what_else_is_shared_is_refused_and_stays() {
    for (flags, what) in [
        (&["VM"][..], "memory (CLONE_VM)"),
        (&["VM", "SIGHAND"], "memory (CLONE_VM)"),
        (&["VM", "FS"], "memory (CLONE_VM)"),
        (&["VM", "FILES"], "memory (CLONE_VM)"),
        (&["VM", "FS", "FILES", "SIGHAND"], "memory (CLONE_VM)"),
        (&["FS"], "working directory and umask (CLONE_FS)"),
        (&["FS", "FILES"], "working directory and umask (CLONE_FS)"),
        (&["FILES", "PARENT"], "descriptors (CLONE_FILES)"),
    ] {
        let app = App::new(Setting::Restricted, &[&["shares"], flags].concat());
        let container = app.start();
        let answer = container.verified();
        let number = |key: &str| answer.split_once(key).unwrap().1.split(' ').next().unwrap().trim().to_owned();
        let before = properties(&container);
        let out = container.try_checkpoint(&[]);
        assert_eq!(out.status.code(), Some(exit::DUMP.into()), "{flags:?}: {}", text(&out.stderr));
        let pair = format!("Processes {} and {} share their {what}", number("cloner="), number("more="));
        assert!(text(&out.stderr).contains(&pair), "{flags:?}, not {pair}: {}", text(&out.stderr));
        assert_eq!(properties(&container), before, "{flags:?}");
        container.verified();
    }
}

/// A process that has been changed, so that it shows who shares with it, takes the change back itself.
#[test]
fn a_killed_criu_leaves_no_mark() {
    let app = App::new(Setting::Restricted, &["shares"]);
    let container = app.start();
    container.verified();
    let before = properties(&container);
    for changed in [|p: &Properties| p.descriptors, |p: &Properties| p.umask] {
        // A busy machine may not let us look while there is a mark.
        let killed = (0..50).any(|_| killed_when(&container, &before[0], changed));
        assert!(killed, "no process was ever changed");
        container.eventually("a process is still stopped", || {
            before.iter().all(|process| !is_frozen(process.pid)).then_some(())
        });
        assert_eq!(properties(&container), before);
        container.verified();
    }
    container.checkpoint(&[]);
    assert_eq!(container.wait(), 172, "{}", container.story());
    app.start().verified();
}

/// What a mark changes, of one process.
#[derive(Debug, PartialEq)]
struct Properties {
    pid: i32,
    mappings: usize,
    descriptors: usize,
    umask: usize,
}

impl Properties {
    fn of(pid: i32) -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        let umask = read("status").lines().find_map(|line| line.strip_prefix("Umask:\t").map(str::to_owned)).unwrap();
        Self {
            pid,
            mappings: read("maps").lines().filter(|line| !line.contains("CRIUMFD")).count(),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            umask: usize::from_str_radix(&umask, 8).unwrap(),
        }
    }
}

/// Of all processes of the service, once the connection of the last answer is closed.
fn properties(container: &Container) -> Vec<Properties> {
    container.eventually("the descriptors keep changing", || {
        let seen = present_properties(container);
        std::thread::sleep(Duration::from_millis(50));
        (seen == present_properties(container)).then_some(seen)
    })
}

/// Parents first.
fn present_properties(container: &Container) -> Vec<Properties> {
    let namespace = |pid: i32| fs::metadata(format!("/proc/{pid}/ns/pid")).map(|ns| ns.ino()).ok();
    let mut pids: Vec<i32> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| namespace(*pid) == namespace(container.pid()))
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"/services/service\0"))
        })
        .collect();
    pids.sort_unstable();
    pids.into_iter().map(Properties::of).collect()
}

/// Kills the criu of a checkpoint when it has changed this of the process.
fn killed_when(container: &Container, before: &Properties, what: fn(&Properties) -> usize) -> bool {
    std::thread::scope(|scope| {
        let checkpoint = scope.spawn(|| container.try_checkpoint(&["--leave-running"]));
        let (mut criu, mut killed) = (None, false);
        while !checkpoint.is_finished() && !killed {
            criu = criu.or_else(|| container.find(&["/opt/freeze/criu", "dump"]));
            if let Some(criu) = criu
                && what(&Properties::of(before.pid)) != what(before)
            {
                kill(Pid::from_raw(criu), Signal::SIGKILL).unwrap();
                killed = true;
            }
        }
        checkpoint.join().unwrap();
        killed
    })
}
