//! docs/reference/control-protocol.md: its examples do what they say, and it names everything that the protocol has.

mod init_support;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Command, Output},
};

use freeze::control::protocol::*;
use init_support::*;
use serde_json::Value;

const PAGE: &str = include_str!("../docs/reference/control-protocol.md");

/// The page's only block of code in a language.
fn example(language: &str) -> &'static str {
    let blocks: Vec<&str> =
        PAGE.split("\n```").filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).collect();
    assert_eq!(blocks.len(), 1, "examples in {language}");
    blocks[0]
}

fn run_example(interpreter: &[&str], language: &str) -> Output {
    // Without criu beside it: a checkpoint fails, and says so.
    let mut init = script(Place::Host, &[], "echo ready; exec sleep 1000");
    init.expect("ready");
    let mut command = Command::new(interpreter[0]);
    command.args(&interpreter[1..]).arg(example(language)).env("FREEZE_RUNTIME_DIR", init.runtime_dir());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_example_in_shell_runs() {
    let output = run_example(&["sh", "-euc"], "sh");
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert_eq!(lines[..2], [r#"{"event":"reached"}"#, r#""state":"running""#], "{}", text(&output.stderr));
    assert!(lines.last().unwrap().starts_with(r#"{"event":"failed","message":""#), "{lines:?}");
    assert!(output.status.success());
}

#[test]
fn the_example_in_python_runs() {
    let output = run_example(&["python3", "-c"], "python");
    assert!(text(&output.stdout).starts_with("init is running\npreflight 0\n"), "{output:?}");
    assert!(!text(&output.stderr).contains("Traceback") && output.status.code() == Some(1), "{output:?}");
}

/// Every name of a field in a message, and every word from a fixed set.
fn names(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                found.insert(name.clone());
                if ["event", "op", "until", "phase", "state", "reason"].contains(&name.as_str()) {
                    found.extend(value.as_str().map(str::to_owned));
                }
                names(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| names(value, found)),
        _ => {}
    }
}

#[test]
fn the_page_names_everything_in_a_message() {
    let report =
        Report { generation: 1, bytes: 1, stored: 1, new: 1, shared: 1, frozen_ms: 1, total_ms: 1, ended: true };
    let (log, message) = (Some(PathBuf::from("/log")), String::new());
    let mut found = BTreeSet::new();
    let mut note = |value: serde_json::Result<Value>| names(&value.unwrap(), &mut found);
    let named = Named { include: vec!["/a".into()], exclude: vec!["b".parse().unwrap()] };
    for op in [
        Op::Checkpoint(Wanted { leave_running: true, handover_ms: Some(1), pace: Pace::DEFAULT, named }),
        Op::Status,
        Op::Cancel,
        Op::Subscribe,
        Op::Wait { until: Awaited::Running },
        Op::Wait { until: Awaited::Restored },
        Op::Wait { until: Awaited::Checkpointed },
        Op::Wait { until: Awaited::Idle },
    ] {
        note(serde_json::to_value(Request { version: VERSION, op }));
    }
    let clocks = ClockReport { clock_jump_ms: Some(1), clock: Some(Clock::Host), clock_ahead_s: Some(1) };
    for phase in [
        Phase::Preflight,
        Phase::Dump,
        Phase::Files,
        Phase::Read,
        Phase::Commit,
        Phase::Follow,
        Phase::Handover,
        Phase::Check,
        Phase::Restore,
    ] {
        note(serde_json::to_value(Event::Progress { phase, bytes: 1, total: 1 }));
    }
    let isolations = [Isolation::Processes, Isolation::Users, Isolation::Nothing, Isolation::Nothing];
    for (reason, isolation) in
        [Reason::Command, Reason::Signal, Reason::Term, Reason::Timer].into_iter().zip(isolations)
    {
        for state in
            [State::Starting, State::Standby, State::Running, State::Checkpointing, State::HandingOver, State::Ending]
        {
            note(serde_json::to_value(Event::Status(Box::new(Status {
                state,
                isolation: Some(isolation),
                phase: Some(Phase::Dump),
                restore: Some(RestoreReport { clocks, ..RestoreReport::default() }),
                checkpoint: Some(CheckpointReport { at_ms: 1, reason, report }),
                failure: Some(FailureReport { at_ms: 1, reason, message: message.clone() }),
                ..Status::default()
            }))));
        }
    }
    for event in [
        Event::Settled { taken_by: Some(String::new()) },
        Event::HandingOver { to: String::new(), timeout_ms: 1 },
        Event::Warning { message: message.clone() },
        Event::Checkpointed(report),
        Event::Failed { message, log, phase: Some(Phase::Dump) },
        Event::Reached,
        Event::Done,
    ] {
        note(serde_json::to_value(event));
    }
    let missing: Vec<_> = found.iter().filter(|name| !PAGE.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/reference/control-protocol.md does not name {missing:?}");
    assert!(PAGE.contains(&format!("is version {VERSION}.")) && PAGE.contains(&format!(" {MAX_LINE} bytes")));
}
