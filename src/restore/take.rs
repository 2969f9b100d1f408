//! The right to run a restored service. The store gives it to exactly one container. It is requested last:
//! all processes are at the gate, and nothing that takes time can fail any more.

use std::thread;
use std::time::{Duration, Instant};

use super::error::RestoreError;
use super::exclusive;
use super::look::{Found, Right};
use crate::image::{self, ImageError, Lease, Outcome, Party, Vault};

/// How long the store is asked while the service is at the gate. Shorter than what a waiting container would
/// take for a hang.
const ASK_FOR: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);

/// Which container has the service.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This one.
    Ours,
    /// Another one; the sentence that says so.
    Lost(String),
}

/// Gets the right to run what was found, for the container `us`. Retries while the store does not answer;
/// before each try `check` verifies that the service can still run.
pub(super) fn take(
    found: &Found,
    us: &str,
    exclusive: bool,
    check: impl FnMut() -> Result<(), RestoreError>,
) -> Result<Verdict, RestoreError> {
    let vault = &found.vault;
    match &found.right {
        Right::Taking { generation, from } => {
            let wanted = Outcome::Taken { by: party(us, &found.lease), from: from.clone() };
            let outcome = ask(check, || image::decide(vault, *generation, &wanted))?;
            Ok(if outcome == wanted { Verdict::Ours } else { Verdict::Lost(lost(vault, *generation, us, &outcome)) })
        }
        Right::Free => {
            if let lost @ Verdict::Lost(_) = ask(check, || close_above(vault, &found.lease, us))? {
                return Ok(lost);
            }
            if exclusive { claim(found, us) } else { Ok(Verdict::Ours) }
        }
    }
}

/// As [`take`], for a command that is started in the place of what was found. With `--exclusive` it also claims the lease
/// of a generation that was taken: until then that is the former owner's, whose heartbeats have ended.
pub(super) fn take_for_command(found: &Found, us: &str, exclusive: bool) -> Result<Verdict, RestoreError> {
    match (take(found, us, exclusive, || Ok(()))?, &found.right) {
        (Verdict::Ours, Right::Taking { .. }) if exclusive => claim(found, us),
        (verdict, _) => Ok(verdict),
    }
}

fn claim(found: &Found, us: &str) -> Result<Verdict, RestoreError> {
    match exclusive::claim(&found.vault, &found.lease, us) {
        Ok(()) => Ok(Verdict::Ours),
        Err(error @ ImageError::Replaced { .. }) => Ok(Verdict::Lost(error.to_string())),
        Err(error) => Err(RestoreError::Undecided(error)),
    }
}

/// Marks in the store that `us` has a generation that another container offers only if its outcome says so.
/// Must come before any attempt to take it: if the attempt fails and this container restarts, it would
/// otherwise consider the service its own, while the other container has withdrawn it and runs it.
pub(super) fn remember(found: &Found, us: &str) -> Result<(), ImageError> {
    match &found.right {
        Right::Taking { generation, from } if from != us => image::mark_lost(&found.vault, *generation, us),
        _ => Ok(()),
    }
}

/// Marks in the store that the container that offered the generation no longer has it, which saves that one a
/// search of all outcomes when it restarts. If this fails, the outcome still tells.
pub(super) fn tell_former(found: &Found, us: &str) {
    let from = match (&found.right, &found.newest.outcome) {
        (Right::Taking { from, .. }, _) => from,
        (_, Some(Outcome::Taken { from, by })) if by.instance == us => from,
        _ => return,
    };
    if from != us && !from.is_empty() {
        let _ = image::mark_lost(&found.vault, found.lease.generation, from);
    }
}

/// Withdraws every generation that was proposed above the one that this container found, before anything runs
/// that was not taken. Otherwise a late put of head by a dead container could still make one of them the
/// newest. If one of them has been taken, another container is ahead.
///
/// Must come last: it also withdraws what a live container proposes, which a failing restore must not do.
pub(super) fn close_above(vault: &Vault, lease: &Lease, us: &str) -> Result<Verdict, ImageError> {
    Ok(if image::close_above(vault, lease.generation, &party(us, lease))? {
        Verdict::Ours
    } else {
        Verdict::Lost(format!(
            "another container has just taken a generation newer than {} of {}, so nothing was run here",
            lease.generation,
            vault.url()
        ))
    })
}

fn party(us: &str, lease: &Lease) -> Party {
    Party { instance: us.to_owned(), writer: lease.writer }
}

/// Asks the store until it answers, for at most [`ASK_FOR`], as long as `check` succeeds.
fn ask<T>(
    mut check: impl FnMut() -> Result<(), RestoreError>,
    mut question: impl FnMut() -> Result<T, ImageError>,
) -> Result<T, RestoreError> {
    let begun = Instant::now();
    loop {
        check()?;
        match question() {
            Err(error) if begun.elapsed() < ASK_FOR && !is_final(&error) => thread::sleep(PAUSE),
            answer => return answer.map_err(RestoreError::Undecided),
        }
    }
}

/// A store that may not be written to stays so.
fn is_final(error: &ImageError) -> bool {
    matches!(error, ImageError::Store(error) if error.is_final())
}

fn lost(vault: &Vault, generation: u64, us: &str, outcome: &Outcome) -> String {
    let (party, has) = match outcome {
        Outcome::Taken { by, .. } => (by, "taken"),
        Outcome::Withdrawn { by } => (by, "withdrawn"),
    };
    let (name, url) = (&party.instance, vault.url());
    if name == us {
        // An earlier start is dead, and the next one continues. Another container may be alive.
        return format!(
            "an earlier start of this container, or another container with the same name ({name}), has {has} \
             generation {generation} of {url}, so nothing of the service was run here. Start this container again, \
             and give each container its own --instance name"
        );
    }
    format!(
        "container {name} has {has} generation {generation} of {url}, so the service runs there, and nothing of it was run here"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Hex, KeyFiles, Manifest, commit, propose};
    use crate::store::{self, Doing, Location, StoreError};

    #[test]
    fn a_store_that_may_not_be_written_to_is_asked_once() {
        let times = |error: fn(String, String) -> StoreError| {
            let mut asked = 0;
            let _ = ask(
                || Ok(()),
                || {
                    asked += 1;
                    if asked == 2 { Ok(()) } else { Err(error("file:/s".into(), "a".into()).into()) }
                },
            );
            asked
        };
        assert_eq!(times(|url, key| StoreError::ReadOnly { url, key, doing: Doing::Write }), 1);
        assert_eq!(times(|url, key| StoreError::NoSpace { url, key, doing: Doing::Write }), 2);
    }

    #[test]
    fn what_a_dead_container_proposed_is_closed_unless_it_was_taken() {
        let folder = tempfile::tempdir().unwrap();
        let store = store::open(&Location::at(&format!("file:{}", folder.path().display()))).unwrap();
        let vault = Vault::create(store, &KeyFiles::default()).unwrap();
        let manifest = || Manifest { offered: true, ..Manifest::default() };
        let lease = commit(&vault, &mut manifest(), Lease::fresh(), Instant::now()).unwrap();
        let proposed = propose(&vault, &mut manifest(), lease, Instant::now()).unwrap().number;
        let ours = Lease::after(&lease);
        assert_eq!(close_above(&vault, &ours, "us").unwrap(), Verdict::Ours);
        let taken =
            |by: &str| Outcome::Taken { by: Party { instance: by.into(), writer: Hex([1; 8]) }, from: "dead".into() };
        assert!(matches!(image::decide(&vault, proposed, &taken("them")).unwrap(), Outcome::Withdrawn { .. }));
        assert_eq!(image::look(&vault, 1).unwrap(), None);

        let next = propose(&vault, &mut manifest(), lease, Instant::now()).unwrap().number;
        image::decide(&vault, next, &taken("them")).unwrap();
        assert!(matches!(close_above(&vault, &ours, "us").unwrap(), Verdict::Lost(_)));
    }
}
