//! Copy and extract: what comes out is what went in.

mod upkeep_support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use freeze::image::{self, File, Kind, Manifest, Vault};
use freeze::upkeep::copy::{Copied, copy};
use freeze::upkeep::extract::extract;
use freeze::upkeep::verify::{self, verify};
use freeze::upkeep::{Quiet, UpkeepError};

use upkeep_support::{Call, Fixture, Watched, fails_after, noise, pages_of};

fn run(source: &Fixture, destination: &Fixture, chosen: &[u64]) -> Copied {
    copy(&source.vault, &destination.vault, chosen, &Quiet).unwrap()
}

fn source() -> Fixture {
    let store = Fixture::new();
    store.generations(1..=3);
    store
}

fn is_well(store: &Fixture) -> bool {
    verify(&store.vault, &verify::Options::default(), &Quiet).unwrap().damaged.is_empty()
}

#[test]
fn a_copy_is_whole_and_the_second_time_nothing_is_copied() {
    let (source, destination) = (source(), Fixture::new());
    let copied = run(&source, &destination, &[]);
    assert_eq!((&copied.copied[..], &copied.there[..]), (&[1, 2, 3][..], &[][..]));
    assert_eq!(destination.restorable(), [1, 2, 3]);
    assert!(is_well(&destination));
    let before = destination.keys();
    let again = run(&source, &destination, &[]);
    assert_eq!(again, Copied { there: vec![1, 2, 3], ..Copied::default() });
    assert_eq!(destination.keys(), before);
    source.generation(4);
    assert_eq!(run(&source, &destination, &[]).copied, [4]);
    assert_eq!(image::newest(&destination.vault).unwrap(), Some(4));
}

/// It could be taken in both stores, and there would be two.
#[test]
fn a_copy_is_offered_to_nobody() {
    let (source, destination) = (Fixture::new(), Fixture::new());
    let mut manifest = upkeep_support::written(&source.vault, 1);
    manifest.offered = true;
    upkeep_support::commit(&source.vault, manifest);
    run(&source, &destination, &[]);
    let copy = Manifest::load(&destination.vault, Some(1)).unwrap().unwrap();
    assert!(!copy.offered);
}

#[test]
fn chosen_generations_keep_their_numbers() {
    let (source, destination) = (source(), Fixture::new());
    source.generation(4);
    assert_eq!(run(&source, &destination, &[3, 2]).copied, [2, 3]);
    assert_eq!(destination.restorable(), [2, 3]);
    let all = run(&source, &destination, &[]);
    assert_eq!((&all.older[..], &all.there[..], &all.copied[..]), (&[1][..], &[2, 3][..], &[4][..]));
    let error = copy(&source.vault, &destination.vault, &[1], &Quiet).unwrap_err();
    assert!(matches!(error, UpkeepError::Older { generation: 1, newest: 4, .. }), "{error}");
    assert!(copy(&source.vault, &destination.vault, &[9], &Quiet).is_err());
}

#[test]
fn the_store_of_another_application_is_left_alone() {
    let (source, destination) = (source(), Fixture::new());
    destination.generation(100);
    let before = destination.keys();
    let error = copy(&source.vault, &destination.vault, &[], &Quiet).unwrap_err();
    assert!(matches!(error, UpkeepError::OtherHistory { generation: 1, .. }), "{error}");
    assert_eq!(destination.keys(), before);
}

#[test]
fn interrupted_anywhere_it_is_run_again() {
    let source = source();
    let mut interruptions = 0;
    loop {
        let destination = Fixture::new();
        run(&source, &destination, &[1]);
        let store = Arc::new(Watched { inner: destination.vault.store().clone(), before: fails_after(interruptions) });
        let opened = Vault::open(store, &Default::default()).map(Option::unwrap).map_err(UpkeepError::from);
        let result = opened.and_then(|vault| copy(&source.vault, &vault, &[], &Quiet));
        assert!(is_well(&destination));
        run(&source, &destination, &[]);
        assert_eq!(destination.restorable(), [1, 2, 3], "after {interruptions} calls");
        if result.is_ok() {
            break;
        }
        interruptions += 1;
    }
    assert!(interruptions > 10, "{interruptions}");
}

/// Two copies at once, the second one at each moment of the first, into an empty store and into one with what a third one left.
#[test]
fn copies_at_the_same_time_lose_nothing() {
    let source = source();
    for first in [&[][..], &[1]] {
        for moment in 0.. {
            let destination = Fixture::new();
            if !first.is_empty() {
                run(&source, &destination, first);
                destination.leftover(3);
            }
            let calls = Arc::new(AtomicUsize::new(0));
            let (from, to, counter) = (source.vault.clone(), destination.vault.clone(), calls.clone());
            // A removal and the look at head before it are one moment.
            let before = move |call: Call, _: &str| {
                if call != Call::Delete && counter.fetch_add(1, Relaxed) == moment {
                    let _ = copy(&from, &to, &[], &Quiet);
                }
                true
            };
            let store = Arc::new(Watched { inner: destination.vault.store().clone(), before });
            let result = copy(&source.vault, &destination.wrapped(store), &[], &Quiet);
            let found = verify(&destination.vault, &verify::Options::default(), &Quiet).unwrap();
            assert_eq!(found.damaged, [], "moment {moment}: {result:?}");
            run(&source, &destination, &[]);
            assert_eq!(destination.restorable(), [1, 2, 3], "moment {moment}: {result:?}");
            if calls.load(Relaxed) <= moment {
                assert!(moment > 10, "{moment}");
                break;
            }
        }
    }
}

#[test]
fn leftovers_above_head_do_not_change_a_number() {
    let (source, destination) = (source(), Fixture::new());
    run(&source, &destination, &[1]);
    destination.leftover(2);
    destination.leftover(7);
    assert_eq!(run(&source, &destination, &[]).copied, [2, 3]);
    assert_eq!(destination.restorable(), [1, 2, 3]);
    assert_eq!(destination.keys_below("generations/").len(), 3);
}

#[test]
fn a_first_generation_that_may_be_being_committed_is_waited_for() {
    let (source, destination) = (source(), Fixture::new());
    // Interrupted before head names the first generation.
    let heads = AtomicUsize::new(0);
    let before = move |call, key: &str| (call, key) != (Call::Put, "head") || heads.fetch_add(1, Relaxed) == 0;
    let store = Arc::new(Watched { inner: destination.vault.store().clone(), before });
    assert!(copy(&source.vault, &Vault::create(store, &Default::default()).unwrap(), &[], &Quiet).is_err());
    destination.leftover(7);
    let error = copy(&source.vault, &destination.vault, &[], &Quiet).unwrap_err();
    assert!(matches!(error, UpkeepError::InTheWay { generation: 1, minutes: 30, .. }), "{error}");
    destination.age("generations/", image::COMMIT_WITHIN);
    assert_eq!(run(&source, &destination, &[]).copied, [1, 2, 3]);
    assert_eq!(destination.keys_below("generations/").len(), 3);
}

#[test]
fn what_is_extracted_is_exact() {
    let store = source();
    let folder = store.folder.path().join("a/out");
    let extracted = extract(&store.vault, Some(2), &folder, &Quiet).unwrap();
    assert_eq!((extracted.generation, extracted.images, extracted.files), (2, 2, 5));
    let pages = folder.join("images/pages-1.img");
    assert!(fs::read(&pages).unwrap() == pages_of(2));
    assert_eq!(fs::read(folder.join("images/inventory.img")).unwrap(), b"small");
    let meta = fs::metadata(&pages).unwrap();
    assert!(meta.blocks() * 512 < meta.len() - 90_000, "its zeros are a hole: {} blocks", meta.blocks());
    let file = folder.join("files/data/file");
    assert!(fs::read(&file).unwrap() == noise(2_000_002, 50_000));
    assert_eq!(fs::metadata(folder.join("files/data/name")).unwrap().ino(), fs::metadata(&file).unwrap().ino());
    assert_eq!(fs::read_link(folder.join("files/data/link")).unwrap(), Path::new("/etc"));
    assert!(fs::metadata(folder.join("files/run/fifo")).unwrap().file_type().is_fifo());
    let mode = |path: &str| fs::metadata(folder.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(["", "images", "files/data"].map(mode), [0o700; 3]);
    assert_eq!(["images/pages-1.img", "files/data/file", "files/run/fifo"].map(mode), [0o600; 3]);
    assert_eq!(extract(&store.vault, None, &store.folder.path().join("new"), &Quiet).unwrap().generation, 3);
}

#[test]
fn a_folder_with_anything_in_it_is_refused() {
    let store = source();
    let folder = store.folder.path().join("out");
    fs::create_dir(&folder).unwrap();
    extract(&store.vault, None, &folder, &Quiet).unwrap();
    for path in [&folder, &folder.join("images/inventory.img")] {
        assert!(matches!(extract(&store.vault, None, path, &Quiet), Err(UpkeepError::NotEmpty(_))));
    }
    let dangling = store.folder.path().join("dangling");
    symlink("/nowhere", &dangling).unwrap();
    assert!(matches!(extract(&store.vault, None, &dangling, &Quiet), Err(UpkeepError::Write { .. })));
    assert!(matches!(extract(&store.vault, None, Path::new("/proc/freeze"), &Quiet), Err(UpkeepError::Write { .. })));
}

/// What lies below a link must not go where the link leads, neither a file nor another link.
#[test]
fn links_lead_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    let link = |path: &str| File {
        path: path.into(),
        kind: Kind::Symlink.into(),
        target: outside.path().to_str().unwrap().into(),
        ..File::default()
    };
    let body = Some(image::Body::from_inline(b"x".into()));
    let file = File { path: b"/a/b".into(), kind: Kind::Regular.into(), size: 1, body, ..File::default() };
    for below in [file, link("/a/b"), link("/a/b/c/d")] {
        for files in [[link("/a"), below.clone()], [below.clone(), link("/a")]] {
            let store = Fixture::new();
            upkeep_support::commit(&store.vault, Manifest { files: files.into(), ..Manifest::default() });
            let folder = store.folder.path().join("out");
            let error = extract(&store.vault, None, &folder, &Quiet).unwrap_err();
            assert!(matches!(error, UpkeepError::BelowLink { generation: 1, .. }), "{error}");
            assert!(!folder.exists());
            assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        }
    }
}
