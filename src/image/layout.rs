//! The keys of all objects in a store, and listings of them.
//!
//! Every key is built and parsed here. Listings skip keys that freeze does not write.

use std::time::SystemTime;

use super::error::Result;
use super::hex::Hex;
use crate::store::{ObjectMeta, Store};

/// Format version of all objects.
pub(crate) const VERSION: u32 = 2;
/// Highest generation and epoch. JSON readers agree on integers up to here (RFC 8259, section 6).
pub(crate) const NUMBER_MAX: u64 = 1 << 53;

/// Key of the store's version, ID and master key.
pub(crate) const FORMAT: &str = "format";
/// Key of the pointer to the newest generation.
pub(crate) const HEAD: &str = "head";
/// Key of the heartbeat of an exclusive lease owner.
pub(crate) const HEARTBEAT: &str = "holder";
/// Folder of lists of packs that a prune found unreferenced.
pub(crate) const CONDEMNED: &str = "condemned/";
/// Key of what a container that is about to give its service away asks the standbys.
pub(crate) const QUESTION: &str = "question";
/// Folder of what the standbys say.
pub(crate) const STANDBYS: &str = "standbys/";

const GENERATIONS: &str = "generations/";
const MANIFEST: &str = ".manifest";
const MARKER: &str = ".committed";
const OUTCOMES: &str = "outcomes/";
const LOST: &str = ".lost.";
const PACKS: &str = "packs/";

/// Key of a generation's manifest.
pub fn manifest_key(generation: u64) -> String {
    format!("{GENERATIONS}{generation}{MANIFEST}")
}

/// Key of the mark that a generation was committed, in an encrypted store. The mark reveals that an old head
/// was put back. Only the highest mark counts.
pub fn marker_key(generation: u64) -> String {
    format!("{GENERATIONS}{generation}{MARKER}")
}

/// Key of a generation's outcome.
pub fn outcome_key(generation: u64) -> String {
    format!("{OUTCOMES}{generation}")
}

/// Key of the mark that an instance lost a generation. `instance` is a keyed hash of its name, since keys are
/// not encrypted.
pub(crate) fn lost_key(generation: u64, instance: Hex<16>) -> String {
    format!("{OUTCOMES}{generation}{LOST}{instance}")
}

/// Key of what a standby says. `instance` is a keyed hash of its name, as in [`lost_key`].
pub(crate) fn standby_key(instance: Hex<16>) -> String {
    format!("{STANDBYS}{instance}")
}

pub(crate) fn pack_key(id: &str) -> String {
    format!("{PACKS}{id}")
}

/// A new pack ID: 128 random bits, so two writers never choose the same.
pub(crate) fn new_pack_id() -> String {
    Hex::<16>::random().to_string()
}

pub(crate) fn is_pack_id(id: &str) -> bool {
    Hex::<16>::parse(id).is_some()
}

/// Parses a positive decimal number without leading zeros.
fn number(digits: &str) -> Option<u64> {
    digits.parse().ok().filter(|n: &u64| *n > 0 && n.to_string() == digits)
}

/// The number in a key with `suffix`. It may exceed [`NUMBER_MAX`]: then the object is listed for removal,
/// but is no generation.
fn number_of(key: &str, suffix: &str) -> Option<u64> {
    number(key.strip_prefix(GENERATIONS)?.strip_suffix(suffix)?)
}

/// The generation in a key with `suffix`.
fn generation(key: &str, suffix: &str) -> Option<u64> {
    number_of(key, suffix).filter(|number| *number <= NUMBER_MAX)
}

fn generation_numbers(store: &dyn Store, suffix: &str) -> Result<Vec<u64>> {
    let objects = store.list(GENERATIONS)?;
    let mut numbers: Vec<u64> = objects.iter().filter_map(|object| generation(&object.key, suffix)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Generations of all manifests in ascending order, committed or not.
pub(crate) fn manifest_numbers(store: &dyn Store) -> Result<Vec<u64>> {
    generation_numbers(store, MANIFEST)
}

/// Generations of all commit marks in ascending order.
pub(crate) fn marker_numbers(store: &dyn Store) -> Result<Vec<u64>> {
    generation_numbers(store, MARKER)
}

/// A manifest in a listing, committed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredManifest {
    /// Generation; may exceed the highest valid one.
    pub number: u64,
    pub size: u64,
    /// Time of writing, by the store's clock.
    pub modified: SystemTime,
}

/// Lists all manifests in ascending order, committed or not.
pub fn manifests(store: &dyn Store) -> Result<Vec<StoredManifest>> {
    let manifest = |object: ObjectMeta| {
        let number = number_of(&object.key, MANIFEST)?;
        Some(StoredManifest { number, size: object.size, modified: object.modified })
    };
    let mut found: Vec<_> = store.list(GENERATIONS)?.into_iter().filter_map(manifest).collect();
    found.sort_by_key(|manifest| manifest.number);
    Ok(found)
}

/// A pack in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPack {
    pub id: String,
    pub size: u64,
    /// Time of writing, by the store's clock.
    pub modified: SystemTime,
}

/// Lists all packs in the order of their IDs, referenced or not.
pub fn packs(store: &dyn Store) -> Result<Vec<StoredPack>> {
    let pack = |object: ObjectMeta| {
        let id = object.key.strip_prefix(PACKS).filter(|id| is_pack_id(id))?.to_owned();
        Some(StoredPack { id, size: object.size, modified: object.modified })
    };
    Ok(store.list(PACKS)?.into_iter().filter_map(pack).collect())
}

/// An object below `outcomes/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub number: u64,
    pub key: String,
    /// Hash of the instance that lost the generation; None for the outcome.
    pub lost: Option<Hex<16>>,
}

/// Lists all records, newest generation first, each outcome before its lost marks.
pub fn records(store: &dyn Store) -> Result<Vec<Record>> {
    let objects = store.list(OUTCOMES)?;
    let mut records: Vec<Record> = objects.into_iter().filter_map(|object| record(object.key)).collect();
    records.sort_by(|a, b| b.number.cmp(&a.number).then_with(|| a.key.cmp(&b.key)));
    Ok(records)
}

fn record(key: String) -> Option<Record> {
    let name = key.strip_prefix(OUTCOMES)?;
    let (digits, lost) = match name.split_once(LOST) {
        Some((digits, hash)) => (digits, Some(Hex::parse(hash)?)),
        None => (name, None),
    };
    let number = number(digits).filter(|number| *number <= NUMBER_MAX)?;
    Some(Record { number, key, lost })
}

/// Removes a generation's commit mark, then its manifest. Its packs stay.
pub fn remove_manifest(store: &dyn Store, number: u64) -> Result<()> {
    store.delete(&marker_key(number))?;
    Ok(store.delete(&manifest_key(number))?)
}

/// Removes a pack. The caller ensures that no generation refers to it, committed or in progress.
pub fn remove_pack(store: &dyn Store, id: &str) -> Result<()> {
    Ok(store.delete(&pack_key(id))?)
}

/// Whether freeze writes objects with this key. Accepts every key below `condemned/`, `outcomes/` and `standbys/`.
pub fn is_known(key: &str) -> bool {
    match key.split_once('/') {
        None => matches!(key, HEAD | FORMAT | HEARTBEAT | QUESTION),
        Some(("packs", id)) => is_pack_id(id),
        Some(("generations", _)) => [MANIFEST, MARKER].iter().any(|suffix| number_of(key, suffix).is_some()),
        Some((folder, _)) => matches!(folder, "condemned" | "outcomes" | "standbys"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::{FileStore, PutMode};

    #[test]
    fn every_key_that_is_made_is_known() {
        let hash = Hex([7; 16]);
        let outcomes = [outcome_key(3), lost_key(3, hash)];
        let keys = [manifest_key(1), marker_key(NUMBER_MAX), standby_key(hash), pack_key(&new_pack_id())];
        let single = [FORMAT, HEAD, HEARTBEAT, QUESTION];
        assert!(keys.iter().chain(&outcomes).map(String::as_str).chain(single).all(is_known));
        for key in ["other", "packs/x", "packs/", "generations/0.manifest", "generations/01.manifest", "generations/1"]
        {
            assert!(!is_known(key), "{key}");
        }
    }

    #[test]
    fn a_number_that_head_could_not_name_is_none() {
        assert_eq!(generation("generations/7.manifest", MANIFEST), Some(7));
        for digits in ["0", "07", "+7", "9007199254740993", ""] {
            assert_eq!(generation(&format!("generations/{digits}.manifest"), MANIFEST), None, "{digits}");
        }
    }

    #[test]
    fn only_what_freeze_writes_is_listed() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(&format!("file:{}", folder.path().display())).unwrap();
        let id = "0123456789abcdef0123456789abcdef";
        let keys = ["packs/x", "generations/10.manifest", "generations/2.manifest", "generations/02.manifest"];
        let pack_key = pack_key(id);
        for key in keys.into_iter().chain(["generations/0.manifest", "generations/2.committed", &pack_key]) {
            store.put(key, key.to_owned().into(), PutMode::Create).unwrap();
        }
        let numbers = || manifests(&store).unwrap().into_iter().map(|found| found.number).collect::<Vec<_>>();
        assert_eq!(numbers(), [2, 10]);
        assert_eq!(packs(&store).unwrap().iter().map(|pack| (&*pack.id, pack.size)).collect::<Vec<_>>(), [(id, 38)]);
        remove_manifest(&store, 2).unwrap();
        assert_eq!(numbers(), [10]);
        assert!(store.list("generations/2.").unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn fuzz_a_key_is_of_one_generation_or_none(name in "(generations/)?[0-9+x-]{0,21}[./]?(manifest|committed)?") {
            for (suffix, key) in [(MANIFEST, manifest_key as fn(u64) -> String), (MARKER, marker_key)] {
                if let Some(number) = generation(&name, suffix) {
                    prop_assert_eq!(key(number), &*name);
                    prop_assert!(number > 0 && number <= NUMBER_MAX);
                }
            }
        }

        #[test]
        fn fuzz_a_key_is_of_one_record_or_none(key in "(outcomes/)?[0-9+x-]{0,21}(\\.lost\\.[0-9a-fA-F]{31,33})?") {
            if let Some(found) = record(key.clone()) {
                let made = found.lost.map_or_else(|| outcome_key(found.number), |hash| lost_key(found.number, hash));
                prop_assert_eq!(made, key);
            }
        }
    }
}
