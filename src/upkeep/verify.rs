//! `freeze verify`: reads a store and reports all damage. Never writes.
//!
//! Reads all manifests, then each pack once, on several threads. Memory holds the chunks that manifests name,
//! about 50 bytes per 100 KiB, and one pack per thread.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Part, Progress, UpkeepError, WHOLE_OBJECTS, parallel};
use crate::image::{self, Audited, Entry, ImageError, Manifest, PackInfo, StoredPack, Vault};
use crate::sys::random;

/// What to verify.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Verify only this generation.
    pub generation: Option<u64>,
    /// Read only this percentage of the packs, chosen at random.
    pub sample: Option<u8>,
}

/// Result of a verification.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// Damaged and missing objects.
    pub damaged: Vec<Damage>,
    /// Number of generations whose manifests were read, damaged ones included.
    pub generations: u64,
    /// Number of packs that these generations name.
    pub packs: u64,
    /// Number of packs that were read, damaged ones included.
    pub packs_read: u64,
    /// Number of chunks in these packs.
    pub chunks_read: u64,
    /// Size of these packs in bytes.
    pub bytes_read: u64,
    /// Number of packs that no readable generation names; 0 if only one generation was verified.
    pub unreferenced_packs: u64,
    /// Size of the unreferenced packs in bytes.
    pub unreferenced_bytes: u64,
    /// Numbers of manifests that are not committed.
    pub leftovers: Vec<u64>,
    /// Keys that freeze never writes.
    pub strangers: Vec<String>,
}

/// A damaged or missing object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Damage {
    /// Key of the object.
    pub object: String,
    /// Generations that cannot be restored because of it.
    pub generations: Vec<u64>,
    /// What is wrong, as a sentence.
    pub error: String,
}

/// What manifests say about one pack.
#[derive(Default)]
struct Claims {
    sizes: BTreeSet<u64>,
    generations: BTreeSet<u64>,
    /// Each chunk in use: its offset, its length in the pack, its raw length and its name.
    chunks: BTreeSet<(u32, u32, u32, image::Name)>,
}

/// Verifies a store. Damage is part of the result; an error means that nothing could be verified, such as a
/// damaged head.
pub fn verify(vault: &Vault, options: &Options, progress: &dyn Progress) -> Result<Verified, UpkeepError> {
    let mut found = Verified::default();
    let mut claims: BTreeMap<String, Claims> = BTreeMap::new();
    read_manifests(vault, options, &mut found, &mut claims)?;
    let stored: HashMap<String, StoredPack> =
        image::packs(&**vault.store())?.into_iter().map(|pack| (pack.id.clone(), pack)).collect();
    found.packs = claims.len() as u64;
    let mut to_read = Vec::new();
    for (id, claims) in &claims {
        match presence(vault, id, claims, stored.get(id)) {
            Ok(size) => to_read.push((PackInfo { id: id.clone(), size, tail: 0 }, claims)),
            Err(error) => found.damaged.push(claims.damage(id, error)),
        }
    }
    if let Some(percent) = options.sample {
        choose(&mut to_read, percent);
    }
    read_packs(vault, &to_read, &mut found, progress);
    if options.generation.is_none() {
        let unreferenced: Vec<_> = stored.values().filter(|pack| !claims.contains_key(&pack.id)).collect();
        found.unreferenced_packs = unreferenced.len() as u64;
        found.unreferenced_bytes = unreferenced.iter().map(|pack| pack.size).sum();
        let keys = vault.store().list("")?.into_iter().map(|object| object.key);
        found.strangers = keys.filter(|key| !image::is_known(key)).collect();
    }
    found.damaged.sort();
    Ok(found)
}

fn read_manifests(
    vault: &Vault,
    options: &Options,
    found: &mut Verified,
    claims: &mut BTreeMap<String, Claims>,
) -> Result<(), UpkeepError> {
    if let Some(number) = options.generation {
        let manifest = match Manifest::load(vault, Some(number)) {
            Ok(None) => return Err(UpkeepError::Empty { url: vault.url().to_owned() }),
            Err(error @ ImageError::NoGeneration { .. }) => return Err(error.into()),
            Ok(Some(manifest)) => Ok(manifest),
            Err(error) => Err(error),
        };
        found.take_manifest(number, manifest, claims);
        return Ok(());
    }
    let listed = image::manifests(&**vault.store())?;
    let mut committed = BTreeSet::new();
    for generation in image::generations(vault)? {
        committed.insert(generation.number);
        found.take_manifest(generation.number, generation.manifest, claims);
    }
    for number in listed.iter().map(|stored| stored.number).filter(|number| !committed.contains(number)) {
        match Manifest::load(vault, Some(number)) {
            Err(ImageError::NoGeneration { .. }) => continue,
            Err(error) => found.damaged.push(Damage {
                object: image::manifest_key(number),
                generations: vec![],
                error: error.to_string(),
            }),
            Ok(_) => {}
        }
        found.leftovers.push(number);
    }
    Ok(())
}

impl Verified {
    /// Adds a manifest. A prune may have removed it since it was listed; then it is skipped.
    fn take_manifest(&mut self, number: u64, manifest: image::Result<Manifest>, claims: &mut BTreeMap<String, Claims>) {
        if matches!(manifest, Err(ImageError::NoGeneration { .. })) {
            return;
        }
        self.generations += 1;
        match manifest {
            Ok(manifest) => claim(&manifest, claims),
            Err(error) => self.damaged.push(Damage {
                object: image::manifest_key(number),
                generations: vec![number],
                error: error.to_string(),
            }),
        }
    }
}

fn claim(manifest: &Manifest, claims: &mut BTreeMap<String, Claims>) {
    for pack in &manifest.packs {
        let claims = claims.entry(pack.id.clone()).or_default();
        claims.sizes.insert(pack.size);
        claims.generations.insert(manifest.generation);
    }
    for chunk in manifest.chunks.iter() {
        let pack = manifest.packs.get(chunk.pack as usize).and_then(|pack| claims.get_mut(&pack.id));
        if let Some(claims) = pack {
            claims.chunks.insert((chunk.offset, chunk.encoded, chunk.raw, chunk.name));
        }
    }
}

impl Claims {
    fn damage(&self, id: &str, error: String) -> Damage {
        Damage { object: format!("packs/{id}"), generations: self.generations.iter().copied().collect(), error }
    }

    /// Describes the first chunk that a manifest names and the pack's index lacks.
    fn compare(&self, vault: &Vault, chunks: &[Entry]) -> Option<String> {
        let index: BTreeSet<_> =
            chunks.iter().map(|entry| (entry.offset, entry.encoded, entry.raw, entry.name(vault.seal()))).collect();
        let (offset, ..) = self.chunks.difference(&index).next()?;
        Some(format!("the chunk at byte {offset} is in a manifest, but not in the pack's index"))
    }
}

/// The size of a pack, if it exists and has the size that every manifest says.
fn presence(vault: &Vault, id: &str, claims: &Claims, stored: Option<&StoredPack>) -> Result<u64, String> {
    let url = vault.url();
    let stored =
        stored.ok_or_else(|| format!("packs/{id} is missing from {url}. Put it back from a copy of the store"))?;
    match claims.sizes.iter().find(|size| **size != stored.size) {
        None => Ok(stored.size),
        Some(size) => Err(format!(
            "packs/{id} in {url} has {} bytes, but its manifest says {size}. It was truncated or replaced: put it back from a copy of the store",
            stored.size
        )),
    }
}

/// Reduces `packs` to a random sample of `percent`, rounded up, by a partial Fisher-Yates shuffle.
fn choose<T>(packs: &mut Vec<T>, percent: u8) {
    let count = (packs.len() * usize::from(percent)).div_ceil(100);
    for place in 0..count {
        let mut drawn = [0; 8];
        random::fill(&mut drawn);
        let from = place + (u64::from_ne_bytes(drawn) % (packs.len() - place) as u64) as usize;
        packs.swap(place, from);
    }
    packs.truncate(count);
}

fn read_packs(vault: &Vault, packs: &[(PackInfo, &Claims)], found: &mut Verified, progress: &dyn Progress) {
    progress.begin(Part::ReadingPacks, packs.iter().map(|(pack, _)| pack.size).sum());
    let threads = vault.store().concurrency().min(WHOLE_OBJECTS);
    let audited = parallel(packs, threads, |(pack, claims)| {
        let result = read_pack(vault, pack, claims);
        progress.add(pack.size);
        result
    });
    progress.end();
    for ((pack, claims), (chunks, error)) in packs.iter().zip(audited) {
        found.packs_read += 1;
        found.chunks_read += chunks;
        found.bytes_read += pack.size;
        found.damaged.extend(error.map(|error| claims.damage(&pack.id, error)));
    }
}

/// Returns the number of chunks and a description of the damage, if any.
fn read_pack(vault: &Vault, pack: &PackInfo, claims: &Claims) -> (u64, Option<String>) {
    let Audited { chunks, flaws } = match image::audit_pack(vault, pack) {
        Ok(audited) => audited,
        Err(error) => return (0, Some(error.to_string())),
    };
    let flaws: Vec<String> = flaws.iter().map(ToString::to_string).chain(claims.compare(vault, &chunks)).collect();
    let error = (!flaws.is_empty()).then(|| {
        let more = if flaws.len() > 1 { format!("; and {} more flaws", flaws.len() - 1) } else { String::new() };
        let url = vault.url();
        format!("packs/{} in {url} is damaged: {}{more}. Put it back from a copy of the store", pack.id, flaws[0])
    });
    (chunks.len() as u64, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_of_different_packs_and_never_empty() {
        for (percent, expected) in [(1, 1), (10, 2), (50, 10), (100, 20)] {
            let mut packs: Vec<u32> = (0..20).collect();
            choose(&mut packs, percent);
            assert_eq!(packs.len(), expected);
            assert_eq!(packs.iter().collect::<BTreeSet<_>>().len(), expected);
        }
        choose(&mut Vec::<u32>::new(), 50);
    }
}
