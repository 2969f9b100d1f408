//! Two containers of one application: the one that restored last has it.

use crate::harness::{App, Setting, text};

#[test]
fn a_container_that_was_replaced_runs_on_and_commits_nothing() {
    let app = App::new(Setting::Restricted, &["big", "8"]);
    let first = app.start();
    first.verified();
    first.checkpoint(&["--leave-running"]);
    first.checkpoint(&["--leave-running"]);
    let second = app.start();
    second.verified();
    let refused = first.try_checkpoint(&[]);
    assert_eq!(refused.status.code(), Some(freeze::exit::PREFLIGHT.into()));
    let error = text(&refused.stderr);
    assert!(error.contains("another container has taken over this application at generation 2"), "{error}");
    first.verified();
    second.checkpoint(&[]);
    assert_eq!(second.wait(), 172, "{}", second.story());
    let third = app.start();
    third.verified();
    assert!(third.warnings().is_empty(), "{}", third.story());
}
