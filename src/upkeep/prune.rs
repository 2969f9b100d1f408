//! `freeze prune`: removes generations that no policy keeps, and the packs that nothing needs any more.
//!
//! Mark and sweep in two phases. A pack that nothing names is *condemned* first, and deleted by a prune that finds it still
//! unreferenced a grace time later. What makes this safe beside writers and other prunes:
//!
//! - A writer refers to packs of the generation that was newest when it began, and gives up half a grace time later. So whoever
//!   may still refer to a condemned pack has committed, or never will, when the grace time is over.
//! - Nobody begins to refer to a condemned pack: before a prune deletes a manifest, it lifts the condemnation of all packs that any
//!   manifest names. A sweep looks at manifests first and at condemnations after, so it misses no lifting.
//! - Outcomes stay for ever: whoever restores a generation, however slowly, must find that it is not the first.
//! - All steps only remove what later steps and other prunes find removed: killed anywhere, it is simply run again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use super::condemned::{self, Condemned};
use super::policy::{self, Keep};
use super::{Part, Progress, UpkeepError, WHOLE_OBJECTS, parallel};
use crate::fail_points::{Point, reach};
use crate::image::{self, ImageError, Manifest, StoredManifest, StoredPack, Vault};

/// Parts of objects this old that never became one were left by writers that are gone.
const STALE: Duration = Duration::from_secs(86_400);

/// What to prune.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Which generations to keep.
    pub keep: Keep,
    /// How long a pack is left alone after it was written, and after it was first seen unreferenced.
    pub grace: Duration,
    /// Say what would be done, and write and delete nothing. The store's clock is then taken to be this machine's.
    pub dry_run: bool,
}

/// What was pruned, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// Generations that stay.
    pub kept: Vec<u64>,
    /// Generations that went.
    pub removed: Vec<u64>,
    /// Numbers of manifests that were never committed and went.
    pub leftovers: Vec<u64>,
    /// Packs that went.
    pub packs: u64,
    /// Bytes of all objects that went.
    pub bytes: u64,
    /// Packs that nothing names and that await their grace time.
    pub waiting_packs: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Why parts of objects that never became one could not be removed. All else is done.
    #[serde(skip)]
    pub not_cleaned: Option<String>,
}

/// One manifest, as far as pruning goes.
struct Marked {
    size: u64,
    modified: SystemTime,
    taken_ms: u64,
    committed: bool,
    packs: Vec<String>,
}

/// Prunes a store. Any error leaves it whole, and running again goes on.
pub fn prune(vault: &Vault, options: &Options, progress: &dyn Progress) -> Result<Pruned, UpkeepError> {
    let now = if options.dry_run { SystemTime::now() } else { condemned::now(vault)? };
    reach(Point::PruneBegun);
    let is_old = |time: SystemTime| now.duration_since(time).unwrap_or_default() >= options.grace;
    // Packs before manifests: what is named only after it was listed is missed by nobody, as it is marked once more.
    let packs = image::packs(&**vault.store())?;
    let mut marked = mark(vault)?;
    reach(Point::PruneMarked);
    // The number of one that was never committed must not be used again where its outcome is decided.
    let decided: BTreeSet<u64> = image::records(&**vault.store())?.into_iter().map(|record| record.number).collect();
    let (stay, mut pruned) =
        plan(&marked, &options.keep, |number, modified| is_old(modified) && !decided.contains(&number));
    let standing = lift(vault, &marked, options.dry_run)?;
    reach(Point::PruneLifted);
    let going: Vec<u64> = pruned.leftovers.iter().chain(&pruned.removed).copied().collect();
    pruned.bytes = going.iter().map(|number| marked[number].size).sum();
    if !options.dry_run {
        // Leftovers first: beside their committed neighbours they can be told.
        going.iter().try_for_each(|number| remove(vault, *number, &stay))?;
    }
    reach(Point::PruneRemoved);
    marked.retain(|number, _| stay.contains(number));
    let fresh = condemn(vault, &packs, &marked, &standing, is_old, options.dry_run)?;
    reach(Point::PruneCondemned);

    // Once more, right before the sweep, and manifests before condemnations.
    let (marked, condemned) =
        if options.dry_run { (marked, standing) } else { (mark(vault)?, condemned::read(&**vault.store())?) };
    reach(Point::PruneMarkedAgain);
    let mut due: HashSet<&str> = names(condemned.iter().filter(|condemned| is_old(condemned.since))).collect();
    if options.dry_run && options.grace.is_zero() {
        due.extend(fresh);
    }
    let (due, waiting): (Vec<&StoredPack>, Vec<&StoredPack>) =
        unreferenced(&packs, &marked).into_iter().partition(|pack| due.contains(&*pack.id));
    pruned.packs = due.len() as u64;
    pruned.bytes += due.iter().map(|pack| pack.size).sum::<u64>();
    pruned.waiting_packs = waiting.len() as u64;
    pruned.waiting_bytes = waiting.iter().map(|pack| pack.size).sum();
    if !options.dry_run {
        sweep(vault, &due, progress)?;
        reach(Point::PruneSwept);
        let swept: HashSet<&str> = due.iter().map(|pack| &*pack.id).collect();
        let there = packs.iter().map(|pack| &*pack.id).filter(|id| !swept.contains(id)).collect();
        remove_used_up(vault, &condemned, &there, is_old)?;
        reach(Point::PruneCleaned);
        // Last, as it alone needs rights of its own where the store is a bucket.
        pruned.not_cleaned = vault.store().clean(STALE).err().map(|error| error.to_string());
    }
    Ok(pruned)
}

/// Reads all manifests; one that cannot be read is an error, one that another prune removes meanwhile is not.
fn mark(vault: &Vault) -> Result<BTreeMap<u64, Marked>, UpkeepError> {
    // Listed before head is read: what is committed meanwhile is not taken for a leftover.
    let listed = image::manifests(&**vault.store())?;
    let mut marked = BTreeMap::new();
    for generation in image::generations(vault)? {
        if let Some(manifest) = readable(generation.number, generation.manifest.map(Some))? {
            marked.insert(generation.number, Marked::new(&manifest, true, &listed));
        }
    }
    let leftovers: Vec<u64> =
        listed.iter().map(|stored| stored.number).filter(|number| !marked.contains_key(number)).collect();
    let read = parallel(&leftovers, WHOLE_OBJECTS, |number| (*number, Manifest::load(vault, Some(*number))));
    for (number, manifest) in read {
        if let Some(manifest) = readable(number, manifest)? {
            marked.insert(number, Marked::new(&manifest, false, &listed));
        }
    }
    Ok(marked)
}

fn readable(number: u64, manifest: image::Result<Option<Manifest>>) -> Result<Option<Manifest>, UpkeepError> {
    match manifest {
        Err(ImageError::NoGeneration { .. }) => Ok(None),
        Err(error) => Err(UpkeepError::Unreadable(Box::new(error), number)),
        Ok(manifest) => Ok(manifest),
    }
}

impl Marked {
    /// One that was committed after `listed` is as young as can be.
    fn new(manifest: &Manifest, committed: bool, listed: &[StoredManifest]) -> Self {
        let stored = listed.iter().find(|stored| stored.number == manifest.generation);
        let (size, modified) = stored.map_or((0, SystemTime::now()), |stored| (stored.size, stored.modified));
        let packs = manifest.packs.iter().map(|pack| pack.id.clone()).collect();
        Self { size, modified, taken_ms: policy::taken_ms(manifest.created_ms, modified), committed, packs }
    }
}

/// Which manifests stay, and what becomes of all.
fn plan(
    marked: &BTreeMap<u64, Marked>,
    keep: &Keep,
    is_forgotten: impl Fn(u64, SystemTime) -> bool,
) -> (BTreeSet<u64>, Pruned) {
    let committed = marked.iter().filter(|(_, manifest)| manifest.committed);
    let kept = keep.choose(&committed.map(|(number, manifest)| (*number, manifest.taken_ms)).collect());
    let newest = kept.last().copied().unwrap_or(0);
    // Head never goes back, so nobody can commit what lies below it any more; what lies above may be being committed now.
    let is_dead = |number: u64, manifest: &Marked| number < newest || is_forgotten(number, manifest.modified);
    let (mut stay, mut pruned) = (kept.clone(), Pruned { kept: kept.into_iter().collect(), ..Pruned::default() });
    for (number, manifest) in marked {
        match manifest.committed {
            true if !stay.contains(number) => pruned.removed.push(*number),
            false if is_dead(*number, manifest) => pruned.leftovers.push(*number),
            _ => drop(stay.insert(*number)),
        }
    }
    (stay, pruned)
}

/// Removes a manifest. A copy may have put its own in the place of a leftover above head since, and committed that.
fn remove(vault: &Vault, number: u64, stay: &BTreeSet<u64>) -> Result<(), UpkeepError> {
    let was_above_head = stay.last().is_none_or(|newest| number > *newest);
    if was_above_head && image::newest(vault)?.is_some_and(|newest| number <= newest) {
        return Ok(());
    }
    image::remove_manifest(&**vault.store(), number)?;
    reach(Point::PruneRemoving);
    Ok(())
}

/// Lifts the condemnation of what is named: a writer may be looking at it now, so its grace time begins anew. Returns those that
/// stand.
fn lift(vault: &Vault, marked: &BTreeMap<u64, Marked>, dry_run: bool) -> Result<Vec<Condemned>, UpkeepError> {
    let store = &**vault.store();
    let named = named(marked);
    let lifted = |condemned: &Condemned| condemned.packs.iter().any(|id| named.contains(&**id));
    let (lifted, standing): (Vec<_>, Vec<_>) = condemned::read(store)?.into_iter().partition(lifted);
    if !dry_run {
        lifted.iter().try_for_each(|condemned| condemned.remove(store))?;
    }
    Ok(standing)
}

/// Condemns what nothing names, unless it is new or condemned already. Returns it. In a store without a generation that is
/// nothing: what is there may be of its first one, which takes its time where it is a copy.
fn condemn<'a>(
    vault: &Vault,
    packs: &'a [StoredPack],
    marked: &BTreeMap<u64, Marked>,
    standing: &[Condemned],
    is_old: impl Fn(SystemTime) -> bool,
    dry_run: bool,
) -> Result<Vec<&'a str>, UpkeepError> {
    if !marked.values().any(|manifest| manifest.committed) {
        return Ok(Vec::new());
    }
    let known: HashSet<&str> = names(standing).collect();
    let old = unreferenced(packs, marked).into_iter().filter(|pack| is_old(pack.modified)).map(|pack| &*pack.id);
    let fresh: Vec<&str> = old.filter(|id| !known.contains(id)).collect();
    if !dry_run {
        condemned::put(&**vault.store(), &fresh)?;
    }
    Ok(fresh)
}

fn sweep(vault: &Vault, packs: &[&StoredPack], progress: &dyn Progress) -> Result<(), UpkeepError> {
    progress.begin(Part::Deleting, packs.len() as u64);
    let removed = parallel(packs, vault.store().concurrency(), |pack| {
        progress.add(1);
        let removed = image::remove_pack(&**vault.store(), &pack.id);
        reach(Point::PruneSweeping);
        removed
    });
    progress.end();
    removed.into_iter().try_for_each(|result| Ok(result?))
}

/// Removes condemnations of which no pack is left. One that lists nothing may be another prune's question for the time.
fn remove_used_up(
    vault: &Vault,
    condemned: &[Condemned],
    there: &HashSet<&str>,
    is_old: impl Fn(SystemTime) -> bool,
) -> Result<(), UpkeepError> {
    let used_up = |condemned: &&Condemned| match condemned.packs.as_slice() {
        [] => is_old(condemned.since),
        packs => !packs.iter().any(|id| there.contains(&**id)),
    };
    let mut used_up = condemned.iter().filter(used_up);
    used_up.try_for_each(|condemned| Ok(condemned.remove(&**vault.store())?))
}

fn unreferenced<'a>(packs: &'a [StoredPack], marked: &BTreeMap<u64, Marked>) -> Vec<&'a StoredPack> {
    let named = named(marked);
    packs.iter().filter(|pack| !named.contains(&*pack.id)).collect()
}

fn named(marked: &BTreeMap<u64, Marked>) -> HashSet<&str> {
    marked.values().flat_map(|manifest| &manifest.packs).map(|id| &**id).collect()
}

fn names<'a>(condemned: impl IntoIterator<Item = &'a Condemned>) -> impl Iterator<Item = &'a str> {
    condemned.into_iter().flat_map(|condemned| &condemned.packs).map(|id| &**id)
}
