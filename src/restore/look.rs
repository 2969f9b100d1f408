//! What the store holds for this container, before anything is decided.

use super::take::Right;
use crate::image::{self, ImageError, Lease, Manifest, Outcome, Result, Vault};

/// What the store says of its newest generation.
pub(super) struct Found {
    /// The store.
    pub(super) vault: Vault,
    /// What this container holds, once it has restored.
    pub(super) lease: Lease,
    /// What it takes to let anything run.
    pub(super) right: Right,
    /// What became of the newest generation so far.
    pub(super) outcome: Option<Outcome>,
    /// The newest generation, unless it is damaged.
    newest: Option<Manifest>,
}

impl Found {
    /// Looks at the newest generation; None where there is none.
    pub(super) fn look(vault: &Vault) -> Result<Option<Self>> {
        let Some(lease) = Lease::for_newest(vault)? else { return Ok(None) };
        let newest = match Manifest::load(vault, Some(lease.generation)) {
            Ok(manifest) => manifest,
            // Whether that is so bad is decided when it is to be restored.
            Err(error) if is_of_one_generation(&error) => None,
            Err(error) => return Err(error),
        };
        let outcome = match &newest {
            Some(manifest) if !manifest.offered => None,
            _ => image::look(vault, lease.generation)?,
        };
        Ok(Some(Self::new(vault.clone(), lease, newest, outcome)))
    }

    /// What was found out otherwise: `lease` for the generation `newest` that has so far this outcome. One that cannot be read may
    /// have been offered.
    pub(super) fn new(vault: Vault, lease: Lease, newest: Option<Manifest>, outcome: Option<Outcome>) -> Self {
        let right = match (&newest, &outcome) {
            (Some(manifest), None) if manifest.offered => {
                Right::Taking { generation: lease.generation, from: manifest.instance.clone() }
            }
            (None, None) => Right::Taking { generation: lease.generation, from: String::new() },
            _ => Right::Free,
        };
        Self { vault, lease, right, outcome, newest }
    }

    /// Reads the manifest of a generation, unless it is known.
    pub(super) fn manifest(&self, generation: u64) -> Result<Manifest> {
        match &self.newest {
            Some(newest) if newest.generation == generation => Ok(newest.clone()),
            _ => {
                let none = || ImageError::NoGeneration { url: self.vault.url().to_owned(), generation };
                Manifest::load(&self.vault, Some(generation))?.ok_or_else(none)
            }
        }
    }
}

/// Whether an error is of what one generation consists of, so that another one may do better.
pub(super) fn is_of_one_generation(error: &ImageError) -> bool {
    use crate::store::StoreError;
    match error {
        ImageError::Store(error) => {
            matches!(error, StoreError::NotFound { .. } | StoreError::OutOfRange { .. } | StoreError::TooLarge { .. })
        }
        ImageError::Damaged { .. }
        | ImageError::Version { .. }
        | ImageError::NoManifest { .. }
        | ImageError::TooLarge { .. } => true,
        _ => false,
    }
}
