//! `freeze status`: asks init what it is doing. Cheap enough for a probe: one process, one thread, one
//! request line, one reply line.

mod prometheus;
mod restore_time;
mod sentences;

use std::io::{ErrorKind, Write};

use super::{say, text};
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{Event, Isolation, Op, State, Status};
use crate::exit;
use crate::proc::tree;
use restore_time::RestoreTime;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    folder: super::Folder,
    /// Print the answer as one JSON object; with --follow, one per line
    #[arg(long)]
    json: bool,
    /// Print metrics in Prometheus's text format
    #[arg(long, conflicts_with_all = ["json", "follow"])]
    prometheus: bool,
    /// Print nothing and exit with 0 if the service runs; otherwise print its state and fail
    #[arg(long, conflicts_with_all = ["json", "prometheus", "follow"])]
    ready: bool,
    /// Print a line for each change of state, progress and warning until init ends
    #[arg(long)]
    follow: bool,
}

pub fn main(arguments: &Arguments) -> u8 {
    let result = if arguments.follow { follow(arguments) } else { once(arguments) };
    result.unwrap_or_else(|error| {
        say(&error.to_string());
        super::status_of(&error)
    })
}

fn once(arguments: &Arguments) -> Result<u8, ClientError> {
    let mut client = Client::ask(arguments.folder.runtime_dir.as_deref(), Op::Status)?;
    let event = client.next_event()?;
    let Event::Status(status) = &event else { return Ok(super::refused(&event)) };
    if arguments.ready {
        if is_ready(status.state) {
            return Ok(exit::OK);
        }
        say(&format!("not ready: {}", sentences::state(status)));
        return Ok(exit::FAILED);
    }
    let service_here = seen_here(&client, status);
    let restore_time = predict(&client, status);
    Ok(text::print(&if arguments.prometheus {
        prometheus::metrics(status, restore_time)
    } else if arguments.json {
        text::json(&Answer {
            event: &event,
            service_here,
            predicted_restore_ms: restore_time.map(RestoreTime::total_ms),
        })
    } else {
        sentences::all(status, service_here, restore_time)
    }))
}

/// Init's answer, plus the fields that this command adds.
#[derive(serde::Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    event: &'a Event,
    /// See [`seen_here`].
    #[serde(skip_serializing_if = "Option::is_none")]
    service_here: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted_restore_ms: Option<u64>,
}

/// The service's PID in this command's PID namespace. `None` unless init has a PID namespace of its own.
fn seen_here(client: &Client, status: &Status) -> Option<i32> {
    if status.isolation != Some(Isolation::Processes) || status.service == 0 {
        return None;
    }
    tree::number_here(&tree::all().ok()?, client.peer()?, status.service)
}

/// In a PID namespace of its own init can choose PIDs, even if this command cannot.
fn predict(client: &Client, status: &Status) -> Option<RestoreTime> {
    match status.isolation {
        Some(Isolation::Processes) => RestoreTime::without_counting(status),
        _ => restore_time::of(status, client.init_pid()?),
    }
}

/// The service answers its clients now, or as soon as the checkpoint under way lets it run on.
fn is_ready(state: State) -> bool {
    matches!(state, State::Running | State::Checkpointing)
}

/// Prints one line an event, until init ends or standard output is closed.
fn follow(arguments: &Arguments) -> Result<u8, ClientError> {
    let mut client = Client::ask(arguments.folder.runtime_dir.as_deref(), Op::Subscribe)?;
    loop {
        let event = client.next_event()?;
        let line = if arguments.json { Some(text::json(&event)) } else { sentences::line(&event) };
        let written = std::io::stdout().write_all(line.unwrap_or_default().as_bytes());
        match (written, &event) {
            (Err(error), _) if error.kind() == ErrorKind::BrokenPipe => return Ok(exit::OK),
            (Err(error), _) => return Err(error.into()),
            (Ok(()), Event::Failed { .. }) => return Ok(super::refused(&event)),
            (Ok(()), _) => {}
        }
    }
}

#[cfg(test)]
fn example() -> crate::control::protocol::Status {
    use crate::control::protocol::{
        CheckpointReport, Clock, ClockReport, FailureReport, HeartbeatReport, Phase, Reason, Report, RestoreReport,
        RoundReport,
    };
    Status {
        version: "0.1.0".into(),
        instance: "redis-1".into(),
        isolation: Some(Isolation::Processes),
        tracers: Some(1),
        state: State::Checkpointing,
        service: 1001,
        generation: 4,
        phase: Some(Phase::Dump),
        bytes: 3 << 20,
        total: 12 << 20,
        round: Some(RoundReport {
            round: 2,
            generation: 4,
            read: 9 << 20,
            changes: 3 << 20,
            frozen_ms: 8,
            predicted_ms: Some(40),
        }),
        restore: Some(RestoreReport {
            generation: 2,
            at_ms: 1_700_000_000_000,
            total_ms: 250,
            bytes: 12 << 20,
            ahead: 0,
            from: "redis-0".into(),
            clocks: ClockReport { clock_jump_ms: Some(-90_000), clock: Some(Clock::Host), ..ClockReport::default() },
        }),
        checkpoint: Some(CheckpointReport {
            at_ms: 1_700_000_060_500,
            reason: Reason::Timer,
            report: Report {
                generation: 4,
                bytes: 12 << 20,
                stored: 1 << 10,
                new: 2 << 10,
                shared: (12 << 20) - (2 << 10),
                frozen_ms: 40,
                total_ms: 90,
                ended: false,
            },
        }),
        checkpoints: 2,
        failures: 1,
        failure: Some(FailureReport {
            at_ms: 1_700_000_030_000,
            reason: Reason::Command,
            message: "the store\nis \"away\"".into(),
        }),
        heartbeat: Some(HeartbeatReport { at_ms: Some(1_700_000_110_000), failures: 3, in_a_row: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_in_json_is_inits_with_the_forecast_added() {
        let event = Event::Status(Box::new(Status { state: State::Running, service: 7, ..Status::default() }));
        let plain = super::super::json(&event);
        let text = text::json(&Answer { event: &event, service_here: None, predicted_restore_ms: Some(30) });
        assert_eq!(text.trim_end(), plain.replace("\"failures\":0}", "\"failures\":0,\"predicted_restore_ms\":30}"));
        assert_eq!(
            text::json(&Answer { event: &event, service_here: None, predicted_restore_ms: None }).trim_end(),
            plain
        );
    }

    #[test]
    fn only_a_service_that_runs_is_ready() {
        let states =
            [State::Starting, State::Standby, State::Running, State::Checkpointing, State::HandingOver, State::Ending];
        assert_eq!(states.map(is_ready), [false, false, true, true, false, false]);
    }
}
