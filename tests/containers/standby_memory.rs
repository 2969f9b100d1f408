//! A standby holds the memory of the last generation: of the next one it reads the pages that have changed, and the service has
//! all of its memory as it was.

use crate::harness::{App, Container, Setting, in_all_settings};

in_all_settings! {
    only_what_changed_is_read;
}

const STANDBY: [&str; 5] = ["--standby", "--standby-poll", "20ms", "--standby-cache", "/runtime/cache"];

/// Waits until the standby has taken this generation in.
fn prepared(standby: &Container, generation: u64) {
    let prepared = format!(r#""state":"standby","service":0,"generation":{generation}"#);
    standby.eventually("it does not prepare", || standby.status()?.contains(&prepared).then_some(()));
}

/// Bytes that the last restore has brought back, and those of them that were there before.
fn restored(container: &Container) -> (u64, u64) {
    let status: serde_json::Value = serde_json::from_str(&container.status().unwrap()).unwrap();
    let bytes = |name: &str| status["restore"][name].as_u64().unwrap();
    (bytes("bytes"), bytes("held"))
}

fn hands_over(from: &Container, to: &Container) {
    from.checkpoint(&["--handover"]);
    assert_eq!(from.wait(), 172, "{}", from.story());
    to.verified();
}

fn only_what_changed_is_read(setting: Setting) {
    let app = App::new(setting, &["mixed"]);
    let here = app.start();
    here.verified();
    let there = app.start_with(&STANDBY);
    there.reaches("standby");
    here.checkpoint(&["--leave-running"]);
    prepared(&there, 1);
    here.verified();
    hands_over(&here, &there);
    let (bytes, held) = restored(&there);
    assert!(held * 2 > bytes && held < bytes, "{held} of {bytes}: {}", there.story());
}
