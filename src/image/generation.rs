//! Generations: committing one, and finding those that exist.

use super::error::ImageError;
use super::manifest::Manifest;
use super::vault::Vault;
use super::{Result, check, head};
use crate::store::{PutMode, Store, StoreError};

const FOLDER: &str = "generations/";
const SUFFIX: &str = ".manifest";

/// The key of a generation's manifest.
pub(super) fn key(generation: u64) -> String {
    format!("{FOLDER}{generation}{SUFFIX}")
}

/// Numbers of all manifests in ascending order, also of those that were never committed.
pub(super) fn numbers(store: &dyn Store) -> Result<Vec<u64>> {
    let number = |key: &str| {
        let digits = key.strip_prefix(FOLDER)?.strip_suffix(SUFFIX)?;
        digits.parse().ok().filter(|n: &u64| *n > 0 && n.to_string() == digits)
    };
    let mut numbers: Vec<u64> = store.list(FOLDER)?.iter().filter_map(|object| number(&object.key)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes `manifest` the newest generation and returns its number, which is also set in `manifest`.
///
/// Everything that it refers to must be in the store. When this returns, the generation is durable; on any error it
/// counts for nothing.
pub fn commit(vault: &Vault, manifest: &mut Manifest) -> Result<u64> {
    let store = &**vault.store();
    // What no reader would take must not become a generation: the service is about to end.
    check::manifest(manifest, manifest.generation).map_err(|flaw| ImageError::Damaged {
        url: store.url().to_owned(),
        object: "the new manifest".to_owned(),
        flaw,
    })?;
    let head = head::ensure(store)?;
    let mut number = numbers(store)?.last().copied().unwrap_or(0).max(head);
    loop {
        number += 1;
        manifest.generation = number;
        match store.put(&key(number), manifest.encode_object().into(), PutMode::Create) {
            Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(()) => break,
        }
    }
    head::advance(store, number)?;
    Ok(number)
}

/// One generation of a store.
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// Head names it.
    pub newest: bool,
    /// Its manifest, or why that cannot be used.
    pub manifest: Result<Manifest>,
}

/// All committed generations in ascending order. A damaged manifest does not hide the others.
pub fn generations(vault: &Vault) -> Result<Vec<Generation>> {
    let store = &**vault.store();
    let Some(newest) = head::newest_in(store)? else { return Ok(Vec::new()) };
    let mut numbers = numbers(store)?;
    numbers.retain(|number| *number < newest);
    numbers.push(newest);
    let generation = |number| Generation { number, newest: number == newest, manifest: Manifest::read(store, number) };
    Ok(numbers.into_iter().map(generation).collect())
}

impl Manifest {
    /// Reads and checks the manifest of `generation`, or of the newest one. None where nothing was ever committed.
    pub fn load(vault: &Vault, generation: Option<u64>) -> Result<Option<Manifest>> {
        let store = &**vault.store();
        let Some(newest) = head::newest_in(store)? else { return Ok(None) };
        Self::read(store, generation.unwrap_or(newest)).map(Some)
    }

    fn read(store: &dyn Store, generation: u64) -> Result<Manifest> {
        let object = key(generation);
        let url = store.url().to_owned();
        match store.get(&object, super::manifest::OBJECT_LIMIT) {
            Ok((data, _)) => Manifest::decode_object(&data, generation, &url),
            Err(StoreError::NotFound { .. }) if head::newest_in(store)? == Some(generation) => {
                Err(ImageError::NoManifest { url, generation, object })
            }
            Err(StoreError::NotFound { .. }) => Err(ImageError::NoGeneration { url, generation }),
            Err(e) => Err(e.into()),
        }
    }
}
