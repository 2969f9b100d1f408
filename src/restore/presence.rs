//! What a standby tells the store: that it is there, and whether it could restore the service that is about to move.
//!
//! Writes when the wait begins, when it is asked, when it has the memory of a service that moves in rounds, and rarely after
//! that. Reads nothing unless head announces an offer.
//! Nothing depends on it: without it the standby takes what is offered as before.

use std::time::{Duration, Instant};

use crate::image::{Lease, Manifest, Result, Standby, Vault, standby};

/// When it writes again without being asked: `freeze prune` removes what is a day old.
const AGAIN: Duration = Duration::from_secs(3600);
/// Pause after a write that failed.
const RETRY: Duration = Duration::from_secs(60);

pub(super) struct Presence<'a> {
    /// Why this container could not restore a service.
    unfit: &'a dyn Fn(&Manifest) -> Option<String>,
    /// Time between two looks for a question while head stays as it is.
    poll: Duration,
    says: Standby,
    /// What head said last, and whether an offer was about to come.
    head: Option<(Lease, bool)>,
    looked: Option<Instant>,
    /// When to write again.
    due: Option<Instant>,
    /// When the last write failed.
    failed: Option<Instant>,
}

impl<'a> Presence<'a> {
    pub fn new(instance: &str, poll: Duration, unfit: &'a dyn Fn(&Manifest) -> Option<String>) -> Self {
        let says = Standby { instance: instance.to_owned(), decoded: Some(0), ..Standby::default() };
        Self { unfit, poll, says, head: None, looked: None, due: None, failed: None }
    }

    /// Answers a new question, or says once more that this standby is there. `head` is as it was just read. `decoded` is the
    /// newest generation whose memory is here.
    pub fn keep(&mut self, vault: &Vault, head: Option<(Lease, bool)>, decoded: u64, now: Instant) -> Result<()> {
        let before = std::mem::replace(&mut self.head, head);
        let is_moving = |head: Option<(Lease, bool)>| head.is_some_and(|(_, moving)| moving);
        let looked_before = self.looked.is_some_and(|looked| now.duration_since(looked) < self.poll);
        // A container that died while it asked leaves head as it is, and the next one does not change it.
        if is_moving(head) && (before != head || !looked_before) {
            self.looked = Some(now);
            let question = standby::question(vault)?.filter(|(name, _)| self.says.answers != Some(*name));
            if let Some((name, service)) = question {
                let lacks = (self.unfit)(&service);
                let says = Standby { answers: Some(name), lacks, decoded: Some(decoded), ..self.says.clone() };
                return self.tell(vault, says, now);
            }
        }
        // The last step of a move waits for it.
        let may_try = self.failed.is_none_or(|failed| now.duration_since(failed) >= self.poll);
        if is_moving(head) && self.says.decoded != Some(decoded) && may_try {
            return self.tell(vault, Standby { decoded: Some(decoded), ..self.says.clone() }, now);
        }
        // The container that asked may have taken this one for dead.
        let asked = is_moving(before) && !is_moving(head);
        if asked || self.due.is_none_or(|due| now >= due) {
            return self.tell(vault, self.says.clone(), now);
        }
        Ok(())
    }

    fn tell(&mut self, vault: &Vault, says: Standby, now: Instant) -> Result<()> {
        (self.due, self.failed) = (Some(now + RETRY), Some(now));
        says.tell(vault)?;
        (self.says, self.due, self.failed) = (says, Some(now + AGAIN), None);
        Ok(())
    }
}

/// Says that this container stands by no more, and which generation it could not restore. Without that a container
/// asks it in vain.
pub(super) fn leave(vault: &Vault, instance: &str, failed: Option<u64>) {
    let _ = match failed {
        Some(failed) => Standby { instance: instance.to_owned(), failed, ..Standby::default() }.tell(vault),
        None => standby::silence(&**vault.store(), &standby::key(vault, instance)).map_err(Into::into),
    };
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::image::test_vault;

    const POLL: Duration = Duration::from_secs(1);

    struct Fixture {
        _folder: tempfile::TempDir,
        vault: Vault,
        now: Instant,
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        Fixture { _folder: folder, vault, now: Instant::now() }
    }

    impl Fixture {
        fn keep(&self, presence: &mut Presence, moving: bool, after: Duration) {
            self.keep_with(presence, moving, 0, after);
        }

        fn keep_with(&self, presence: &mut Presence, moving: bool, decoded: u64, after: Duration) {
            presence.keep(&self.vault, Some((Lease::default(), moving)), decoded, self.now + after).unwrap();
        }

        /// What the store says of it.
        fn says(&self) -> Option<Standby> {
            Standby::read(&self.vault, &standby::key(&self.vault, "us")).unwrap()
        }

        fn silence(&self) {
            leave(&self.vault, "us", None);
            assert_eq!(self.says(), None);
        }
    }

    #[test]
    fn it_is_known_from_the_start_and_while_nothing_happens_writes_once_an_hour() {
        let fixture = fixture();
        let mut presence = Presence::new("us", POLL, &|_| None);
        presence.keep(&fixture.vault, None, 0, fixture.now).unwrap();
        let says = Standby { instance: "us".into(), decoded: Some(0), ..Standby::default() };
        assert_eq!(fixture.says(), Some(says));
        fixture.silence();
        fixture.keep(&mut presence, false, AGAIN - POLL);
        assert_eq!(fixture.says(), None);
        fixture.keep(&mut presence, false, AGAIN);
        assert!(fixture.says().is_some());
    }

    #[test]
    fn it_answers_each_question_once() {
        let fixture = fixture();
        let compared = Cell::new(0);
        let unfit = |service: &Manifest| {
            compared.set(compared.get() + 1);
            (service.uid == 7).then(|| "it lacks a port".to_owned())
        };
        let mut presence = Presence::new("us", POLL, &unfit);
        let ask = |uid| standby::ask(&fixture.vault, &Manifest { uid, ..Manifest::default() }).unwrap();
        let first = ask(7);
        fixture.keep(&mut presence, false, Duration::ZERO);
        assert_eq!(fixture.says().unwrap().answers, None, "nothing is about to move");
        (0..3).for_each(|_| fixture.keep(&mut presence, true, Duration::ZERO));
        let lacks = Some("it lacks a port".to_owned());
        let answer = Standby { instance: "us".into(), answers: Some(first), lacks, failed: 0, decoded: Some(0) };
        assert_eq!((fixture.says(), compared.get()), (Some(answer), 1));
        // Head is as the one left it that died.
        let second = ask(8);
        fixture.keep(&mut presence, true, POLL / 2);
        assert_eq!(fixture.says().unwrap().answers, Some(first));
        fixture.keep(&mut presence, true, POLL);
        assert_eq!(fixture.says().map(|says| (says.answers, says.lacks)), Some((Some(second), None)));
    }

    #[test]
    fn it_says_which_memory_it_has_only_while_a_service_moves() {
        let fixture = fixture();
        let mut presence = Presence::new("us", POLL, &|_| None);
        for (moving, generation, said) in [(false, 3, 0), (true, 3, 3), (false, 4, 3), (true, 4, 4)] {
            fixture.keep_with(&mut presence, moving, generation, Duration::ZERO);
            assert_eq!(fixture.says().unwrap().decoded, Some(said), "{generation}, moving: {moving}");
        }
    }

    #[test]
    fn who_could_not_restore_a_generation_says_so_until_it_is_there_again() {
        let fixture = fixture();
        leave(&fixture.vault, "us", Some(4));
        assert_eq!(fixture.says().map(|says| says.failed), Some(4));
        fixture.keep(&mut Presence::new("us", POLL, &|_| None), false, Duration::ZERO);
        assert_eq!(fixture.says().map(|says| says.failed), Some(0));
    }

    #[test]
    fn who_was_taken_for_dead_says_that_it_is_not() {
        let fixture = fixture();
        let mut presence = Presence::new("us", POLL, &|_| None);
        fixture.keep(&mut presence, true, Duration::ZERO);
        fixture.silence();
        fixture.keep(&mut presence, true, POLL / 2);
        assert_eq!(fixture.says(), None);
        fixture.keep(&mut presence, false, POLL / 2);
        assert!(fixture.says().is_some());
    }
}
