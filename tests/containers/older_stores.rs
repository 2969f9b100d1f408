//! A service that an earlier freeze and criu checkpointed (tests/older_stores) comes back, and moves on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use freeze::image::{KeyFiles, Manifest, Vault};
use freeze::store::{self, Location};

use crate::harness::{App, Container, Setting};

const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/older_stores");
const OWNER: &str = "1000:1000";

fn each(play: impl Fn(&Path, &str)) {
    let entries = fs::read_dir(KEPT).unwrap().map(|entry| entry.unwrap().path());
    let formats: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    assert!(!formats.is_empty());
    formats.iter().for_each(|format| ["plain", "encrypted"].iter().for_each(|kind| play(format, kind)));
}

fn run(command: &str, args: &[&str], last: &Path) {
    assert!(Command::new(command).args(args).arg(last).status().unwrap().success());
}

/// A file of a volume is the same in a copy that keeps its size and its time.
fn give_back_its_time(application: &Path, file: &Path) {
    let key = application.join("keys/key");
    let keys = KeyFiles { key_file: Some(key).filter(|key| key.exists()), ..KeyFiles::default() };
    let location = Location::at(&format!("file:{}", application.join("store").display()));
    let vault = Vault::open(store::open(&location).unwrap(), &keys).unwrap().unwrap();
    let manifest = Manifest::load(&vault, None).unwrap().unwrap();
    let written = Duration::from_nanos(manifest.volume_files[0].mtime_ns.try_into().unwrap());
    fs::File::options().write(true).open(file).unwrap().set_modified(UNIX_EPOCH + written).unwrap();
}

/// The application, as its last container left it.
fn left(format: &Path, kind: &str) -> App {
    let kept = format.join(kind);
    let key: &[&str] = if kind == "encrypted" { &["--key-file", "/keys/key"] } else { &[] };
    // Its host may have been up for longer than this one.
    let options = [&["--files", "changed", "--clock", "host"], key].concat();
    let app = App::with_options(Setting::Restricted, &options, &["/service"]);
    let app = app.with_folder(&format.join("service"), "/service:ro").with_volume(None);
    for (folder, place) in [("store", app.store()), ("volume", app.volume()), ("keys", app.keys())] {
        let from = format!("{}/.", kept.join(folder).display());
        if Path::new(&from).exists() {
            run("cp", &["-r", &from], &place);
            run("chown", &["-R", OWNER], &place);
        }
    }
    give_back_its_time(&kept, &app.volume().join("log"));
    app
}

fn lines(container: &Container) -> String {
    let said = container.verified();
    said.split(' ').find(|word| word.starts_with("lines=")).unwrap().to_owned()
}

#[test]
fn the_service_comes_back_and_moves_on() {
    each(|format, kind| {
        let app = left(format, kind);
        let container = app.start_with(&["--instance", "third"]);
        assert_eq!(lines(&container), "lines=7", "{format:?}");
        let status = container.status().unwrap();
        assert!(status.contains(r#""generation":5"#) && status.contains(r#""from":"second""#), "{status}");
        container.checkpoint(&[]);
        assert_eq!(container.wait(), 172, "{}", container.story());
        assert_eq!(lines(&app.start()), "lines=8", "{format:?}");
    });
}

#[test]
fn an_earlier_generation_comes_back() {
    each(|format, kind| {
        let app = left(format, kind);
        // Its log was shorter.
        fs::File::options().write(true).open(app.volume().join("log")).unwrap().set_len(3 * 8).unwrap();
        let container = app.start_with(&["--restore", "3", "--volume-changed", "restore"]);
        assert_eq!(lines(&container), "lines=4", "{format:?}");
    });
}
