//! `freeze list`: the generations of a store, from anywhere. Changes nothing.

use std::io::{ErrorKind, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::exit;
use crate::image::{self, Generation, ImageError, Manifest};

/// Arguments of `freeze list`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    store: super::StoreArguments,
    /// Print one JSON object a generation
    #[arg(long)]
    json: bool,
}

/// Prints the generations, oldest first, and gives the exit status.
pub fn main(arguments: &Arguments) -> u8 {
    match list(arguments) {
        Ok(()) => exit::OK,
        Err(error) => {
            super::say(&error.to_string());
            exit::FAILED
        }
    }
}

fn list(arguments: &Arguments) -> Result<(), ImageError> {
    let vault = arguments.store.open()?;
    let generations = vault.as_ref().map_or(Ok(Vec::new()), image::generations)?;
    let rows: Vec<Row> = generations.into_iter().map(Row::new).collect();
    let text = if arguments.json {
        rows.iter().map(|row| format!("{}\n", serde_json::json!(row))).collect()
    } else if rows.is_empty() {
        format!("{} holds no generation\n", arguments.store.location.url)
    } else {
        table(&rows, SystemTime::now())
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(ImageError::Sink(e)),
        _ => Ok(()),
    }
}

#[derive(Serialize)]
struct Row {
    generation: u64,
    newest: bool,
    #[serde(flatten)]
    content: Content,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content {
    Whole { created_ms: u64, bytes: u64, stored: u64, processes: usize, command: String },
    Damaged { error: String },
}

impl Row {
    fn new(generation: Generation) -> Self {
        let content = match generation.manifest {
            Ok(manifest) => Content::new(&manifest),
            Err(error) => Content::Damaged { error: error.to_string() },
        };
        Self { generation: generation.number, newest: generation.newest, content }
    }

    fn cells(&self, now: SystemTime) -> [String; 7] {
        let number = format!("{}{}", self.generation, if self.newest { " *" } else { "" });
        match &self.content {
            Content::Damaged { error } => {
                [number, String::new(), String::new(), String::new(), String::new(), String::new(), error.clone()]
            }
            Content::Whole { created_ms, bytes, stored, processes, command } => {
                let created = UNIX_EPOCH.checked_add(Duration::from_millis(*created_ms)).unwrap_or(UNIX_EPOCH);
                let time = humantime::format_rfc3339_seconds(created).to_string();
                [number, time, age(created, now), size(*bytes), size(*stored), processes.to_string(), command.clone()]
            }
        }
    }
}

impl Content {
    fn new(manifest: &Manifest) -> Self {
        let figures = manifest.figures.unwrap_or_default();
        let words: Vec<_> = manifest.command.iter().map(|word| String::from_utf8_lossy(word)).collect();
        Self::Whole {
            created_ms: manifest.created_ms,
            bytes: figures.bytes,
            stored: figures.stored,
            processes: manifest.processes.len(),
            command: words.join(" "),
        }
    }
}

fn table(rows: &[Row], now: SystemTime) -> String {
    let titles = ["GENERATION", "CREATED", "AGE", "SIZE", "STORED", "PROCESSES", "COMMAND"].map(String::from);
    let lines: Vec<_> = std::iter::once(titles).chain(rows.iter().map(|row| row.cells(now).map(printable))).collect();
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |cells: &[String; 7]| {
        let columns = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  "));
        columns.chain([cells[6].clone(), "\n".into()]).collect::<String>()
    };
    lines.iter().map(line).collect()
}

/// A command line may hold anything, and a terminal must not be moved by it.
fn printable(text: String) -> String {
    if text.chars().any(char::is_control) { text.escape_debug().to_string() } else { text }
}

fn age(created: SystemTime, now: SystemTime) -> String {
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

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() as usize / 10).min(UNITS.len());
    format!("{:.1} {}", bytes as f64 / (1u64 << (10 * power)) as f64, UNITS[power - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(generation: u64, newest: bool, content: Content) -> Row {
        Row { generation, newest, content }
    }

    fn whole(created_ms: u64, command: &str) -> Content {
        Content::Whole { created_ms, bytes: 512 << 20, stored: 1500, processes: 16, command: command.into() }
    }

    #[test]
    fn the_table_is_readable() {
        let damaged = Content::Damaged { error: "generations/2.manifest is damaged".into() };
        let rows = [
            row(1, false, whole(1_700_000_000_000, "redis-server --port 6379")),
            row(2, false, damaged),
            row(10, true, whole(1_700_000_090_000, "sh -c a\u{1b}[2J")),
        ];
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_100);
        insta::assert_snapshot!(table(&rows, now), @r#"
    GENERATION  CREATED               AGE    SIZE       STORED   PROCESSES  COMMAND
    1           2023-11-14T22:13:20Z  1 min  512.0 MiB  1.5 KiB  16         redis-server --port 6379
    2                                                                       generations/2.manifest is damaged
    10 *        2023-11-14T22:14:50Z  10 s   512.0 MiB  1.5 KiB  16         sh -c a\u{1b}[2J
    "#);
    }

    #[test]
    fn a_row_is_one_json_object() {
        let text = serde_json::to_string(&row(3, true, whole(5, "x"))).unwrap();
        assert_eq!(
            text,
            r#"{"generation":3,"newest":true,"created_ms":5,"bytes":536870912,"stored":1500,"processes":16,"command":"x"}"#
        );
        let damaged = row(4, false, Content::Damaged { error: "e".into() });
        assert_eq!(serde_json::to_string(&damaged).unwrap(), r#"{"generation":4,"newest":false,"error":"e"}"#);
    }

    #[test]
    fn sizes_and_ages_are_short() {
        assert_eq!(
            [0, 1023, 1024, 1 << 30, u64::MAX].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.0 GiB", "16384.0 PiB"]
        );
        let at = |seconds| age(UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!([0, 59, 60, 7200, 90_000].map(at), ["0 s", "59 s", "1 min", "2 h", "1 d"]);
        assert_eq!(age(UNIX_EPOCH + Duration::from_secs(1), UNIX_EPOCH), "in the future");
    }
}
