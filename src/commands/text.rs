//! Formats sizes, times, lists and messages for people.

use std::io::{ErrorKind, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytesize::ByteSize;

use crate::control::protocol::{Phase, Report, RoundReport};
use crate::exit;

/// Prints a command's result and returns the exit status. A closed pipe is no failure.
pub fn print(text: &str) -> u8 {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            say(&format!("cannot write to standard output: {error}"));
            exit::FAILED
        }
        _ => exit::OK,
    }
}

/// Writes a message to standard error, which may be closed.
///
/// A message may name a process or a path of the service, so control characters are escaped.
pub fn say(message: &str) {
    let _ = std::io::stderr().write_all(said(message).as_bytes());
}

fn said(message: &str) -> String {
    let lines: Vec<String> = message.lines().map(printable).collect();
    format!("freeze: {}\n", lines.join("\n"))
}

/// A line of JSON, newline included.
pub fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

/// Escapes a text with control characters: text from outside must not control the terminal.
pub fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) { text.escape_debug().to_string() } else { text.to_owned() }
}

/// Such as `1.5 KiB`.
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// Such as `3 packs`.
pub fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Such as `1, 2 and 5`.
pub fn numbers(numbers: &[u64]) -> String {
    let words: Vec<String> = numbers.iter().map(u64::to_string).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

/// Converts milliseconds since 1970.
pub fn time(ms: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH)
}

/// Such as `2023-11-14T22:13:20Z`.
pub fn date(ms: u64) -> String {
    /// The last second of the year 9999, where RFC 3339 ends.
    const LAST_MS: u64 = 253_402_300_799_000;
    humantime::format_rfc3339_seconds(time(ms.min(LAST_MS))).to_string()
}

/// Such as `5 min`.
pub fn age(created: SystemTime, now: SystemTime) -> String {
    let Ok(age) = now.duration_since(created) else { return "in the future".into() };
    let seconds = age.as_secs();
    let (unit, name) = match seconds {
        0..60 => (1, "s"),
        60..3600 => (60, "min"),
        3600..86_400 => (3600, "h"),
        _ => (86_400, "d"),
    };
    format!("{} {name}", seconds / unit)
}

/// A step of a checkpoint or restore, with its bytes so far.
pub fn progress(phase: Phase, bytes: u64, total: u64) -> String {
    let step = match phase {
        Phase::Preflight => "checking whether the service can be checkpointed",
        Phase::Dump => "dumping the service",
        Phase::Read => "reading its memory while it runs",
        Phase::Files => "capturing its open files",
        Phase::Commit => "committing",
        Phase::Follow => "waiting until the standby has this round",
        Phase::Handover => "waiting for another container to take the service",
        Phase::Check => "checking the checkpoint",
        Phase::Restore => "restoring",
    };
    match (bytes, total) {
        (0, 0) => step.to_owned(),
        (_, 0) => format!("{step}: {}", size(bytes)),
        _ => format!("{step}: {} of {}", size(bytes), size(total)),
    }
}

/// A round of a move.
pub fn round(report: &RoundReport) -> String {
    let RoundReport { round, generation, read, changes, frozen_ms, predicted_ms } = *report;
    let read = size(read);
    let outlook = predicted_ms.map_or_else(String::new, |ms| {
        format!("; {} change in a second, so the last step would take about {ms} ms", size(changes))
    });
    format!("round {round} is generation {generation}: {read} read, frozen {frozen_ms} ms{outlook}")
}

pub fn figures(report: &Report) -> String {
    let Report { bytes, stored, new, shared, frozen_ms, total_ms, .. } = *report;
    let [bytes, stored, new, shared] = [bytes, stored, new, shared].map(size);
    format!("{bytes} ({new} new, {shared} shared), {stored} stored, frozen {frozen_ms} ms, total {total_ms} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_moves_no_cursor() {
        assert_eq!(
            said("process 7 (\x1b[2J) is traced;\nstop it"),
            "freeze: process 7 (\\u{1b}[2J) is traced;\nstop it\n"
        );
    }

    #[test]
    fn sizes_and_ages_are_short() {
        assert_eq!([0, 1023, 1024, 1 << 30, u64::MAX].map(size), ["0 B", "1023 B", "1.0 KiB", "1.0 GiB", "16.0 EiB"]);
        let at = |seconds| age(UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!([0, 59, 60, 7200, 90_000].map(at), ["0 s", "59 s", "1 min", "2 h", "1 d"]);
        assert_eq!(age(UNIX_EPOCH + Duration::from_secs(1), UNIX_EPOCH), "in the future");
    }

    #[test]
    fn lists_read_as_sentences() {
        assert_eq!([&[][..], &[4], &[1, 2], &[1, 2, 5]].map(numbers), ["", "4", "1 and 2", "1, 2 and 5"]);
        assert_eq!([count(0, "pack"), count(1, "pack")], ["0 packs", "1 pack"]);
    }

    #[test]
    fn any_time_is_a_date() {
        assert_eq!([date(1_700_000_000_000), date(u64::MAX)], ["2023-11-14T22:13:20Z", "9999-12-31T23:59:59Z"]);
    }
}
