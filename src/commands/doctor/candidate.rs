//! `freeze doctor --for`: whether this container could restore a generation, and how long that would take.

use std::fs;
use std::path::Path;

use crate::commands::run::{self, OfInit};
use crate::commands::text::{json, print, printable, size};
use crate::commands::{StoreArguments, say};
use crate::control::client::Client;
use crate::control::protocol::{Event, Isolation, Op};
use crate::doctor::candidate::{self, Candidate, Restorer, Suited, Time};
use crate::exit;
use crate::image::Demands;
use crate::init::Isolate;
use crate::privileges::{Abilities, Ability};
use crate::proc;
use crate::upkeep::UpkeepError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    Newest,
    Number(u64),
    /// A service without a generation, by what it asks.
    Demands(Box<Demands>),
}

/// Parses the value of `--for`.
pub fn generation(text: &str) -> Result<Which, String> {
    match (text, text.parse()) {
        ("newest", _) => Ok(Which::Newest),
        (_, Ok(number)) => Ok(Which::Number(number)),
        _ => match Demands::from_word(text) {
            Some(demands) => Ok(Which::Demands(Box::new(demands))),
            None => Err(format!("{text:?} is none of these: a number, `newest`, the demands of a service")),
        },
    }
}

pub fn main(which: &Which, store: &StoreArguments, runtime_dir: Option<&Path>, as_json: bool) -> u8 {
    let restorer = restorer(runtime_dir);
    let number = match which {
        Which::Demands(demands) => return suit(&candidate::suited(demands, &Abilities::probe(), restorer), as_json),
        Which::Newest => None,
        Which::Number(number) => Some(*number),
    };
    match look(number, store, restorer) {
        Ok(found) => {
            let status = print(&if as_json { json(&found) } else { text(&found) });
            if found.fits && found.changed.is_empty() { status } else { exit::FAILED }
        }
        Err(error) => {
            say(&error.to_string());
            exit::FAILED
        }
    }
}

fn look(number: Option<u64>, store: &StoreArguments, restorer: Restorer) -> Result<Candidate, UpkeepError> {
    Ok(candidate::candidate(&store.open_full()?, number, &Abilities::probe(), restorer)?)
}

/// As this container's init restores. If there is none, as one would with this environment.
fn restorer(runtime_dir: Option<&Path>) -> Restorer {
    let without_init = || {
        let OfInit { isolate, clock, .. } = run::of_environment()?;
        Some(Restorer { clock, isolated: isolate == Isolate::Auto && isolates() })
    };
    init(runtime_dir).or_else(without_init).unwrap_or_default()
}

/// Whether `--isolate auto` would make a namespace here.
fn isolates() -> bool {
    let abilities = Abilities::with_namespaces();
    abilities.facts.effective.is_empty() && abilities.has(Ability::TimeNamespace)
}

fn init(runtime_dir: Option<&Path>) -> Option<Restorer> {
    let mut client = Client::ask(runtime_dir, Op::Status).ok()?;
    let pid = client.peer()?;
    let Event::Status(status) = client.next_event().ok()? else { return None };
    let isolated = matches!(status.isolation, Some(Isolation::Processes | Isolation::Users));
    let clock = run::of_init(&fs::read(proc::path(pid, "cmdline")).ok()?)?.clock;
    Some(Restorer { clock, isolated })
}

fn suit(found: &Suited, as_json: bool) -> u8 {
    let lines = found.missing.iter().map(|sentence| format!("- {}\n", printable(sentence)));
    let head = if found.fits { "the service can be restored here\n" } else { "the service cannot be restored here:\n" };
    let remarks = found.remarks.iter().map(|remark| format!("note: {}\n", printable(remark)));
    let text = || std::iter::once(head.to_owned()).chain(lines).chain(remarks).collect::<String>();
    let status = print(&if as_json { json(found) } else { text() });
    if found.fits { status } else { exit::FAILED }
}

fn text(found: &Candidate) -> String {
    let number = found.generation;
    let mut text = if !found.fits {
        format!("generation {number} cannot be restored here:\n")
    } else if !found.changed.is_empty() {
        format!("generation {number} is restored here only with --volume-changed restore:\n")
    } else {
        format!("generation {number} can be restored here: {}\n", time(&found.time))
    };
    for sentence in found.missing.iter().chain(&found.changed) {
        text += &format!("- {}\n", printable(sentence));
    }
    for remark in &found.remarks {
        text += &format!("note: {}\n", printable(remark));
    }
    text
}

fn time(time: &Time) -> String {
    let mut parts = Vec::new();
    if let Some((used, highest)) = time.count {
        parts.push(format!("{} ms to count PIDs up from {used} to {highest}", time.pids_ms));
    }
    if let Some(rate) = time.rate {
        let (bytes, rate, sampled) = (size(time.bytes), size(rate), size(time.sampled));
        parts.push(format!("{} ms to read {bytes} at {rate}/s, measured with {sampled} of them", time.bytes_ms));
    }
    let beside = time.total_ms - time.pids_ms - time.bytes_ms;
    parts.push(format!("{beside} ms for CRIU"));
    format!("about {} ms ({})", time.total_ms, parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Candidate {
        let time = Time {
            count: Some((1, 1010)),
            pids_ms: 20,
            bytes: 300 << 20,
            sampled: 16 << 20,
            rate: Some(200 << 20),
            bytes_ms: 1500,
            total_ms: 1620,
        };
        Candidate {
            generation: 3,
            fits: true,
            missing: vec![],
            changed: vec![],
            remarks: vec!["the kernel\nis older".into()],
            time,
        }
    }

    #[test]
    fn one_that_fits_has_its_time() {
        insta::assert_snapshot!(text(&found()), @r"
        generation 3 can be restored here: about 1620 ms (20 ms to count PIDs up from 1 to 1010; 1500 ms to read 300.0 MiB at 200.0 MiB/s, measured with 16.0 MiB of them; 100 ms for CRIU)
        note: the kernel\nis older
        ");
    }

    #[test]
    fn one_that_does_not_has_its_reasons() {
        let missing = vec!["this CPU lacks bmi2".to_owned(), "the service ran as uid 7".to_owned()];
        insta::assert_snapshot!(text(&Candidate { fits: false, missing, ..found() }), @r"
        generation 3 cannot be restored here:
        - this CPU lacks bmi2
        - the service ran as uid 7
        note: the kernel\nis older
        ");
    }

    #[test]
    fn a_volume_that_has_changed_is_said() {
        let changed = vec!["/data/db has changed since the checkpoint: 1 bytes then, 2 now".to_owned()];
        insta::assert_snapshot!(text(&Candidate { changed, ..found() }), @r"
        generation 3 is restored here only with --volume-changed restore:
        - /data/db has changed since the checkpoint: 1 bytes then, 2 now
        note: the kernel\nis older
        ");
    }

    #[test]
    fn a_generation_is_a_number_or_the_newest() {
        assert_eq!([generation("newest"), generation("7")], [Ok(Which::Newest), Ok(Which::Number(7))]);
        assert!(generation("new").is_err() && generation("-1").is_err());
        let demands = Demands { locked: 7, ..Demands::default() };
        assert_eq!(generation(&demands.to_word().unwrap()), Ok(Which::Demands(Box::new(demands))));
    }
}
