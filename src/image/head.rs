//! `head`: the store's pointer to the newest generation. Only ever written by a conditional put.

use serde::{Deserialize, Serialize};

use super::error::{Flaw, ImageError};
use super::vault::Vault;
use super::{Result, generation};
use crate::store::{PutMode, Store, StoreError, Version};

const KEY: &str = "head";
const FORMAT: u32 = 1;
const LIMIT: u64 = 64 * 1024;

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    /// 0 before the first commit: a head is made before any manifest, so that a store with manifests always has one.
    generation: u64,
}

/// The newest generation, 0 where a first commit was begun and not ended, and the version of head that said so.
pub(super) fn read(store: &dyn Store) -> Result<Option<(u64, Version)>> {
    let (data, version) = match store.get(KEY, LIMIT) {
        Err(StoreError::NotFound { .. }) => return Ok(None),
        got => got?,
    };
    let damaged = |flaw| ImageError::Damaged { url: store.url().into(), object: KEY.into(), flaw };
    let head: Head = serde_json::from_slice(&data).map_err(|e| damaged(Flaw::Syntax(e.to_string())))?;
    if head.version != FORMAT {
        let (url, object) = (store.url().into(), KEY.into());
        return Err(ImageError::Version { url, object, found: head.version, supported: FORMAT });
    }
    Ok(Some((head.generation, version)))
}

/// The newest committed generation, if there is one.
pub fn newest(vault: &Vault) -> Result<Option<u64>> {
    newest_in(&**vault.store())
}

pub(super) fn newest_in(store: &dyn Store) -> Result<Option<u64>> {
    match read(store)? {
        Some((0, _)) => Ok(None),
        Some((generation, _)) => Ok(Some(generation)),
        None if generation::numbers(store)?.is_empty() => Ok(None),
        None => Err(ImageError::NoHead { url: store.url().into() }),
    }
}

fn put(store: &dyn Store, generation: u64, mode: PutMode) -> Result<(), StoreError> {
    let text = format!("{{\"version\":{FORMAT},\"generation\":{generation}}}\n");
    store.put(KEY, text.into(), mode)
}

/// Makes sure that there is a head, and returns the generation that it names.
pub(super) fn ensure(store: &dyn Store) -> Result<u64> {
    if newest_in(store)?.is_none() {
        match put(store, 0, PutMode::Create) {
            Ok(()) | Err(StoreError::Exists { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(newest_in(store)?.unwrap_or(0))
}

/// Lets head name `generation`, unless it names a later one: then another writer was faster, and theirs stands.
pub(super) fn advance(store: &dyn Store, generation: u64) -> Result<()> {
    loop {
        let (theirs, version) = read(store)?.ok_or_else(|| ImageError::NoHead { url: store.url().into() })?;
        // No one else can make head name a manifest that we created: this is our own put, whose reply was lost.
        if theirs == generation {
            return Ok(());
        }
        if theirs > generation {
            return Err(ImageError::Replaced { url: store.url().into(), ours: generation, theirs });
        }
        match put(store, generation, PutMode::Update(version)) {
            Err(StoreError::Changed { .. }) => {}
            result => return Ok(result?),
        }
    }
}
