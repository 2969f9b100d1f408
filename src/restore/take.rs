//! The right to let a restored service run. Exactly one container has it, and the store says which; so it is asked when all
//! processes are there and none has run, and nothing else can fail that takes time.

use std::thread;
use std::time::{Duration, Instant};

use super::error::RestoreError;
use super::exclusive;
use super::look::{Found, Right};
use crate::image::{self, ImageError, Lease, Outcome, Party, Vault};

/// How long the store is asked who has the service, while that is held. Short of what a container that waits for the answer
/// would call hung.
const ASK_FOR: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);

/// Who has the service.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This container.
    Ours,
    /// Another one: one sentence.
    Lost(String),
}

/// Takes what was found for the container named `us`, as far as anybody need be asked. As long as the store does not say who has
/// it, it is asked again, and before each time `check` tells whether there still is something to run.
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
            match if exclusive { exclusive::claim(vault, &found.lease, us) } else { Ok(()) } {
                Ok(()) => Ok(Verdict::Ours),
                Err(error @ ImageError::Replaced { .. }) => Ok(Verdict::Lost(error.to_string())),
                Err(error) => Err(RestoreError::Undecided(error)),
            }
        }
    }
}

/// Says, before anything is done to take what another container offers, that `us` has it only once its outcome says so. Without that a
/// container whose attempt failed, started again, would take the service for its own, while the other one has taken it back and runs on.
pub(super) fn remember(found: &Found, us: &str) -> Result<(), ImageError> {
    match &found.right {
        Right::Taking { generation, from } if from != us => image::mark_lost(&found.vault, *generation, us),
        _ => Ok(()),
    }
}

/// Says for the container that offered it that it has it no more, so that it need not be looked for among all outcomes when that is started
/// again. Where it cannot be said, the outcome tells.
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

/// Before what is not taken is let run: nothing that was proposed above what this container found may become the newest one later,
/// as a put of head by a container that is dead by now still could. Where one of them has been taken meanwhile, another
/// container is ahead. To be called last: what a living one proposes is withdrawn as well, and must not be for a restore that fails.
pub(super) fn close_above(vault: &Vault, lease: &Lease, us: &str) -> Result<Verdict, ImageError> {
    Ok(if image::close_above(vault, lease.generation, &party(us, lease))? {
        Verdict::Ours
    } else {
        Verdict::Lost(format!(
            "another container has taken a generation above {} of {} at this moment, so nothing was run here",
            lease.generation,
            vault.url()
        ))
    })
}

fn party(us: &str, lease: &Lease) -> Party {
    Party { instance: us.to_owned(), writer: lease.writer }
}

/// Asks the store until it answers, as long as there is something to run.
fn ask<T>(
    mut check: impl FnMut() -> Result<(), RestoreError>,
    question: impl Fn() -> Result<T, ImageError>,
) -> Result<T, RestoreError> {
    let begun = Instant::now();
    loop {
        check()?;
        match question() {
            Err(_) if begun.elapsed() < ASK_FOR => thread::sleep(PAUSE),
            answer => return answer.map_err(RestoreError::Undecided),
        }
    }
}

fn lost(vault: &Vault, generation: u64, us: &str, outcome: &Outcome) -> String {
    let (party, has) = match outcome {
        Outcome::Taken { by, .. } => (by, "taken"),
        Outcome::Withdrawn { by } => (by, "taken back"),
    };
    let (name, url) = (&party.instance, vault.url());
    if name == us {
        // One is dead by now, and the next start goes on; but the other may be alive.
        return format!(
            "an earlier start of this container, or another container that is called {name} too, has {has} generation {generation} of \
             {url} meanwhile, so nothing of it was run here. Start this one again, and give each container a name of its own by --instance"
        );
    }
    format!(
        "container {name} has {has} generation {generation} of {url}, so the service runs there and nothing of it was run here"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Hex, KeyFiles, Manifest, commit, propose};
    use crate::store::{self, Location};

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
