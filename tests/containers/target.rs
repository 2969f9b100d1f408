//! A container that has restored a service and does not know yet whether it may run it: CRIU holds all processes.
//!
//! The store is made to give no answer by a folder of outcomes that the container may not write to.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

use freeze::image::{self, KeyFiles, Vault};
use freeze::store::{self, Location};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting};

const RESTORE_FAILED: i32 = 171;
const REPLACED: i32 = 173;

/// The containers that restore it.
const NAMES: [&str; 2] = ["this", "that"];

/// A service that leaves a trace in its container's runtime folder as soon as it runs.
const TRACES: &str = "while :; do echo >> /runtime/traces; sleep 0.05; done";

/// An application whose service has moved into a generation that nobody can take yet.
fn offered(setting: Setting) -> App {
    let app = App::with_options(setting, &[], &["sh", "-c", TRACES]);
    let source = app.start();
    source.eventually("the service leaves no trace", || traces(&source).exists().then_some(()));
    source.checkpoint(&[]);
    // What a container says before it restores is there already.
    let store = store::open(&Location::at(&format!("file:{}", app.store().display()))).unwrap();
    let vault = Vault::open(store, &KeyFiles::default()).unwrap().unwrap();
    NAMES.iter().for_each(|name| image::mark_lost(&vault, 1, name).unwrap());
    let outcomes = app.store().join("outcomes");
    chown(&outcomes, Some(0), Some(0)).unwrap();
    fs::set_permissions(&outcomes, Permissions::from_mode(0o755)).unwrap();
    app
}

fn start(app: &App, name: usize) -> Container {
    app.start_with(&["--instance", NAMES[name]])
}

fn traces(container: &Container) -> PathBuf {
    container.runtime().join("traces")
}

/// A process of the service that CRIU traces, once it has restored all: its PID and the one of CRIU.
fn held(container: &Container) -> (i32, i32) {
    container.eventually("CRIU does not hold the service", || {
        let service = container.find(&["sh", "-c"])?;
        let status = fs::read_to_string(format!("/proc/{service}/status")).ok()?;
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok())?;
        // The last that is done before the store is asked.
        (tracer != 0 && container.runtime().join("generation-id").exists()).then_some((service, tracer))
    })
}

fn is_gone(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

fn nothing_runs_when_killed(setting: Setting, whom: impl Fn(&Container, i32) -> i32) {
    let app = offered(setting);
    let target = start(&app, 0);
    let (service, criu) = held(&target);
    assert!(!traces(&target).exists());
    let victim = whom(&target, criu);
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    target.eventually("a process of the service is left", || is_gone(service).then_some(()));
    assert!(!traces(&target).exists(), "{}", target.story());
    // Nobody has it, so the next one gets it.
    assert_eq!(target.wait(), RESTORE_FAILED, "{}", target.story());
    open(&app);
    let next = app.start();
    next.eventually("the service did not come", || traces(&next).exists().then_some(()));
}

/// Lets the container's user write outcomes.
fn open(app: &App) {
    chown(app.store().join("outcomes"), Some(1000), Some(1000)).unwrap();
}

fn worker_killed(setting: Setting) {
    nothing_runs_when_killed(setting, |target, _| target.find(&["/proc/self/exe", "worker"]).unwrap());
}

fn criu_killed(setting: Setting) {
    nothing_runs_when_killed(setting, |_, criu| criu);
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

/// Both have restored it when the first of them can ask.
fn of_two_one_runs(setting: Setting) {
    let app = offered(setting);
    let both = [start(&app, 0), start(&app, 1)];
    both.iter().for_each(|container| _ = held(container));
    assert!(both.iter().all(|container| !traces(container).exists()));
    open(&app);
    let winner = both[0].eventually("nobody runs it", || both.iter().position(|one| traces(one).exists()));
    let loser = &both[1 - winner];
    assert_eq!(loser.wait(), REPLACED, "{}", loser.story());
    assert!(!traces(loser).exists(), "{}", loser.story());
    both[winner].running();
}

mod restricted {
    use crate::harness::Setting::Restricted;

    #[test]
    fn worker_killed() {
        super::worker_killed(Restricted);
    }

    #[test]
    fn criu_killed() {
        super::criu_killed(Restricted);
    }

    #[test]
    fn of_two_one_runs() {
        super::of_two_one_runs(Restricted);
    }
}

mod restricted_podman {
    use crate::harness::Setting::RestrictedPodman;

    #[test]
    fn worker_killed() {
        super::worker_killed(RestrictedPodman);
    }

    #[test]
    fn criu_killed() {
        super::criu_killed(RestrictedPodman);
    }

    #[test]
    fn of_two_one_runs() {
        super::of_two_one_runs(RestrictedPodman);
    }
}

mod unconfined {
    use crate::harness::Setting::Unconfined;

    #[test]
    fn what_was_half_made_is_in_nobodys_way() {
        super::what_was_half_made_is_in_nobodys_way(Unconfined);
    }
}
