//! Encrypted stores: the key's way to the workers, its change, and what is refused without it.

use std::fs;

use crate::harness::{App, Setting, text};

/// An application whose store is locked with the file /keys/key.
fn locked() -> App {
    let options = ["--key-file", "/keys/key"];
    let app = App::with_options(Setting::Restricted, &options, &["/services/service", "big", "8"]);
    fs::write(app.keys().join("key"), [7; 32]).unwrap();
    app
}

#[test]
fn a_service_moves_through_an_encrypted_store_and_its_key_changes_meanwhile() {
    let app = locked();
    let first = app.start();
    first.verified();
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let second = app.start();
    second.verified();
    fs::write(app.keys().join("new"), [8; 40]).unwrap();
    let rekey = ["rekey", "--store", "file:/store", "--key-file", "/keys/key", "--new-key-file", "/keys/new"];
    let out = second.exec(&[&["/opt/freeze/freeze"], &rekey[..]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let refused = text(&second.try_checkpoint(&[]).stderr);
    assert!(refused.contains("the key in /keys/key does not open file:/store"), "{refused}");
    fs::rename(app.keys().join("new"), app.keys().join("key")).unwrap();
    second.verified();
    second.checkpoint(&[]);
    assert_eq!(second.wait(), 172, "{}", second.story());
    app.start().verified();
}

#[test]
fn without_the_key_nothing_is_restored() {
    let app = locked();
    let first = app.start();
    first.verified();
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    fs::write(app.keys().join("key"), [9; 32]).unwrap();
    let wrong = app.start();
    assert_eq!(wrong.wait(), 171, "{}", wrong.story());
    assert!(wrong.logs().1.contains("does not open"), "{}", wrong.story());
}

/// Not only when there is something to be locked.
#[test]
fn a_key_that_is_missing_is_told_at_the_start() {
    let app = locked();
    fs::remove_file(app.keys().join("key")).unwrap();
    let container = app.start();
    assert_eq!(container.wait(), 171, "{}", container.story());
    let (out, err) = container.logs();
    assert!(out.is_empty() && err.contains("/keys/key"), "{}", container.story());
}
