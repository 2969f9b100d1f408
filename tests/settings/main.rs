//! Every privilege setting of the sandbox against services of every kind, and older kernels and engines: what
//! docs/reference/settings.md says must be what happens.
//!
//! Run by `make test-settings`, which prints the table. Needs what the container tests need (`tests/containers/main.rs`), and
//! `FREEZE_TEST_LANGUAGES`, a root with python3, node and Java.

#[path = "../containers/harness.rs"]
mod harness;
mod matrix;
mod older;

use harness::{App, Container, needed};

/// Moves a service so often, and says how far it came: "ok 3", or why not.
fn moved(app: &App, times: u32) -> String {
    let mut container = app.start_in(&needed("FREEZE_TEST_LANGUAGES"));
    container.verified();
    for done in 0..times {
        match move_once(app, &container) {
            Ok(next) => container = next,
            Err(sentence) if done == 0 => return sentence,
            Err(sentence) => return format!("ok {done}, then: {sentence}"),
        }
    }
    format!("ok {times}")
}

/// Into a fresh container, where the service must find everything as it was.
fn move_once(app: &App, from: &Container) -> Result<Container, String> {
    let out = from.try_checkpoint(&[]);
    if !out.status.success() {
        return Err(sentence(&harness::text(&out.stderr)));
    }
    assert_eq!(from.wait(), 172, "{}", from.story());
    let to = app.start_in(&needed("FREEZE_TEST_LANGUAGES"));
    let running = || to.status().is_some_and(|status| status.contains(r#""state":"running""#));
    to.eventually("it neither runs nor ends", || (to.has_ended() || running()).then_some(()));
    if to.has_ended() {
        return Err(sentence(&to.logs().1));
    }
    to.verified();
    Ok(to)
}

/// The last that freeze said, but for where to read more.
fn sentence(stderr: &str) -> String {
    let mut sentences = stderr.lines().filter_map(|line| line.strip_prefix("freeze: "));
    sentences.rfind(|line| !line.starts_with("CRIU's log")).unwrap_or(stderr).to_owned()
}
