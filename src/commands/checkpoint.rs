//! `freeze checkpoint`: asks init for a checkpoint and waits for its result.

use std::io::{IsTerminal, Write};
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::time::Duration;

use super::recorder::Recorder;
use super::{say, text};
use crate::{
    control::{
        client::{Client, ClientError},
        protocol::{Event, MAX_NAMED, NotConverging, Op, Pace, Phase, Report, Wanted, millis},
    },
    exit,
    files::selection::{Named, Pattern},
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    folder: super::Folder,
    /// Keep the service running instead of ending it
    #[arg(long)]
    leave_running: bool,
    /// Hold the service frozen until another container takes it; if none has by TIMEOUT, it keeps running here [default: 60s]
    #[arg(long, value_name = "TIMEOUT", num_args = 0..=1, require_equals = true, default_missing_value = "60s",
          conflicts_with = "leave_running", value_parser = humantime::parse_duration)]
    handover: Option<Duration>,
    /// How long the service may stand still in the last step of a handover: freeze saves what changes in rounds before, until
    /// it predicts less
    #[arg(long, value_name = "DURATION", default_value = "300ms", requires = "handover", value_parser = humantime::parse_duration)]
    max_downtime: Duration,
    /// What to do if no round makes the last step that short
    #[arg(long, value_name = "WHAT", default_value = "go", requires = "handover")]
    if_not_converging: NotConverging,
    /// Checkpoint this file or folder too, besides what `freeze run` includes
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    include: Vec<PathBuf>,
    /// Leave behind the files and folders of this path or name too; it may have wildcards
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    exclude: Vec<Pattern>,
    /// Write a trace of the phases to this file; Perfetto opens it
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print the result as one JSON object, and progress as JSON lines on standard error
    #[arg(long)]
    json: bool,
}

pub fn main(arguments: &Arguments) -> u8 {
    if let Err(error) = named(arguments).check(MAX_NAMED) {
        say(&error.to_string());
        return exit::USAGE;
    }
    let Some(recorder) = Recorder::new(arguments.trace.as_deref()) else { return exit::USAGE };
    match ask(arguments, &recorder) {
        Ok(code) => code,
        Err(error) => {
            say(&error.to_string());
            super::status_of(&error)
        }
    }
}

/// Relative paths are those of this command, not of init.
fn named(arguments: &Arguments) -> Named {
    let include = arguments.include.iter().cloned().map(super::run::plain).collect();
    Named { include, exclude: arguments.exclude.clone() }
}

fn ask(arguments: &Arguments, recorder: &Recorder) -> Result<u8, ClientError> {
    let handover_ms = arguments.handover.map(millis);
    let pace = Pace { max_downtime_ms: millis(arguments.max_downtime), if_not_converging: arguments.if_not_converging };
    let named = named(arguments);
    let op = Op::Checkpoint(Wanted { leave_running: arguments.leave_running, handover_ms, pace, named });
    // Never dropped: the kernel closes the socket when this process ends, and init waits for that before it
    // ends the container.
    let mut client = ManuallyDrop::new(Client::ask(arguments.folder.runtime_dir.as_deref(), op)?);
    let mut steps = Steps::default();
    let mut peer = None;
    loop {
        let event = client.next_event().inspect_err(|_| steps.end())?;
        recorder.trace().note(&event);
        match &event {
            Event::Progress { .. }
            | Event::Warning { .. }
            | Event::Settled { .. }
            | Event::HandingOver { .. }
            | Event::Round(_)
                if arguments.json =>
            {
                let _ = std::io::stderr().write_all((super::json(&event) + "\n").as_bytes());
            }
            Event::HandingOver { to, timeout_ms } => {
                steps.end();
                say(&handing_over(to, Duration::from_millis(*timeout_ms)));
            }
            Event::Round(round) => {
                steps.end();
                say(&text::round(round));
            }
            Event::Progress { phase, bytes, total } => steps.show(*phase, *bytes, *total),
            Event::Warning { message } => {
                steps.end();
                say(&format!("warning: {}", text::printable(message)));
            }
            Event::Settled { taken_by } => peer.clone_from(taken_by),
            Event::Checkpointed(report) => {
                steps.end();
                recorder.write();
                print(if arguments.json { super::json(&event) } else { sentence(report, peer.as_deref()) });
                return Ok(exit::OK);
            }
            Event::Failed { message, log, phase } => {
                steps.end();
                recorder.write();
                if arguments.json {
                    print(super::json(&event));
                }
                say(message);
                if let Some(log) = log {
                    say(&format!("CRIU's log: {}", log.display()));
                }
                return Ok(failed_in(*phase));
            }
            _ => {}
        }
    }
}

/// Prints a line. Ignores errors: a closed standard output must not make a committed checkpoint look failed.
pub(super) fn print(line: String) {
    let _ = std::io::stdout().write_all((line + "\n").as_bytes());
}

/// Exit status of a checkpoint that failed in `phase`.
fn failed_in(phase: Option<Phase>) -> u8 {
    match phase {
        Some(Phase::Preflight) => exit::PREFLIGHT,
        Some(Phase::Dump | Phase::Read) => exit::DUMP,
        Some(Phase::Files) => exit::FILES,
        Some(Phase::Commit) => exit::COMMIT,
        Some(Phase::Handover) => exit::HANDOVER,
        Some(Phase::Follow | Phase::Check | Phase::Restore) | None => exit::FAILED,
    }
}

/// The steps on a terminal, one line each. The current line is rewritten as its bytes grow.
#[derive(Debug, Default)]
pub(super) struct Steps {
    phase: Option<Phase>,
}

impl Steps {
    pub(super) fn show(&mut self, phase: Phase, bytes: u64, total: u64) {
        if std::io::stderr().is_terminal() {
            let line = self.line(phase, bytes, total);
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn line(&mut self, phase: Phase, bytes: u64, total: u64) -> String {
        let before = self.phase.replace(phase);
        let begin = if before.is_some_and(|before| before != phase) { "\n" } else { "\r\x1b[K" };
        format!("{begin}freeze: {}", text::progress(phase, bytes, total))
    }

    /// Ends the current line, so that the next message begins a new one.
    pub(super) fn end(&mut self) {
        if self.phase.take().is_some() {
            let _ = std::io::stderr().write_all(b"\n");
        }
    }
}

fn handing_over(to: &str, timeout: Duration) -> String {
    format!(
        "the standby {} is ready, so the service is handed over; if no container has taken it in {}, it keeps running here",
        text::printable(to),
        humantime::format_duration(timeout)
    )
}

fn sentence(report: &Report, peer: Option<&str>) -> String {
    let fate = match (report.ended, peer) {
        (true, Some(peer)) => format!("{} has the service", text::printable(peer)),
        (true, None) => "the service has ended".to_owned(),
        (false, _) => "the service keeps running".to_owned(),
    };
    format!("generation {} is committed: {}; {fate}", report.generation, text::figures(report))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: Report = Report {
        generation: 3,
        bytes: 5 << 20,
        stored: 1 << 10,
        new: 1 << 20,
        shared: 4 << 20,
        frozen_ms: 40,
        total_ms: 90,
        ended: true,
    };

    #[test]
    fn the_result_is_one_readable_line() {
        assert_eq!(
            sentence(&REPORT, None),
            "generation 3 is committed: 5.0 MiB (1.0 MiB new, 4.0 MiB shared), 1.0 KiB stored, frozen 40 ms, total 90 ms; the service has ended"
        );
        assert!(sentence(&REPORT, Some("b\x1b")).ends_with("; b\\u{1b} has the service"));
        assert!(sentence(&Report { ended: false, ..REPORT }, None).ends_with("; the service keeps running"));
    }

    #[test]
    fn who_will_have_the_service_is_said_before_it_is_frozen() {
        insta::assert_snapshot!(handing_over("b\x1b", Duration::from_secs(600)), @r"the standby b\u{1b} is ready, so the service is handed over; if no container has taken it in 10m, it keeps running here");
    }

    #[test]
    fn a_step_is_a_line_that_grows() {
        let mut steps = Steps::default();
        assert_eq!(
            steps.line(Phase::Preflight, 0, 0),
            "\r\x1b[Kfreeze: checking whether the service can be checkpointed"
        );
        assert_eq!(steps.line(Phase::Dump, 0, 0), "\nfreeze: dumping the service");
        assert_eq!(
            steps.line(Phase::Dump, 1 << 20, 2 << 20),
            "\r\x1b[Kfreeze: dumping the service: 1.0 MiB of 2.0 MiB"
        );
    }

    #[test]
    fn each_step_of_a_checkpoint_has_its_own_status() {
        let steps = [Phase::Preflight, Phase::Dump, Phase::Files, Phase::Commit, Phase::Handover];
        assert_eq!(steps.map(|phase| failed_in(Some(phase))), [4, 5, 6, 7, 8]);
        assert_eq!(failed_in(None), exit::FAILED);
    }
}
