//! The server that `integration/s3/server run` starts, and a proxy in front of it that makes faults.

#![allow(dead_code, reason = "each test program uses another part of it")]

pub mod http;
pub mod proxy;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use freeze::store::{self, Location, Store};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run these tests by `integration/s3/server run cargo test --test 's3*'`")
    })
}

/// The server's URL.
pub fn endpoint() -> String {
    variable("AWS_ENDPOINT_URL")
}

/// A store in the server's bucket, below a prefix that nobody else uses, reached through `endpoint`.
pub fn location(endpoint: &str) -> Location {
    variable("AWS_ACCESS_KEY_ID");
    let prefix = format!("{:016x}", RandomState::new().hash_one(0u64));
    Location { s3_endpoint: Some(endpoint.to_owned()), ..Location::at(&format!("s3://freeze/{prefix}/store")) }
}

/// An empty store, reached through `endpoint`.
pub fn store_at(endpoint: &str) -> Arc<dyn Store> {
    store::open(&location(endpoint)).unwrap()
}

/// An empty store.
pub fn store() -> Arc<dyn Store> {
    store_at(&endpoint())
}

/// Bytes that differ from place to place.
pub fn data(length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut data);
    data
}

/// Whether this is the process of its own that a test wants: else the test `name` is run again in one, changed by `prepare`.
pub fn alone(name: &str, prepare: impl Fn(&mut std::process::Command)) -> bool {
    if std::env::var_os("ALONE").is_some() {
        return true;
    }
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", name, "--nocapture"]).env("ALONE", "1");
    prepare(&mut again);
    assert!(again.status().unwrap().success());
    false
}
