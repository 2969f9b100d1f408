//! The status in sentences.

use std::time::{Duration, SystemTime};

use super::{super::text, RestoreTime};
use crate::control::protocol::{Clock, Event, Isolation, Phase, State, Status};
use crate::criu::tracer;

/// All known values, a line each.
pub fn all(status: &Status, service_here: Option<i32>, restore_time: Option<RestoreTime>) -> String {
    at(status, service_here, restore_time, SystemTime::now())
}

fn at(status: &Status, service_here: Option<i32>, restore_time: Option<RestoreTime>, now: SystemTime) -> String {
    let when = |ms| format!("{} ({} ago)", text::date(ms), text::age(text::time(ms), now));
    let mut lines = vec![state(status)];
    lines.extend(status.round.as_ref().map(text::round));
    if status.generation > 0 {
        lines.push(format!("generation: {}", status.generation));
    }
    if let Some(last) = &status.checkpoint {
        let (figures, by) = (text::figures(&last.report), last.reason.name());
        lines.push(format!(
            "last checkpoint: generation {}, {}, by {by}: {figures}",
            last.report.generation,
            when(last.at_ms)
        ));
    }
    if let Some(failure) = &status.failure {
        let message = text::printable(&failure.message);
        lines.push(format!("last failure: {}, by {}: {message}", when(failure.at_ms), failure.reason.name()));
    }
    if status.checkpoints + status.failures > 0 {
        lines.push(format!("checkpoints here: {} committed, {} failed", status.checkpoints, status.failures));
    }
    lines.extend(status.heartbeat.as_ref().map(|heartbeat| {
        let last = heartbeat.at_ms.map_or_else(|| "none here".to_owned(), when);
        let failed = format!("{} failed here, {} of them since then", heartbeat.failures, heartbeat.in_a_row);
        format!("last heartbeat: {last}; {failed}")
    }));
    if let Some(last) = &status.restore {
        let from = if last.from.is_empty() { String::new() } else { format!(" from {}", text::printable(&last.from)) };
        let (size, when) = (text::size(last.bytes), when(last.at_ms));
        lines.push(format!("restored: generation {}{from}, {when}: {size} in {} ms", last.generation, last.total_ms));
    }
    lines.extend(status.restore.as_ref().and_then(|last| Some(clock(last.clocks.clock, last.clocks.clock_jump_ms?))));
    lines.extend(status.isolation.map(|what| isolation(what, service_here)));
    lines.extend(status.tracers.map(tracers));
    if let Some(RestoreTime { pids_ms, highest, rest_ms }) = restore_time {
        let total = humantime::format_duration(Duration::from_millis(pids_ms.saturating_add(rest_ms)));
        let pids =
            if pids_ms > 0 { format!(", of which {pids_ms} ms to count PIDs up to {highest}") } else { String::new() };
        lines.push(format!("a restore would take about {total}{pids}"));
    }
    lines.join("\n") + "\n"
}

fn clock(clock: Option<Clock>, jump_ms: i64) -> String {
    let time = humantime::format_duration(Duration::from_millis(jump_ms.unsigned_abs()));
    match jump_ms {
        _ if clock == Some(Clock::UserSpace) => {
            "clock: continued from the checkpoint, in user space; programs that the service executes see this host's clock"
                .to_owned()
        }
        0 => "clock: continued from the checkpoint, in a time namespace".to_owned(),
        1.. => format!("clock: jumped ahead by {time} at the restore, to this host's clock"),
        _ => format!("clock: jumped BACK by {time} at the restore, to this host's clock"),
    }
}

fn isolation(isolation: Isolation, service_here: Option<i32>) -> String {
    let what = match isolation {
        Isolation::Processes => "user, PID and mount namespace",
        Isolation::Users => "user namespace",
        Isolation::Nothing => "none, for the reason in init's log",
    };
    let here = service_here.map(|pid| format!("; outside it, the service is process {pid}"));
    format!("isolation: {what}{}", here.unwrap_or_default())
}

fn tracers(left: usize) -> String {
    match left {
        0 => "tracers: none is left, so no checkpoint is possible in this container".to_owned(),
        left => format!("tracers: {left} of {} left above the service", tracer::COUNT),
    }
}

/// The state and the step under way.
pub fn state(status: &Status) -> String {
    let service = status.service;
    let state = match status.state {
        State::Starting => "starting: looking for a checkpoint, or restoring it".to_owned(),
        State::Standby => "standby: waiting for a generation to be handed over".to_owned(),
        State::Running => format!("running: the service is process {service}"),
        State::Checkpointing => format!("checkpointing: the service is process {service}"),
        State::HandingOver => {
            format!("handing over: the service, process {service}, is frozen until another container takes it")
        }
        State::Ending => "ending".to_owned(),
    };
    // The text of HandingOver names this phase already.
    let phase = status.phase.filter(|phase| *phase != Phase::Handover);
    let busy = phase.map(|phase| format!("; {}", text::progress(phase, status.bytes, status.total)));
    state + &busy.unwrap_or_default()
}

/// One line for an event of a subscription; `None` if `--follow` does not print it.
pub fn line(event: &Event) -> Option<String> {
    let line = match event {
        Event::Status(status) => state(status),
        Event::Progress { phase, bytes, total } => text::progress(*phase, *bytes, *total),
        Event::Round(round) => text::round(round),
        Event::Warning { message } => format!("warning: {}", text::printable(message)),
        _ => return None,
    };
    Some(line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_known_is_told() {
        let now = text::time(1_700_000_120_000);
        let restore_time = RestoreTime { pids_ms: 900, highest: 45_000, rest_ms: 250 };
        insta::assert_snapshot!(at(&super::super::example(), Some(9), Some(restore_time), now), @r#"
        checkpointing: the service is process 1001; dumping the service: 3.0 MiB of 12.0 MiB
        round 2 is generation 4: 9.0 MiB read, frozen 8 ms; 3.0 MiB change in a second, so the last step would take about 40 ms
        generation: 4
        last checkpoint: generation 4, 2023-11-14T22:14:20Z (59 s ago), by timer: 12.0 MiB (2.0 KiB new, 12.0 MiB shared), 1.0 KiB stored, frozen 40 ms, total 90 ms
        last failure: 2023-11-14T22:13:50Z (1 min ago), by command: the store\nis \"away\"
        checkpoints here: 2 committed, 1 failed
        last heartbeat: 2023-11-14T22:15:10Z (10 s ago); 3 failed here, 1 of them since then
        restored: generation 2 from redis-0, 2023-11-14T22:13:20Z (2 min ago): 12.0 MiB in 250 ms
        clock: jumped BACK by 1m 30s at the restore, to this host's clock
        isolation: user, PID and mount namespace; outside it, the service is process 9
        tracers: 1 of 2 left above the service
        a restore would take about 1s 150ms, of which 900 ms to count PIDs up to 45000
        "#);
    }

    #[test]
    fn each_clock_has_its_line() {
        let lines = [
            clock(Some(Clock::TimeNamespace), 0),
            clock(Some(Clock::UserSpace), 0),
            clock(Some(Clock::Host), 90_000),
            clock(None, -90_000),
        ];
        insta::assert_snapshot!(lines.join("\n"), @"
        clock: continued from the checkpoint, in a time namespace
        clock: continued from the checkpoint, in user space; programs that the service executes see this host's clock
        clock: jumped ahead by 1m 30s at the restore, to this host's clock
        clock: jumped BACK by 1m 30s at the restore, to this host's clock
        ");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let status = Status { state: State::Running, service: 7, ..Status::default() };
        assert_eq!(all(&status, None, None), "running: the service is process 7\n");
        let status =
            Status { state: State::HandingOver, service: 7, phase: Some(Phase::Handover), ..Status::default() };
        assert!(all(&status, None, None).ends_with("is frozen until another container takes it\n"));
    }

    #[test]
    fn events_are_lines_and_unknown_ones_none() {
        let progress = Event::Progress { phase: Phase::Commit, bytes: 0, total: 0 };
        assert_eq!(line(&progress).as_deref(), Some("committing\n"));
        assert_eq!(line(&Event::Warning { message: "a\nb".into() }).as_deref(), Some("warning: a\\nb\n"));
        assert_eq!(line(&Event::Reached), None);
    }
}
