//! Timers that end once, while a checkpoint is taken or just before: each has its signal, and only one.

use crate::harness::{App, Setting};
use crate::isolate::moved_on;

/// They end a few milliseconds after they were armed.
fn end_once_over_many_checkpoints(mebibytes: &str) {
    const MOVES: usize = 12;
    let app = App::new(Setting::Restricted, &["timers", mebibytes]);
    let mut container = app.start();
    for _ in 0..MOVES {
        container = moved_on(&app, &container);
    }
    container.verified();
}

/// A dump takes longer than they do, so all have ended when they are read.
#[test]
fn timers_that_end_before_they_are_read() {
    end_once_over_many_checkpoints("64");
}

/// A dump is short, so some end right behind the moment in which they are read.
#[test]
fn timers_that_end_after_they_were_read() {
    end_once_over_many_checkpoints("0");
}
