//! Generations: committing one, and finding those that exist.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::head::{self, NotCommitted};
use super::lease::Lease;
use super::manifest;
use crate::fail_points::{Point, reach};
use crate::image::crypto::vault::Vault;
use crate::image::error::{Flaw, ImageError, Result};
use crate::image::format::manifest::{Manifest, OBJECT_LIMIT};
use crate::image::layout::{manifest_key, manifest_numbers, marker_key, pack_key, packs};
use crate::store::{PutMode, StoreError};

/// How long a commit may rely on what it found in the store: half of the time after which prune removes what nothing names.
pub const COMMIT_WITHIN: Duration = Duration::from_secs(30 * 60);

/// Makes `manifest` the newest generation, for the holder of `lease`, and returns what is held then: [`propose`], then
/// [`Proposal::commit`]. When this returns, the generation is durable; on any error it counts for nothing, unless the reply was
/// lost.
pub fn commit(vault: &Vault, manifest: &mut Manifest, lease: Lease, begun: Instant) -> Result<Lease> {
    propose(vault, manifest, lease, begun)?.commit().map_err(|failure| failure.error)
}

/// A generation whose manifest is in the store. It counts for nothing unless it is committed.
#[must_use]
pub struct Proposal<'a> {
    vault: &'a Vault,
    lease: Lease,
    /// Its number, which no other generation gets.
    pub number: u64,
}

/// Writes the manifest of what is to be the newest generation, for the holder of `lease`. Sets its number: the next one, or that
/// which it has where that is higher, as a copy's may be.
///
/// Everything that it refers to must be in the store; what was there before was found after `begun`.
pub fn propose<'a>(vault: &'a Vault, manifest: &mut Manifest, lease: Lease, begun: Instant) -> Result<Proposal<'a>> {
    let store = &**vault.store();
    let head = head::ensure(vault)?;
    lease.check_against(&head, vault)?;
    let wanted = manifest.generation.saturating_sub(1);
    let mut number = manifest_numbers(store)?.last().copied().unwrap_or(0).max(head.generation).max(wanted);
    manifest.parent = head.generation;
    loop {
        number += 1;
        manifest.generation = number;
        match store.put(&manifest_key(number), encoded(manifest, vault)?.into(), PutMode::Create) {
            Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(()) => break,
        }
    }
    if begun.elapsed() > COMMIT_WITHIN {
        return Err(ImageError::TooSlow { url: vault.url().into(), minutes: COMMIT_WITHIN.as_secs() / 60 });
    }
    reach(Point::CheckpointManifest);
    check_packs(vault, manifest)?;
    Ok(Proposal { vault, lease, number })
}

impl Proposal<'_> {
    /// Lets head name the generation, and returns what is held then.
    pub fn commit(self) -> Result<Lease, NotCommitted> {
        reach(Point::CheckpointCommitting);
        let committed = head::advance(self.vault, &self.lease, self.number);
        reach(Point::CheckpointHead);
        committed
    }
}

/// What no reader would take must not become a generation: the service is about to end.
fn encoded(manifest: &Manifest, vault: &Vault) -> Result<Vec<u8>> {
    let object = manifest.encode(vault.seal());
    let unfit = |flaw| ImageError::Unfit { url: vault.url().to_owned(), flaw };
    Flaw::bound("number of bytes", object.len() as u64, OBJECT_LIMIT).map_err(unfit)?;
    match manifest::open(&object, manifest.generation, vault) {
        Ok(_) => Ok(object),
        Err(ImageError::Damaged { flaw, .. }) => Err(unfit(flaw)),
        Err(error) => Err(error),
    }
}

/// From the manifest's put on a prune leaves its packs alone, so what is there now stays.
fn check_packs(vault: &Vault, manifest: &Manifest) -> Result<()> {
    let there: HashMap<_, _> = packs(&**vault.store())?.into_iter().map(|pack| (pack.id, pack.size)).collect();
    match manifest.packs.iter().find(|pack| there.get(&pack.id) != Some(&pack.size)) {
        None => Ok(()),
        Some(pack) => Err(ImageError::PackGone { url: vault.url().into(), object: pack_key(&pack.id) }),
    }
}

/// Says in an encrypted store that a generation was committed, so that an old head put back is noticed. For after the service was
/// let go: the generation is committed with or without it, and the next one says the same of all before it.
pub fn mark_committed(vault: &Vault, generation: u64) {
    if vault.seal().encrypts() {
        let key = marker_key(generation);
        let _ = vault.store().put(&key, vault.seal().seal_message(&key, b"").into(), PutMode::Create);
    }
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

/// What became of all manifests of a store.
#[derive(Default)]
pub struct Lineage {
    /// The committed generations in ascending order.
    pub generations: Vec<Generation>,
    /// Numbers below head of manifests whose writers lost their application to another, and that never counted.
    pub lost: Vec<u64>,
    /// Numbers above head: of manifests that are being committed, or whose writers were interrupted.
    pub pending: Vec<u64>,
}

/// Sorts all manifests by what became of them: from head down, each names its parent, so what lies between was never
/// committed. Where a manifest is damaged or was removed, all below are taken for generations.
pub fn lineage(vault: &Vault) -> Result<Lineage> {
    let Some(newest) = head::newest(vault)? else {
        return Ok(Lineage { pending: manifest_numbers(&**vault.store())?, ..Lineage::default() });
    };
    let (mut below, pending): (Vec<_>, Vec<_>) =
        manifest_numbers(&**vault.store())?.into_iter().filter(|number| *number != newest).partition(|n| *n < newest);
    below.push(newest);
    let mut lineage = Lineage { pending, ..Lineage::default() };
    let mut next = newest;
    for number in below.into_iter().rev() {
        if number > next {
            lineage.lost.push(number);
            continue;
        }
        let manifest = manifest::read(vault, number);
        // A prune was faster.
        if matches!(manifest, Err(ImageError::NoGeneration { .. })) {
            continue;
        }
        next = manifest.as_ref().map_or(number - 1, |manifest| manifest.parent);
        lineage.generations.push(Generation { number, newest: number == newest, manifest });
    }
    lineage.generations.reverse();
    lineage.lost.reverse();
    Ok(lineage)
}

/// All committed generations in ascending order. A damaged manifest does not hide the others.
pub fn generations(vault: &Vault) -> Result<Vec<Generation>> {
    Ok(lineage(vault)?.generations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::layout::NUMBER_MAX;
    use crate::image::test_vault;

    fn commit_next(vault: &Vault) -> Result<Lease> {
        commit(vault, &mut Manifest::default(), Lease::fresh(), Instant::now())
    }

    #[test]
    fn an_absurd_number_is_no_generation() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        vault.store().put(&manifest_key(u64::MAX), "".into(), PutMode::Create).unwrap();
        commit_next(&vault).unwrap();
        assert_eq!(head::newest(&vault).unwrap(), Some(1));
    }

    #[test]
    fn what_no_reader_would_accept_is_not_committed() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let held = commit_next(&vault).unwrap();
        vault.store().put(&manifest_key(NUMBER_MAX), "".into(), PutMode::Create).unwrap();
        let next = commit(&vault, &mut Manifest::default(), held, Instant::now());
        assert!(matches!(next, Err(ImageError::Unfit { .. })));
        assert_eq!(head::newest(&vault).unwrap(), Some(1));
    }
}
