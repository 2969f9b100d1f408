//! Prune: what it keeps, and that no interruption, no writer and no other prune makes it lose anything.

mod upkeep_support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use freeze::image::{Lease, Manifest, Outcome, Party, Vault, decide};
use freeze::store::PutMode;
use freeze::upkeep::prune::{Options, Pruned, prune};
use freeze::upkeep::{Keep, Quiet, UpkeepError};

use upkeep_support::{Call, DAY_MS, Fixture, Watched, fails_after, flip_a_bit, stray_pack, written};

const HOUR: Duration = Duration::from_secs(3600);

fn keep_last(last: u64) -> Options {
    Options { keep: Keep { last: Some(last), ..Keep::default() }, grace: HOUR, dry_run: false }
}

fn at_once(last: u64) -> Options {
    Options { grace: Duration::ZERO, ..keep_last(last) }
}

fn run(vault: &Vault, options: &Options) -> Pruned {
    prune(vault, options, &Quiet).unwrap()
}

#[test]
fn packs_go_after_their_grace_time() {
    let store = Fixture::new();
    store.generations(1..=3);
    store.age("", 2 * HOUR);
    let first = run(&store.vault, &keep_last(1));
    assert_eq!((&first.removed[..], &first.kept[..], first.packs, first.waiting_packs), (&[1, 2][..], &[3][..], 0, 2));
    assert_eq!((store.keys_below("packs/").len(), store.keys_below("condemned/").len()), (3, 1));
    assert_eq!(run(&store.vault, &keep_last(1)).packs, 0, "their grace time is not over");
    assert_eq!(store.keys_below("condemned/").len(), 1, "none is condemned twice");
    store.age("condemned/", HOUR);
    let last = run(&store.vault, &keep_last(1));
    assert_eq!((last.packs, last.waiting_packs, last.bytes), (2, 0, first.waiting_bytes));
    assert_eq!(store.keys_below("condemned/"), [""; 0]);
    assert_eq!(store.keys_below("packs/").len(), 1);
    assert_eq!(store.restorable(), [3]);
}

#[test]
fn without_grace_all_goes_at_once() {
    let store = Fixture::new();
    store.generations(1..=3);
    let pruned = run(&store.vault, &at_once(2));
    assert_eq!((pruned.packs, pruned.waiting_packs), (1, 0));
    assert_eq!(store.restorable(), [2, 3]);
    assert_eq!(store.keys_below("condemned/"), [""; 0]);
}

#[test]
fn outcomes_stay_and_with_them_the_numbers_that_were_never_committed() {
    let store = Fixture::new();
    store.generations(1..=3);
    store.leftover(4);
    store.leftover(5);
    let by = Party { instance: "a".into(), writer: Lease::fresh().writer };
    for number in [1, 4] {
        decide(&store.vault, number, &Outcome::Withdrawn { by: by.clone() }).unwrap();
    }
    store.age("", 2 * HOUR);
    let pruned = run(&store.vault, &keep_last(1));
    assert_eq!((&pruned.removed[..], &pruned.leftovers[..]), (&[1, 2][..], &[5][..]));
    assert_eq!(store.keys_below("outcomes/"), ["outcomes/1", "outcomes/4"]);
    assert_eq!(store.keys_below("generations/"), ["generations/3.manifest", "generations/4.manifest"]);
}

#[test]
fn parts_that_cannot_be_cleaned_up_do_not_stop_it() {
    let store = Fixture::new();
    store.generations(1..=3);
    let before = |call, _: &str| call != Call::Clean;
    let vault = store.wrapped(Arc::new(Watched { inner: store.vault.store().clone(), before }));
    let pruned = run(&vault, &at_once(1));
    assert!(pruned.not_cleaned.is_some());
    assert_eq!((pruned.packs, store.keys_below("condemned/")), (2, vec![]));
    assert_eq!(run(&store.vault, &at_once(1)).not_cleaned, None);
}

#[test]
fn a_dry_run_says_the_same_and_does_nothing() {
    let store = Fixture::new();
    store.generations(1..=3);
    store.leftover(4);
    store.age("", 2 * HOUR);
    for options in [at_once(1), keep_last(1)] {
        let before = store.keys();
        let promised = run(&store.vault, &Options { dry_run: true, ..options });
        assert_eq!(store.keys(), before);
        if options.grace == HOUR {
            assert_eq!(run(&store.vault, &options), promised);
        } else {
            assert_eq!((promised.packs, promised.waiting_packs), (3, 0));
        }
    }
}

#[test]
fn new_packs_and_manifests_are_left_alone() {
    let store = Fixture::new();
    store.generation(1);
    store.age("", 2 * HOUR);
    stray_pack(&store.vault, 5);
    store.leftover(2);
    let pruned = run(&store.vault, &keep_last(1));
    assert_eq!((pruned.leftovers.len(), pruned.waiting_packs), (0, 1));
    assert_eq!(store.keys_below("condemned/"), [""; 0], "a new pack is not even condemned");
    store.age("", 2 * HOUR);
    let pruned = run(&store.vault, &keep_last(1));
    assert_eq!((&pruned.leftovers[..], pruned.packs, pruned.waiting_packs), (&[2][..], 0, 2));
    assert_eq!(store.restorable(), [1]);
}

/// A first copy may take longer than any grace time.
#[test]
fn the_packs_of_a_first_generation_are_left_alone() {
    let store = Fixture::new();
    let manifest = written(&store.vault, 1);
    for _ in 0..3 {
        store.age("", 2 * HOUR);
        assert_eq!(run(&store.vault, &keep_last(1)).packs, 0);
    }
    assert_eq!(run(&store.vault, &at_once(1)).packs, 0);
    upkeep_support::commit(&store.vault, manifest);
    assert_eq!(store.restorable(), [1]);
}

#[test]
fn dates_choose_what_stays() {
    let store = Fixture::new();
    store.generations([10, 10, 11, 20]);
    let keep = Keep { daily: Some(2), ..Keep::default() };
    assert_eq!(run(&store.vault, &Options { keep, ..keep_last(1) }).kept, [3, 4]);
    let keep = Keep { within: Some(HOUR), ..Keep::default() };
    assert_eq!(run(&store.vault, &Options { keep, ..keep_last(1) }).kept, [4]);
    assert_eq!(store.restorable(), [4]);
}

#[test]
fn a_damaged_manifest_stops_everything() {
    for damaged in 1..=3 {
        let store = Fixture::new();
        store.generations(1..=3);
        store.age("", 2 * HOUR);
        flip_a_bit(&store.path(&format!("generations/{damaged}.manifest")));
        let before = store.keys();
        let error = prune(&store.vault, &at_once(1), &Quiet).unwrap_err();
        assert!(matches!(error, UpkeepError::Unreadable(_, number) if number == damaged), "{error}");
        assert_eq!(store.keys(), before);
    }
}

#[test]
fn a_damaged_condemnation_condemns_nothing() {
    let store = Fixture::new();
    store.generation(1);
    store.vault.store().put("condemned/0", "{\"version\":".into(), PutMode::Create).unwrap();
    store.age("", 2 * HOUR);
    assert_eq!(run(&store.vault, &keep_last(1)).packs, 0);
    assert_eq!(store.keys_below("condemned/"), [""; 0]);
}

/// Interrupted after each number of calls to the store there is, and run again: what is kept is whole, what is not is gone.
#[test]
fn interrupted_anywhere_it_is_run_again() {
    let mut interruptions = 0;
    loop {
        let store = Fixture::new();
        store.generations(1..=4);
        stray_pack(&store.vault, 9);
        store.leftover(5);
        store.age("", 2 * HOUR);
        run(&store.vault, &keep_last(3));
        store.age("", 2 * HOUR);
        // Opening the store makes calls too.
        let failing = Arc::new(Watched { inner: store.vault.store().clone(), before: fails_after(interruptions) });
        let opened = Vault::open(failing, &Default::default()).map(Option::unwrap);
        let result = opened.map_err(UpkeepError::from).and_then(|vault| prune(&vault, &keep_last(2), &Quiet));
        assert_eq!(BTreeSet::from_iter(store.restorable()).split_off(&3), BTreeSet::from([3, 4]));
        if result.is_ok() {
            break;
        }
        interruptions += 1;
        for _ in 0..2 {
            run(&store.vault, &keep_last(2));
            store.age("", 2 * HOUR);
        }
        run(&store.vault, &keep_last(2));
        assert_eq!(store.restorable(), [3, 4]);
        assert_eq!((store.keys_below("packs/").len(), store.keys_below("condemned/")), (2, vec![]));
        assert_eq!(store.keys_below("generations/").len(), 2);
    }
    assert!(interruptions > 20, "{interruptions}");
}

/// A writer began when generation 1 was the newest, and commits while and after it is pruned.
#[test]
fn a_writer_that_refers_to_what_is_pruned_loses_nothing() {
    let store = Fixture::new();
    store.generation(1);
    store.age("", 2 * HOUR);
    let known = Manifest::load(&store.vault, Some(1)).unwrap().unwrap();
    store.generation(2);
    assert_eq!(run(&store.vault, &keep_last(1)).removed, [1]);
    upkeep_support::commit(&store.vault, Manifest { generation: 0, created_ms: 3 * DAY_MS, ..known });
    store.age("condemned/", 2 * HOUR);
    let pruned = run(&store.vault, &keep_last(1));
    assert_eq!((pruned.packs, pruned.waiting_packs), (0, 1), "generation 2's is new");
    assert_eq!(store.keys_below("condemned/"), [""; 0], "lifted");
    assert_eq!(store.restorable(), [3]);
}

/// The pack of generation 1 is condemned; a writer brings it back as generation 3, and another knows it from there. When generation 3
/// is removed in turn, the pack's grace time begins anew, so that the other writer's commit finds it.
/// One that is alive writes once an hour, whatever its clock says.
#[test]
fn what_a_standby_left_is_removed_after_a_day() {
    let store = Fixture::new();
    store.generation(1);
    let left = |name: &str, age| {
        let key = format!("standbys/{name}");
        store.vault.store().put(&key, "says".into(), PutMode::Overwrite).unwrap();
        store.age(&key, age);
    };
    left("dead", 24 * HOUR);
    left("alive", 23 * HOUR);
    run(&store.vault, &keep_last(1));
    assert_eq!(["dead", "alive"].map(|name| store.path(&format!("standbys/{name}")).exists()), [false, true]);
}

#[test]
fn a_grace_time_begins_anew_for_what_was_named_meanwhile() {
    let store = Fixture::new();
    store.generation(1);
    store.age("", 2 * HOUR);
    let known = Manifest { generation: 0, ..Manifest::load(&store.vault, Some(1)).unwrap().unwrap() };
    store.generation(2);
    run(&store.vault, &keep_last(1));
    upkeep_support::commit(&store.vault, known.clone());
    store.generation(4);
    store.age("condemned/", 2 * HOUR);
    run(&store.vault, &keep_last(1));
    upkeep_support::commit(&store.vault, known.clone());
    assert_eq!(store.restorable(), [4, 5]);
}

/// Commits that come while a prune runs are seen by it, as it marks once more before it sweeps.
#[test]
fn a_commit_during_a_prune_is_seen() {
    // Before the lists of the first mark, and before that of the second.
    for moment in 0..3 {
        let store = Fixture::new();
        store.generation(1);
        let known = Manifest { generation: 0, ..Manifest::load(&store.vault, Some(1)).unwrap().unwrap() };
        store.generation(2);
        store.age("", 2 * HOUR);
        run(&store.vault, &keep_last(1));
        store.age("condemned/", 2 * HOUR);
        let (vault, lists) = (store.vault.clone(), AtomicUsize::new(0));
        let before = move |call, key: &str| {
            if (call, key) == (Call::List, "generations/") && lists.fetch_add(1, Relaxed) == moment {
                upkeep_support::commit(&vault, known.clone());
            }
            true
        };
        let inner = store.vault.store().clone();
        // Opening it looks at head alone.
        let vault = store.wrapped(Arc::new(Watched { inner, before }));
        run(&vault, &keep_last(5));
        assert_eq!(store.restorable(), [2, 3], "committed at moment {moment}");
    }
}

/// Two prunes and a writer whose every generation shares a pack with the last one, all at once.
#[test]
fn prunes_beside_each_other_and_a_writer() {
    let store = Fixture::new();
    store.generation(1);
    store.age("", 2 * HOUR);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for last in [1, 2] {
            let (store, done) = (&store, &done);
            scope.spawn(move || {
                while !done.load(Relaxed) {
                    run(&store.vault, &keep_last(last));
                }
            });
        }
        for day in 2..20 {
            let mut known = Manifest::load(&store.vault, None).unwrap().unwrap();
            let mut manifest = written(&store.vault, day);
            // Its own pack, and the one that the last generation wrote.
            manifest.packs.extend(known.packs.drain(..).take(1));
            upkeep_support::commit(&store.vault, manifest);
        }
        done.store(true, Relaxed);
    });
    let pruned = run(&store.vault, &keep_last(1));
    assert_eq!(pruned.kept, [19]);
    for pack in Manifest::load(&store.vault, None).unwrap().unwrap().packs {
        assert!(store.path(&format!("packs/{}", pack.id)).exists());
    }
    assert_eq!(store.restorable(), [19]);
}
