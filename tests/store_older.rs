//! Stores that an earlier freeze wrote (tests/older_stores/make): this one reads, verifies, extracts and copies them.
//! tests/containers/older_stores.rs restores them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use freeze::image::{self, KeyFiles, Kind, Manifest, Vault};
use freeze::store::{self, Location};
use freeze::upkeep::Quiet;
use freeze::upkeep::copy::copy;
use freeze::upkeep::extract::extract;
use freeze::upkeep::verify::{self, verify};

const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/older_stores");
/// What the service had written when the newest generation was taken.
const LINES: &[u8] = b"a line\n\0a line\n\0a line\n\0a line\n\0a line\n\0a line\n\0";

/// The application of each kind, of each format that is kept.
fn applications() -> Vec<PathBuf> {
    let entries = fs::read_dir(KEPT).unwrap().map(|entry| entry.unwrap().path());
    let formats = entries.filter(|path| path.is_dir());
    formats.flat_map(|format| ["plain", "encrypted"].map(|kind| format.join(kind))).collect()
}

fn keys(application: &Path) -> KeyFiles {
    KeyFiles { key_file: Some(application.join("keys/key")).filter(|key| key.exists()), ..KeyFiles::default() }
}

fn open(application: &Path) -> Vault {
    let location = Location::at(&format!("file:{}", application.join("store").display()));
    Vault::open(store::open(&location).unwrap(), &keys(application)).unwrap().expect("there is a store")
}

fn is_well(vault: &Vault) -> bool {
    verify(vault, &verify::Options::default(), &Quiet).unwrap().damaged.is_empty()
}

/// A change of the format comes with stores of it, so that the next one can be tried with them.
#[test]
fn the_present_format_is_among_them() {
    let out = Command::new(env!("CARGO_BIN_EXE_freeze")).arg("--version").output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    let version = said.lines().find_map(|line| line.strip_prefix("store format ")).unwrap();
    let lacks = "run tests/older_stores/make, and commit what it makes";
    assert!(Path::new(KEPT).join(version).join("service").exists(), "no store of format {version} is kept: {lacks}");
}

#[test]
fn what_the_manifests_say_is_read() {
    for application in applications() {
        let vault = open(&application);
        let generations = image::generations(&vault).unwrap();
        let manifests: Vec<&Manifest> = generations.iter().map(|found| found.manifest.as_ref().unwrap()).collect();
        let each: Vec<_> =
            manifests.iter().map(|it| (it.generation, it.parent, &it.instance[..], it.offered)).collect();
        let expected = [(2, 1, "first", false), (3, 2, "first", true), (4, 3, "second", false), (5, 4, "second", true)];
        assert_eq!(each, expected, "{application:?}");
        for manifest in manifests {
            assert_eq!((manifest.command.clone(), manifest.processes.len()), (vec![b"/service".to_vec()], 3));
            let demands = manifest.demands.as_ref().unwrap();
            assert_eq!((demands.uid, demands.lowest_pid, demands.bound[0].port), (1000, 1000, 7000));
            assert_eq!(manifest.volume_files[0].path, b"/volume/log");
            assert!(manifest.executables.iter().any(|program| program.path == b"/service"), "{application:?}");
            let kinds: Vec<Kind> = manifest.files.iter().map(|file| file.kind()).collect();
            for kind in [Kind::Regular, Kind::Directory, Kind::Symlink, Kind::HardLink] {
                assert!(kinds.contains(&kind), "{application:?}: {kinds:?}");
            }
        }
    }
}

#[test]
fn what_has_become_of_an_offer_is_read() {
    for application in applications() {
        let outcome = |generation| image::look(&open(&application), generation).unwrap();
        assert!(
            matches!(outcome(3), Some(image::Outcome::Taken { by, from }) if (&by.instance[..], &from[..]) == ("second", "first"))
        );
        assert_eq!(outcome(5), None);
    }
}

#[test]
fn every_chunk_is_whole_and_comes_out() {
    for application in applications() {
        let vault = open(&application);
        assert!(is_well(&vault), "{application:?}");
        let folder = tempfile::tempdir().unwrap();
        for generation in 2..=5 {
            extract(&vault, Some(generation), &folder.path().join(generation.to_string()), &Quiet).unwrap();
        }
        assert_eq!(fs::read(folder.path().join("5/files/tmp/kept/file")).unwrap(), LINES);
        assert_eq!(fs::read(application.join("volume/log")).unwrap(), LINES);
    }
}

/// A copy has the present format.
#[test]
fn a_copy_has_all_of_it() {
    for application in applications() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::at(&format!("file:{}/store", folder.path().display()));
        let destination = Vault::create(store::open(&location).unwrap(), &keys(&application)).unwrap();
        assert_eq!(copy(&open(&application), &destination, &[], &Quiet).unwrap().copied, [2, 3, 4, 5]);
        assert!(is_well(&destination), "{application:?}");
    }
}
