//! Decides who has the service from the commit on.
//!
//! Once head may name a generation, another container may take it, and only `outcomes/N` tells whether one
//! has. The service stands still until that is known, however long it takes. Never resumes or ends the
//! service on a guess.

use std::time::{Duration, Instant};

use super::Standbys;
use crate::image::{self, ImageError, Lease, Outcome, Party, Vault};
use crate::job::Common;
use crate::job::reporter::Reporter;

/// Longest wait, so that sums of times cannot overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// Interval of looks at the store. It delays no service: after a take the other container already runs it.
const LOOK: Duration = Duration::from_millis(100);
/// Interval of looks at what the standbys say.
const ASK: Duration = Duration::from_secs(1);
/// Pause before an operation on the store is repeated.
const RETRY: Duration = Duration::from_secs(1);
/// Interval of warnings about a store that does not answer.
const COMPLAINT: Duration = Duration::from_secs(60);

/// A generation that other containers may take.
pub struct Offer<'a> {
    pub vault: &'a Vault,
    pub generation: u64,
    /// Outcome that takes it back.
    pub withdrawal: Outcome,
    /// Who ends the wait by a failure.
    pub standbys: &'a Standbys,
}

impl Offer<'_> {
    /// Waits until another container has taken the generation. Takes it back after `time`, when init orders it, or
    /// when the standbys have failed. Repeats that until the store answers. Returns the container that took it; none if it was
    /// taken back.
    pub fn settle(&self, time: Duration, reporter: &Reporter) -> Option<String> {
        let until = Instant::now() + time.min(LONGEST);
        let mut complaints = Complaints::new(self.generation, reporter);
        let mut asked = Instant::now();
        while Instant::now() < until && !reporter.is_withdrawn_within(Duration::ZERO) {
            match image::look(self.vault, self.generation) {
                Ok(Some(outcome)) => return self.taken_by(outcome, reporter),
                Ok(None) => {}
                Err(error) => complaints.add(&error),
            }
            if asked.elapsed() >= ASK {
                asked = Instant::now();
                if self.standbys.who_failed(self.vault, self.generation).is_some() {
                    break;
                }
            }
            reporter.is_withdrawn_within(LOOK.min(until.saturating_duration_since(Instant::now())));
        }
        let outcome = complaints.until_done(|| image::decide(self.vault, self.generation, &self.withdrawal));
        self.taken_by(outcome, reporter)
    }

    /// Records for the next start of this container that its service has moved away.
    fn taken_by(&self, outcome: Outcome, reporter: &Reporter) -> Option<String> {
        let (Outcome::Withdrawn { by: own } | Outcome::Taken { by: own, .. }) = &self.withdrawal;
        let Outcome::Taken { by, .. } = outcome else { return None };
        if by.instance == own.instance {
            reporter.warn(format!(
                "the container that took generation {} has the same name as this one ({}): if this container starts \
                 again, the service runs twice. Do not start it again before each container has its own --instance \
                 name",
                self.generation, own.instance
            ));
        } else {
            // A failure is harmless: the outcome says the same.
            let _ = image::mark_lost(self.vault, self.generation, &own.instance);
        }
        Some(by.instance)
    }
}

/// The outcome by which this container takes a generation back.
pub fn withdrawal(common: &Common, lease: &Lease) -> Outcome {
    Outcome::Withdrawn { by: Party { instance: common.instance.clone(), writer: lease.writer } }
}

/// Rate-limited warnings about a store that does not answer.
pub struct Complaints<'a> {
    generation: u64,
    reporter: &'a Reporter,
    last: Option<Instant>,
}

impl<'a> Complaints<'a> {
    pub fn new(generation: u64, reporter: &'a Reporter) -> Self {
        Self { generation, reporter, last: None }
    }

    /// Repeats `what` until it succeeds.
    pub fn until_done<T>(&mut self, mut what: impl FnMut() -> image::Result<T>) -> T {
        loop {
            match what() {
                Ok(done) => return done,
                Err(error) => self.add(&error),
            }
            std::thread::sleep(RETRY);
        }
    }

    fn add(&mut self, error: &ImageError) {
        if self.last.is_none_or(|last| last.elapsed() >= COMPLAINT) {
            self.last = Some(Instant::now());
            self.reporter.warn(format!(
                "{error}. Another container may have taken generation {}, so the service stays frozen until the store \
                 answers",
                self.generation
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::sync::LazyLock;
    use std::thread;

    use super::*;
    use crate::image::{Hex, test_vault};
    use crate::job::Order;

    const LONG: Duration = Duration::from_secs(3600);

    fn party(name: &str) -> Party {
        Party { instance: name.to_owned(), writer: Hex([1; 8]) }
    }

    fn offer(vault: &Vault) -> Offer<'_> {
        static NONE: LazyLock<Standbys> = LazyLock::new(Standbys::default);
        Offer { vault, generation: 7, withdrawal: Outcome::Withdrawn { by: party("source") }, standbys: &NONE }
    }

    fn take(vault: &Vault) -> Outcome {
        let wanted = Outcome::Taken { by: party("target"), from: "source".to_owned() };
        image::decide(vault, 7, &wanted).unwrap()
    }

    #[test]
    fn who_takes_it_in_time_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let (reporter, _init) = Reporter::pair();
        let taken = thread::scope(|scope| {
            scope.spawn(|| take(&vault));
            offer(&vault).settle(LONG, &reporter)
        });
        assert_eq!(taken.as_deref(), Some("target"));
        assert_eq!(offer(&vault).settle(Duration::ZERO, &reporter).as_deref(), Some("target"), "and keeps it");
        let lost = image::records(&**vault.store()).unwrap().into_iter().filter(|record| record.lost.is_some()).count();
        assert_eq!(lost, 1, "the source says that it has it no more");
    }

    #[test]
    fn a_taker_of_the_same_name_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let wanted = Outcome::Taken { by: party("source"), from: "source".to_owned() };
        image::decide(&vault, 7, &wanted).unwrap();
        let (reporter, init) = Reporter::pair();
        assert_eq!(offer(&vault).settle(LONG, &reporter).as_deref(), Some("source"));
        let mut warning = String::new();
        BufReader::new(init).read_line(&mut warning).unwrap();
        assert!(warning.contains("--instance") && warning.contains("source"), "{warning}");
    }

    #[test]
    fn it_is_taken_back_when_the_time_is_over_or_init_says_so() {
        for (time, order) in [(Duration::ZERO, false), (Duration::from_millis(150), false), (LONG, true)] {
            let folder = tempfile::tempdir().unwrap();
            let vault = test_vault(folder.path());
            let (reporter, mut init) = Reporter::pair();
            if order {
                let text = serde_json::to_string(&Order::Withdraw).unwrap();
                init.write_all(format!("{text}\n").as_bytes()).unwrap();
            }
            assert_eq!(offer(&vault).settle(time, &reporter), None);
            assert_eq!(take(&vault), offer(&vault).withdrawal, "nobody can take it any more");
        }
    }

    #[test]
    fn what_cannot_be_known_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let object = folder.path().join("outcomes/7");
        std::fs::create_dir_all(object.parent().unwrap()).unwrap();
        std::fs::write(&object, "damaged").unwrap();
        let (reporter, init) = Reporter::pair();
        let taken = thread::scope(|scope| {
            let vault = &vault;
            let source = scope.spawn(move || offer(vault).settle(Duration::ZERO, &reporter));
            let mut warning = String::new();
            BufReader::new(init).read_line(&mut warning).unwrap();
            assert!(warning.contains("outcomes/7") && warning.contains("stays frozen"), "{warning}");
            assert!(!source.is_finished());
            std::fs::remove_file(&object).unwrap();
            source.join().unwrap()
        });
        assert_eq!(taken, None);
    }
}
