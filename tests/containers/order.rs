//! Trees in an order that a seed decides (tests/services/random.c), where PIDs can only be counted up: each comes back, or is
//! refused before the dump and runs on.

use crate::harness::{App, Setting, text};

fn moves_or_is_refused(seed: u32) -> bool {
    let app = App::new(Setting::Restricted, &["random", &seed.to_string()]);
    let first = app.start();
    first.verified();
    let out = first.try_checkpoint(&[]);
    if !out.status.success() {
        let message = text(&out.stderr);
        assert!(message.contains("without the right to choose PIDs"), "seed {seed}: {message}");
        first.verified();
        return false;
    }
    assert_eq!(first.wait(), 172, "seed {seed}: {}", first.story());
    app.start().verified();
    true
}

#[test]
fn trees_in_any_order_come_back() {
    for seed in [2, 3, 5, 6, 7, 8, 10, 11, 12, 14, 15, 17, 19, 20, 21, 22, 24, 32, 44] {
        assert!(moves_or_is_refused(seed), "seed {seed} was refused");
    }
}

#[test]
fn what_could_not_come_back_runs_on() {
    for seed in [0, 16, 31, 43] {
        assert!(!moves_or_is_refused(seed), "seed {seed} was not refused");
    }
}
