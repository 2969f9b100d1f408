//! `outcomes/N`: what became of a generation whose service did not run on. Created once and never changed, so that of all who want
//! the service exactly one gets it: a container that restores it, or the one that offered it and takes it back.

use serde::{Deserialize, Serialize};

use super::Result;
use super::error::{Flaw, ImageError};
use super::hex::Hex;
use super::vault::Vault;
use crate::store::{PutMode, StoreError};

const LIMIT: u64 = 4096;

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// The name that it keeps when it is started again.
    pub instance: String,
    /// The name that it has in head.
    pub writer: Hex<8>,
}

/// What became of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// A container has restored it, and only that may let it run.
    Taken {
        /// That container.
        by: Party,
        /// The instance that offered it.
        from: String,
    },
    /// The container that offered it has taken it back, and only that may let it run.
    Withdrawn {
        /// That container.
        by: Party,
    },
}

/// The key of the outcome of a generation.
pub fn outcome_key(generation: u64) -> String {
    format!("outcomes/{generation}")
}

/// The outcome of a generation, where there is one.
pub fn look(vault: &Vault, generation: u64) -> Result<Option<Outcome>> {
    let object = outcome_key(generation);
    match vault.store().get(&object, LIMIT) {
        Ok((data, _)) => parse(vault, object, &data).map(Some),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes `wanted` the outcome of a generation unless it has one, and returns the one that stands. An error leaves it open.
pub fn decide(vault: &Vault, generation: u64, wanted: &Outcome) -> Result<Outcome> {
    let key = outcome_key(generation);
    let text = serde_json::to_vec(wanted).expect("names can be written");
    match vault.store().put(&key, vault.seal().seal_message(&key, &text).into(), PutMode::Create) {
        Ok(()) => Ok(wanted.clone()),
        // Someone was faster, or the reply to our own put was lost: what is there tells.
        Err(error) => match look(vault, generation) {
            Ok(Some(outcome)) => Ok(outcome),
            _ => Err(error.into()),
        },
    }
}

fn parse(vault: &Vault, object: String, data: &[u8]) -> Result<Outcome> {
    let text = vault.seal().open_message(&object, data);
    let parsed = text.and_then(|text| serde_json::from_slice(&text).map_err(|error| Flaw::Syntax(error.to_string())));
    parsed.map_err(|flaw| ImageError::Damaged { url: vault.url().into(), object, flaw })
}
