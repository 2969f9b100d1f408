//! A store of real checkpoints, looked after from outside.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use freeze::criu::images::{self, Pages};
use serde_json::Value;

use crate::harness::{App, Setting, text};

/// An application of two generations that has ended.
fn frozen_twice() -> App {
    let app = App::new(Setting::Restricted, &["mixed"]);
    let container = app.start();
    container.verified();
    container.checkpoint(&["--leave-running"]);
    container.checkpoint(&[]);
    assert_eq!(container.wait(), 172);
    app
}

/// What the command prints; it must succeed.
fn output(app: &App, args: &[&str]) -> String {
    let out = app.freeze(args);
    assert!(out.status.success(), "{args:?}: {}{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

fn json(app: &App, args: &[&str]) -> Value {
    serde_json::from_str(&output(app, args)).unwrap()
}

#[test]
fn inspect_knows_what_ran() {
    let app = frozen_twice();
    let found = json(&app, &["inspect", "--json"]);
    assert_eq!((&found["generation"], &found["newest"], &found["uid"]), (&2.into(), &true.into(), &1000.into()));
    assert_eq!(found["command"][0], "/services/service");
    let processes = found["processes"].as_array().unwrap();
    assert!(processes.len() > 2, "{found}");
    for process in processes.iter().filter(|process| process["exe"] == "/services/service") {
        assert!(process["memory"]["stack"]["saved"].as_u64().unwrap() > 0, "{process}");
        assert!(process["memory"]["anonymous"]["mapped"].as_u64() >= process["memory"]["anonymous"]["saved"].as_u64());
    }
    let sockets = found["open"]["sockets"].as_array().unwrap();
    let listens = |socket: &Value| socket["kind"] == "tcp" && socket["state"] == "listen";
    assert!(sockets.iter().any(|socket| listens(socket) && socket["local"].as_str().unwrap().ends_with(":7000")));
    let people = output(&app, &["inspect", "1"]);
    for word in ["/services/service", "MEMORY", ":7000 listen"] {
        assert!(people.contains(word), "{word:?} is not in {people}");
    }
}

/// The pages of each process are as many as its pagemap says, so that whoever reads both finds them.
#[test]
fn extracted_images_agree_with_each_other() {
    let app = frozen_twice();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mine"), "").unwrap();
    let out = app.freeze(&["extract", folder.path().to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1), "not an empty folder: {}", text(&out.stderr));
    let folder = folder.path().join("out");
    output(&app, &["extract", folder.to_str().unwrap()]);
    let images = folder.join("images");
    let names: BTreeSet<String> =
        fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for name in ["inventory.img", "pstree.img", "files.img", "core-1000.img", "mm-1000.img"] {
        assert!(names.contains(name), "{names:?}");
    }
    let pagemaps: Vec<_> = names.iter().filter(|name| name.starts_with("pagemap-")).collect();
    assert!(pagemaps.len() > 2);
    let sizes: BTreeSet<u64> = pagemaps.iter().map(|name| saved(&images.join(name))).collect();
    let pages = names.iter().filter(|name| name.starts_with("pages-"));
    let pages: BTreeSet<u64> = pages.map(|name| fs::metadata(images.join(name)).unwrap().len()).collect();
    assert_eq!(sizes, pages);
}

fn saved(pagemap: &Path) -> u64 {
    let image = fs::read(pagemap).unwrap();
    let runs = images::entries(&image, images::PAGEMAP).unwrap().into_iter().skip(1);
    runs.map(|run| images::decode::<Pages>(run).unwrap().saved(4096)).sum()
}

#[test]
fn what_was_pruned_and_copied_restores() {
    let app = frozen_twice();
    assert!(output(&app, &["verify"]).ends_with("all is well\n"));
    let pruned = json(&app, &["prune", "--keep-last", "1", "--grace", "0s", "--json"]);
    assert_eq!((&pruned["removed"][0], &pruned["kept"][0]), (&1.into(), &2.into()));
    let copy = app.store().join("copy");
    output(&app, &["copy", "--to", &format!("file:{}", copy.display())]);
    // The copy alone is left.
    for entry in fs::read_dir(app.store()).unwrap().map(|entry| entry.unwrap().path()) {
        match &entry {
            path if *path == copy => {}
            path if path.is_dir() => fs::remove_dir_all(path).unwrap(),
            path => fs::remove_file(path).unwrap(),
        }
    }
    for entry in fs::read_dir(&copy).unwrap().map(|entry| entry.unwrap()) {
        fs::rename(entry.path(), app.store().join(entry.file_name())).unwrap();
    }
    fs::remove_dir(&copy).unwrap();
    assert_eq!(json(&app, &["verify", "--json"])["damaged"], Value::Array(vec![]));
    let container = app.start();
    container.verified();
    container.checkpoint(&[]);
    assert_eq!(container.wait(), 172);
    assert!(output(&app, &["list"]).contains("3 *"));
}

#[test]
fn damage_is_a_failure() {
    let app = frozen_twice();
    let pack = fs::read_dir(app.store().join("packs")).unwrap().next().unwrap().unwrap().path();
    fs::write(&pack, b"no pack").unwrap();
    let out = app.freeze(&["verify"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stdout).contains("cannot be restored"), "{}", text(&out.stdout));
    let out = app.freeze(&["verify", "--store", "file:/nowhere"]);
    assert_eq!((out.status.code(), text(&out.stdout).as_str()), (Some(1), ""));
    assert!(text(&out.stderr).contains("holds no generation"));
    assert_eq!(app.freeze(&["prune"]).status.code(), Some(2));
}
