//! A host that booted later, where no time namespace can be made: the service's clocks would go back. It is said before
//! anything is taken, and `--clock` decides.

use std::fs;
use std::path::Path;
use std::process::Command;

use freeze::exit;
use nix::libc;

use crate::harness::{App, Container, Setting, needed, text};
use crate::isolate::{checkpoint, number};

const FREEZE: &str = "/opt/freeze/freeze";
const REFUSE: [&str; 2] = ["--clock", "refuse"];
const STANDBY: [&str; 5] = ["--standby", "--standby-poll", "20ms", "--instance", "target"];
/// How much longer the source's host has been up.
const HOURS: i64 = 10;
const BACK: &str = "the service's clock (CLOCK_MONOTONIC or CLOCK_BOOTTIME) would go back by 9h 59m";
const LATER: Option<i32> = Some(exit::CLOCK_BACK as i32);

/// What is executed in its containers finds init and the store by these.
fn app(setting: Setting) -> App {
    App::new(setting, &["clock"]).with_variables(&["FREEZE_STORE=file:/store", "FREEZE_RUNTIME_DIR=/runtime"])
}

/// A service on a host that booted ten hours earlier.
fn source(app: &App, options: &[&str]) -> Container {
    let source = app.start_on_host(HOURS, options);
    source.verified();
    source
}

fn standby(app: &App, hours: i64, options: &[&str]) -> Container {
    let standby = app.start_on_host(hours, &[&STANDBY, options].concat());
    standby.reaches("standby");
    standby
}

/// Seconds by which CLOCK_MONOTONIC has gone back at most.
fn went_back(container: &Container) -> i64 {
    number(&container.verified(), "monotonic_back")
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

#[test]
fn a_cold_start_is_refused_with_a_status_of_its_own() {
    for setting in [Setting::Restricted, Setting::RestrictedPodman, Setting::Caps] {
        let app = app(setting);
        checkpoint(&source(&app, &[]));
        let outcomes = app.store().join("outcomes");
        let before = entries(&outcomes);
        let refused = app.start_on_host(0, &[&["--instance", "other"], &REFUSE[..]].concat());
        assert_eq!(Some(refused.wait()), LATER, "{}", refused.story());
        let said = refused.logs().1;
        assert!(said.contains(&format!("generation 1 cannot be restored: {BACK}")), "{said}");
        assert!(said.contains("or accept the jump (--clock host)"), "{said}");
        assert_eq!(entries(&outcomes), before, "the store has learnt of it");
        // A host that booted at the same time has it still.
        assert_eq!(went_back(&app.start_on_host(HOURS, &REFUSE)), 0, "{setting:?}");
    }
}

#[test]
fn a_jump_is_accepted_where_the_user_says_so() {
    let app = app(Setting::Restricted);
    checkpoint(&source(&app, &[]));
    let back = app.start_on_host(0, &["--clock", "host"]);
    assert!((HOURS - 1..=HOURS).contains(&(went_back(&back) / 3600)));
    back.eventually("nobody is warned", || back.logs().1.contains("warning: the service has no time").then_some(()));
    checkpoint(&back);
    // A jump ahead harms no service, and the log names it.
    let ahead = app.start_on_host(HOURS, &REFUSE);
    ahead.verified();
    let said = || ahead.logs().1.contains("freeze: the service's CLOCK_MONOTONIC or CLOCK_BOOTTIME jumps ahead by 10h");
    ahead.eventually("the log does not name the jump", || said().then_some(()));
    assert!(ahead.status().unwrap().contains(r#""clock":"host""#));
}

/// In user space. That is said before, too.
#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "criu knows the instructions of x86-64 only")]
fn by_default_a_jump_is_hidden() {
    let app = app(Setting::Restricted);
    let source = source(&app, &[]);
    let target = standby(&app, 0, &[]);
    let (status, said) = migrate(&source, &target, &["--dry-run"]);
    assert!(status == 0 && said.contains("note: the service's clocks continue in user space"), "{said}");
    checkpoint(&source);
    assert_eq!(went_back(&target), 0);
    assert!(target.status().unwrap().contains(r#""clock_jump_ms":0,"clock":"user-space""#));
    let status = text(&target.exec(&[FREEZE, "status"]).stdout);
    assert!(status.contains("in user space; programs that the service executes see this host's clock"), "{status}");
}

/// Its clock goes on there, whatever is permitted: it has the code for that.
#[test]
fn a_service_whose_clock_was_hidden_keeps_it() {
    let app = app(Setting::Restricted);
    let first = app.start_on_host(2 * HOURS, &[]);
    first.verified();
    checkpoint(&first);
    let second = app.start_on_host(HOURS, &[]);
    assert_eq!(went_back(&second), 0);
    let target = standby(&app, 0, &["--clock", "host"]);
    let (status, said) = migrate(&second, &target, &["--dry-run"]);
    assert!(status == 0 && said.contains("note: the service's clocks continue in user space"), "{said}");
    checkpoint(&second);
    assert_eq!(went_back(&target), 0);
    let logs = target.logs().1;
    assert!(logs.contains("the service's clocks continue in user space") && !logs.contains("jumps back"), "{logs}");
    let status = target.status().unwrap();
    assert!(status.contains(r#""clock_jump_ms":0,"clock":"user-space","clock_ahead_s":7"#), "{status}");
}

/// It is asked for with the clock that the service sees, not with the kernel's.
#[test]
fn a_standby_knows_of_a_clock_that_was_hidden() {
    let app = app(Setting::Restricted);
    let first = source(&app, &[]);
    checkpoint(&first);
    let source = app.start_on_host(0, &[]);
    assert_eq!(went_back(&source), 0);
    let target = standby(&app, 0, &REFUSE);
    let (status, said) = migrate(&source, &target, &["--dry-run"]);
    assert!(status == 1 && said.contains(BACK), "{status}: {said}");
    let refused = source.try_checkpoint(&[]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(exit::PREFLIGHT.into()), "{said}");
    assert!(said.contains(&format!("the standby target could not restore this service: {BACK}")), "{said}");
    assert_eq!(went_back(&source), 0);
}

#[test]
#[cfg_attr(target_arch = "x86_64", ignore = "by default a jump is hidden")]
fn by_default_a_jump_that_cannot_be_hidden_is_refused() {
    let app = app(Setting::Restricted);
    let source = source(&app, &[]);
    let target = standby(&app, 0, &[]);
    let (status, said) = migrate(&source, &target, &["--dry-run"]);
    assert!(status == 1 && said.contains(BACK), "{said}");
    drop(target);
    checkpoint(&source);
    let refused = app.start_on_host(0, &[]);
    assert_eq!(Some(refused.wait()), LATER, "{}", refused.story());
    assert!(refused.logs().1.contains(&format!("generation 1 cannot be restored: {BACK}")), "{}", refused.story());
    assert_eq!(went_back(&app.start_on_host(HOURS, &[])), 0);
}

/// The source asks before it freezes anything.
#[test]
fn a_standby_says_that_it_lacks_the_clock_and_the_service_runs_on() {
    let app = app(Setting::Restricted);
    let source = source(&app, &[]);
    let _target = standby(&app, 0, &REFUSE);
    for options in [&[][..], &["--handover"]] {
        let refused = source.try_checkpoint(options);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(exit::PREFLIGHT.into()), "{said}");
        assert!(said.contains(&format!("the standby target could not restore this service: {BACK}")), "{said}");
        assert_eq!(went_back(&source), 0);
    }
    assert!(!app.store().join("manifests").exists(), "a checkpoint was taken");
    // One that bears the jump is enough.
    let other = app.start_on_host(0, &["--standby", "--instance", "other", "--clock", "host"]);
    other.reaches("standby");
    let result = source.checkpoint(&[]);
    assert!(result.contains("; other has the service"), "{result}");
    assert!(went_back(&other) > 0);
}

/// A drain asks no standby, as the source ends in any case.
#[test]
fn a_standby_that_was_not_asked_leaves_the_generation_to_another() {
    let app = app(Setting::Restricted);
    let source = source(&app, &["--on-term", "checkpoint"]);
    let target = standby(&app, 0, &REFUSE);
    source.kill("TERM");
    assert_eq!(source.wait(), 172, "{}", source.story());
    assert_eq!(Some(target.wait()), LATER, "{}", target.story());
    assert!(target.logs().1.contains(BACK), "{}", target.story());
    assert_eq!(went_back(&app.start_on_host(HOURS, &[])), 0);
}

#[test]
fn migrate_and_the_doctor_tell_before() {
    let app = app(Setting::Restricted);
    let source = source(&app, &[]);
    let target = standby(&app, 0, &REFUSE);
    for options in [&["--dry-run"][..], &[]] {
        let (status, said) = migrate(&source, &target, options);
        assert!(status == 1 && said.contains(BACK), "{options:?}: {status}: {said}");
        assert!(said.contains("The service keeps running in the source"), "{said}");
    }
    assert!(!app.store().join("manifests").exists(), "a checkpoint was taken");
    source.checkpoint(&["--leave-running"]);
    target.eventually("the standby says nothing", || target.logs().1.contains(BACK).then_some(()));
    let doctor = target.exec(&[FREEZE, "doctor", "--for", "newest"]);
    assert!(!doctor.status.success() && text(&doctor.stdout).contains(BACK), "{}", text(&doctor.stdout));
    drop(target);
    // With the option of its init, and on a host that booted at the same time.
    for (hours, options, note) in [
        (0, &["--clock", "host"][..], Some("note: the service's clocks jump back by 9h 59m")),
        (2 * HOURS, &REFUSE, Some("note: the service's clocks jump ahead by 10h")),
        (HOURS, &[], None),
    ] {
        let target = standby(&app, hours, options);
        let (status, said) = migrate(&source, &target, &["--dry-run"]);
        assert_eq!(status, 0, "{said}");
        assert!(note.map_or(!said.contains("clocks"), |note| said.contains(note)), "{said}");
        let doctor = text(&target.exec(&[FREEZE, "doctor", "--for", "newest"]).stdout);
        assert!(doctor.contains("can be restored here") && note.is_none_or(|note| doctor.contains(note)), "{doctor}");
    }
    assert_eq!(went_back(&source), 0);
}

/// The doctor is executed beside init's namespaces.
#[test]
fn where_a_time_namespace_can_be_made_there_is_no_jump() {
    for setting in [Setting::Nested, Setting::RestrictedPodman] {
        let app = app(setting);
        let source = source(&app, &["--isolate", "auto"]);
        let target = standby(&app, 0, &["--isolate", "auto", "--clock", "refuse"]);
        let (status, said) = migrate(&source, &target, &["--dry-run"]);
        assert!(status == 0 && said.contains("note: the service's clocks continue, in a time namespace"), "{said}");
        source.checkpoint(&["--handover"]);
        assert_eq!(went_back(&target), 0, "{setting:?}");
        assert!(target.status().unwrap().contains(r#""clock":"time-namespace""#));
        // Its clocks are ahead of this host's, and its own container does not mind.
        let doctor = target.exec(&[FREEZE, "doctor", "--service"]);
        assert!(doctor.status.success(), "{}", text(&doctor.stdout));
    }
}

/// A host may limit the number of time namespaces, which nobody sees before one is made.
#[test]
fn a_time_namespace_that_cannot_be_made_after_all_is_found_before_the_service_runs() {
    let app = app(Setting::Nested);
    let source = source(&app, &["--isolate", "auto"]);
    let target = standby(&app, 0, &["--isolate", "auto"]);
    allow_no_time_namespace(&target);
    let out = source.try_checkpoint(&[]);
    assert_eq!(out.status.code(), Some(exit::HANDOVER.into()), "{}\n{}", text(&out.stderr), target.story());
    assert_eq!(Some(target.wait()), LATER, "{}", target.story());
    assert!(target.logs().1.contains(BACK), "{}", target.story());
    assert_eq!(went_back(&source), 0);
}

/// In the user namespace of its init, whose capabilities an exec there would lose (perlfunc(1) has setns).
fn allow_no_time_namespace(container: &Container) {
    let init = fs::read_to_string(format!("/proc/{0}/task/{0}/children", container.pid())).unwrap();
    let script = format!(
        "open(U, '<', '/proc/{}/ns/user') or die; syscall({}, fileno(U), {}) == 0 or die $!; \
         open(M, '>', '/proc/sys/user/max_time_namespaces') or die $!; print M 0",
        init.trim(),
        libc::SYS_setns,
        libc::CLONE_NEWUSER
    );
    let out = Command::new("perl").args(["-e", &script]).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
}

fn migrate(source: &Container, target: &Container, options: &[&str]) -> (i32, String) {
    let mut command = Command::new(Path::new(&needed("FREEZE_TEST_OPT")).join("freeze"));
    command.args(["migrate", "--source", &source.exec_template(), "--target", &target.exec_template()]).args(options);
    let out = command.output().unwrap();
    (out.status.code().unwrap_or(-1), text(&out.stdout) + &text(&out.stderr))
}
