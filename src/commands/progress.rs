//! Progress of a command on standard error: a bar on a terminal, otherwise and with `--json` JSON lines.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};

use crate::upkeep::{Part, Progress};

pub fn new(json: bool) -> Box<dyn Progress> {
    let is_bar = !json && std::io::stderr().is_terminal();
    if is_bar { Box::new(Bar(Mutex::new(ProgressBar::hidden()))) } else { Box::new(Lines::new(std::io::stderr())) }
}

struct Bar(Mutex<ProgressBar>);

impl Bar {
    fn current(&self) -> ProgressBar {
        lock(&self.0).clone()
    }
}

impl Progress for Bar {
    fn begin(&self, part: Part, total: u64) {
        let unit =
            if part == Part::Deleting { "{pos}/{len} objects" } else { "{binary_bytes}/{binary_total_bytes}  {eta}" };
        let style = ProgressStyle::with_template(&format!("{{msg}}  {{wide_bar}}  {unit}"));
        let bar = ProgressBar::new(total).with_message(doing(part));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        *lock(&self.0) = bar;
    }

    fn add(&self, amount: u64) {
        self.current().inc(amount);
    }

    fn end(&self) {
        self.current().finish_and_clear();
    }
}

fn doing(part: Part) -> String {
    match part {
        Part::ReadingPacks => "reading packs".into(),
        Part::Extracting => "extracting".into(),
        Part::Copying { generation } => format!("copying generation {generation}"),
        Part::Deleting => "deleting".into(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(serde::Serialize)]
struct Line {
    event: &'static str,
    part: Part,
    done: u64,
    total: u64,
}

/// Writes a JSON line when a part begins, and whenever it reaches another whole percent.
struct Lines<W> {
    sink: Mutex<W>,
    part: Mutex<Option<Part>>,
    total: AtomicU64,
    done: AtomicU64,
}

impl<W: Write> Lines<W> {
    fn new(sink: W) -> Self {
        Self { sink: Mutex::new(sink), part: Mutex::new(None), total: AtomicU64::new(0), done: AtomicU64::new(0) }
    }

    fn say(&self, done: u64) {
        let Some(part) = *lock(&self.part) else { return };
        let line =
            super::text::json(&Line { event: "progress", part, done, total: self.total.load(Ordering::Relaxed) });
        // A closed standard error does not stop the work.
        let _ = lock(&self.sink).write_all(line.as_bytes());
    }
}

impl<W: Write + Send> Progress for Lines<W> {
    fn begin(&self, part: Part, total: u64) {
        *lock(&self.part) = Some(part);
        self.total.store(total, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        self.say(0);
    }

    fn add(&self, amount: u64) {
        let before = self.done.fetch_add(amount, Ordering::Relaxed);
        let percent = |done: u64| u128::from(done) * 100 / u128::from(self.total.load(Ordering::Relaxed).max(1));
        let after = before + amount;
        if percent(after) > percent(before) {
            self.say(after);
        }
    }

    fn end(&self) {
        *lock(&self.part) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_at_each_percent() {
        let lines = Lines::new(Vec::new());
        lines.add(5);
        lines.begin(Part::Copying { generation: 3 }, 1000);
        (0..30).for_each(|_| lines.add(1));
        lines.end();
        lines.add(500);
        let text = String::from_utf8(lines.sink.into_inner().unwrap()).unwrap();
        insta::assert_snapshot!(text, @r#"
        {"event":"progress","part":{"copying":{"generation":3}},"done":0,"total":1000}
        {"event":"progress","part":{"copying":{"generation":3}},"done":10,"total":1000}
        {"event":"progress","part":{"copying":{"generation":3}},"done":20,"total":1000}
        {"event":"progress","part":{"copying":{"generation":3}},"done":30,"total":1000}
        "#);
    }
}
