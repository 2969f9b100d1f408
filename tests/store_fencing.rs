//! Two containers of one application, and a store that answers late or wrongly: of every generation it is known who had the
//! right to commit it.

mod store_support;

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use freeze::image::{self, COMMIT_WITHIN, ImageError, Lease, Manifest, Vault};
use freeze::store::{PutMode, StoreError};
use store_support::{Answer, Fixture, Odd};

fn commit(vault: &Vault, lease: Lease) -> Result<Lease, ImageError> {
    image::commit(vault, &mut Manifest::default(), lease, Instant::now())
}

/// What a container does that finds a checkpoint.
fn restore(vault: &Vault) -> Lease {
    let lease = Lease::for_newest(vault).unwrap().unwrap();
    lease.claim(vault).unwrap();
    lease
}

/// A store, and what its first container holds after one checkpoint.
fn begun() -> (Fixture, Vault, Lease) {
    let fixture = Fixture::plain();
    let vault = fixture.vault();
    let lease = commit(&vault, Lease::fresh()).unwrap();
    (fixture, vault, lease)
}

fn is_replaced<T>(result: Result<T, ImageError>) -> bool {
    matches!(result, Err(ImageError::Replaced { .. }))
}

#[test]
fn a_container_commits_again_and_again() {
    let (_fixture, vault, mut lease) = begun();
    for generation in 2..5 {
        lease.check(&vault).unwrap();
        lease = commit(&vault, lease).unwrap();
        assert_eq!((lease.generation, lease.epoch), (generation, 1));
    }
}

#[test]
fn a_container_that_was_replaced_commits_nothing() {
    let (_fixture, vault, old) = begun();
    let new = restore(&vault);
    assert_eq!((new.generation, new.epoch), (1, 2));
    for _ in 0..2 {
        assert!(is_replaced(old.check(&vault)));
        assert!(is_replaced(commit(&vault, old)));
        assert!(is_replaced(old.claim(&vault)));
    }
    assert_eq!(vault.store().list("generations/").unwrap().len(), 1, "nothing was written");
    let new = commit(&vault, new).unwrap();
    let text = commit(&vault, old).unwrap_err().to_string().replace(vault.url(), "file:/STORE");
    insta::assert_snapshot!(text, @r"another container has taken over this application at generation 2 of file:/STORE. Its checkpoints are valid, and this container changed nothing. End this container; if both should run, give each its own store");
    assert_eq!(image::newest(&vault).unwrap(), Some(new.generation));
}

#[test]
fn a_claim_that_did_not_reach_the_store_counts_until_another_does() {
    let (_fixture, vault, _) = begun();
    let [one, two, three] = [(); 3].map(|()| Lease::for_newest(&vault).unwrap().unwrap());
    let one = commit(&vault, one).unwrap();
    assert!(is_replaced(commit(&vault, two)));
    assert!(is_replaced(three.claim(&vault)));
    commit(&vault, one).unwrap();
}

#[test]
fn of_two_claims_the_later_is_told() {
    let (_fixture, vault, _) = begun();
    let [one, two] = [(); 2].map(|()| Lease::for_newest(&vault).unwrap().unwrap());
    one.claim(&vault).unwrap();
    one.claim(&vault).unwrap();
    assert!(is_replaced(two.claim(&vault)));
}

#[test]
fn of_many_at_once_one_has_the_application() {
    for round in 0..20 {
        let (_fixture, vault, _) = begun();
        let leases = if round % 2 == 0 {
            [(); 6].map(|()| Lease::for_newest(&vault).unwrap().unwrap())
        } else {
            [(); 6].map(|()| Lease { epoch: 2, generation: 1, ..Lease::fresh() })
        };
        let start = Barrier::new(leases.len());
        let won: Vec<Lease> = thread::scope(|scope| {
            let race = |lease: Lease| {
                start.wait();
                match commit(&vault, lease) {
                    Ok(held) => commit(&vault, held).map(Some),
                    Err(ImageError::Replaced { .. }) => Ok(None),
                    Err(error) => Err(error),
                }
            };
            let threads = leases.map(|lease| scope.spawn(move || race(lease)));
            threads.into_iter().filter_map(|thread| thread.join().unwrap().unwrap()).collect()
        });
        assert_eq!(won.len(), 1);
        assert_eq!(image::newest(&vault).unwrap(), Some(won[0].generation));
        let lineage = image::lineage(&vault).unwrap();
        assert_eq!(lineage.generations.len(), 3);
        assert!(lineage.generations.iter().all(|generation| generation.manifest.is_ok()));
        assert_eq!(lineage.lost.len() + lineage.pending.len() + 3, vault.store().list("generations/").unwrap().len());
    }
}

#[test]
fn of_many_that_start_in_an_empty_store_one_commits() {
    let fixture = Fixture::plain();
    let vault = fixture.vault();
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| commit(&vault, Lease::fresh()))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(results.into_iter().all(|result| result.is_ok() || is_replaced(result)));
}

#[test]
fn a_put_whose_reply_is_lost_counts() {
    for answer in [Answer::Changed, Answer::Broken] {
        let (fixture, vault, lease) = begun();
        let odd = Odd::over(&vault, &fixture.keys, "head", answer);
        let held = commit(&odd, lease).unwrap();
        assert_eq!((held.generation, image::newest(&vault).unwrap()), (2, Some(2)));
        let next = Lease::for_newest(&vault).unwrap().unwrap();
        next.claim(&Odd::over(&vault, &fixture.keys, "head", answer)).unwrap();
        assert!(is_replaced(commit(&vault, held)));
    }
}

#[test]
fn a_worker_that_could_not_tell_of_its_commit_harms_no_later_one() {
    let (_fixture, vault, lease) = begun();
    commit(&vault, lease).unwrap();
    // Init still has the lease of before.
    assert_eq!(commit(&vault, lease).unwrap().generation, 3);
    let restored = restore(&vault);
    commit(&vault, restored).unwrap();
    assert_eq!(commit(&vault, restored).unwrap().generation, 5);
    assert!(is_replaced(commit(&vault, lease)));
}

#[test]
fn a_put_that_failed_does_not_count() {
    let (fixture, vault, lease) = begun();
    let odd = Odd::over(&vault, &fixture.keys, "head", Answer::Refused);
    assert!(matches!(commit(&odd, lease), Err(ImageError::Store(StoreError::NotFound { .. }))));
    assert_eq!(image::newest(&vault).unwrap(), Some(1));
    let lineage = image::lineage(&vault).unwrap();
    assert_eq!((lineage.generations.len(), lineage.pending), (1, vec![2]));
    assert_eq!(commit(&vault, lease).unwrap().generation, 3);
    assert_eq!(image::lineage(&vault).unwrap().lost, [2]);
}

#[test]
fn a_commit_is_only_said_to_have_failed_where_that_is_certain() {
    for (answer, certain) in [(Answer::Refused, false), (Answer::Denied, true)] {
        let (fixture, vault, lease) = begun();
        let odd = Odd::over(&vault, &fixture.keys, "head", answer);
        let proposal = image::propose(&odd, &mut Manifest::default(), lease, Instant::now()).unwrap();
        assert_eq!((proposal.number, image::newest(&vault).unwrap()), (2, Some(1)), "it counts for nothing yet");
        assert_eq!(proposal.commit().unwrap_err().may_count, !certain, "{answer:?}");
    }
    let (_fixture, vault, lease) = begun();
    let late = image::propose(&vault, &mut Manifest::default(), lease, Instant::now()).unwrap();
    restore(&vault);
    let failure = late.commit().unwrap_err();
    assert!(matches!(failure.error, ImageError::Replaced { generation: 1, .. }) && !failure.may_count);
}

/// The put succeeded, its reply was lost, and before head is read again another container has restored the generation.
#[test]
fn a_commit_that_another_container_built_upon_was_no_failure() {
    let (fixture, vault, lease) = begun();
    let odd = Odd::over(&vault, &fixture.keys, "head", Answer::Taken);
    let proposal = image::propose(&odd, &mut Manifest::default(), lease, Instant::now()).unwrap();
    let failure = proposal.commit().unwrap_err();
    assert!(matches!(failure.error, ImageError::Replaced { generation: 2, .. }), "{:?}", failure.error);
    assert!(failure.may_count);
}

#[test]
fn what_took_too_long_is_not_committed() {
    let (_fixture, vault, lease) = begun();
    let begun = Instant::now() - COMMIT_WITHIN - Duration::from_secs(1);
    let result = image::commit(&vault, &mut Manifest::default(), lease, begun);
    assert!(matches!(result, Err(ImageError::TooSlow { minutes: 30, .. })));
    assert_eq!(image::newest(&vault).unwrap(), Some(1));
}

#[test]
fn an_old_head_is_noticed_by_whoever_knows_better() {
    let (fixture, vault, lease) = begun();
    let old = fixture.read("head");
    let lease = commit(&vault, lease).unwrap();
    fixture.write("head", &old);
    for result in [lease.check(&vault), commit(&vault, lease).map(drop)] {
        assert!(matches!(result, Err(ImageError::OldHead { found: 1, known: 2, .. })));
    }
}

#[test]
fn in_a_store_that_was_emptied_a_container_begins_anew() {
    let (fixture, vault, lease) = begun();
    let lease = commit(&vault, lease).unwrap();
    fixture.empty();
    let vault = fixture.vault();
    lease.check(&vault).unwrap();
    assert_eq!(commit(&vault, lease).unwrap().generation, 1);
    assert!(is_replaced(commit(&vault, Lease::fresh())));
}

#[test]
fn a_copy_keeps_its_number_where_that_is_free() {
    let (_fixture, vault, lease) = begun();
    for (wanted, got) in [(7, 7), (3, 8), (8, 9)] {
        let mut copy = Manifest { generation: wanted, parent: 99, ..Manifest::default() };
        let lease = Lease { generation: image::newest(&vault).unwrap().unwrap(), ..lease };
        assert_eq!(image::commit(&vault, &mut copy, lease, Instant::now()).unwrap().generation, got);
        assert_eq!((copy.generation, copy.parent), (got, lease.generation));
    }
}

#[test]
fn generations_that_were_removed_hide_none() {
    let (_fixture, vault, mut lease) = begun();
    for _ in 0..5 {
        lease = commit(&vault, lease).unwrap();
    }
    for removed in [2, 4, 5] {
        vault.store().delete(&image::manifest_key(removed)).unwrap();
    }
    let numbers: Vec<_> = image::generations(&vault).unwrap().iter().map(|generation| generation.number).collect();
    assert_eq!(numbers, [1, 3, 6]);
}

#[test]
fn a_manifest_of_a_stranger_is_never_a_generation() {
    let (fixture, vault, lease) = begun();
    fixture.write("generations/2.manifest", &fixture.read("generations/1.manifest"));
    vault.store().put("generations/02.manifest", "x".into(), PutMode::Create).unwrap();
    assert_eq!(commit(&vault, lease).unwrap().generation, 3);
    assert_eq!(image::lineage(&vault).unwrap().lost, [2]);
}
