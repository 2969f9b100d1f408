//! A folder does what every store must do.

mod store_conformance;

use freeze::store::{self, CachedStore, Location};

#[test]
fn conforms() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file:{}/a/store", folder.path().display());
    store_conformance::run(&*store::open(&Location::at(&url)).unwrap());
}

#[test]
fn one_of_which_packs_are_fetched_ahead_conforms_too() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file:{}/store", folder.path().display());
    let store = store::open(&Location::at(&url)).unwrap();
    store_conformance::run(&CachedStore::new(store, &folder.path().join("cache"), 1 << 30).unwrap());
}
