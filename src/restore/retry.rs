//! Decides what follows a failed restore. Pure: knows no clock and no store.

use std::time::Duration;

use super::error::Hope;
use crate::job::OnFailure;

/// Attempts per generation, including the first.
const ATTEMPTS: u32 = 5;

#[derive(Debug)]
pub(super) struct Tries {
    policy: OnFailure,
    /// Attempts with the current generation.
    made: u32,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The same generation, after this back-off.
    Again(Duration),
    /// This generation instead.
    Earlier(u64),
    /// Start the command.
    Afresh,
    /// Give up.
    Fail,
}

impl Tries {
    pub(super) fn new(policy: OnFailure) -> Self {
        Self { policy, made: 0 }
    }

    /// What follows a failure. `able` is whether this container can try again, in time that the policy bears;
    /// `earlier` finds the generation before.
    pub(super) fn after(&mut self, hope: Hope, able: bool, earlier: impl FnOnce() -> Option<u64>) -> Next {
        self.made += 1;
        match self.policy {
            // Another process was in the way. The restore itself has not failed.
            OnFailure::Fail | OnFailure::Start if hope == Hope::FreshPids && able && self.made == 1 => {
                Next::Again(Duration::ZERO)
            }
            OnFailure::Start if hope != Hope::HasRun => Next::Afresh,
            OnFailure::Fail | OnFailure::Start => Next::Fail,
            _ if !able => Next::Fail,
            OnFailure::Retry => self.again(hope),
            OnFailure::RetryEarlier => match hope {
                Hope::OtherBytes | Hope::OtherGeneration => self.earlier(earlier()),
                Hope::Again | Hope::FreshPids => match self.again(hope) {
                    Next::Fail => self.earlier(earlier()),
                    again => again,
                },
                Hope::None | Hope::HasRun => Next::Fail,
            },
        }
    }

    fn again(&self, hope: Hope) -> Next {
        match hope {
            Hope::Again | Hope::FreshPids | Hope::OtherBytes if self.made < ATTEMPTS => {
                Next::Again(Duration::from_secs(1 << (self.made - 1)))
            }
            _ => Next::Fail,
        }
    }

    fn earlier(&mut self, earlier: Option<u64>) -> Next {
        self.made = 0;
        earlier.map_or(Next::Fail, Next::Earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOPES: [Hope; 6] =
        [Hope::Again, Hope::FreshPids, Hope::OtherBytes, Hope::OtherGeneration, Hope::None, Hope::HasRun];

    /// The steps if that many generations all fail like this.
    fn all_of(policy: OnFailure, hope: Hope, mut generations: u64) -> (Vec<Next>, Next) {
        let mut tries = Tries::new(policy);
        let mut steps = Vec::new();
        loop {
            match tries.after(hope, true, || (generations > 1).then(|| generations - 1)) {
                last @ (Next::Fail | Next::Afresh) => return (steps, last),
                step => {
                    if let Next::Earlier(generation) = step {
                        generations = generation;
                    }
                    steps.push(step);
                }
            }
        }
    }

    fn pauses() -> Vec<Next> {
        [1, 2, 4, 8].map(Duration::from_secs).map(Next::Again).to_vec()
    }

    #[test]
    fn one_generation_gets_five_attempts() {
        assert_eq!(all_of(OnFailure::Retry, Hope::Again, 3), (pauses(), Next::Fail));
        assert_eq!(all_of(OnFailure::Retry, Hope::OtherGeneration, 3), (vec![], Next::Fail));
    }

    #[test]
    fn earlier_ones_follow_down_to_the_first() {
        let steps = vec![Next::Earlier(2), Next::Earlier(1)];
        assert_eq!(all_of(OnFailure::RetryEarlier, Hope::OtherBytes, 3), (steps, Next::Fail));
        let steps = [pauses(), vec![Next::Earlier(1)], pauses()].concat();
        assert_eq!(all_of(OnFailure::RetryEarlier, Hope::Again, 2), (steps, Next::Fail));
    }

    #[test]
    fn a_pid_that_was_taken_gets_one_more_attempt_at_once_under_every_policy() {
        for (policy, last) in [(OnFailure::Fail, Next::Fail), (OnFailure::Start, Next::Afresh)] {
            assert_eq!(all_of(policy, Hope::FreshPids, 3), (vec![Next::Again(Duration::ZERO)], last));
            assert_eq!(Tries::new(policy).after(Hope::FreshPids, false, || None), last);
        }
        assert_eq!(all_of(OnFailure::Retry, Hope::FreshPids, 3), (pauses(), Next::Fail));
    }

    #[test]
    fn the_command_is_started_only_where_that_is_asked_for_and_never_beside_what_has_run() {
        for hope in HOPES {
            let afresh = all_of(OnFailure::Start, hope, 3).1 == Next::Afresh;
            assert_eq!(afresh, hope != Hope::HasRun, "{hope:?}");
            for policy in [OnFailure::Fail, OnFailure::Retry, OnFailure::RetryEarlier] {
                assert_eq!(all_of(policy, hope, 3).1, Next::Fail, "{policy:?} {hope:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_container_without_pids_does_not_try_again(hope in prop::sample::select(&HOPES[..]), policy in 0..4usize) {
            let policy = [OnFailure::Fail, OnFailure::Start, OnFailure::Retry, OnFailure::RetryEarlier][policy];
            prop_assert!(matches!(Tries::new(policy).after(hope, false, || Some(1)), Next::Fail | Next::Afresh));
        }
    }
}
