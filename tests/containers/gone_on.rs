//! Volumes that go on after a checkpoint, and what each policy makes of that.

use std::fs::{self, OpenOptions};
use std::io::Write;

use crate::harness::{App, Setting, in_all_settings};

const VOLUME_CHANGED: i32 = 175;

in_all_settings! {
    a_log_that_has_gone_on_is_refused_until_told_otherwise;
}

/// A service that has a log on a volume open, as `>>` or `1<>` opens it.
fn logging(setting: Setting, redirection: &str) -> App {
    let script = format!("echo first >>/volume/log; exec 7{redirection}/volume/log; exec /services/service one");
    App::with_options(setting, &[], &["sh", "-c", &script]).with_volume(None)
}

fn log(app: &App) -> String {
    fs::read_to_string(app.volume().join("log")).unwrap()
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
    let app = logging(setting, ">>");
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

/// Who starts afresh has taken the generation, and others still find a volume that has gone on.
#[test]
fn after_an_ending_checkpoint_a_fresh_start_takes_the_generation() {
    let app = logging(Setting::Restricted, ">>");
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
