//! `condemned/RANDOM`: an object that lists packs that a prune found unreferenced. Its modification time, by
//! the store's clock, starts the grace time.
//!
//! A condemnation is only a hint: a pack is deleted only if no manifest names it at that moment. An
//! unreadable object condemns nothing.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::image::Vault;
use crate::image::layout::CONDEMNED;
use crate::store::{PutMode, Store, StoreError};
use crate::sys::random;

const FORMAT: u32 = 2;
/// Maximum size of an object that is read, in bytes.
const LIMIT: u64 = 16 << 20;
/// Maximum number of packs in one object: about 3.5 MB.
const PACKS: usize = 100_000;

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    packs: Vec<String>,
}

/// One condemnation: packs that a prune found unreferenced together.
pub(super) struct Condemned {
    key: String,
    /// Modification time, by the store's clock.
    pub since: SystemTime,
    pub packs: Vec<String>,
}

impl Condemned {
    pub(super) fn remove(&self, store: &dyn Store) -> Result<(), StoreError> {
        store.delete(&self.key)
    }
}

/// Reads all condemnations.
pub(super) fn read(store: &dyn Store) -> Result<Vec<Condemned>, StoreError> {
    let mut found = Vec::new();
    for object in store.list(CONDEMNED)? {
        let packs = match store.get(&object.key, LIMIT) {
            Ok((data, _)) => parse(&data),
            Err(StoreError::NotFound { .. }) => continue,
            Err(StoreError::TooLarge { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        found.push(Condemned { key: object.key, since: object.modified, packs });
    }
    Ok(found)
}

/// The packs in an object; none if it is damaged or of another version.
fn parse(data: &[u8]) -> Vec<String> {
    let content = serde_json::from_slice(data).ok().filter(|content: &Content| content.version == FORMAT);
    content.map_or(Vec::new(), |content| content.packs)
}

pub(super) fn put(store: &dyn Store, packs: &[&str]) -> Result<(), StoreError> {
    packs.chunks(PACKS).try_for_each(|packs| put_one(store, packs).map(drop))
}

/// The time by the store's clock: the modification time of an empty condemnation, written and removed as a
/// probe.
pub(super) fn now(vault: &Vault) -> Result<SystemTime, StoreError> {
    let store = &**vault.store();
    let key = put_one(store, &[])?;
    let written = store.list(&key)?.into_iter().find(|object| object.key == key);
    store.delete(&key)?;
    let url = store.url().to_owned();
    Ok(written.ok_or(StoreError::NotFound { url, key })?.modified)
}

fn put_one(store: &dyn Store, packs: &[&str]) -> Result<String, StoreError> {
    let key = format!("{CONDEMNED}{}", random_name());
    let content = Content { version: FORMAT, packs: packs.iter().map(ToString::to_string).collect() };
    let text = serde_json::to_vec(&content).expect("names and a number are JSON");
    store.put(&key, text.into(), PutMode::Create)?;
    Ok(key)
}

fn random_name() -> String {
    let mut name = [0; 8];
    random::fill(&mut name);
    format!("{:016x}", u64::from_ne_bytes(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;
    use crate::store::{Location, open};
    use proptest::prelude::*;

    #[test]
    fn another_version_condemns_nothing() {
        assert_eq!(parse(br#"{"version":2,"packs":["a"]}"#), ["a"]);
        for text in [r#"{"version":1,"packs":["a"]}"#, r#"{"version":3,"packs":["a"]}"#, r#"{"packs":["a"]}"#] {
            assert!(parse(text.as_bytes()).is_empty(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn fuzz_damaged_text_condemns_packs_or_nothing(edits in fuzz::edits(), data in prop::collection::vec(any::<u8>(), 0..200)) {
            let whole = br#"{"version":2,"packs":["0123456789abcdef0123456789abcdef","0"]}"#;
            prop_assert!(parse(&data).is_empty());
            prop_assert!(parse(&fuzz::damaged(whole, &edits)).len() <= whole.len());
        }
    }

    #[test]
    fn what_is_condemned_is_read_and_what_is_damaged_condemns_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&Location::at(&format!("file:{}", folder.path().display()))).unwrap();
        put(&*store, &[]).unwrap();
        assert!(read(&*store).unwrap().is_empty());
        put(&*store, &["a", "b"]).unwrap();
        store.put("condemned/0", "{".into(), PutMode::Create).unwrap();
        let mut packs: Vec<_> = read(&*store).unwrap().into_iter().map(|condemned| condemned.packs).collect();
        packs.sort();
        assert_eq!(packs, [vec![], vec!["a".to_owned(), "b".to_owned()]]);
        read(&*store).unwrap().iter().for_each(|condemned| condemned.remove(&*store).unwrap());
        assert!(store.list("").unwrap().is_empty());
    }
}
