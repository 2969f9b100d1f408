//! Generations: committing one, and finding those that exist.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::error::{Flaw, ImageError};
use super::head::NotCommitted;
use super::lease::Lease;
use super::manifest::Manifest;
use super::vault::Vault;
use super::{Result, head, refs};
use crate::store::{PutMode, Store, StoreError};

const FOLDER: &str = "generations/";
const MANIFEST: &str = ".manifest";
const MARKER: &str = ".committed";
const MARKER_LIMIT: u64 = 4096;

/// How long a commit may rely on what it found in the store: half of the time after which prune removes what nothing names.
pub const COMMIT_WITHIN: Duration = Duration::from_secs(30 * 60);

/// The key of a generation's manifest.
pub fn manifest_key(generation: u64) -> String {
    format!("{FOLDER}{generation}{MANIFEST}")
}

/// The key of what says, in an encrypted store, that a generation was committed: head can no longer be set back unnoticed.
/// Of no use any more once a later one is committed.
pub fn marker_key(generation: u64) -> String {
    format!("{FOLDER}{generation}{MARKER}")
}

/// The generation that a key is of. One that head could never name is none.
fn number(key: &str, suffix: &str) -> Option<u64> {
    let digits = key.strip_prefix(FOLDER)?.strip_suffix(suffix)?;
    digits.parse().ok().filter(|n: &u64| (1..=head::NUMBER_MAX).contains(n) && n.to_string() == digits)
}

fn listed(store: &dyn Store, suffix: &str) -> Result<Vec<u64>> {
    let mut numbers: Vec<u64> = store.list(FOLDER)?.iter().filter_map(|object| number(&object.key, suffix)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Numbers of all manifests in ascending order, also of those that were never committed.
pub(super) fn numbers(store: &dyn Store) -> Result<Vec<u64>> {
    listed(store, MANIFEST)
}

/// The highest generation above `known` that an encrypted store says was committed, or `known`.
pub(super) fn marked(vault: &Vault, known: u64) -> Result<u64> {
    if !vault.seal().encrypts() {
        return Ok(known);
    }
    let Some(number) = listed(&**vault.store(), MARKER)?.pop().filter(|number| *number > known) else {
        return Ok(known);
    };
    let object = marker_key(number);
    let (data, _) = vault.store().get(&object, MARKER_LIMIT)?;
    match vault.seal().open_message(&object, &data) {
        Ok(_) => Ok(number),
        Err(flaw) => Err(ImageError::Damaged { url: vault.url().into(), object, flaw }),
    }
}

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
    let mut number = numbers(store)?.last().copied().unwrap_or(0).max(head.generation).max(wanted);
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
    check_packs(vault, manifest)?;
    Ok(Proposal { vault, lease, number })
}

impl Proposal<'_> {
    /// Lets head name the generation, and returns what is held then.
    pub fn commit(self) -> Result<Lease, NotCommitted> {
        head::advance(self.vault, &self.lease, self.number)
    }
}

/// What no reader would take must not become a generation: the service is about to end.
fn encoded(manifest: &Manifest, vault: &Vault) -> Result<Vec<u8>> {
    let object = manifest.encode_object(vault);
    let unfit = |flaw| ImageError::Unfit { url: vault.url().to_owned(), flaw };
    Flaw::bound("number of bytes", object.len() as u64, super::manifest::OBJECT_LIMIT).map_err(unfit)?;
    match Manifest::decode_object(&object, manifest.generation, vault) {
        Ok(_) => Ok(object),
        Err(ImageError::Damaged { flaw, .. }) => Err(unfit(flaw)),
        Err(error) => Err(error),
    }
}

/// From the manifest's put on a prune leaves its packs alone, so what is there now stays.
fn check_packs(vault: &Vault, manifest: &Manifest) -> Result<()> {
    let there: HashMap<_, _> = refs::packs(vault)?.into_iter().map(|pack| (pack.id, pack.size)).collect();
    match manifest.packs.iter().find(|pack| there.get(&pack.id) != Some(&pack.size)) {
        None => Ok(()),
        Some(pack) => Err(ImageError::PackGone { url: vault.url().into(), object: super::pack::key(&pack.id) }),
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
        return Ok(Lineage { pending: numbers(&**vault.store())?, ..Lineage::default() });
    };
    let (mut below, pending): (Vec<_>, Vec<_>) =
        numbers(&**vault.store())?.into_iter().filter(|number| *number != newest).partition(|n| *n < newest);
    below.push(newest);
    let mut lineage = Lineage { pending, ..Lineage::default() };
    let mut next = newest;
    for number in below.into_iter().rev() {
        if number > next {
            lineage.lost.push(number);
            continue;
        }
        let manifest = Manifest::read(vault, number);
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

impl Manifest {
    /// Reads and checks the manifest of `generation`, or of the newest one. None where nothing was ever committed.
    pub fn load(vault: &Vault, generation: Option<u64>) -> Result<Option<Manifest>> {
        let Some(newest) = head::newest(vault)? else { return Ok(None) };
        Self::read(vault, generation.unwrap_or(newest)).map(Some)
    }

    fn read(vault: &Vault, generation: u64) -> Result<Manifest> {
        let object = manifest_key(generation);
        let url = vault.url().to_owned();
        match vault.store().get(&object, super::manifest::OBJECT_LIMIT) {
            Ok((data, _)) => Manifest::decode_object(&data, generation, vault),
            Err(StoreError::NotFound { .. }) if head::newest(vault)? == Some(generation) => {
                Err(ImageError::NoManifest { url, generation, object })
            }
            Err(StoreError::NotFound { .. }) => Err(ImageError::NoGeneration { url, generation }),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::test_vault;
    use proptest::prelude::*;

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
        vault.store().put(&manifest_key(head::NUMBER_MAX), "".into(), PutMode::Create).unwrap();
        let next = commit(&vault, &mut Manifest::default(), held, Instant::now());
        assert!(matches!(next, Err(ImageError::Unfit { .. })));
        assert_eq!(head::newest(&vault).unwrap(), Some(1));
    }

    proptest! {
        #[test]
        fn fuzz_a_key_is_of_one_generation_or_none(name in "(generations/)?[0-9+x-]{0,21}[./]?(manifest|committed)?") {
            for (suffix, key) in [(MANIFEST, manifest_key as fn(u64) -> String), (MARKER, marker_key)] {
                if let Some(number) = number(&name, suffix) {
                    prop_assert_eq!(key(number), &*name);
                    prop_assert!(number > 0 && number <= head::NUMBER_MAX);
                }
            }
        }
    }
}
