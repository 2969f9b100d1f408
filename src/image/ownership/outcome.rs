//! The objects `outcomes/N`: which container has the service of an offered generation.
//!
//! Created once and never changed, so exactly one container gets the service: one that restores it (taken),
//! or the one that offered it (withdrawn).

use serde::{Deserialize, Serialize};

use crate::image::crypto::vault::Vault;
use crate::image::error::{Flaw, ImageError, Result};
use crate::image::hex::Hex;
use crate::image::layout::{manifest_numbers, outcome_key};
use crate::store::{PutMode, StoreError};

const LIMIT: u64 = 4096;
/// Most bytes of an instance's name. Two of them fit into an outcome, also with every byte escaped in JSON.
const NAME_MAX: u64 = 255;

/// A container, as outcomes and heartbeats name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Name that survives a restart of the container.
    pub instance: String,
    /// Writer name in head.
    pub writer: Hex<8>,
}

/// Which container may let the service of an offered generation run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// A container that has restored it.
    Taken {
        /// The container that restored it.
        by: Party,
        /// Instance that offered it.
        from: String,
    },
    /// The container that offered it, or one that closed it by [`close_above`].
    Withdrawn {
        /// The container that withdrew it.
        by: Party,
    },
}

/// Reads the outcome of a generation; None if it is open.
pub fn look(vault: &Vault, generation: u64) -> Result<Option<Outcome>> {
    let object = outcome_key(generation);
    match vault.store().get(&object, LIMIT) {
        Ok((data, _)) => parse(vault, object, &data).map(Some),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Creates `wanted` as the outcome of a generation, unless it has one. Returns the outcome that stands. After
/// an error it may be open.
pub fn decide(vault: &Vault, generation: u64, wanted: &Outcome) -> Result<Outcome> {
    let key = outcome_key(generation);
    checked(wanted.clone()).map_err(|flaw| ImageError::Unfit { url: vault.url().into(), flaw })?;
    let text = serde_json::to_vec(wanted).expect("names can be written");
    match vault.store().put(&key, vault.seal().seal_message(&key, &text).into(), PutMode::Create) {
        Ok(()) => Ok(wanted.clone()),
        // Another container was first, or the reply to this put was lost: read what stands.
        Err(error) => match (look(vault, generation), error) {
            (Ok(Some(outcome)), _) => Ok(outcome),
            (Err(damage), StoreError::Exists { .. }) => Err(damage),
            (_, error) => Err(error.into()),
        },
    }
}

/// Withdraws every generation proposed after `known` (0: none), before `known` or the command runs: a put of
/// head sent by a container that has died may still be carried out.
///
/// False if one of them was taken: then read head and the outcomes again. Later generations belong to the
/// container that has taken that one. They are left alone: a generation that runs on there and is withdrawn here
/// would be restored here at the next start.
pub fn close_above(vault: &Vault, known: u64, by: &Party) -> Result<bool> {
    for number in manifest_numbers(&**vault.store())?.into_iter().filter(|number| *number > known) {
        if let Outcome::Taken { .. } = decide(vault, number, &Outcome::Withdrawn { by: by.clone() })? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn parse(vault: &Vault, object: String, data: &[u8]) -> Result<Outcome> {
    let text = vault.seal().open_message(&object, data);
    let parsed = text.and_then(|text| serde_json::from_slice(&text).map_err(|error| Flaw::Syntax(error.to_string())));
    parsed.and_then(checked).map_err(|flaw| ImageError::Damaged { url: vault.url().into(), object, flaw })
}

/// Bounds the name of an instance in any object.
pub(crate) fn check_name(instance: &str) -> Result<(), Flaw> {
    Flaw::bound("number of bytes of an instance's name", instance.len() as u64, NAME_MAX).map(drop)
}

/// Limits that readers enforce; writers check them too.
fn checked(outcome: Outcome) -> Result<Outcome, Flaw> {
    let (Outcome::Taken { by, .. } | Outcome::Withdrawn { by }) = &outcome;
    check_name(&by.instance)?;
    if let Outcome::Taken { from, .. } = &outcome {
        check_name(from)?;
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;
    use crate::image::format::manifest::Manifest;
    use crate::image::ownership::generation::propose;
    use crate::image::ownership::lease::Lease;
    use crate::image::test_vault;
    use proptest::prelude::*;
    use std::thread;
    use std::time::Instant;

    fn party(name: &str) -> Party {
        Party { instance: name.to_owned(), writer: Hex([9; 8]) }
    }

    fn taken(name: &str) -> Outcome {
        Outcome::Taken { by: party(name), from: "a".to_owned() }
    }

    #[test]
    fn an_outcome_is_readable() {
        let text = serde_json::to_string(&[taken("b"), Outcome::Withdrawn { by: party("a") }]).unwrap();
        assert_eq!(
            text,
            r#"[{"outcome":"taken","by":{"instance":"b","writer":"0909090909090909"},"from":"a"},{"outcome":"withdrawn","by":{"instance":"a","writer":"0909090909090909"}}]"#
        );
    }

    #[test]
    fn of_many_at_once_one_decides_and_all_learn_which() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let said: Vec<Outcome> = thread::scope(|scope| {
            let decide = |n: u8| {
                let wanted = if n == 0 { Outcome::Withdrawn { by: party("a") } } else { taken(&n.to_string()) };
                decide(&vault, 3, &wanted).unwrap()
            };
            let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || decide(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let stands = look(&vault, 3).unwrap().unwrap();
        assert!(said.iter().all(|outcome| *outcome == stands));
        assert_eq!(look(&vault, 4).unwrap(), None);
    }

    #[test]
    fn an_outcome_is_of_its_generation_and_store_alone() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, two] = folders.each_ref().map(|folder| test_vault(folder.path()));
        decide(&one, 3, &taken("b")).unwrap();
        let (data, _) = one.store().get(&outcome_key(3), LIMIT).unwrap();
        for (vault, generation) in [(&one, 4), (&two, 3)] {
            vault.store().put(&outcome_key(generation), data.clone().into(), PutMode::Create).unwrap();
            assert!(matches!(look(vault, generation), Err(ImageError::Damaged { .. })));
            assert!(matches!(decide(vault, generation, &taken("b")), Err(ImageError::Damaged { .. })));
        }
    }

    #[test]
    fn what_a_dead_container_proposed_can_be_closed() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let propose = |lease| {
            let mut manifest = Manifest { offered: true, ..Manifest::default() };
            propose(&vault, &mut manifest, lease, Instant::now()).unwrap()
        };
        let lease = propose(Lease::fresh()).commit().unwrap();
        let propose = || propose(lease);
        let (late, proposed) = (propose(), propose().number);
        assert!(close_above(&vault, 1, &party("a")).unwrap());
        assert_eq!(look(&vault, 1).unwrap(), None);
        for number in [late.number, proposed] {
            assert_eq!(decide(&vault, number, &taken("b")).unwrap(), Outcome::Withdrawn { by: party("a") });
        }
        let taken_one = propose().number;
        decide(&vault, taken_one, &taken("b")).unwrap();
        assert!(!close_above(&vault, 1, &party("a")).unwrap());
        assert!(close_above(&vault, taken_one, &party("a")).unwrap());
        // Of what the one that has taken it committed since, nothing is anybody else's to withdraw.
        let since = propose().number;
        assert!(!close_above(&vault, 1, &party("b")).unwrap());
        assert_eq!(look(&vault, since).unwrap(), None);
    }

    #[test]
    fn what_nobody_would_read_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let most = "\u{1}".repeat(255);
        let wanted = Outcome::Taken { by: party(&most), from: most.clone() };
        assert_eq!(decide(&vault, 1, &wanted).unwrap(), wanted);
        assert_eq!(look(&vault, 1).unwrap(), Some(wanted));
        let long = "x".repeat(256);
        for wanted in [taken(&long), Outcome::Taken { by: party("b"), from: long }] {
            assert!(matches!(decide(&vault, 2, &wanted), Err(ImageError::Unfit { .. })));
        }
        assert_eq!(look(&vault, 2).unwrap(), None);
    }

    #[test]
    fn fuzz_damaged_text_is_refused_or_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let key = outcome_key(5);
        let text = serde_json::to_vec(&taken("b")).unwrap();
        let whole = vault.seal().seal_message(&key, &text);
        proptest!(|(edits in fuzz::edits(), forged in fuzz::edits())| {
            if let Ok(outcome) = parse(&vault, key.clone(), &fuzz::damaged(&whole, &edits)) {
                prop_assert_eq!(outcome, taken("b"));
            }
            // The seal is right.
            let _ = parse(&vault, key.clone(), &vault.seal().seal_message(&key, &fuzz::damaged(&text, &forged)));
        });
    }
}
