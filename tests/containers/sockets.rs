//! Unix sockets whose files have other names than they were bound to, or none.

use crate::harness::{App, Container, Setting, in_all_settings};

in_all_settings! {
    names_in_the_overlay;
    names_in_memory;
    names_on_a_volume;
}

fn move_once(app: &App, from: &Container) -> Container {
    from.checkpoint(&[]);
    assert_eq!(from.wait(), 172, "{}", from.story());
    app.start()
}

/// Lets the service run on once, and moves it twice.
fn names(setting: Setting, folder: &str) {
    let app = App::new(setting, &["sockets", folder]).with_volume(None);
    let first = app.start();
    first.verified();
    first.checkpoint(&["--leave-running"]);
    first.verified();
    let second = move_once(&app, &first);
    second.verified();
    move_once(&app, &second).verified();
}

fn names_in_the_overlay(setting: Setting) {
    names(setting, "/data");
}

fn names_in_memory(setting: Setting) {
    names(setting, "/dev/shm");
}

fn names_on_a_volume(setting: Setting) {
    names(setting, "/volume");
}
