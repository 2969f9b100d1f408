//! `freeze list`: lists the generations of a store, from any machine. Changes nothing.

use std::time::SystemTime;

use serde::Serialize;

use super::text::{self, age, date, printable, size};
use crate::exit;
use crate::image::{self, Generation, ImageError, Manifest};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    store: super::StoreArguments,
    /// Print one JSON object per generation
    #[arg(long)]
    json: bool,
}

/// Prints the generations, oldest first.
pub fn main(arguments: &Arguments) -> u8 {
    match list(arguments) {
        Ok(list) => text::print(&list),
        Err(error) => {
            super::say(&error.to_string());
            exit::FAILED
        }
    }
}

fn list(arguments: &Arguments) -> Result<String, ImageError> {
    let vault = arguments.store.open()?;
    let generations = vault.as_ref().map_or(Ok(Vec::new()), image::generations)?;
    let rows: Vec<Row> = generations.into_iter().map(Row::new).collect();
    Ok(if arguments.json {
        rows.iter().map(text::json).collect()
    } else if rows.is_empty() {
        format!("{} holds no generation\n", arguments.store.location.url)
    } else {
        table(&rows, SystemTime::now())
    })
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
                let age = age(text::time(*created_ms), now);
                [number, date(*created_ms), age, size(*bytes), size(*stored), processes.to_string(), command.clone()]
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
    let lines: Vec<_> =
        std::iter::once(titles).chain(rows.iter().map(|row| row.cells(now).map(|cell| printable(&cell)))).collect();
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |cells: &[String; 7]| {
        let columns = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  "));
        columns.chain([cells[6].clone(), "\n".into()]).collect::<String>()
    };
    lines.iter().map(line).collect()
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
        let now = text::time(1_700_000_100_000);
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
}
