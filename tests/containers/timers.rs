//! Timers that end once, while a checkpoint is taken or just before: each has its signal, and only one.

use crate::harness::{App, Setting};
use crate::isolate::moved_on;

/// They end a few milliseconds after they were armed, and a dump takes longer than that: most moves meet some.
#[test]
fn timers_end_once_over_many_checkpoints() {
    const MOVES: usize = 12;
    let app = App::new(Setting::Restricted, &["timers"]);
    let mut container = app.start();
    for _ in 0..MOVES {
        container = moved_on(&app, &container);
    }
    container.verified();
}
