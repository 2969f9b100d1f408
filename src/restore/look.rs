//! What the store holds for this container. Reads only.

use crate::image::{self, ImageError, Lease, Manifest, Outcome, Result, Vault};

/// The generation that head names.
#[derive(Debug)]
pub struct Newest {
    /// As head says.
    pub generation: u64,
    /// The manifest, or why it cannot be read.
    pub manifest: Result<Manifest, String>,
    /// None if it is open, or if the service kept running after the checkpoint.
    pub outcome: Option<Outcome>,
}

impl Newest {
    /// None if head names no generation.
    pub fn load(vault: &Vault, head: &Lease) -> Result<Option<Self>> {
        let generation = head.generation;
        if generation == 0 {
            return Ok(None);
        }
        let manifest = match Manifest::load(vault, Some(generation)) {
            Ok(Some(manifest)) => Ok(manifest),
            Ok(None) => return Ok(None),
            // The restore decides whether this is fatal.
            Err(error) if is_of_one_generation(&error) => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        let outcome = match &manifest {
            Ok(manifest) if !manifest.offered => None,
            _ => image::look(vault, generation)?,
        };
        Ok(Some(Self { generation, manifest, outcome }))
    }

    /// Whether the outcome gives it to that instance.
    pub fn is_of(&self, instance: &str) -> bool {
        let Some(Outcome::Taken { by, .. } | Outcome::Withdrawn { by }) = &self.outcome else { return false };
        by.instance == instance
    }

    /// The manifest, if the generation is offered and no outcome is known.
    pub fn offered(&self) -> Option<&Manifest> {
        self.manifest.as_ref().ok().filter(|manifest| manifest.offered && self.outcome.is_none())
    }
}

/// What a container needs before it may run the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Right {
    /// The outcome of this generation: the container must create it.
    Taking {
        generation: u64,
        /// The instance that offers it; empty if the manifest cannot be read.
        from: String,
    },
    /// Nothing: the container that starts last has the application.
    Free,
}

pub(super) struct Found {
    pub(super) vault: Vault,
    /// This container's lease once it has restored.
    pub(super) lease: Lease,
    pub(super) right: Right,
    pub(super) newest: Newest,
}

impl Found {
    /// None if the store has no generation.
    pub(super) fn look(vault: &Vault) -> Result<Option<Self>> {
        let Some(lease) = Lease::for_newest(vault)? else { return Ok(None) };
        Ok(Newest::load(vault, &lease)?.map(|newest| Self::new(vault.clone(), lease, newest)))
    }

    /// `lease` must be for the generation `newest`. One that cannot be read may have been offered, so it must
    /// be taken.
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

/// Whether an error concerns one generation only, so that another one may work.
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
