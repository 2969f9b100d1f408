//! Whatever fails before the commit leaves the service running, and a later checkpoint works.

use std::fs;
use std::io::{PipeWriter, Write};
use std::process::{Command, Stdio};

use freeze::exit;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting, in_all_settings, needed, text};

in_all_settings! {
    killed_criu;
    killed_worker;
    killed_client;
}

/// A service whose dump takes long enough to be interrupted.
fn large(setting: Setting) -> (App, Container) {
    let app = App::new(setting, &["big", "384"]);
    let container = app.start();
    container.verified();
    (app, container)
}

/// Asks for a checkpoint and kills the process whose command line begins with `words` while the service stands still.
fn kill_during_checkpoint(container: &Container, words: &[&str]) -> std::process::Output {
    let service = container.find(&["/services/service"]).expect("there is a service");
    std::thread::scope(|scope| {
        let checkpoint = scope.spawn(|| container.try_checkpoint(&[]));
        container.eventually("the service was not frozen", || is_frozen(service).then_some(()));
        let victim = container.find(words).expect("the dump was over too soon");
        kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
        checkpoint.join().unwrap()
    })
}

/// Whether CRIU has stopped the process (`t`: tracing stop, proc(5)).
pub fn is_frozen(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('t'))
}

fn goes_on_and_can_be_moved(app: &App, container: &Container) {
    container.running();
    container.verified();
    container.checkpoint(&[]);
    assert_eq!(container.wait(), 172, "{}", container.story());
    app.start().verified();
}

fn killed_criu(setting: Setting) {
    let (app, container) = large(setting);
    let out = kill_during_checkpoint(&container, &["/opt/freeze/criu", "dump"]);
    assert_eq!(out.status.code(), Some(exit::DUMP.into()), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("CRIU was killed"), "{}", text(&out.stderr));
    goes_on_and_can_be_moved(&app, &container);
}

fn killed_worker(setting: Setting) {
    let (app, container) = large(setting);
    let out = kill_during_checkpoint(&container, &["/proc/self/exe", "worker"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    goes_on_and_can_be_moved(&app, &container);
}

/// Nobody waits for the answer any more, so the checkpoint is given up.
fn killed_client(setting: Setting) {
    let (app, container) = large(setting);
    let out = kill_during_checkpoint(&container, &["/opt/freeze/freeze", "checkpoint"]);
    assert!(!out.status.success());
    goes_on_and_can_be_moved(&app, &container);
}

/// The store's file system is full or read-only: nothing is frozen for long, nothing is lost.
#[test]
fn unwritable_store() {
    let app = App::new(Setting::Restricted, &["one"]);
    let container = app.start();
    container.verified();
    let store = app.store();
    assert!(Command::new("chattr").arg("+i").arg(&store).status().is_ok_and(|status| status.success()));
    let out = container.try_checkpoint(&[]);
    assert!(Command::new("chattr").arg("-i").arg(&store).status().is_ok_and(|status| status.success()));
    assert_eq!(out.status.code(), Some(exit::PREFLIGHT.into()));
    assert!(text(&out.stderr).contains("file:/store"), "{}", text(&out.stderr));
    goes_on_and_can_be_moved(&app, &container);
}

/// As an init container does that brings another version into a volume.
#[test]
fn another_criu_may_take_the_place_of_the_one_that_restored() {
    let app = App::new(Setting::Restricted, &["prefork"]).with_own_programs();
    let mut container = app.start();
    container.verified();
    for _ in 0..2 {
        container.checkpoint(&[]);
        container.wait();
        container = app.start();
        container.verified();
        let (new, criu) = (app.programs().join("new"), app.programs().join("criu"));
        std::fs::copy(&criu, &new).unwrap();
        std::fs::rename(&new, &criu).unwrap();
    }
    container.checkpoint(&[]);
    container.wait();
    app.start().verified();
}

/// Nobody reads the log, and there is something to warn of: whoever asked for the checkpoint reads that.
#[test]
fn a_full_log_stops_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (_reader, mut log) = std::io::pipe().unwrap();
    fill(&mut log);
    let freeze = format!("{}/freeze", needed("FREEZE_TEST_OPT"));
    let runtime = folder.path().join("run");
    let mut init = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "--kill-child", &freeze, "run", "--include", "/no/such"])
        // Its root is the machine's, of which all is changed.
        .args(["--files", "open", "--checkpoint-timeout", "20s", "--", "sleep", "1000"])
        .env("FREEZE_STORE", format!("file:{}", folder.path().join("store").display()))
        .env("FREEZE_RUNTIME_DIR", &runtime)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let ask = |words: &[&str]| Command::new(&freeze).args(words).arg("--runtime-dir").arg(&runtime).output().unwrap();
    assert!(ask(&["wait", "running", "--timeout", "60s"]).status.success());
    let out = ask(&["checkpoint", "--leave-running"]);
    let said = text(&out.stderr);
    init.kill().unwrap();
    init.wait().unwrap();
    assert!(out.status.success() && said.contains("--include /no/such: there is no such file"), "{said}");
}

/// Fills a pipe, whose description blocks again then.
fn fill(pipe: &mut PipeWriter) {
    fcntl(&*pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while pipe.write(&[0; 4096]).is_ok() {}
    fcntl(&*pipe, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
}

/// On the container's own layer, and in its memory. What runs on loses nothing.
#[test]
fn no_service_ends_into_a_store_that_goes_with_its_container() {
    for (setting, url) in [(Setting::Caps, "file:/var/own/store"), (Setting::Restricted, "file:/dev/shm/store")] {
        let app = App::new(setting, &["big", "8"]).with_store(url, vec![]);
        let container = app.start();
        container.verified();
        container.checkpoint(&["--leave-running"]);
        for options in [&[][..], &["--handover"]] {
            let out = container.try_checkpoint(options);
            let said = text(&out.stderr);
            assert_eq!(out.status.code(), Some(exit::PREFLIGHT.into()), "{url} {options:?}: {said}");
            assert!(said.contains(url) && said.contains("FREEZE_EPHEMERAL_STORE"), "{said}");
        }
        container.verified();
        drop(container);
        let container = app.start_with(&["--ephemeral-store"]);
        container.verified();
        container.checkpoint(&[]);
        assert_eq!(container.wait(), 172, "{}", container.story());
    }
}

/// CRIU reads a ring of asynchronous I/O inside the service, and this one cannot be read.
#[test]
fn a_fault_inside_the_service_fails_the_checkpoint_alone() {
    let app = App::new(Setting::Restricted, &["holds", "unreadable-aio"]);
    let container = app.start();
    container.verified();
    for _ in 0..2 {
        let out = container.try_checkpoint(&[]);
        assert_eq!(out.status.code(), Some(exit::DUMP.into()), "{}", text(&out.stderr));
        assert!(text(&out.stderr).contains("was stopped by 11 unexpectedly"), "{}", text(&out.stderr));
        container.verified();
    }
}
