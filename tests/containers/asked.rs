//! A checkpoint asks the standbys before it freezes anything: one that is ready gets the service, and the service runs on
//! here if that one fails.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use freeze::exit;

use crate::harness::{App, Container, Setting, in_all_settings, text};
use crate::s3::Remote;

in_all_settings! {
    a_plain_checkpoint_goes_to_the_standby;
}

const STANDBY: [&str; 4] = ["--standby", "--standby-poll", "20ms", "--instance"];

fn standby(app: &App, name: &str) -> Container {
    let standby = app.start_with(&[&STANDBY[..], &[name]].concat());
    standby.reaches("standby");
    standby
}

/// Into an empty store.
fn a_plain_checkpoint_goes_to_the_standby(setting: Setting) {
    let app = App::new(setting, &["mixed"]);
    let source = app.start();
    source.verified();
    let target = standby(&app, "target");
    let out = source.try_checkpoint(&[]);
    let (said, result) = (text(&out.stderr), text(&out.stdout));
    assert!(out.status.success(), "{said}{}", source.story());
    assert!(said.contains("the standby target is ready, so the service is handed over"), "{said}");
    assert!(result.ends_with("; target has the service\n"), "{result}");
    assert_eq!(source.wait(), 172, "{}", source.story());
    target.verified();
    // It stands by no more, so the next checkpoint ends the service.
    let result = target.checkpoint(&[]);
    assert!(result.ends_with("; the service has ended\n"), "{result}");
}

#[test]
fn so_it_does_through_a_bucket() {
    let remote = Remote::new(&[]);
    let source = remote.start_stopping_at(None, &[]);
    source.verified();
    let target = remote.start_stopping_at(None, &["--standby", "--instance", "target"]);
    target.reaches("standby");
    let result = source.checkpoint(&[]);
    assert!(result.ends_with("; target has the service\n"), "{result}");
    target.verified();
}

/// Before the freeze, and without any checkpoint before: a limit that is too low, and another image.
#[test]
fn a_standby_that_lacks_something_keeps_the_service_where_it_is() {
    let mut app = App::new(Setting::Restricted, &["holds", "high-descriptor"]);
    let source = app.start();
    source.verified();
    app.set_sandbox(&["--ulimit", "nofile=1151"]);
    let _target = standby(&app, "target");
    let words = "the standby target could not restore this service: a restore of the service needs 1152 descriptors";
    for options in [&[][..], &["--handover"]] {
        let refused = source.try_checkpoint(options);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(exit::PREFLIGHT.into()), "{said}");
        assert!(said.contains(words), "{said}");
        source.verified();
    }
    assert!(!app.store().join("generations").exists(), "a checkpoint was taken");
    // One that could is enough.
    app.set_sandbox(&[]);
    let other = standby(&app, "other");
    let result = source.checkpoint(&[]);
    assert!(result.contains("; other has the service"), "{result}");
    other.verified();
}

/// It is waited for once.
#[test]
fn a_dead_standby_changes_nothing() {
    let app = App::new(Setting::Restricted, &["one"]);
    let source = app.start();
    source.verified();
    let target = standby(&app, "target");
    target.kill("KILL");
    target.wait();
    for _ in 0..2 {
        let result = source.checkpoint(&["--leave-running"]);
        assert!(result.ends_with("; the service keeps running\n"), "{result}");
    }
    let result = source.checkpoint(&[]);
    assert!(result.ends_with("; the service has ended\n"), "{result}");
    assert_eq!(source.wait(), 172, "{}", source.story());
    app.start().verified();
}

/// A drain ends the container in any case, so that nobody is asked.
#[test]
fn sigterm_asks_no_standby() {
    let mut app = App::new(Setting::Restricted, &["holds", "high-descriptor"]);
    let source = app.start_with(&["--on-term", "checkpoint"]);
    source.verified();
    app.set_sandbox(&["--ulimit", "nofile=1151"]);
    let _target = standby(&app, "target");
    source.kill("TERM");
    assert_eq!(source.wait(), 172, "{}", source.story());
    app.set_sandbox(&[]);
    app.start().verified();
}

/// It says that it is ready, and its restore fails all the same.
#[test]
fn a_standby_that_fails_gives_the_service_back() {
    let app = App::new(Setting::Restricted, &["one"]);
    let source = app.start();
    source.verified();
    let target = standby(&app, "target");
    // Nobody looks at the folder where a restore works before it begins.
    fs::set_permissions(target.runtime(), Permissions::from_mode(0o500)).unwrap();
    let out = source.try_checkpoint(&[]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(exit::HANDOVER.into()), "{said}\n{}", target.story());
    assert!(said.contains("the standby target could not restore generation 1"), "{said}");
    source.verified();
    assert_eq!(target.wait(), i32::from(exit::RESTORE_FAILED));
    // Nobody is asked any more.
    source.checkpoint(&[]);
    assert_eq!(source.wait(), 172, "{}", source.story());
    app.start().verified();
}
