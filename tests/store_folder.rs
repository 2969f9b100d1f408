//! A folder does what every store must do.

mod store_conformance;

use freeze::store::{self, Location};

#[test]
fn conforms() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file:{}/a/store", folder.path().display());
    store_conformance::run(&*store::open(&Location::at(&url)).unwrap());
}
