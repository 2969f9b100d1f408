//! `freeze migrate`: moves a running service into another container, from anywhere.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::checkpoint::{Steps, print};
use super::recorder::Recorder;
use super::say;
use super::text::{json, printable};
use crate::control::protocol::{Event, NotConverging};
use crate::control::trace::{Span, Trace, Track};
use crate::exit;
use crate::migrate::{self, Failure, Migration, Moved, Note, Rehearsal, Side, Step, Template, words};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How to execute a command in the service's container: `kubectl -n shop exec redis-0 --`, or one of the short forms docker:NAME,
    /// podman:NAME, kubectl:POD, oc:deploy/NAME, with the engine's options before the name
    #[arg(long, value_name = "COMMAND", value_parser = Template::parse)]
    source: Template,
    /// The same for the container that takes the service, which was started with FREEZE_STANDBY=1 and the same store
    #[arg(long, value_name = "COMMAND", value_parser = Template::parse)]
    target: Template,
    /// Command that starts the target if it does not answer [default: that of the short form]
    #[arg(long, value_name = "COMMAND", value_parser = command)]
    start_target: Option<Command>,
    /// Command that stops the source after its service has moved [default: that of the short form]
    #[arg(long, value_name = "COMMAND", value_parser = command)]
    stop_source: Option<Command>,
    /// How long the source holds the service frozen for the target; after that, it keeps running in the source
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// How long the service may stand still in the last step: see `freeze checkpoint` [default: 300ms]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    max_downtime: Option<Duration>,
    /// What to do if the service writes too fast for that: see `freeze checkpoint` [default: go]
    #[arg(long, value_name = "WHAT")]
    if_not_converging: Option<NotConverging>,
    /// Path of freeze in both containers
    #[arg(long, value_name = "PATH", default_value = "/opt/freeze/freeze")]
    program: String,
    /// Check both sides and predict the downtime; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Write a trace of the move's steps and phases to this file; Perfetto opens it
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    trace: Option<PathBuf>,
    /// Print the result as one JSON object, and progress as JSON lines on standard error
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone)]
struct Command(Vec<String>);

fn command(text: &str) -> Result<Command, String> {
    words(text).map(Command)
}

pub fn main(arguments: Arguments) -> u8 {
    let (dry_run, json) = (arguments.dry_run, arguments.json);
    let Some(recorder) = Recorder::new(arguments.trace.as_deref()) else { return exit::USAGE };
    let migration = migration(arguments);
    let shown = Shown { json, steps: RefCell::default(), recorder };
    let tell = |note: Note<'_>| shown.note(note);
    let result = if dry_run {
        migrate::rehearse(&migration, &tell).map(|found| show(&found, json, rehearsed))
    } else {
        migrate::migrate(&migration, &tell).map(|moved| {
            shown.end(&moved);
            show(&moved, json, sentence);
            unstopped(&moved)
        })
    };
    shown.steps.borrow_mut().end();
    shown.recorder.write();
    result.unwrap_or_else(|failure| failed(&failure, json))
}

/// Prints the result. A closed standard output is no failure: the move has happened.
fn show<T: serde::Serialize>(result: &T, as_json: bool, sentence: fn(&T) -> String) -> u8 {
    print(if as_json { json(result) } else { sentence(result) }.trim_end().to_owned());
    exit::OK
}

fn unstopped(moved: &Moved) -> u8 {
    let Some(why) = &moved.unstopped else { return exit::OK };
    say(&format!(
        "the source cannot be stopped: {why}. Run this command again, or stop the source by hand: it is a standby now. The service runs in the target"
    ));
    exit::UNFINISHED
}

fn migration(arguments: Arguments) -> Migration {
    let Arguments {
        mut source,
        mut target,
        start_target,
        stop_source,
        timeout,
        max_downtime,
        if_not_converging,
        program,
        ..
    } = arguments;
    if let Some(Command(start)) = start_target {
        target.start = Some(start);
    }
    if let Some(Command(stop)) = stop_source {
        source.stop = Some(stop);
    }
    let side = |template| Side { template, program: program.clone() };
    // A freeze of before knows none of them.
    let max_downtime = max_downtime.map(|most| format!("--max-downtime={}", humantime::format_duration(most)));
    let not_converging = if_not_converging.and_then(|what| what.to_possible_value());
    let not_converging = not_converging.map(|what| format!("--if-not-converging={}", what.get_name()));
    let pace = max_downtime.into_iter().chain(not_converging).collect();
    Migration { source: side(source), target: side(target), timeout, pace }
}

fn failed(failure: &Failure, as_json: bool) -> u8 {
    let message = failure.to_string();
    if as_json {
        let event = serde_json::json!({ "event": "failed", "message": message, "runs": failure.runs });
        print(event.to_string());
    }
    say(&message);
    failure.status()
}

fn sentence(moved: &Moved) -> String {
    let Moved { generation, from, to, restore_ms, .. } = moved;
    let (from, to) = (printable(from), printable(to));
    match moved.downtime_ms {
        Some(downtime) => format!(
            "generation {generation} moved the service from {from} to {to}; downtime {downtime} ms, of which the restore took {restore_ms} ms\n"
        ),
        None => format!("generation {generation} moved the service from {from} to {to}; the downtime is unknown\n"),
    }
}

fn rehearsed(found: &Rehearsal) -> String {
    let from = printable(&found.from);
    let to = found.to.as_deref().map_or_else(|| "a target that is not running yet".to_owned(), printable);
    let unknown = "the downtime cannot be predicted";
    let time = match (found.predicted_ms, found.frozen_ms, found.restore_ms) {
        (Some(predicted), Some(frozen), Some(restore)) => format!(
            "predicted downtime {predicted} ms: {frozen} ms for the checkpoint (as the last one), {restore} ms for the restore"
        ),
        (_, None, _) => {
            format!("{unknown} before the source has taken a checkpoint: run `freeze checkpoint --leave-running` there")
        }
        _ => format!("{unknown} before the target runs"),
    };
    format!("the service can be moved from {from} to {to}; {time}\n")
}

/// Shows progress on standard error, and records it.
struct Shown {
    json: bool,
    steps: RefCell<Steps>,
    recorder: Recorder,
}

impl Shown {
    fn note(&self, note: Note<'_>) {
        self.record(&note);
        if self.json {
            return line(&note);
        }
        match note {
            Note::Event(Event::Progress { phase, bytes, total }) => self.steps.borrow_mut().show(phase, bytes, total),
            Note::Event(Event::Warning { message }) | Note::Warning(message) => {
                self.say(&format!("warning: {message}"))
            }
            Note::Event(_) => {}
            Note::Changed(finding) => self.say(&format!("note: {finding}; {}", finding.advice)),
            Note::Remark(message) => self.say(&format!("note: {message}")),
            Note::Step(step) => self.say(&words_of(step)),
        }
    }

    fn record(&self, note: &Note<'_>) {
        let mut trace = self.recorder.trace();
        match note {
            Note::Step(step) => trace.begin(Track::Move, name_of(*step)),
            Note::Event(event) => trace.note(event),
            _ => {}
        }
    }

    /// The move has ended: its steps as bars, on a terminal.
    fn end(&self, moved: &Moved) {
        self.steps.borrow_mut().end();
        let mut trace = self.recorder.trace();
        trace.end(Track::Move);
        if moved.downtime_ms.is_some() {
            trace.restored(Duration::from_millis(moved.restore_ms));
        }
        if !self.json && std::io::stderr().is_terminal() {
            let _ = std::io::stderr().write_all(bars(&trace).as_bytes());
        }
    }

    fn say(&self, message: &str) {
        self.steps.borrow_mut().end();
        say(&printable(message));
    }
}

#[derive(serde::Serialize)]
struct StepLine {
    event: &'static str,
    #[serde(flatten)]
    step: Step,
}

fn line(note: &Note<'_>) {
    let line = match note {
        Note::Step(step) => json(&StepLine { event: "step", step: *step }),
        Note::Event(event) => json(event),
        Note::Changed(finding) => {
            json(&serde_json::json!({ "event": "note", "message": finding.to_string(), "advice": finding.advice }))
        }
        Note::Remark(message) => json(&serde_json::json!({ "event": "note", "message": message })),
        Note::Warning(message) => json(&Event::Warning { message: message.clone() }),
    };
    // A closed standard error does not stop the move.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn name_of(step: Step) -> &'static str {
    match step {
        Step::Looking => "looking",
        Step::Starting => "starting",
        Step::Preparing => "preparing",
        Step::Fetching { .. } => "fetching",
        Step::HandingOver { .. } => "handing over",
        Step::Verifying => "verifying",
        Step::Stopping => "stopping",
    }
}

/// Cells of the longest bar.
const WIDTH: u128 = 40;

/// The steps of a move below each other, each where it was in time, and last when the service stood still for the move.
fn bars(trace: &Trace) -> String {
    let frozen = trace.spans(Track::Service).last();
    let spans: Vec<&Span> = trace.spans(Track::Move).chain(frozen).collect();
    let until = spans.iter().map(|span| span.until).max().unwrap_or_default();
    let cell = |time: Duration| time.as_nanos() * WIDTH / until.as_nanos().max(1);
    let bar = |span: &Span| {
        let (from, to) = (cell(span.from).min(WIDTH - 1), cell(span.until));
        (0..WIDTH).map(|at| if at == from || (from..to).contains(&at) { '█' } else { ' ' }).collect::<String>()
    };
    let line = |span: &&Span| {
        let took = span.until.saturating_sub(span.from);
        format!("{:12} {}{:>8} ms\n", span.name, bar(span), took.as_millis())
    };
    spans.iter().map(line).collect()
}

fn words_of(step: Step) -> String {
    match step {
        Step::Looking => "looking at both sides".to_owned(),
        Step::Starting => "starting the target".to_owned(),
        Step::Preparing => "taking a base checkpoint while the service runs".to_owned(),
        Step::Fetching { generation } => format!("waiting for the target to fetch generation {generation}"),
        Step::HandingOver { predicted_ms } => {
            format!("handing over: predicted downtime {predicted_ms} ms")
        }
        Step::Verifying => "asking the target for the service".to_owned(),
        Step::Stopping => "stopping the source".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn options_win_over_short_forms() {
        let cli = |more: &[&str]| {
            let words = [&["migrate", "--source", "docker:a", "--target", "ssh b docker exec a"], more].concat();
            migration(Cli::try_parse_from(words).unwrap().arguments)
        };
        let both = |of: Migration| {
            [of.source.template.stop, of.target.template.start].map(|words| words.map(|words| words.join(" ")))
        };
        assert_eq!(both(cli(&[])), [Some("docker stop a".to_owned()), None]);
        assert_eq!(
            both(cli(&["--stop-source", "true", "--start-target", "ssh b docker start a"])),
            [Some("true".to_owned()), Some("ssh b docker start a".to_owned())]
        );
        assert!(Cli::try_parse_from(["migrate", "--source", "docker:", "--target", "docker:a"]).is_err());
    }

    #[test]
    fn the_result_is_one_readable_line() {
        let moved = Moved {
            generation: 5,
            from: "a".into(),
            to: "b\n".into(),
            downtime_ms: Some(340),
            restore_ms: 90,
            unstopped: None,
        };
        insta::assert_snapshot!(sentence(&moved), @r"generation 5 moved the service from a to b\n; downtime 340 ms, of which the restore took 90 ms");
        insta::assert_snapshot!(sentence(&Moved { downtime_ms: None, ..moved }), @r"generation 5 moved the service from a to b\n; the downtime is unknown");
    }

    #[test]
    fn steps_are_bars_where_they_were_in_time() {
        let mut trace = Trace::default();
        let step = |name: &str, from, until| Span {
            track: if name == "frozen" { Track::Service } else { Track::Move },
            name: name.into(),
            from: Duration::from_millis(from),
            until: Duration::from_millis(until),
            figures: serde_json::json!({}),
        };
        let spans = [("looking", 0, 100), ("frozen", 110, 120), ("handing over", 100, 390), ("frozen", 150, 350)];
        spans.into_iter().for_each(|(name, from, until)| trace.add(step(name, from, until)));
        trace.add(step("stopping", 400, 400));
        insta::assert_snapshot!(bars(&trace), @r"
        looking      ██████████                                   100 ms
        handing over           █████████████████████████████      290 ms
        stopping                                            █       0 ms
        frozen                      ████████████████████          200 ms
        ");
        assert_eq!(bars(&Trace::default()), "");
    }

    #[test]
    fn a_rehearsal_says_what_it_goes_by() {
        let found = Rehearsal {
            from: "a".into(),
            to: Some("b".into()),
            frozen_ms: Some(40),
            restore_ms: Some(90),
            predicted_ms: Some(130),
        };
        insta::assert_snapshot!(rehearsed(&found), @"the service can be moved from a to b; predicted downtime 130 ms: 40 ms for the checkpoint (as the last one), 90 ms for the restore");
        insta::assert_snapshot!(rehearsed(&Rehearsal { frozen_ms: None, predicted_ms: None, ..found.clone() }), @"the service can be moved from a to b; the downtime cannot be predicted before the source has taken a checkpoint: run `freeze checkpoint --leave-running` there");
        insta::assert_snapshot!(rehearsed(&Rehearsal { to: None, restore_ms: None, predicted_ms: None, ..found }), @"the service can be moved from a to a target that is not running yet; the downtime cannot be predicted before the target runs");
    }
}
