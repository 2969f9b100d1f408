//! The object `holder`: the heartbeat of an exclusive lease owner.
//!
//! A hint: only head decides who may write head, and a heartbeat counts only while head names its writer.

use serde::{Deserialize, Serialize};

use super::lease::Lease;
use super::outcome::{Party, check_name};
use crate::image::crypto::vault::Vault;
use crate::image::error::{Flaw, ImageError, Result};
use crate::image::hex::Hex;
use crate::image::layout::{HEARTBEAT, NUMBER_MAX};
use crate::store::{PutMode, StoreError};

const LIMIT: u64 = 4096;

/// A heartbeat of the lease owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    #[serde(flatten)]
    pub party: Party,
    /// Epoch of its lease.
    pub epoch: u64,
    /// Random in each heartbeat, so a reader sees whether it still changes.
    #[serde(rename = "beat")]
    nonce: Hex<8>,
}

impl Heartbeat {
    /// Reads the last heartbeat. None if there is none or it is unreadable: a live lease owner replaces it.
    pub fn read(vault: &Vault) -> Result<Option<Self>> {
        match vault.store().get(HEARTBEAT, LIMIT) {
            Ok((data, _)) => Ok(Self::parse(vault, &data).ok()),
            Err(StoreError::NotFound { .. } | StoreError::TooLarge { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a heartbeat for `lease`, owned by the container `instance`.
    pub fn send(vault: &Vault, lease: &Lease, instance: &str) -> Result<()> {
        let party = Party { instance: instance.to_owned(), writer: lease.writer };
        let heartbeat = Self { party, epoch: lease.epoch, nonce: Hex::random() };
        let unfit = |flaw| ImageError::Unfit { url: vault.url().into(), flaw };
        let text = serde_json::to_vec(&heartbeat.bounded().map_err(unfit)?).expect("names and digits can be written");
        Ok(vault.store().put(HEARTBEAT, vault.seal().seal_message(HEARTBEAT, &text).into(), PutMode::Overwrite)?)
    }

    /// Whether head names the writer of this heartbeat as lease owner.
    pub fn is_of(&self, head: &Lease) -> bool {
        (self.epoch, self.party.writer) == (head.epoch, head.writer)
    }

    fn parse(vault: &Vault, data: &[u8]) -> Result<Self, Flaw> {
        let text = vault.seal().open_message(HEARTBEAT, data)?;
        serde_json::from_slice::<Self>(&text).map_err(|error| Flaw::Syntax(error.to_string()))?.bounded()
    }

    /// Limits that readers enforce; writers check them too.
    fn bounded(self) -> Result<Self, Flaw> {
        check_name(&self.party.instance)?;
        Flaw::bound("epoch", self.epoch, NUMBER_MAX)?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;
    use crate::image::test_vault;
    use proptest::prelude::*;

    const LEASE: Lease = Lease { generation: 4, epoch: 3, writer: Hex([9; 8]) };

    #[test]
    fn each_beat_is_another_and_of_the_same_holder() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        assert_eq!(Heartbeat::read(&vault).unwrap(), None);
        let [one, two] = [(); 2].map(|()| {
            Heartbeat::send(&vault, &LEASE, "a").unwrap();
            Heartbeat::read(&vault).unwrap().unwrap()
        });
        assert_ne!(one, two);
        assert_eq!(one.party, two.party);
        assert!(one.is_of(&Lease { generation: 9, ..LEASE }) && !one.is_of(&Lease { epoch: 4, ..LEASE }));
    }

    #[test]
    fn what_cannot_be_read_is_nobodys_and_what_nobody_would_read_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        for data in [vec![0; 100], vec![0; 5000]] {
            vault.store().put(HEARTBEAT, data.into(), PutMode::Overwrite).unwrap();
            assert_eq!(Heartbeat::read(&vault).unwrap(), None);
        }
        assert!(matches!(Heartbeat::send(&vault, &LEASE, &"x".repeat(256)), Err(ImageError::Unfit { .. })));
        let most = "\u{1}".repeat(255);
        Heartbeat::send(&vault, &LEASE, &most).unwrap();
        assert_eq!(Heartbeat::read(&vault).unwrap().unwrap().party.instance, most);
    }

    #[test]
    fn fuzz_damaged_text_is_refused_or_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        Heartbeat::send(&vault, &LEASE, "a").unwrap();
        let (whole, _) = vault.store().get(HEARTBEAT, LIMIT).unwrap();
        let text = vault.seal().open_message(HEARTBEAT, &whole).unwrap();
        let heartbeat = Heartbeat::parse(&vault, &whole).unwrap();
        proptest!(|(edits in fuzz::edits(), forged in fuzz::edits())| {
            if let Ok(parsed) = Heartbeat::parse(&vault, &fuzz::damaged(&whole, &edits)) {
                prop_assert_eq!(&parsed, &heartbeat);
            }
            // The seal is right.
            let forged = vault.seal().seal_message(HEARTBEAT, &fuzz::damaged(&text, &forged));
            if let Ok(parsed) = Heartbeat::parse(&vault, &forged) {
                prop_assert!(parsed.bounded().is_ok());
            }
        });
    }
}
