use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::image::{Hex, KeyFiles, Outcome, Party, Whereabouts, commit, decide, whereabouts};
use crate::store::Location;

fn common(folder: &Path) -> Common {
    Common {
        store: Location::at(&format!("file:{}/store", folder.display())),
        keys: KeyFiles::default(),
        runtime_dir: folder.to_owned(),
        memory: 64 << 20,
        instance: "us".into(),
        exclusive_ms: None,
        trace: None,
    }
}

fn policy(choice: Choice, failure: OnFailure) -> Policy {
    let standby = Standby { always: false, poll_ms: 1, cache: "/nonexistent".into(), cache_bytes: 0 };
    Policy {
        choice,
        failure,
        volume_changed: VolumeChanged::Refuse,
        clock: clock::Policy::Auto,
        standby,
        exclusive: None,
        files: Scope::Open,
        tracers: None,
    }
}

fn vault(common: &Common) -> Vault {
    Vault::create(store::open(&common.store).unwrap(), &common.keys).unwrap()
}

/// Generations that fit here, each offered by this instance or not.
fn generations(common: &Common, offered: &[bool]) -> Vault {
    generations_of("us", common, offered)
}

fn generations_of(instance: &str, common: &Common, offered: &[bool]) -> Vault {
    let vault = vault(common);
    let mut lease = Lease::fresh();
    for &offered in offered {
        let arch = std::env::consts::ARCH.to_owned();
        let uid = nix::unistd::geteuid().as_raw();
        let mut manifest = Manifest { arch, uid, offered, instance: instance.into(), ..Manifest::default() };
        lease = commit(&vault, &mut manifest, lease, Instant::now()).unwrap();
    }
    vault
}

fn damage(folder: &Path, generation: u64) {
    fs::write(folder.join("store").join(crate::image::manifest_key(generation)), "not a manifest").unwrap();
}

/// The worker's last event, and its messages to the user before that.
fn run_with(common: &Common, choice: Choice, failure: OnFailure) -> (Result<Event, Failure>, Vec<String>) {
    run_policy(common, &policy(choice, failure))
}

fn run_policy(common: &Common, policy: &Policy) -> (Result<Event, Failure>, Vec<String>) {
    let (reporter, init) = Reporter::pair();
    let result = run(common, policy, &reporter);
    drop(reporter);
    let events = BufReader::new(init).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap());
    let url = &common.store.url;
    let said = events.filter_map(|event| match event {
        Event::Chosen { message } => Some(message.replace(url, "URL")),
        Event::Warning { message } => Some(format!("warning: {}", message.replace(url, "URL"))),
        _ => None,
    });
    (result, said.collect())
}

fn lease_of(result: Result<Event, Failure>) -> Lease {
    match result {
        Ok(Event::NothingToRestore { lease }) => lease,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_generation_the_command_starts() {
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path());
    for _ in 0..2 {
        let (result, said) = run_with(&common, Choice::Newest, OnFailure::Fail);
        assert_eq!(lease_of(result).generation, 0);
        assert_eq!(said, ["starting the command: URL holds no generation"]);
        vault(&common);
    }
}

#[test]
fn who_is_to_restore_nothing_takes_over_from_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path());
    let vault = generations(&common, &[true, true]);
    let (result, said) = run_with(&common, Choice::Never, OnFailure::Fail);
    let lease = lease_of(result);
    assert_eq!(said, ["starting the command: --restore is never"]);
    assert_eq!((lease.generation, lease.epoch), (2, 2));
    lease.check(&vault).unwrap();
    // It can still be taken.
    assert_eq!(image::look(&vault, 2).unwrap(), None);
}

/// There is no criu beside a test, so every generation that fits fails there.
#[test]
fn a_failure_says_the_generation_and_the_step() {
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path());
    generations(&common, &[false, false]);
    for (choice, generation, why) in
        [(Choice::Newest, 2, "it is the newest"), (Choice::Generation(1), 1, "--restore names it")]
    {
        let (result, said) = run_with(&common, choice, OnFailure::Fail);
        let failure = result.unwrap_err();
        assert!(
            failure.message.starts_with(&format!("generation {generation} cannot be restored: cannot start CRIU")),
            "{failure:?}"
        );
        assert_eq!(failure.phase, Some(Phase::Restore));
        assert_eq!(said, [format!("restoring generation {generation} of URL: {why}")]);
    }
    let (result, _) = run_with(&common, Choice::Generation(7), OnFailure::Fail);
    let failure = result.unwrap_err();
    assert!(failure.message.contains("has no generation 7"), "{failure:?}");
    assert_eq!(failure.phase, Some(Phase::Check));
}

#[test]
fn a_runtime_folder_that_takes_no_file_fails_the_restore_before_anything_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path());
    let vault = vault(&common);
    let (arch, uid) = (std::env::consts::ARCH.to_owned(), nix::unistd::geteuid().as_raw());
    let path = folder.path().join("captured");
    let file = image::File {
        path: path.as_os_str().as_encoded_bytes().to_vec(),
        kind: image::Kind::Regular.into(),
        body: Some(image::Body::from_inline(Vec::new())),
        ..image::File::default()
    };
    let mut manifest = Manifest { arch, uid, files: vec![file], ..Manifest::default() };
    commit(&vault, &mut manifest, Lease::fresh(), Instant::now()).unwrap();
    // A file cannot replace a folder.
    fs::create_dir(folder.path().join("env")).unwrap();
    let (result, _) = run_with(&common, Choice::Newest, OnFailure::Fail);
    let failure = result.unwrap_err();
    let start = format!("generation 1 cannot be restored: the folder {} cannot be used (", folder.path().display());
    assert!(failure.message.starts_with(&start), "{failure:?}");
    assert!(!path.exists());
}

#[test]
fn earlier_generations_follow_damaged_ones_only_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path());
    generations(&common, &[false, false, true]);
    damage(folder.path(), 3);
    damage(folder.path(), 2);
    let (result, said) = run_with(&common, Choice::Newest, OnFailure::Fail);
    assert!(result.unwrap_err().message.starts_with("generation 3 cannot be restored"));
    assert_eq!(said.len(), 1);
    let (result, said) = run_with(&common, Choice::Newest, OnFailure::RetryEarlier);
    assert!(result.unwrap_err().message.starts_with("generation 1 cannot be restored: cannot start CRIU"));
    let chosen: Vec<_> = said.iter().filter(|line| !line.starts_with("warning: ")).collect();
    assert_eq!(
        chosen,
        [
            "restoring generation 3 of URL: it is the newest",
            "restoring generation 2 of URL: generation 3 cannot be restored",
            "restoring generation 1 of URL: generation 2 cannot be restored",
        ]
    );
    assert_eq!(said.len(), 5, "{said:?}");
}

#[test]
fn the_command_that_starts_instead_has_what_could_not_be_restored() {
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path());
    let vault = generations(&common, &[true]);
    damage(folder.path(), 1);
    let (result, said) = run_with(&common, Choice::Newest, OnFailure::Start);
    let lease = lease_of(result);
    assert!(said[1].starts_with("starting the command afresh: the restore failed: generation 1 cannot"), "{said:?}");
    let taken = Outcome::Taken { by: Party { instance: "us".into(), writer: lease.writer }, from: String::new() };
    assert_eq!(image::look(&vault, 1).unwrap(), Some(taken));
    lease.check(&vault).unwrap();
}

#[test]
fn a_store_that_cannot_be_read_is_taken_over_with_the_first_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path());
    let vault = generations(&common, &[true]);
    fs::rename(folder.path().join("store/head"), folder.path().join("head")).unwrap();
    let (result, _) = run_with(&common, Choice::Newest, OnFailure::Start);
    let lease = lease_of(result);
    assert_eq!(lease.epoch, 0);
    fs::rename(folder.path().join("head"), folder.path().join("store/head")).unwrap();
    let held = commit(&vault, &mut Manifest::default(), lease, Instant::now()).unwrap();
    assert_eq!((held.generation, held.epoch, held.writer), (2, 2, lease.writer));
}

#[test]
fn of_two_that_hold_an_open_generation_one_may_run_it() {
    let folder = tempfile::tempdir().unwrap();
    let vault = generations(&common(folder.path()), &[true]);
    let (first, second) = (Found::look(&vault).unwrap().unwrap(), Found::look(&vault).unwrap().unwrap());
    assert_eq!(take::take(&first, "a", false, || Ok(())).unwrap(), Verdict::Ours);
    // The same again, as after a lost reply.
    assert_eq!(take::take(&first, "a", false, || Ok(())).unwrap(), Verdict::Ours);
    let Verdict::Lost(message) = take::take(&second, "b", false, || Ok(())).unwrap() else { panic!("both have it") };
    assert!(message.starts_with("container a has taken generation 1 of file:"), "{message}");
    // A container of the same name may be alive, or a late request may be its own: the next start finds out.
    let same = Found::new(vault.clone(), second.lease, second.newest);
    let Verdict::Lost(message) = take::take(&same, "a", false, || Ok(())).unwrap() else { panic!("both have it") };
    assert!(message.contains("an earlier start of this container") && message.contains("--instance"), "{message}");
    assert_eq!(whereabouts(&vault, "a").unwrap(), Whereabouts::Here(1));
    // The container that offered it no longer has it, however many outcomes follow.
    take::tell_former(&first, "a");
    assert!(image::records(&**vault.store()).unwrap().iter().any(|record| record.lost.is_some()));
    assert_eq!(whereabouts(&vault, "us").unwrap(), Whereabouts::Away(1));
    // A container that starts later has it, as it is no longer offered.
    let third = Found::look(&vault).unwrap().unwrap();
    assert_eq!(take::take(&third, "c", false, || Ok(())).unwrap(), Verdict::Ours);
}

/// Without criu it fails before anything is decided.
#[test]
fn who_fails_with_what_another_one_offers_remembers_that_it_may_not_be_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path());
    let vault = generations_of("them", &common, &[false, true]);
    let (result, _) = run_with(&common, Choice::Newest, OnFailure::Fail);
    assert!(result.unwrap_err().message.contains("cannot start CRIU"));
    assert_eq!(whereabouts(&vault, "us").unwrap(), Whereabouts::Away(2));
    assert_eq!(image::look(&vault, 2).unwrap(), None);
    // As long as it is offered it may try again.
    let (result, _) = run_with(&common, Choice::Newest, OnFailure::Fail);
    assert!(result.unwrap_err().message.contains("cannot start CRIU"));
    // For its own generation it marks nothing.
    let them = Common { instance: "them".into(), ..common };
    run_with(&them, Choice::Newest, OnFailure::Fail).0.unwrap_err();
    assert_eq!(whereabouts(&vault, "them").unwrap(), Whereabouts::Unknown);
}

/// A thread that may make no time namespace.
fn without_time() {
    use caps::{CapSet, Capability};
    let _ = caps::drop(None, CapSet::Effective, Capability::CAP_SYS_TIME);
}

/// Of a service whose host has been up for longer than this one.
#[test]
fn clocks_that_would_go_back_are_refused_before_the_store_learns_of_it() {
    without_time();
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path());
    let vault = vault(&common);
    let (arch, uid) = (std::env::consts::ARCH.to_owned(), nix::unistd::geteuid().as_raw());
    let clocks = Some(crate::image::Clocks { monotonic_ns: u64::MAX, boottime_ns: 0 });
    let mut manifest = Manifest { arch, uid, clocks, offered: true, instance: "them".into(), ..Manifest::default() };
    commit(&vault, &mut manifest, Lease::fresh(), Instant::now()).unwrap();
    let run = |clock, failure| run_policy(&common, &Policy { clock, ..policy(Choice::Newest, failure) }).0;
    let refused = run(clock::Policy::Refuse, OnFailure::Fail);
    let Ok(Event::ClockBack { message }) = refused else { panic!("{refused:?}") };
    assert!(message.starts_with("generation 1 cannot be restored: the service's clock (CLOCK_MONO"), "{message}");
    assert_eq!(whereabouts(&vault, "us").unwrap(), Whereabouts::Unknown);
    assert_eq!(image::look(&vault, 1).unwrap(), None);
    let permitted = run(clock::Policy::Host, OnFailure::Fail);
    assert!(permitted.unwrap_err().message.contains("cannot start CRIU"));
    // As after any other failure, the command starts if the user wants that.
    let result = run(clock::Policy::Refuse, OnFailure::Start);
    assert!(matches!(result, Ok(Event::NothingToRestore { .. })), "{result:?}");
}

#[test]
fn who_cannot_remember_that_restores_nothing_and_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path());
    let vault = generations_of("them", &common, &[true]);
    image::mark_lost(&vault, 1, "us").unwrap();
    let object = folder.path().join("store").join(&image::records(&**vault.store()).unwrap()[0].key);
    fs::remove_file(&object).unwrap();
    fs::create_dir(&object).unwrap();
    for (policy, more) in [(OnFailure::Fail, false), (OnFailure::Start, true)] {
        let (result, _) = run_with(&common, Choice::Newest, policy);
        let failure = result.unwrap_err();
        assert!(!failure.message.contains("CRIU"), "{failure:?}");
        assert_eq!(failure.message.contains("The command cannot be started instead"), more, "{failure:?}");
    }
    assert_eq!(image::look(&vault, 1).unwrap(), None);
}

#[test]
fn the_command_is_not_started_without_the_right_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path());
    let vault = generations(&common, &[false]);
    let (reporter, _init) = Reporter::pair();
    let exclusive = Policy { exclusive: Some(Duration::from_secs(1)), ..policy(Choice::Newest, OnFailure::Start) };
    let mut restore = Restore::new(&common, &exclusive, &reporter);
    restore.found = Found::look(&vault).unwrap();
    // The store no longer tells which container has the application.
    fs::write(folder.path().join("store/head"), "damaged").unwrap();
    let failure = || Failure { message: "it failed".into(), log: None, phase: None };
    let error = restore.start_instead(failure()).unwrap_err();
    assert!(
        error.message.starts_with("it failed. The command cannot be started instead: the store does not say"),
        "{error:?}"
    );
}

/// It has ended before its first checkpoint.
#[test]
fn an_exclusive_one_that_has_committed_nothing_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path());
    let exclusive = Policy { exclusive: Some(Duration::from_secs(1)), ..policy(Choice::Newest, OnFailure::Fail) };
    let [first, second] = [(); 2].map(|()| lease_of(run_policy(&common, &exclusive).0));
    assert_eq!(second.epoch, first.epoch + 1);
    let vault = vault(&common);
    assert!(second.check(&vault).is_ok() && first.check(&vault).is_err());
}

#[test]
fn an_exclusive_one_never_starts_what_it_could_not_claim() {
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path());
    generations(&common, &[true]);
    fs::remove_file(folder.path().join("store/head")).unwrap();
    let exclusive = Policy { exclusive: Some(Duration::from_secs(1)), ..policy(Choice::Newest, OnFailure::Start) };
    let (result, said) = run_policy(&common, &exclusive);
    let failure = result.unwrap_err();
    assert!(failure.message.ends_with("with --exclusive, this container must hold the lease first"), "{failure:?}");
    assert_eq!(said, [""; 0]);
}

#[test]
fn who_has_just_taken_over_exclusively_is_known_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path());
    let vault = generations_of("them", &common, &[true]);
    let found = Found::look(&vault).unwrap().unwrap();
    let (reporter, _init) = Reporter::pair();
    let exclusive = Policy { exclusive: Some(Duration::from_secs(1)), ..policy(Choice::Newest, OnFailure::Fail) };
    assert_eq!(take::take(&found, "us", true, || Ok(())).unwrap(), Verdict::Ours);
    assert_eq!(Restore::new(&common, &exclusive, &reporter).claim(&found, 1), Event::Claimed);
    let heartbeat = image::Heartbeat::read(&vault).unwrap().unwrap();
    assert_eq!(heartbeat.party.instance, "us");
    assert!(heartbeat.is_of(&found.lease));
}

#[test]
fn what_was_taken_back_is_lost_and_what_runs_on_is_nobodys_to_take() {
    let folder = tempfile::tempdir().unwrap();
    let vault = generations(&common(folder.path()), &[true]);
    let found = Found::look(&vault).unwrap().unwrap();
    let by = Party { instance: "us".into(), writer: Hex::default() };
    decide(&vault, 1, &Outcome::Withdrawn { by }).unwrap();
    assert!(matches!(take::take(&found, "a", false, || Ok(())).unwrap(), Verdict::Lost(_)));
    commit(&vault, &mut Manifest::default(), found.lease, Instant::now()).unwrap();
    let found = Found::look(&vault).unwrap().unwrap();
    assert_eq!(take::take(&found, "a", false, || Ok(())).unwrap(), Verdict::Ours);
    assert_eq!(image::look(&vault, 2).unwrap(), None);
}

#[test]
fn what_a_dead_container_proposed_becomes_nothing_once_another_one_runs() {
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path());
    let vault = generations(&common, &[false]);
    let late = Manifest { offered: true, generation: 2, ..Manifest::default() };
    let propose = |number| {
        let mut manifest = Manifest { generation: number, ..late.clone() };
        let _ = image::propose(&vault, &mut manifest, Lease::unknown(), Instant::now()).unwrap();
    };
    propose(2);
    let found = Found::look(&vault).unwrap().unwrap();
    assert_eq!(take::take(&found, "us", false, || Ok(())).unwrap(), Verdict::Ours);
    assert!(matches!(image::look(&vault, 2).unwrap(), Some(Outcome::Withdrawn { by }) if by.instance == "us"));
    // One that was committed and taken meanwhile.
    propose(3);
    let by = Party { instance: "b".into(), writer: Hex::default() };
    decide(&vault, 3, &Outcome::Taken { by, from: "a".into() }).unwrap();
    assert!(matches!(take::take(&found, "us", false, || Ok(())).unwrap(), Verdict::Lost(_)));
    let (result, _) = run_with(&common, Choice::Never, OnFailure::Fail);
    assert!(matches!(result, Ok(Event::Lost { .. })), "{result:?}");
}

/// What comes instead finds the files of what failed.
#[test]
fn files_that_a_failed_restore_has_left_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let common = common(folder.path());
    let vault = vault(&common);
    let (arch, uid) = (std::env::consts::ARCH.to_owned(), nix::unistd::geteuid().as_raw());
    let deleted = vec![folder.path().join("gone").into_os_string().into_vec()];
    let mut manifest = Manifest { arch, uid, deleted, ..Manifest::default() };
    commit(&vault, &mut manifest, Lease::fresh(), Instant::now()).unwrap();
    let (result, said) = run_with(&common, Choice::Newest, OnFailure::Start);
    assert!(matches!(result, Ok(Event::NothingToRestore { .. })), "{result:?}");
    assert!(
        said.iter().any(|said| said.starts_with("warning: the files of generation 1 were put back here before")),
        "{said:?}"
    );
}
