//! `freeze checkpoint`: asks init for a checkpoint and waits for its result.

use std::io::{IsTerminal, Write};
use std::mem::ManuallyDrop;

use super::say;
use crate::{
    control::{
        client::{Client, ClientError},
        protocol::{Event, Op, Phase, Report, Wanted},
    },
    exit,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    folder: super::Folder,
    /// Let the service run on instead of ending it
    #[arg(long)]
    leave_running: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

/// Returns the exit status.
pub fn main(arguments: &Arguments) -> u8 {
    match ask(arguments) {
        Ok(code) => code,
        Err(error) => {
            say(&error.to_string());
            super::status_of(&error)
        }
    }
}

fn ask(arguments: &Arguments) -> Result<u8, ClientError> {
    let op = Op::Checkpoint(Wanted { leave_running: arguments.leave_running, handover_ms: None });
    // The kernel closes it when this process has ended, and not a moment earlier: init, which ends the container then, waits for that.
    let mut client = ManuallyDrop::new(Client::ask(arguments.folder.runtime_dir.as_deref(), op)?);
    loop {
        let event = client.next_event()?;
        match &event {
            Event::Progress { phase, .. } if std::io::stderr().is_terminal() => say(doing(*phase)),
            Event::Warning { message } => say(&format!("warning: {message}")),
            Event::Checkpointed(report) => {
                print(if arguments.json { super::json(&event) } else { sentence(report) });
                return Ok(exit::OK);
            }
            Event::Failed { message, log, .. } => {
                if arguments.json {
                    print(super::json(&event));
                }
                say(message);
                if let Some(log) = log {
                    say(&format!("CRIU's log: {}", log.display()));
                }
                return Ok(exit::FAILED);
            }
            _ => {}
        }
    }
}

/// The client that asked must not fail for want of a reader: the generation is committed.
fn print(line: String) {
    let _ = std::io::stdout().write_all((line + "\n").as_bytes());
}

fn doing(phase: Phase) -> &'static str {
    match phase {
        Phase::Preflight => "looking for what cannot be checkpointed",
        Phase::Dump => "dumping the service",
        Phase::Files => "capturing its open files",
        Phase::Commit => "committing",
        Phase::Check => "checking the checkpoint",
        Phase::Restore => "restoring",
    }
}

fn sentence(report: &Report) -> String {
    let Report { generation, bytes, stored, frozen_ms, total_ms, ended, .. } = report;
    let (bytes, stored) = (mib(*bytes), mib(*stored));
    let fate = if *ended { "the service has ended" } else { "the service runs on" };
    format!(
        "generation {generation} is committed: {bytes} MiB, {stored} MiB stored, frozen {frozen_ms} ms, total {total_ms} ms; {fate}"
    )
}

fn mib(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10).div_ceil(1 << 20);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_one_readable_line() {
        let report = Report {
            generation: 3,
            bytes: 5 << 20,
            stored: 1,
            new: 1,
            shared: 0,
            frozen_ms: 40,
            total_ms: 90,
            ended: true,
        };
        assert_eq!(
            sentence(&report),
            "generation 3 is committed: 5.0 MiB, 0.1 MiB stored, frozen 40 ms, total 90 ms; the service has ended"
        );
    }
}
