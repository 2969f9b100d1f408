//! Finds out whether a container's service has moved away, from the outcomes and lost marks of all
//! generations.
//!
//! A lost mark, `outcomes/N.lost.HASH`, says that an instance has the service of generation N only if the
//! outcome of N says so.

use std::collections::HashSet;

use super::outcome::{self, Outcome};
use crate::image::crypto::vault::Vault;
use crate::image::error::Result;
use crate::image::hex::Hex;
use crate::image::layout::{lost_key, records};
use crate::store::PutMode;

/// Most bytes of a lost mark, which has no content but its seal.
const LIMIT: u64 = 4096;
/// Most outcomes that are read, newest first, one request each. Lost marks are only listed, so all of them
/// count.
const LOOK_BACK: usize = 32;

/// Last known place of an instance's service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// The instance took or withdrew this generation.
    Here(u64),
    /// Another container took this generation from the instance, or the instance lost it to another
    /// container.
    Away(u64),
    /// Neither an outcome nor a lost mark names the instance.
    Unknown,
}

/// Finds the service of `instance`. The newest generation that names the instance decides, and its outcome
/// precedes its lost mark.
pub fn whereabouts(vault: &Vault, instance: &str) -> Result<Whereabouts> {
    let own = container_id(vault, instance);
    let mut reads = 0;
    for record in records(&**vault.store())?.into_iter().filter(|record| record.lost.is_none_or(|hash| hash == own)) {
        if record.lost.is_some() {
            return Ok(Whereabouts::Away(record.number));
        }
        reads += 1;
        // Older outcomes are skipped: a container that took a generation has a lost mark for it, and usually
        // so has the one that gave it away.
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

/// Writes the lost mark of `instance` for a generation. Idempotent.
///
/// A container writes it before it restores a generation that another one offers: if the restore fails, its
/// next start must not take the service for its own. It is also written for a container that has given the
/// service away.
pub fn mark_lost(vault: &Vault, generation: u64, instance: &str) -> Result<()> {
    let key = lost_key(generation, container_id(vault, instance));
    match vault.store().put(&key, vault.seal().seal_message(&key, b"").into(), PutMode::Overwrite) {
        // The put failed, but a mark stands. All marks of a key mean the same.
        Err(error) if vault.store().get(&key, LIMIT).is_err() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Removes every lost mark that a newer one of the same instance stands for. Safe at any moment: [`whereabouts`]
/// looks for the newest, and a mark goes only while a newer one is there.
///
/// Marks that are left are one for each instance. Outcomes stay: a source that has not reached its store since it
/// offered a generation must find that it was taken, however long that takes.
pub fn remove_superseded_marks(vault: &Vault) -> Result<()> {
    let mut newer = HashSet::new();
    for record in records(&**vault.store())? {
        if record.lost.is_some_and(|instance| !newer.insert(instance.0)) {
            vault.store().delete(&record.key)?;
        }
    }
    Ok(())
}

/// Keyed hash of an instance's name, for places that are not encrypted: keys, and what other containers see.
pub fn container_id(vault: &Vault, instance: &str) -> Hex<16> {
    let [half, _] = *vault.seal().name(instance.as_bytes()).as_chunks::<16>().0 else {
        unreachable!("a hash has 32 bytes")
    };
    Hex(half)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::image::error::ImageError;
    use crate::image::layout::outcome_key;
    use crate::image::ownership::outcome::{Party, decide};
    use crate::image::test_vault;

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
        // "outcomes/10" sorts before "outcomes/9".
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
    fn of_the_marks_of_an_instance_the_newest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        for (generation, instance) in [(9, "a"), (10, "a"), (10, "b"), (11, "c")] {
            mark_lost(&vault, generation, instance).unwrap();
        }
        take(&vault, 9, "c", "b");
        let places = || ["a", "b", "c", "d"].map(|name| at(&vault, name));
        let before = places();
        remove_superseded_marks(&vault).unwrap();
        assert_eq!(places(), before);
        let keys: BTreeSet<String> = records(&**vault.store()).unwrap().into_iter().map(|record| record.key).collect();
        let mark = |generation, instance| lost_key(generation, container_id(&vault, instance));
        assert_eq!(keys, [outcome_key(9), mark(10, "a"), mark(10, "b"), mark(11, "c")].into());
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
}
