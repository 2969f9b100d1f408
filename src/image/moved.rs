//! Whether a container's service has moved away: what the outcomes of all generations say of it, and the names `outcomes/N.lost.HASH`,
//! which say that a container has the service of a generation only if its outcome says so.

use super::Result;
use super::head::NUMBER_MAX;
use super::hex::Hex;
use super::outcome::{self, Outcome};
use super::vault::Vault;
use crate::store::PutMode;

/// Most bytes of a mark, which says nothing but that it is there.
const LIMIT: u64 = 4096;
const FOLDER: &str = "outcomes/";
const LOST: &str = ".lost.";
/// Most outcomes that are read, from the newest one down: one request each. Names are read without limit.
const LOOK_BACK: usize = 32;

/// Where the service of an instance was when it was last heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// It has the service of this generation, taken or withdrawn.
    Here(u64),
    /// The service moved to another container with this generation, or never came from there.
    Away(u64),
    /// Nothing tells.
    Unknown,
}

/// An object that tells what became of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The generation.
    pub number: u64,
    /// Its key.
    pub key: String,
    /// The instance that lost the generation; where it is the outcome itself, none.
    pub lost: Option<Hex<16>>,
}

/// All of them, from the newest generation down, each outcome before those who lost.
pub fn records(vault: &Vault) -> Result<Vec<Record>> {
    let objects = vault.store().list(FOLDER)?;
    let mut records: Vec<Record> = objects.into_iter().filter_map(|object| record(object.key)).collect();
    records.sort_by(|a, b| b.number.cmp(&a.number).then_with(|| a.key.cmp(&b.key)));
    Ok(records)
}

fn record(key: String) -> Option<Record> {
    let name = key.strip_prefix(FOLDER)?;
    let (digits, lost) = match name.split_once(LOST) {
        Some((digits, hash)) => (digits, Some(Hex::parse(hash)?)),
        None => (name, None),
    };
    let number = digits.parse().ok().filter(|n: &u64| (1..=NUMBER_MAX).contains(n) && n.to_string() == digits)?;
    Some(Record { number, key, lost })
}

/// Where the service of that instance is: the newest generation that concerns it tells, and of that the outcome before the name.
pub fn whereabouts(vault: &Vault, instance: &str) -> Result<Whereabouts> {
    let own = hash(vault, instance);
    let mut reads = 0;
    for record in records(vault)?.into_iter().filter(|record| record.lost.is_none_or(|hash| hash == own)) {
        if record.lost.is_some() {
            return Ok(Whereabouts::Away(record.number));
        }
        reads += 1;
        // Who takes a generation has its name here before, and so has mostly who gave it away.
        if reads <= LOOK_BACK
            && let Some(outcome) = outcome::look(vault, record.number)?
            && let Some(found) = of(&outcome, instance, record.number)
        {
            return Ok(found);
        }
    }
    Ok(Whereabouts::Unknown)
}

fn of(outcome: &Outcome, instance: &str, number: u64) -> Option<Whereabouts> {
    match outcome {
        Outcome::Taken { by, .. } | Outcome::Withdrawn { by } if by.instance == instance => {
            Some(Whereabouts::Here(number))
        }
        Outcome::Taken { from, .. } if from == instance => Some(Whereabouts::Away(number)),
        _ => None,
    }
}

/// Says that this instance has the service of that generation only if its outcome says so. For a container before it restores what
/// another one offers: however that ends, it must not take the service for its own when it is started again. And for one that has given
/// it away.
pub fn mark_lost(vault: &Vault, generation: u64, instance: &str) -> Result<()> {
    let key = format!("{FOLDER}{generation}{LOST}{}", hash(vault, instance));
    match vault.store().put(&key, vault.seal().seal_message(&key, b"").into(), PutMode::Overwrite) {
        // It says the same whoever wrote it, and when.
        Err(error) if vault.store().get(&key, LIMIT).is_err() => Err(error.into()),
        _ => Ok(()),
    }
}

/// What an instance is called in a key: keys are not encrypted.
fn hash(vault: &Vault, instance: &str) -> Hex<16> {
    let [half, _] = *vault.seal().name(instance.as_bytes()).as_chunks::<16>().0 else {
        unreachable!("a hash has 32 bytes")
    };
    Hex(half)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{ImageError, Party, decide, outcome_key, test_vault};
    use proptest::prelude::*;

    fn party(instance: &str) -> Party {
        Party { instance: instance.into(), writer: Hex([1; 8]) }
    }

    fn take(vault: &Vault, generation: u64, from: &str, by: &str) {
        decide(vault, generation, &Outcome::Taken { by: party(by), from: from.into() }).unwrap();
    }

    fn at(vault: &Vault, instance: &str) -> Whereabouts {
        whereabouts(vault, instance).unwrap()
    }

    #[test]
    fn the_newest_generation_that_concerns_it_tells() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        assert_eq!(at(&vault, "a"), Whereabouts::Unknown);
        take(&vault, 9, "a", "b");
        assert_eq!(
            ["a", "b", "c"].map(|name| at(&vault, name)),
            [Whereabouts::Away(9), Whereabouts::Here(9), Whereabouts::Unknown]
        );
        // Not the first in the order of keys.
        take(&vault, 10, "b", "c");
        assert_eq!(
            ["a", "b", "c"].map(|name| at(&vault, name)),
            [Whereabouts::Away(9), Whereabouts::Away(10), Whereabouts::Here(10)]
        );
        take(&vault, 11, "c", "a");
        take(&vault, 12, "a", "a");
        assert_eq!(at(&vault, "a"), Whereabouts::Here(12));
        decide(&vault, 13, &Outcome::Withdrawn { by: party("b") }).unwrap();
        assert_eq!(at(&vault, "b"), Whereabouts::Here(13));
    }

    #[test]
    fn who_came_too_late_remembers_that() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        take(&vault, 3, "a", "b");
        mark_lost(&vault, 3, "c").unwrap();
        mark_lost(&vault, 3, "c").unwrap();
        assert_eq!(at(&vault, "c"), Whereabouts::Away(3));
        assert_eq!(at(&vault, "b"), Whereabouts::Here(3));
        take(&vault, 4, "b", "c");
        assert_eq!(at(&vault, "c"), Whereabouts::Here(4));
    }

    #[test]
    fn what_others_say_costs_a_bounded_number_of_looks_and_names_cost_none() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        take(&vault, 1, "a", "b");
        (2..=LOOK_BACK as u64).for_each(|number| take(&vault, number, "x", "y"));
        assert_eq!(at(&vault, "a"), Whereabouts::Away(1));
        take(&vault, LOOK_BACK as u64 + 1, "x", "y");
        assert_eq!(at(&vault, "a"), Whereabouts::Unknown);
        (2..9).for_each(|number| mark_lost(&vault, number, "z").unwrap());
        mark_lost(&vault, 1, "a").unwrap();
        assert_eq!(at(&vault, "a"), Whereabouts::Away(1));
        assert_eq!(at(&vault, "z"), Whereabouts::Away(8));
    }

    #[test]
    fn who_says_so_first_and_then_takes_it_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        mark_lost(&vault, 3, "b").unwrap();
        assert_eq!(at(&vault, "b"), Whereabouts::Away(3));
        take(&vault, 3, "a", "b");
        assert_eq!(at(&vault, "b"), Whereabouts::Here(3));
    }

    #[test]
    fn a_damaged_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        vault.store().put(&outcome_key(4), "x".into(), PutMode::Create).unwrap();
        assert!(matches!(whereabouts(&vault, "b"), Err(ImageError::Damaged { .. })));
        mark_lost(&vault, 5, "b").unwrap();
        assert_eq!(at(&vault, "b"), Whereabouts::Away(5));
    }

    proptest! {
        #[test]
        fn fuzz_a_key_is_of_one_record_or_none(key in "(outcomes/)?[0-9+x-]{0,21}(\\.lost\\.[0-9a-fA-F]{31,33})?") {
            if let Some(found) = record(key.clone()) {
                let lost = found.lost.map_or(String::new(), |hash| format!("{LOST}{hash}"));
                prop_assert_eq!(format!("{}{lost}", outcome_key(found.number)), key);
            }
        }
    }
}
