//! Random states: processes that hold random kernel objects with random attributes.
//!
//! The rule: whatever a process holds is refused by name before it is frozen, or is the same after two generations, as
//! seen from inside and in /proc. A seed decides what a process holds. `FREEZE_STATES=N` plays N seeds, and
//! `FREEZE_STATES=N..M` those from N to M. A seed that fails is tried with fewer objects; what is left of them belongs
//! into `corpus.txt`, whose rows are always played.

#[path = "../containers/harness.rs"]
mod harness;
mod mappings;
mod outside;
mod play;
mod seeds;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::thread;

use harness::Setting;
use play::{Outcome, play};

/// How many processes a container has, and how many containers run at once.
const GROUPS: usize = 20;
const LANES: usize = 3;
const SETTINGS: [Setting; 3] = [Setting::Restricted, Setting::RestrictedPodman, Setting::Caps];

/// What became of one process, in one setting.
struct Row {
    name: String,
    setting: Setting,
    spec: String,
    outcome: Outcome,
}

fn range() -> Range<u64> {
    let Ok(wanted) = std::env::var("FREEZE_STATES") else { return 0..200 };
    let number = |text: &str| text.parse().expect("FREEZE_STATES is N or N..M");
    wanted.split_once("..").map_or_else(|| 0..number(&wanted), |(from, to)| number(from)..number(to))
}

/// Plays all, many in each container, and prints what became of them.
fn all(specs: &[(String, String)]) -> Vec<Row> {
    let batches: Vec<_> = specs.chunks(GROUPS).zip(SETTINGS.iter().cycle()).collect();
    let (waiting, rows) = (Mutex::new(batches.into_iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some((batch, setting)) = { waiting.lock().unwrap().next() } {
                    let specs: Vec<_> = batch.iter().map(|(_, spec)| spec.clone()).collect();
                    let played = batch.iter().zip(play(*setting, &specs)).map(|((name, spec), outcome)| {
                        let outcome = shrunk(*setting, spec, outcome);
                        Row { name: name.clone(), setting: *setting, spec: spec.clone(), outcome }
                    });
                    let played: Vec<_> = played.collect();
                    rows.lock().unwrap().extend(played);
                }
            });
        }
    });
    let rows = rows.into_inner().unwrap();
    print(&rows);
    rows
}

/// A failure of as few of the objects as possible: of one that the difference names, or of what is left when each of
/// them is left out in turn.
fn shrunk(setting: Setting, spec: &str, outcome: Outcome) -> Outcome {
    let Outcome::Failed(mut why, _) = outcome else { return outcome };
    let mut objects: Vec<&str> = spec.split('+').collect();
    let named = objects.iter().filter(|object| why.contains(&format!(" {object} ")));
    for object in named {
        if let Outcome::Failed(because, least) = play(setting, &[(*object).to_owned()]).remove(0) {
            return Outcome::Failed(because, least);
        }
    }
    let mut at = 0;
    while at < objects.len() && objects.len() > 1 {
        let fewer = [&objects[..at], &objects[at + 1..]].concat();
        match play(setting, &[fewer.join("+")]).remove(0) {
            Outcome::Failed(because, _) => (objects, why) = (fewer, because),
            _ => at += 1,
        }
    }
    Outcome::Failed(why, objects.join("+"))
}

fn print(rows: &[Row]) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows {
        *counts.entry(row.outcome.to_string()).or_default() += 1;
    }
    println!("| seeds | outcome |\n|---|---|");
    counts.iter().for_each(|(outcome, count)| println!("| {count} | {outcome} |"));
    for row in rows {
        if let Outcome::Failed(why, least) = &row.outcome {
            println!("\n{} in {:?}\n  holds {}\n  fails with {least}\n{why}", row.name, row.setting, row.spec);
        }
    }
}

fn none_failed(rows: &[Row]) {
    let failed: Vec<_> = rows.iter().filter(|row| matches!(row.outcome, Outcome::Failed(..))).collect();
    assert!(failed.is_empty(), "{} of {} failed", failed.len(), rows.len());
}

#[test]
fn random_states_move_or_are_refused() {
    let kinds = seeds::kinds();
    let specs: Vec<_> = range().map(|seed| (format!("seed {seed}"), seeds::spec(seed, &kinds))).collect();
    none_failed(&all(&specs));
}

/// Each in every setting.
#[test]
fn the_corpus_moves_or_is_refused() {
    let rows = seeds::corpus();
    for setting in SETTINGS {
        for some in rows.chunks(GROUPS) {
            let specs: Vec<_> = some.iter().map(|row| row.spec.clone()).collect();
            for (row, outcome) in some.iter().zip(play(setting, &specs)) {
                let expected = if row.refused.is_empty() { "same" } else { &row.refused };
                let is = outcome.to_string();
                assert!(is.contains(expected), "{} in {setting:?}: {is}, {outcome:?}", row.name);
            }
        }
    }
}
