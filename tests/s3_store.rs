//! A bucket of a real server does what every store must do, over as many threads as it had when it was opened.

mod s3_support;
mod store_conformance;

use std::thread;
use std::time::Duration;

use bytes::Bytes;
use freeze::store::{self, Fencing, Location, PutMode, S3Error, StoreError};
use s3_support::{alone, data, endpoint, location};

#[test]
fn conforms() {
    store_conformance::run(&*s3_support::store());
}

#[test]
fn conditions_are_found_to_hold() {
    assert_eq!(s3_support::store().prepare().unwrap(), Fencing::Enforced);
}

#[test]
fn objects_in_parts_are_created_once_and_whole() {
    let store = s3_support::store();
    let first = data(40_000_001);
    store.put("packs/a", first.clone().into(), PutMode::Create).unwrap();
    let again = store.put("packs/a", first.clone().into(), PutMode::Create);
    assert!(matches!(again, Err(StoreError::Exists { .. })), "{again:?}");
    let (found, version) = store.get("packs/a", 1 << 30).unwrap();
    assert!(found == first);
    assert!(store.get_range("packs/a", 8_388_600..8_388_700).unwrap() == first[8_388_600..8_388_700]);
    store.put("packs/a", data(20_000_000).into(), PutMode::Update(version.clone())).unwrap();
    let late = store.put("packs/a", first.into(), PutMode::Update(version));
    assert!(matches!(late, Err(StoreError::Changed { .. })), "{late:?}");
    assert_eq!(store.list("packs/").unwrap()[0].size, 20_000_000);
}

#[test]
fn long_lists_come_whole() {
    let store = s3_support::store();
    thread::scope(|scope| {
        for part in 0..16 {
            let store = &store;
            scope.spawn(move || {
                for n in (part..1100).step_by(16) {
                    store.put(&format!("many/{n:04}"), Bytes::new(), PutMode::Overwrite).unwrap();
                }
            });
        }
    });
    let keys: Vec<_> = store.list("many/").unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(keys, (0..1100).map(|n| format!("many/{n:04}")).collect::<Vec<_>>());
}

#[test]
fn stores_of_one_bucket_do_not_see_each_other() {
    let location = location(&endpoint());
    let inner = Location { url: format!("{}/inner", location.url), ..location.clone() };
    let sibling = Location { url: format!("{}-2", location.url), ..location.clone() };
    for (at, key) in [(&location, "a"), (&inner, "b"), (&sibling, "c")] {
        store::open(at).unwrap().put(key, Bytes::from_static(b"x"), PutMode::Create).unwrap();
    }
    let keys = |at| store::open(at).unwrap().list("").unwrap().into_iter().map(|o| o.key).collect::<Vec<_>>();
    assert_eq!((keys(&inner), keys(&sibling)), (vec!["b".to_owned()], vec!["c".to_owned()]));
    assert_eq!(keys(&location), ["a", "inner/b"]);
}

#[test]
fn no_thread_starts_or_ends_after_the_store_was_opened() {
    if !alone("no_thread_starts_or_ends_after_the_store_was_opened", |_| {}) {
        return;
    }
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let mut ids: Vec<_> = tasks.map(|task| task.unwrap().file_name()).collect();
        ids.sort();
        ids
    };
    // By name, so that it is resolved.
    let named = endpoint().replace("127.0.0.1", "localhost");
    let store = s3_support::store_at(&named);
    let begun = threads();
    store.prepare().unwrap();
    store.put("packs/a", data(20_000_000).into(), PutMode::Create).unwrap();
    for at in (0..20_000_000).step_by(100_000) {
        store.get_range("packs/a", at..at + 100_000).unwrap();
        store.put("head", Bytes::from_static(b"x"), PutMode::Overwrite).unwrap();
    }
    store.get("packs/a", 1 << 30).unwrap();
    store.list("").unwrap();
    store.clean(Duration::ZERO).unwrap();
    store.delete("packs/a").unwrap();
    assert_eq!(threads(), begun);
}

#[test]
fn https_needs_a_certificate_that_is_trusted() {
    let location = location(&std::env::var("FREEZE_TEST_S3_HTTPS").unwrap());
    let error = store::open(&location).unwrap().get("head", 1).unwrap_err();
    assert!(matches!(error, StoreError::S3 { source: S3Error::Untrusted { .. }, .. }), "{error}");
    let trusting = Location { s3_ca_file: std::env::var_os("FREEZE_TEST_S3_CA").map(Into::into), ..location };
    let store = store::open(&trusting).unwrap();
    store.put("head", Bytes::from_static(b"x"), PutMode::Create).unwrap();
    assert_eq!(store.get("head", 1).unwrap().0, b"x");
}

#[test]
fn without_credentials_that_is_said() {
    let name = "without_credentials_that_is_said";
    if alone(name, |again| _ = again.env_remove("AWS_ACCESS_KEY_ID").env("HOME", "/nonexistent")) {
        let location = Location { s3_endpoint: Some(endpoint()), ..Location::at("s3://freeze/a") };
        let error = store::open(&location).unwrap().get("head", 1).unwrap_err();
        assert!(matches!(error, StoreError::S3 { source: S3Error::NoCredentials { .. }, .. }), "{error}");
    }
}

#[test]
fn wrong_credentials_are_named() {
    let name = "wrong_credentials_are_named";
    if alone(name, |again| _ = again.env("AWS_SECRET_ACCESS_KEY", "another")) {
        let error = s3_support::store().get("head", 1).unwrap_err();
        assert!(matches!(error, StoreError::S3 { source: S3Error::BadCredentials { .. }, .. }), "{error}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let location = |url| Location { s3_endpoint: Some(endpoint()), ..Location::at(url) };
    let error = store::open(&location("s3://nosuchbucket/a")).unwrap().list("").unwrap_err();
    assert!(matches!(error, StoreError::S3 { source: S3Error::NoBucket, .. }), "{error}");
    let elsewhere = Location { s3_endpoint: Some("http://no.such.host.invalid".into()), ..location("s3://freeze/a") };
    let error = store::open(&elsewhere).unwrap().get("head", 1).unwrap_err();
    assert!(matches!(error, StoreError::S3 { source: S3Error::Unresolved { .. }, .. }), "{error}");
}
