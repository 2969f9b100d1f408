//! The objects `standbys/HASH` and `question`: which containers stand by, and whether they could restore a service.
//!
//! Hints: only outcomes decide who has a service. A container that asks learns who is alive from the answers to its own
//! question, so no clocks are compared. A standby that says nothing more leaves an empty object.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::outcome::check_name;
use super::whereabouts::container_id;
use crate::image::crypto::vault::Vault;
use crate::image::error::{Flaw, ImageError, Result};
use crate::image::format::check;
use crate::image::format::manifest::Manifest;
use crate::image::hex::Hex;
use crate::image::layout::{QUESTION, STANDBYS, standby_key};
use crate::store::{PutMode, Store, StoreError};

/// Most bytes of what a standby says, and of what it lacks in it.
const LIMIT: u64 = 16 << 10;
const LACKS_MAX: usize = 2048;
/// Most bytes of a question, and of its message: the paths of all files that travel.
const QUESTION_LIMIT: u64 = 16 << 20;
const MESSAGE_LIMIT: u64 = 64 << 20;
/// Most standbys that are asked, the last ones that wrote.
const MOST: usize = 16;

/// A standby.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    pub instance: String,
    /// The question that it has answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Hex<8>>,
    /// What it lacks for a restore of that service, in sentences; None if nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
    /// The generation that it took up last and could not restore; 0 for none.
    #[serde(default, skip_serializing_if = "is_none")]
    pub failed: u64,
    /// The newest generation whose memory it has decoded, as far as it takes memory ahead; 0 for none. None from a freeze
    /// that does not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoded: Option<u64>,
}

fn is_none(generation: &u64) -> bool {
    *generation == 0
}

impl Standby {
    /// Replaces what the store says of this standby.
    pub fn tell(&self, vault: &Vault) -> Result<()> {
        let lacks = self.lacks.as_ref().map(|lacks| shortened(lacks));
        let unfit = |flaw| ImageError::Unfit { url: vault.url().into(), flaw };
        let standby = Self { lacks, ..self.clone() }.bounded().map_err(unfit)?;
        let text = serde_json::to_vec(&standby).expect("names and digits can be written");
        let key = key(vault, &self.instance);
        Ok(vault.store().put(&key, vault.seal().seal_message(&key, &text).into(), PutMode::Overwrite)?)
    }

    /// Reads what a standby says, by its key. None if it says nothing more, or nothing that can be read.
    pub fn read(vault: &Vault, key: &str) -> Result<Option<Self>> {
        match vault.store().get(key, LIMIT) {
            Ok((data, _)) => Ok(Self::parse(vault, key, &data).ok()),
            Err(StoreError::NotFound { .. } | StoreError::TooLarge { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn parse(vault: &Vault, key: &str, data: &[u8]) -> Result<Self, Flaw> {
        let text = vault.seal().open_message(key, data)?;
        serde_json::from_slice::<Self>(&text).map_err(|error| Flaw::Syntax(error.to_string()))?.bounded()
    }

    /// Limits that readers enforce; writers check them too.
    fn bounded(self) -> Result<Self, Flaw> {
        check_name(&self.instance)?;
        Ok(self)
    }
}

fn shortened(lacks: &str) -> String {
    let mut end = lacks.len().min(LACKS_MAX);
    while !lacks.is_char_boundary(end) {
        end -= 1;
    }
    if end == lacks.len() { lacks.to_owned() } else { format!("{}…", &lacks[..end]) }
}

/// The key of what the standby `instance` says.
pub fn key(vault: &Vault, instance: &str) -> String {
    standby_key(container_id(vault, instance))
}

/// Empties what the store says of a standby: it has ended, or is presumed dead. One that is alive writes it again. The
/// object stays, because a container may not be allowed to delete.
pub fn silence(store: &dyn Store, key: &str) -> Result<(), StoreError> {
    store.put(key, Vec::new().into(), PutMode::Overwrite)
}

/// The keys of standbys that have not been silenced, of the last [`MOST`] that wrote.
pub fn listed(store: &dyn Store) -> Result<Vec<String>, StoreError> {
    let mut found: Vec<_> = store.list(STANDBYS)?.into_iter().filter(|object| object.size > 0).collect();
    found.sort_by_key(|object| std::cmp::Reverse(object.modified));
    Ok(found.into_iter().take(MOST).map(|object| object.key).collect())
}

/// Removes what standbys wrote at least `is_old` ago, by the store's clock. Returns how many objects that were.
pub fn remove_old(store: &dyn Store, is_old: impl Fn(SystemTime) -> bool) -> Result<u64, StoreError> {
    let old = store.list(STANDBYS)?.into_iter().filter(|object| is_old(object.modified));
    old.map(|object| store.delete(&object.key)).try_fold(0, |count, removed| removed.map(|()| count + 1))
}

/// Asks the standbys whether they could restore this service: its generation is 0, and it has no bodies. Returns the
/// question's random name.
pub fn ask(vault: &Vault, service: &Manifest) -> Result<Hex<8>> {
    let name = Hex::random();
    let object = vault.seal().seal_message(QUESTION, &[&name.0[..], &service.to_frame()].concat());
    let unfit = |flaw| ImageError::Unfit { url: vault.url().into(), flaw };
    Flaw::bound("number of bytes of a question", object.len() as u64, QUESTION_LIMIT).map_err(unfit)?;
    vault.store().put(QUESTION, object.into(), PutMode::Overwrite)?;
    Ok(name)
}

/// Reads the last question: its name, and the service. None if there is none that can be read.
pub fn question(vault: &Vault) -> Result<Option<(Hex<8>, Manifest)>> {
    match vault.store().get(QUESTION, QUESTION_LIMIT) {
        Ok((data, _)) => Ok(parse_question(vault, &data).ok()),
        Err(StoreError::NotFound { .. } | StoreError::TooLarge { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn parse_question(vault: &Vault, data: &[u8]) -> Result<(Hex<8>, Manifest), Flaw> {
    let message = vault.seal().open_message(QUESTION, data)?;
    let (name, frame) = message.split_first_chunk::<8>().ok_or(Flaw::Truncated)?;
    let service = Manifest::from_frame(frame, MESSAGE_LIMIT)?;
    check::manifest(&service, 0)?;
    Ok((Hex(*name), service))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;
    use crate::image::{Demands, test_vault};
    use proptest::prelude::*;

    fn standby(instance: &str) -> Standby {
        Standby { instance: instance.into(), ..Standby::default() }
    }

    fn service(tasks: u64) -> Manifest {
        Manifest { demands: Some(Demands { tasks, ..Demands::default() }), uid: 7, ..Manifest::default() }
    }

    #[test]
    fn what_a_standby_says_is_readable_and_of_its_own_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let (answers, lacks) = (Some(Hex([1; 8])), Some("it lacks a port".into()));
        let says = Standby { answers, lacks, failed: 4, decoded: Some(3), ..standby("b") };
        let text = serde_json::to_string(&[&says, &standby("b")]).unwrap();
        assert_eq!(
            text,
            r#"[{"instance":"b","answers":"0101010101010101","lacks":"it lacks a port","failed":4,"decoded":3},{"instance":"b"}]"#
        );
        says.tell(&vault).unwrap();
        let [key] = &listed(&**vault.store()).unwrap()[..] else { panic!("there is one") };
        assert_eq!(Standby::read(&vault, key).unwrap(), Some(says));
        let (data, _) = vault.store().get(key, LIMIT).unwrap();
        let other = super::key(&vault, "c");
        vault.store().put(&other, data.into(), PutMode::Overwrite).unwrap();
        assert_eq!(Standby::read(&vault, &other).unwrap(), None);
    }

    #[test]
    fn who_is_silent_is_not_asked_and_is_removed_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let store = &**vault.store();
        for number in 0..MOST + 3 {
            standby(&number.to_string()).tell(&vault).unwrap();
        }
        assert_eq!(listed(store).unwrap().len(), MOST);
        (0..MOST + 3).for_each(|number| silence(store, &key(&vault, &number.to_string())).unwrap());
        assert!(listed(store).unwrap().is_empty());
        assert_eq!(remove_old(store, |_| false).unwrap(), 0);
        assert_eq!(remove_old(store, |_| true).unwrap(), MOST as u64 + 3);
        assert!(store.list(STANDBYS).unwrap().is_empty());
    }

    #[test]
    fn what_it_lacks_may_be_long() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let says = Standby { lacks: Some("\u{1}é".repeat(LACKS_MAX)), ..standby(&"\u{1}".repeat(255)) };
        says.tell(&vault).unwrap();
        let lacks = Standby::read(&vault, &key(&vault, &says.instance)).unwrap().unwrap().lacks.unwrap();
        assert!(lacks.ends_with('…') && says.lacks.unwrap().starts_with(lacks.trim_end_matches('…')));
        assert!(matches!(standby(&"x".repeat(256)).tell(&vault), Err(ImageError::Unfit { .. })));
    }

    #[test]
    fn each_question_has_another_name_and_the_whole_service() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        assert_eq!(question(&vault).unwrap(), None);
        let [one, two] = [(); 2].map(|()| ask(&vault, &service(3)).unwrap());
        assert_ne!(one, two);
        assert_eq!(question(&vault).unwrap(), Some((two, service(3))));
        let mut noise = vec![0; 17 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let large = Manifest { command: vec![noise], ..Manifest::default() };
        assert!(matches!(ask(&vault, &large), Err(ImageError::Unfit { .. })));
        vault.store().put(QUESTION, vec![0; 100].into(), PutMode::Overwrite).unwrap();
        assert_eq!(question(&vault).unwrap(), None);
    }

    #[test]
    fn fuzz_damaged_text_is_refused_or_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let name = ask(&vault, &service(3)).unwrap();
        let (whole, _) = vault.store().get(QUESTION, QUESTION_LIMIT).unwrap();
        let message = vault.seal().open_message(QUESTION, &whole).unwrap();
        let text = serde_json::to_vec(&standby("b")).unwrap();
        proptest!(|(edits in fuzz::edits())| {
            if let Ok(parsed) = parse_question(&vault, &fuzz::damaged(&whole, &edits)) {
                prop_assert_eq!(parsed, (name, service(3)));
            }
            // The seal is right.
            let _ = parse_question(&vault, &vault.seal().seal_message(QUESTION, &fuzz::damaged(&message, &edits)));
            let said = Standby::parse(&vault, "k", &vault.seal().seal_message("k", &fuzz::damaged(&text, &edits)));
            prop_assert!(said.is_err() || said.unwrap().bounded().is_ok());
        });
    }
}
