//! What the store holds for this container, before anything is decided.

use crate::image::{self, ImageError, Lease, Manifest, Outcome, Result, Vault};

/// The generation that head names.
#[derive(Debug)]
pub struct Newest {
    /// Its number.
    pub generation: u64,
    /// What it consists of, or why that cannot be read.
    pub manifest: Result<Manifest, String>,
    /// What became of it, where its service may not have run on; none where that is open.
    pub outcome: Option<Outcome>,
}

impl Newest {
    /// Reads it; None where head names none.
    pub fn load(vault: &Vault, head: &Lease) -> Result<Option<Self>> {
        let generation = head.generation;
        if generation == 0 {
            return Ok(None);
        }
        let manifest = match Manifest::load(vault, Some(generation)) {
            Ok(Some(manifest)) => Ok(manifest),
            Ok(None) => return Ok(None),
            // Whether that is so bad is decided when it is to be restored.
            Err(error) if is_of_one_generation(&error) => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        let outcome = match &manifest {
            Ok(manifest) if !manifest.offered => None,
            _ => image::look(vault, generation)?,
        };
        Ok(Some(Self { generation, manifest, outcome }))
    }

    /// Whether its outcome is by that instance, so that it is that one's.
    pub fn is_of(&self, instance: &str) -> bool {
        let Some(Outcome::Taken { by, .. } | Outcome::Withdrawn { by }) = &self.outcome else { return false };
        by.instance == instance
    }

    /// The manifest, where its service did not run on and nobody has it yet, as far as that is known.
    pub fn offered(&self) -> Option<&Manifest> {
        self.manifest.as_ref().ok().filter(|manifest| manifest.offered && self.outcome.is_none())
    }
}

/// What it takes to let a service run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Right {
    /// To be the one that takes this generation.
    Taking {
        /// The newest generation.
        generation: u64,
        /// The container that offers it.
        from: String,
    },
    /// Nothing: whoever starts last has the application.
    Free,
}

/// What the store says of its newest generation.
pub(super) struct Found {
    /// The store.
    pub(super) vault: Vault,
    /// What this container holds, once it has restored.
    pub(super) lease: Lease,
    /// What it takes to let anything run.
    pub(super) right: Right,
    /// The newest generation.
    pub(super) newest: Newest,
}

impl Found {
    /// Looks at the newest generation; None where there is none.
    pub(super) fn look(vault: &Vault) -> Result<Option<Self>> {
        let Some(lease) = Lease::for_newest(vault)? else { return Ok(None) };
        Ok(Newest::load(vault, &lease)?.map(|newest| Self::new(vault.clone(), lease, newest)))
    }

    /// What was found out otherwise: `lease` is for the generation `newest`. One that cannot be read may have been offered.
    pub(super) fn new(vault: Vault, lease: Lease, newest: Newest) -> Self {
        let generation = newest.generation;
        let right = match (newest.offered(), &newest) {
            (Some(manifest), _) => Right::Taking { generation, from: manifest.instance.clone() },
            (None, Newest { manifest: Err(_), outcome: None, .. }) => Right::Taking { generation, from: String::new() },
            _ => Right::Free,
        };
        Self { vault, lease, right, newest }
    }

    /// Reads the manifest of a generation, unless it is known.
    pub(super) fn manifest(&self, generation: u64) -> Result<Manifest> {
        match &self.newest.manifest {
            Ok(newest) if newest.generation == generation => Ok(newest.clone()),
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
