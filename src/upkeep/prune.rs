//! `freeze prune`: removes generations that no policy keeps, and packs that no manifest names.
//!
//! Two-phase mark and sweep: an unreferenced pack is first *condemned*, then deleted by a prune that finds it
//! still unreferenced a grace time later. It is safe beside writers and other prunes:
//!
//! - A writer references packs of the generation that was newest when it began, and gives up within half the
//!   default grace time. So when the grace time is over, every writer that could reference a condemned pack
//!   has committed or given up.
//! - No writer starts to reference a condemned pack: before a prune deletes a manifest, it lifts the
//!   condemnation of every pack that a manifest names. A sweep reads manifests before condemnations, so it
//!   misses no lifting.
//! - Outcomes are never removed: a container that restores a generation, however slowly, must see that it was
//!   taken. Of the marks that say that an instance has lost its service, the newest stays.
//! - Every step is idempotent, so an interrupted prune is simply run again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use super::condemned::{self, Condemned};
use super::policy::{self, Keep};
use super::{Part, Progress, UpkeepError, WHOLE_OBJECTS, parallel};
use crate::fail_points::{Point, reach};
use crate::image::{self, ImageError, Manifest, StoredManifest, StoredPack, Vault, standby};

/// Age at which a partly written object, or what a standby wrote, counts as abandoned. A standby writes once an hour.
const STALE: Duration = Duration::from_secs(86_400);

/// What to prune.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Generations to keep.
    pub keep: Keep,
    /// How long a pack is kept after it was written, and after it was condemned.
    pub grace: Duration,
    /// Report what would be done, without writing or deleting. This machine's clock then stands in for the
    /// store's.
    pub dry_run: bool,
}

/// Result of a prune, or of a dry run.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// Kept generations.
    pub kept: Vec<u64>,
    /// Removed generations.
    pub removed: Vec<u64>,
    /// Numbers of removed manifests that were never committed.
    pub leftovers: Vec<u64>,
    /// Number of removed packs.
    pub packs: u64,
    /// Size of the removed manifests and packs in bytes.
    pub bytes: u64,
    /// Number of unreferenced packs whose grace time is not over.
    pub waiting_packs: u64,
    /// Size of the waiting packs in bytes.
    pub waiting_bytes: u64,
    /// Why abandoned partial objects could not be removed. Everything else is done.
    #[serde(skip)]
    pub not_cleaned: Option<String>,
}

/// What a prune needs of one manifest.
struct Marked {
    size: u64,
    modified: SystemTime,
    taken_ms: u64,
    committed: bool,
    packs: Vec<String>,
}

/// Prunes a store. After an error the store is consistent, and another run continues.
pub fn prune(vault: &Vault, options: &Options, progress: &dyn Progress) -> Result<Pruned, UpkeepError> {
    let now = if options.dry_run { SystemTime::now() } else { condemned::now(vault)? };
    reach(Point::PruneBegun);
    let is_old = |time: SystemTime| now.duration_since(time).unwrap_or_default() >= options.grace;
    // Packs are listed before manifests are read, and manifests are read once more before the sweep: a pack
    // that a manifest names in the meantime is found referenced.
    let packs = image::packs(&**vault.store())?;
    let mut marked = mark(vault)?;
    reach(Point::PruneMarked);
    // A leftover above head with a decided outcome stays: its number must not be used again.
    let decided: BTreeSet<u64> = image::records(&**vault.store())?.into_iter().map(|record| record.number).collect();
    let (stay, mut pruned) =
        plan(&marked, &options.keep, |number, modified| is_old(modified) && !decided.contains(&number));
    let standing = lift(vault, &marked, options.dry_run)?;
    reach(Point::PruneLifted);
    let going: Vec<u64> = pruned.leftovers.iter().chain(&pruned.removed).copied().collect();
    pruned.bytes = going.iter().map(|number| marked[number].size).sum();
    if !options.dry_run {
        // Leftovers go first: only the parent links of committed manifests tell them from generations.
        going.iter().try_for_each(|number| remove(vault, *number, &stay))?;
    }
    reach(Point::PruneRemoved);
    marked.retain(|number, _| stay.contains(number));
    let fresh = condemn(vault, &packs, &marked, &standing, is_old, options.dry_run)?;
    reach(Point::PruneCondemned);

    // Mark again right before the sweep, manifests before condemnations.
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
        let is_stale = |time: SystemTime| now.duration_since(time).unwrap_or_default() >= STALE;
        standby::remove_old(&**vault.store(), is_stale)?;
        image::remove_superseded_marks(vault)?;
        reach(Point::PruneCleaned);
        // Last, as it needs permissions that nothing else needs in a bucket.
        pruned.not_cleaned = vault.store().clean(STALE).err().map(|error| error.to_string());
    }
    Ok(pruned)
}

/// Reads all manifests. An unreadable one is an error; one that another prune removed in the meantime is
/// skipped.
fn mark(vault: &Vault) -> Result<BTreeMap<u64, Marked>, UpkeepError> {
    // Listed before head is read, so a manifest that is committed in the meantime is no leftover.
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
    /// A manifest that is not in `listed` was written later, so it counts as new.
    fn new(manifest: &Manifest, committed: bool, listed: &[StoredManifest]) -> Self {
        let stored = listed.iter().find(|stored| stored.number == manifest.generation);
        let (size, modified) = stored.map_or((0, SystemTime::now()), |stored| (stored.size, stored.modified));
        let packs = manifest.packs.iter().map(|pack| pack.id.clone()).collect();
        Self { size, modified, taken_ms: policy::taken_ms(manifest.created_ms, modified), committed, packs }
    }
}

/// Decides which manifests stay, and which go as generations or as leftovers.
fn plan(
    marked: &BTreeMap<u64, Marked>,
    keep: &Keep,
    is_forgotten: impl Fn(u64, SystemTime) -> bool,
) -> (BTreeSet<u64>, Pruned) {
    let committed = marked.iter().filter(|(_, manifest)| manifest.committed);
    let kept = keep.choose(&committed.map(|(number, manifest)| (*number, manifest.taken_ms)).collect());
    let newest = kept.last().copied().unwrap_or(0);
    // Head never goes back, so a leftover below it can no longer be committed; one above it may be committed
    // now.
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

/// Removes a manifest. Keeps one that was above head if head has passed its number: a copy may have replaced
/// and committed it.
fn remove(vault: &Vault, number: u64, stay: &BTreeSet<u64>) -> Result<(), UpkeepError> {
    let was_above_head = stay.last().is_none_or(|newest| number > *newest);
    if was_above_head && image::newest(vault)?.is_some_and(|newest| number <= newest) {
        return Ok(());
    }
    image::remove_manifest(&**vault.store(), number)?;
    reach(Point::PruneRemoving);
    Ok(())
}

/// Lifts every condemnation with a pack that a manifest names: a writer may be about to reference it, so its
/// grace time starts anew. Returns the remaining condemnations.
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

/// Condemns and returns unreferenced packs that are old enough and not condemned yet. Condemns nothing in a
/// store without a generation: its packs may belong to a first copy, which has no time limit.
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

/// Removes condemnations whose packs are all gone. An empty one may be another prune's clock probe, so it
/// goes only when it is old.
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
