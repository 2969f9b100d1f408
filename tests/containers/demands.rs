//! freeze names each missing demand before it ends a process: in the preflight, in the doctor on the target, in
//! `migrate`, and at a restore. With just enough, the service moves.

use std::path::Path;
use std::process::Command;

use freeze::exit;

use crate::harness::{App, Container, Setting, needed, text};

const FREEZE: &str = "/opt/freeze/freeze";
const RUNTIME: [&str; 2] = ["FREEZE_STORE=file:/store", "FREEZE_RUNTIME_DIR=/runtime"];
const PORT: &str = "net.ipv4.ip_unprivileged_port_start";

/// A service that holds an object, in a container with these options of the sandbox.
fn held(object: &str, sandbox: &[&str]) -> (App, Container) {
    let mut app = App::new(Setting::Restricted, &["holds", object]).with_variables(&RUNTIME);
    app.set_sandbox(sandbox);
    let container = app.start();
    container.verified();
    (app, container)
}

/// Dry run, migration, standby, doctor and restore refuse a container with `too_little`, and the service runs on. A
/// container with `enough` gets it.
fn is_asked_for(object: &str, source: &[&str], too_little: &[&str], enough: &[&str], words: &str) {
    let (mut app, first) = held(object, source);
    app.set_sandbox(too_little);
    let standby = app.start_with(&["--standby", "--standby-poll", "20ms", "--instance", "target"]);
    standby.reaches("standby");
    // Before there is any checkpoint.
    for options in [&["--dry-run"][..], &[]] {
        let (status, said) = migrate(&first, &standby, options);
        assert!(status == 1 && said.contains(words), "{options:?}: {status}: {said}");
        assert!(said.contains("The service keeps running in the source"), "{said}");
    }
    assert!(!app.store().join("manifests").exists(), "a checkpoint was taken");
    first.verified();
    first.checkpoint(&["--leave-running"]);
    standby.eventually("the standby says nothing", || standby.logs().1.contains(words).then_some(()));
    let doctor = standby.exec(&[FREEZE, "doctor", "--for", "newest"]);
    let said = text(&doctor.stdout);
    assert!(!doctor.status.success() && said.contains(words), "{said}");
    drop(standby);
    first.checkpoint(&[]);
    first.wait();
    let unfit = app.start();
    assert_eq!(unfit.wait(), i32::from(exit::RESTORE_FAILED));
    assert!(unfit.logs().1.contains(words), "{}", unfit.logs().1);
    app.set_sandbox(enough);
    app.start().verified();
}

fn migrate(source: &Container, target: &Container, options: &[&str]) -> (i32, String) {
    let mut command = Command::new(Path::new(&needed("FREEZE_TEST_OPT")).join("freeze"));
    command.args(["migrate", "--source", &source.exec_template(), "--target", &target.exec_template()]).args(options);
    let out = command.output().unwrap();
    (out.status.code().unwrap_or(-1), text(&out.stdout) + &text(&out.stderr))
}

#[test]
fn descriptors_are_asked_for() {
    let words = "a restore of the service needs 1152 descriptors in one process, but this container's hard limit of open files is 1151";
    is_asked_for("high-descriptor", &[], &["--ulimit", "nofile=1151"], &["--ulimit", "nofile=1152"], words);
}

#[test]
fn locked_memory_is_asked_for() {
    let words = "bytes of memory locked in one process, but this container's hard limit is 1048576 (RLIMIT_MEMLOCK)";
    let limit = |bytes| ["--ulimit", bytes];
    is_asked_for(
        "locked-future",
        &limit("memlock=8388608"),
        &limit("memlock=1048576"),
        &limit("memlock=8388608"),
        words,
    );
}

#[test]
fn a_port_that_not_everybody_may_bind_is_asked_for() {
    let words = "the service has port 80, but this container's user may only bind ports from 81 on";
    let first = |port| format!("{PORT}={port}");
    let (source, too_high, enough) = (first(0), first(81), first(80));
    is_asked_for("port-80", &["--sysctl", &source], &["--sysctl", &too_high], &["--sysctl", &enough], words);
}

/// The container no longer allows what the service has already.
#[test]
fn what_could_not_come_back_here_is_refused() {
    let (_app, container) = held("high-descriptor", &[]);
    // As the container's user: only that one needs no capability to lower a limit.
    let prlimit = ["--reuid", "1000", "--regid", "1000", "--clear-groups", "prlimit", "--nofile=1024:1024"];
    done(Command::new("setpriv").args(prlimit).arg("--pid").arg(container.pid().to_string()));
    is_refused(&container, "a restore of the service needs 1152 descriptors in one process");

    let (app, container) = held("port-80", &["--sysctl", &format!("{PORT}=0")]);
    let network = format!("--net=/proc/{}/ns/net", container.pid());
    let from = |port: &str| {
        let set = format!("echo {port} >/proc/sys/{}", PORT.replace('.', "/"));
        done(Command::new("nsenter").args([&network, "sh", "-c", &set]));
    };
    from("81");
    is_refused(&container, "the service has port 80, but this container's user may only bind ports from 81 on");
    from("80");
    container.checkpoint(&[]);
    assert_eq!(container.wait(), 172, "{}", container.story());
    app.start().verified();
}

/// Before the freeze, and the service runs on.
fn is_refused(container: &Container, words: &str) {
    let refused = container.try_checkpoint(&[]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(exit::PREFLIGHT.into()), "{said}");
    assert!(said.contains(&format!("the container could not restore this service: {words}")), "{said}");
    let doctor = container.exec(&[FREEZE, "doctor", "--service"]);
    assert!(!doctor.status.success() && text(&doctor.stdout).contains(words), "{}", text(&doctor.stdout));
    container.verified();
}

fn done(command: &mut Command) {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", text(&out.stderr));
}

/// CRIU has mappings of its own in a process until its last step.
#[test]
fn a_restore_has_what_it_asks_for() {
    for (object, resource, words) in [
        ("reserve-none", "as", " bytes of address space in one process"),
        ("reserve-most", "data", " bytes of writable memory in one process"),
    ] {
        let (mut app, first) = held(object, &[]);
        first.checkpoint(&[]);
        assert_eq!(first.wait(), 172, "{}", first.story());
        let limit = |bytes: u64| format!("{resource}={bytes}");
        app.set_sandbox(&["--ulimit", &limit(64 << 30)]);
        let unfit = app.start();
        assert_eq!(unfit.wait(), i32::from(exit::RESTORE_FAILED), "{}", unfit.story());
        let said = unfit.logs().1;
        let needed = said.split(words).next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        app.set_sandbox(&["--ulimit", &limit(needed)]);
        app.start().verified();
    }
}
