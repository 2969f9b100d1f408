//! Volumes that change after a checkpoint: what each `--volume-changed` policy does.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};

use freeze::fail_points::Point;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting, in_all_settings, text};

const VOLUME_CHANGED: i32 = 175;

in_all_settings! {
    a_log_that_has_gone_on_is_refused_until_told_otherwise;
    a_log_that_has_grown_grows_on_if_told;
    a_captured_file_of_a_volume_is_the_one_that_is_open;
    a_watch_tells_nothing_of_what_freeze_puts_back;
}

/// A service that has a log on a volume open, as `>>` or `1<>` opens it.
fn logging(setting: Setting, redirection: &str, options: &[&str]) -> App {
    let script = format!("echo first >>/volume/log; exec 7{redirection}/volume/log; exec /services/service one");
    App::with_options(setting, options, &["sh", "-c", &script]).with_volume(None)
}

fn log(app: &App) -> String {
    fs::read_to_string(app.volume().join("log")).unwrap_or_default()
}

fn append(app: &App, text: &str) {
    OpenOptions::new().append(true).open(app.volume().join("log")).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Nothing is changed, and the sentence says what to choose.
fn refused(app: &App, options: &[&str]) -> String {
    let before = log(app);
    let container = app.start_with(options);
    assert_eq!(container.wait(), VOLUME_CHANGED, "{}", container.story());
    assert_eq!(log(app), before);
    container.story()
}

fn crashed(app: &App) {
    let first = app.start();
    first.verified();
    first.checkpoint(&["--leave-running"]);
}

fn a_log_that_has_gone_on_is_refused_until_told_otherwise(setting: Setting) {
    let app = logging(setting, ">>", &[]);
    crashed(&app);
    let unchanged = app.start();
    unchanged.verified();
    drop(unchanged);
    append(&app, "later\n");
    let story = refused(&app, &[]);
    for words in ["/volume/log has changed since the checkpoint: 6 bytes then, 12 now", "--volume-changed start"] {
        assert!(story.contains(words), "{story}");
    }
    let afresh = app.start_with(&["--volume-changed", "start"]);
    afresh.verified();
    assert_eq!(log(&app), "first\nlater\nfirst\n", "{}", afresh.story());
    assert!(afresh.story().contains("starting the command afresh beside its volume"), "{}", afresh.story());
}

/// A container that starts afresh has taken the generation, and others still find a changed volume.
#[test]
fn after_an_ending_checkpoint_a_fresh_start_takes_the_generation() {
    let app = logging(Setting::Restricted, ">>", &[]);
    let first = app.start();
    first.verified();
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    append(&app, "somebody else's\n");
    refused(&app, &["--instance", "this"]);
    let second = app.start_with(&["--instance", "this", "--volume-changed", "start"]);
    second.verified();
    let story = refused(&app, &["--instance", "that"]);
    assert!(story.contains("container this has already taken it"), "{story}");
    second.checkpoint(&[]);
    app.start_with(&["--instance", "that"]).verified();
}

/// What others have appended stays, and the service appends to that.
fn a_log_that_has_grown_grows_on_if_told(setting: Setting) {
    let script = "mkfifo /tmp/none; exec 7>>/volume/log; while echo tick >&7; do read -t 1 <>/tmp/none; done";
    let app = App::with_options(setting, &[], &["sh", "-c", script]).with_volume(None);
    let first = app.start();
    first.running();
    first.eventually("there is no log", || log(&app).contains("tick").then_some(()));
    first.checkpoint(&["--leave-running"]);
    drop(first);
    append(&app, "later\n");
    let before = log(&app);
    let second = app.start_with(&["--volume-changed", "restore"]);
    second.running();
    let grown = format!("{before}tick\n");
    second.eventually("the log does not grow on", || log(&app).starts_with(&grown).then_some(()));
    assert!(second.story().contains("is restored beside newer files"), "{}", second.story());
}

/// A service that writes at its own positions would overwrite what has been added.
#[test]
fn a_longer_file_that_is_not_appended_to_is_refused_in_any_case() {
    let app = logging(Setting::Restricted, "<>", &[]);
    crashed(&app);
    append(&app, "later\n");
    let story = refused(&app, &["--volume-changed", "restore"]);
    assert!(story.contains("Not even --volume-changed restore can go on with it"), "{story}");
}

/// The next container has a volume of its own, with an older copy or without the file.
fn a_captured_file_of_a_volume_is_the_one_that_is_open(setting: Setting) {
    let app = logging(setting, ">>", &["--include", "/volume"]);
    let first = app.start();
    first.verified();
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let at = app.volume().join("log");
    fs::remove_file(&at).unwrap();
    let second = app.start();
    second.verified();
    let (sees, opened) = (["cat", "/volume/log"], "readlink /proc/1001/fd/7; ls -A /volume");
    assert_eq!(text(&second.exec(&sees).stdout), "first\n");
    assert_eq!(text(&second.exec(&["sh", "-c", opened]).stdout), "/volume/log\nlog\n");
    second.checkpoint(&[]);
    assert_eq!(second.wait(), 172, "{}", second.story());
    fs::write(&at, "old").unwrap();
    OpenOptions::new().write(true).open(&at).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let third = app.start();
    third.verified();
    assert_eq!(text(&third.exec(&sees).stdout), "first\n");
    assert_eq!(text(&third.exec(&["sh", "-c", opened]).stdout), "/volume/log\nlog\n");
}

/// What freeze does on a volume until the service runs is not the service's business.
fn a_watch_tells_nothing_of_what_freeze_puts_back(setting: Setting) {
    let app = App::with_options(setting, &["--include", "/volume"], &["/services/service", "holds", "volume-watch"]);
    let app = app.with_volume(None);
    let mut from = app.start();
    says(&from, "told=nothing");
    for generation in 0..2 {
        from.checkpoint(&[]);
        assert_eq!(from.wait(), 172, "{}", from.story());
        fs::remove_file(app.volume().join("file")).unwrap();
        from = app.start();
        says(&from, "told=nothing");
        fs::write(app.volume().join(format!("other{generation}")), "").unwrap();
        says(&from, &format!("told=other{generation}"));
        // This is seen too, before the next checkpoint.
        assert_eq!(names(&app).len(), 2 + generation);
    }
}

fn says(container: &Container, words: &str) {
    let answer = container.verified();
    assert!(answer.contains(words), "{words} is not in: {answer}\n{}", container.story());
}

/// The file is another user's by now, so it is written in place. The store goes away before that.
#[test]
fn a_store_that_goes_away_leaves_no_service_without_its_files() {
    let script = "head -c 300000 /dev/urandom >/volume/log; exec 7>>/volume/log; exec /services/service one";
    let app = App::with_options(Setting::Restricted, &["--include", "/volume"], &["sh", "-c", script]);
    let app = app.with_fail_points();
    let volume = app.volume();
    fs::create_dir(&volume).unwrap();
    chown(&volume, Some(Setting::Restricted.owner()), None).unwrap();
    let app = app.with_folder(&volume, "/volume");
    let first = app.start();
    first.verified();
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let at = volume.join("log");
    let captured = fs::read(&at).unwrap();
    fs::write(&at, "old").unwrap();
    OpenOptions::new().write(true).open(&at).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    fs::set_permissions(&at, PermissionsExt::from_mode(0o666)).unwrap();
    chown(&at, Some(0), Some(0)).unwrap();
    let second = app.start_stopping_at(Some(Point::RestoreTaken), &[]);
    let slow = second.stopped();
    assert_eq!(fs::read(&at).unwrap(), b"old");
    let elsewhere = tempfile::tempdir_in(app.store().parent().unwrap()).unwrap();
    for object in fs::read_dir(app.store()).unwrap().map(|object| object.unwrap()) {
        fs::rename(object.path(), elsewhere.path().join(object.file_name())).unwrap();
    }
    kill(Pid::from_raw(slow), Signal::SIGCONT).unwrap();
    second.verified();
    assert!(fs::read(&at).unwrap() == captured, "{}", second.story());
    assert_eq!(names(&app), ["log"]);
}

/// The service has gone on in the source, whose log is on the volume of both, while the target was slow.
fn loses_beside_a_shared_volume(slow_at: Point) {
    let app = logging(Setting::Restricted, ">>", &["--include", "/volume"]).with_fail_points();
    let volume = app.volume();
    let app = app.with_folder(&volume, "/volume");
    let source = app.start_with(&["--instance", "source"]);
    source.verified();
    let target = app.start_stopping_at(Some(slow_at), &["--instance", "target", "--standby", "--standby-poll", "20ms"]);
    target.reaches("standby");
    assert_eq!(source.try_checkpoint(&["--handover=5s"]).status.code(), Some(8), "{}", source.story());
    let slow = target.stopped();
    source.exec(&["sh", "-c", "echo more >>/volume/log"]);
    assert_eq!(log(&app), "first\nmore\n");
    kill(Pid::from_raw(slow), Signal::SIGCONT).unwrap();
    let until_over = || {
        assert_eq!(log(&app), "first\nmore\n");
        target.has_ended().then_some(())
    };
    target.eventually("the target does not end", until_over);
    assert_eq!(target.wait(), 173, "{}", target.story());
    assert_eq!((log(&app), names(&app)), ("first\nmore\n".to_owned(), vec!["log".to_owned()]));
    source.verified();
}

/// What is on the volume.
fn names(app: &App) -> Vec<String> {
    fs::read_dir(app.volume()).unwrap().map(|name| name.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_target_that_loses_before_the_files_leaves_the_log_of_the_source() {
    loses_beside_a_shared_volume(Point::RestoreChecked);
}

#[test]
fn a_target_that_loses_when_all_is_restored_leaves_the_log_of_the_source() {
    loses_beside_a_shared_volume(Point::RestoreHeld);
}

/// As an idle PostgreSQL does, the service has none of its files open.
#[test]
fn a_closed_file_where_the_service_works_is_compared() {
    let script =
        "cd /volume && mkdir -p deep && echo first >log && echo first >deep/data && exec /services/service one";
    let app = App::with_options(Setting::Restricted, &[], &["sh", "-c", script]).with_volume(None);
    crashed(&app);
    fs::write(app.volume().join("deep/data"), "later\n").unwrap();
    let story = refused(&app, &[]);
    assert!(story.contains("/volume/deep/data has changed since the checkpoint: 6 bytes then, 6 now"), "{story}");
    app.start_with(&["--volume-changed", "restore"]).verified();
}
