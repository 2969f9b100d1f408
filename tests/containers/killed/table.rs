//! The tables of docs/reference/steps.md: what becomes of the service if a process is killed at a step. The tests
//! play each cell, and the page has the same cells.

use clap::ValueEnum;
use freeze::fail_points::Point;

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    Worker,
    Criu,
    /// `freeze checkpoint`.
    Client,
    /// PID 1, and so all that is in it.
    Container,
    /// `freeze prune`.
    Prune,
}

/// What becomes of the service, and of what was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// There is no such process at that step.
    Absent,
    /// The service runs on; nothing is committed.
    RunsOn,
    /// The service runs on; the generation is committed.
    Committed,
    /// The service runs on; the generation is committed, and withdrawn.
    Withdrawn,
    /// The service has ended, and the generation is committed.
    Ended,
    /// The service died with its container, and the next one restores the earlier generation.
    Earlier,
    /// The same with the generation of this checkpoint.
    Newer,
    /// It runs in the container that hands it over.
    AtSource,
    /// It runs in the container that takes it.
    AtTarget,
    /// It runs in one of these, whichever is faster.
    Either,
    /// The service has not run; the container's next start restores it.
    NextStart,
    /// Each generation that is kept restores, and the next prune completes this one.
    Kept,
}

impl End {
    fn word(self) -> &'static str {
        match self {
            Self::Absent => "–",
            Self::RunsOn => "runs on",
            Self::Committed => "runs on, committed",
            Self::Withdrawn => "runs on, withdrawn",
            Self::Ended => "ended, committed",
            Self::Earlier => "earlier generation",
            Self::Newer => "new generation",
            Self::AtSource => "source",
            Self::AtTarget => "target",
            Self::Either => "either",
            Self::NextStart => "next start",
            Self::Kept => "kept",
        }
    }
}

/// The steps of one operation.
#[derive(Debug)]
pub struct Table {
    pub name: &'static str,
    pub victims: &'static [Victim],
    /// A cell for each victim.
    pub steps: &'static [(Point, &'static [End])],
}

impl Table {
    /// At which steps this victim is killed, and what follows.
    pub fn of(&self, victim: Victim) -> Vec<(Point, End)> {
        let Some(column) = self.victims.iter().position(|one| *one == victim) else { return Vec::new() };
        let cells = self.steps.iter().map(|(point, ends)| (*point, ends[column]));
        cells.filter(|cell| cell.1 != End::Absent).collect()
    }

    /// Whether there is such a process at that step.
    pub fn has(&self, point: Point, victim: Victim) -> bool {
        self.of(victim).iter().any(|step| step.0 == point)
    }

    pub fn cases(&self) -> Vec<(Point, Victim, End)> {
        let column = |victim: &'static Victim| self.of(*victim).into_iter().map(|(point, end)| (point, *victim, end));
        self.victims.iter().flat_map(column).collect()
    }

    pub fn markdown(&self) -> String {
        let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let names = self.victims.iter().map(|victim| format!("{victim:?}").to_lowercase());
        let head = row(["step".to_owned()].into_iter().chain(names).collect());
        let line = format!("|{}\n", "---|".repeat(1 + self.victims.len()));
        let rows = self.steps.iter().map(|(point, ends)| {
            assert_eq!(ends.len(), self.victims.len(), "{point:?}");
            let words = ends.iter().map(|end| end.word().to_owned());
            row([step(*point)].into_iter().chain(words).collect())
        });
        format!("## {}\n\n{head}{line}{}", self.name, rows.collect::<String>())
    }
}

/// The step's name and what it says of itself.
fn step(point: Point) -> String {
    let value = point.to_possible_value().unwrap();
    format!("`{point:?}`: {}", value.get_help().unwrap())
}
