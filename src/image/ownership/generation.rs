//! Commits generations, and lists those that exist.

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

/// Time limit from the start of a checkpoint to its commit: half of prune's grace time, so reused packs still
/// exist.
pub const COMMIT_WITHIN: Duration = Duration::from_secs(30 * 60);

/// Makes `manifest` the newest generation: [`propose`], then [`Proposal::commit`]. Returns the new lease of
/// the owner of `lease`.
///
/// On success the generation is durable. On an error it is not committed, unless the reply of the store was
/// lost.
pub fn commit(vault: &Vault, manifest: &mut Manifest, lease: Lease, begun: Instant) -> Result<Lease> {
    propose(vault, manifest, lease, begun)?.commit().map_err(|failure| failure.error)
}

/// A generation whose manifest is stored. It takes effect only if it is committed.
#[must_use]
pub struct Proposal<'a> {
    vault: &'a Vault,
    lease: Lease,
    /// Number, unique to this manifest.
    pub number: u64,
}

/// Writes the manifest of the next generation for the owner of `lease`. Sets its parent and its number: the
/// next free one, but at least the number that it has (a copy keeps its number).
///
/// All its packs must be stored. The packs of earlier generations must have been found after `begun`.
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
    /// Points head to the generation. Returns the new lease.
    pub fn commit(self) -> Result<Lease, NotCommitted> {
        reach(Point::CheckpointCommitting);
        let committed = head::advance(self.vault, &self.lease, self.number);
        reach(Point::CheckpointHead);
        committed
    }
}

/// Encodes the manifest, and decodes it again: the service may end after the commit, so an unreadable
/// manifest must fail here.
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

/// Prune keeps the packs of a stored manifest, so a pack that exists now stays.
fn check_packs(vault: &Vault, manifest: &Manifest) -> Result<()> {
    let there: HashMap<_, _> = packs(&**vault.store())?.into_iter().map(|pack| (pack.id, pack.size)).collect();
    match manifest.packs.iter().find(|pack| there.get(&pack.id) != Some(&pack.size)) {
        None => Ok(()),
        Some(pack) => Err(ImageError::PackGone { url: vault.url().into(), object: pack_key(&pack.id) }),
    }
}

/// Marks a generation of an encrypted store as committed, so an old head that is put back is detected. Call
/// it after the service was released: a failure is ignored, and the next mark covers all earlier generations.
pub fn mark_committed(vault: &Vault, generation: u64) {
    if vault.seal().encrypts() {
        let key = marker_key(generation);
        let _ = vault.store().put(&key, vault.seal().seal_message(&key, b"").into(), PutMode::Create);
    }
}

/// A committed generation.
pub struct Generation {
    pub number: u64,
    /// Whether head points to it.
    pub newest: bool,
    /// The manifest, or why it cannot be used.
    pub manifest: Result<Manifest>,
}

/// All manifests of a store, sorted by their fate.
#[derive(Default)]
pub struct Lineage {
    /// Committed, in ascending order.
    pub generations: Vec<Generation>,
    /// Below head and never committed: the writer failed, or another container took over.
    pub lost: Vec<u64>,
    /// Above head: being committed, or left by an interrupted writer.
    pub pending: Vec<u64>,
}

/// Sorts all manifests by following parents down from head: a manifest between a generation and its parent
/// was never committed. Below a damaged or removed manifest every one counts as committed.
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
        // A prune removed it after the listing.
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

/// All committed generations in ascending order. A damaged manifest does not hide older ones.
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
