//! Trees in an order that a seed decides (tests/services/random.c), where PIDs can only be counted up: whatever a checkpoint accepts
//! comes back whole, and can go on from there; what it refuses runs on.

use crate::harness::{App, Setting, text};

fn moves_or_is_refused(seed: u32) -> bool {
    let app = App::new(Setting::Restricted, &["random", &seed.to_string()]);
    let mut container = app.start();
    container.verified();
    for generation in 1..=2 {
        let out = container.try_checkpoint(&[]);
        if !out.status.success() {
            let message = text(&out.stderr);
            assert!(message.contains("a restore that counts PIDs up cannot create it"), "seed {seed}: {message}");
            assert_eq!(generation, 1, "seed {seed} came back so that it is refused: {message}");
            container.verified();
            return false;
        }
        assert_eq!(container.wait(), 172, "seed {seed}: {}", container.story());
        container = app.start();
        container.verified();
        assert!(container.warnings().is_empty(), "seed {seed}: {:?}", container.warnings());
    }
    true
}

#[test]
fn whatever_is_accepted_comes_back() {
    let moved = (0..12).filter(|&seed| moves_or_is_refused(seed)).count();
    assert!(moved >= 10, "only {moved} were accepted");
}

#[test]
fn subreapers_get_back_what_they_had() {
    // A zombie of another subreaper; and such as let others pass before they adopted some.
    assert!(moves_or_is_refused(30));
    for seed in [50, 67] {
        assert!(!moves_or_is_refused(seed), "seed {seed} was accepted");
    }
}

#[test]
fn a_group_that_its_first_process_has_left_is_refused_everywhere() {
    // CRIU cannot make it again even where it may choose PIDs.
    for setting in [Setting::Unconfined, Setting::Restricted] {
        let app = App::new(setting, &["holds", "left-group"]);
        let container = app.start();
        container.verified();
        let out = container.try_checkpoint(&[]);
        let said = text(&out.stderr);
        assert!(
            !out.status.success() && said.contains("whose leader has moved to another group"),
            "{setting:?}: {said}"
        );
        container.verified();
    }
}
