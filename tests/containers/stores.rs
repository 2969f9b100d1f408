//! Damaged and truncated stores: a clear error, exit status 171, and nothing of the service started.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{App, Setting};

/// An application with one generation, not running.
fn frozen() -> App {
    let app = App::new(Setting::Restricted, &["big", "8"]);
    let container = app.start();
    container.verified();
    container.checkpoint(&[]);
    assert_eq!(container.wait(), 172);
    app
}

/// The only object below `folder`.
fn object(app: &App, folder: &str) -> PathBuf {
    let mut entries = fs::read_dir(app.store().join(folder)).unwrap();
    entries.next().unwrap().unwrap().path()
}

fn must_refuse(app: &App, words: &[&str]) {
    let container = app.start();
    assert_eq!(container.wait(), 171, "{}", container.story());
    let (out, err) = container.logs();
    assert_eq!(out, "", "something ran");
    for word in words {
        assert!(err.contains(word), "{word:?} is not in {err}");
    }
}

fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(path, bytes).unwrap();
}

fn truncate(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn damaged_manifest() {
    let app = frozen();
    flip_a_bit(&object(&app, "generations"));
    must_refuse(&app, &["generations/1.manifest", "damaged"]);
}

#[test]
fn truncated_manifest() {
    let app = frozen();
    truncate(&object(&app, "generations"));
    must_refuse(&app, &["generations/1.manifest", "damaged"]);
}

#[test]
fn damaged_pack() {
    let app = frozen();
    flip_a_bit(&object(&app, "packs"));
    must_refuse(&app, &["packs/", "damaged"]);
}

#[test]
fn truncated_pack() {
    let app = frozen();
    truncate(&object(&app, "packs"));
    must_refuse(&app, &["packs/"]);
}

#[test]
fn missing_pack() {
    let app = frozen();
    fs::remove_file(object(&app, "packs")).unwrap();
    must_refuse(&app, &["packs/"]);
}
