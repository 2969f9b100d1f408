//! `--trace`: where the time went, in the words and figures of the checkpoint itself.

use serde_json::Value;

use crate::harness::{App, Container, Setting, text};

/// The spans of a trace. Those of one track do not overlap.
pub fn spans(trace: &str) -> Vec<Value> {
    let events: Vec<Value> = serde_json::from_str(trace).unwrap_or_else(|error| panic!("{error}: {trace}"));
    let spans: Vec<Value> = events.into_iter().filter(|event| event["ph"] == "X").collect();
    let (from, took) = (|span: &Value| span["ts"].as_u64().unwrap(), |span: &Value| span["dur"].as_u64().unwrap());
    for span in &spans {
        let mut others = spans.iter().filter(|other| other["tid"] == span["tid"] && *other != span);
        assert!(others.all(|other| from(other) + took(other) <= from(span) || from(span) + took(span) <= from(other)));
    }
    spans
}

fn named<'a>(spans: &'a [Value], name: &str) -> &'a Value {
    spans.iter().rfind(|span| span["name"] == name).unwrap_or_else(|| panic!("no {name}: {spans:?}"))
}

/// How long the service was frozen last, in ms.
pub fn frozen_ms(spans: &[Value]) -> u64 {
    named(spans, "frozen")["dur"].as_u64().unwrap() / 1000
}

fn of(container: &Container, path: &str) -> Vec<Value> {
    spans(&text(&container.exec(&["cat", path]).stdout))
}

#[test]
fn a_checkpoint_and_a_restore_are_recorded() {
    let app = App::new(Setting::Restricted, &["mixed"]).with_variables(&["FREEZE_TRACE=/tmp/all.json"]);
    let first = app.start();
    first.verified();
    let said = first.checkpoint(&["--leave-running", "--json", "--trace", "/tmp/one.json"]);
    let report: Value = serde_json::from_str(said.lines().find(|line| line.contains("checkpointed")).unwrap()).unwrap();
    for path in ["/tmp/one.json", "/tmp/all.json"] {
        let spans = of(&first, path);
        assert_eq!(frozen_ms(&spans), report["frozen_ms"].as_u64().unwrap(), "{path}");
        assert_eq!(named(&spans, "frozen")["args"]["generation"], 1);
        for phase in ["preflight", "dump", "files", "commit"] {
            named(&spans, phase);
        }
    }
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let second = app.start();
    second.verified();
    // The first container's are left behind.
    let names: Vec<Value> = of(&second, "/tmp/all.json").iter().map(|span| span["name"].clone()).collect();
    assert_eq!(names, ["check", "restore"]);
}

#[test]
fn a_trace_that_cannot_be_written_ends_the_command_before_it_begins() {
    let app = App::new(Setting::Restricted, &["mixed"]);
    let container = app.start();
    container.verified();
    let out = container.try_checkpoint(&["--trace", "/no/such/folder"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("the trace /no/such/folder cannot be written"), "{}", text(&out.stderr));
    container.verified();
}
