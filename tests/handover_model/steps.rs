//! What a container has to do next, and the rules that it keeps.

use freeze::image::{Hex, Lease, Manifest, Party};

/// The first owner; the standby; the one that comes later; and that one in the place of the others, which has a new name at each start.
pub const NAMES: [&str; 4] = ["source", "standby", "newcomer", "successor"];
pub const SOURCE: usize = 0;
pub const STANDBY: usize = 1;
pub const NEWCOMER: usize = 2;
pub const SUCCESSOR: usize = 3;

/// The writer of a lease before its container begins to restore, and gets a name.
pub const UNNAMED: Hex<8> = Hex([u8::MAX; 8]);

/// What becomes of a service after its commit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AfterCommit {
    Resume,
    Stop,
    HandOver,
}

/// The generation that head named when a container looked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Found {
    /// For the container that looked.
    pub lease: Lease,
    /// Who offers it, where it has no outcome.
    pub from: Option<usize>,
}

/// How far a container is. Each step but [`Step::Down`] and [`Step::Runs`] is one run of the code under test.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// Not there, or ended.
    Down,
    /// It looks what head names.
    Start,
    /// It looks whether it may restore that.
    Look(Found),
    /// It looks whether something is offered.
    Wait,
    /// It says what it is going to restore.
    Chosen(Found),
    /// It has restored it, holds the tasks, and asks for the right to let them run.
    Restored(Found),
    /// The service runs. It claims head, and marks the former owner.
    Claims(Lease, Option<usize>),
    /// The service runs.
    Runs(Lease),
    /// It commits a checkpoint. Unless the service runs on, CRIU holds the tasks, and a SIGSTOP is pending for each of them.
    Commits(AfterCommit, Lease),
    /// Head names the generation, and others may take it.
    Offered(u64, Lease),
    /// The generation may be known to others, and is taken back.
    Withdraws(AfterCommit, u64, Lease),
}

/// What a run leads to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Next {
    Go(Step),
    /// The service is ended, as this generation is another container's or is in the store.
    End(u64),
}

impl Step {
    /// Whether the tasks run.
    pub fn runs(self) -> bool {
        matches!(self, Step::Claims(..) | Step::Runs(_) | Step::Commits(AfterCommit::Resume, _))
    }

    pub fn lease(self) -> Option<Lease> {
        match self {
            Step::Down | Step::Start | Step::Wait => None,
            Step::Look(found) | Step::Chosen(found) | Step::Restored(found) => Some(found.lease),
            Step::Claims(lease, _) | Step::Runs(lease) | Step::Commits(_, lease) => Some(lease),
            Step::Offered(_, lease) | Step::Withdraws(_, _, lease) => Some(lease),
        }
    }

    /// Whether it begins to restore, and so needs a name of its own in head.
    pub fn is_unnamed(self) -> bool {
        matches!(self, Step::Chosen(_) | Step::Restored(_)) && self.lease().is_some_and(|lease| lease.writer == UNNAMED)
    }

    pub fn named(self, writer: Hex<8>) -> Self {
        let named = |found: Found| Found { lease: Lease { writer, ..found.lease }, ..found };
        match self {
            Step::Chosen(found) => Step::Chosen(named(found)),
            Step::Restored(found) => Step::Restored(named(found)),
            step => step,
        }
    }
}

pub fn party(who: usize, lease: &Lease) -> Party {
    Party { instance: NAMES[who].to_owned(), writer: lease.writer }
}

pub fn manifest(who: usize, offered: bool) -> Manifest {
    Manifest { instance: NAMES[who].to_owned(), offered, ..Manifest::default() }
}

/// The protocol; each of these true is what containers do.
#[derive(Clone, Copy)]
pub struct Rules {
    pub stop_before_commit: bool,
    pub settle_after_a_crash: bool,
    pub withdraw_before_going_on: bool,
    pub lost_reply_is_unknown: bool,
    pub replaced_after_a_lost_reply_is_unknown: bool,
    pub unknown_stays_still: bool,
    pub end_is_as_careful: bool,
    pub decide_before_running: bool,
    pub own_outcome_is_ours: bool,
    pub remember_before_restoring: bool,
    pub moved_away_is_standby: bool,
    pub what_is_new_is_looked_at: bool,
    pub newest_outcome_first: bool,
    pub withdraw_what_is_pending: bool,
    pub head_before_outcomes: bool,
    pub left_running_is_not_offered: bool,
    pub store_is_fenced: bool,
    pub newest_mark_stays: bool,
    /// The highest generation.
    pub last: u64,
    /// The highest epoch that head may have.
    pub epochs: u64,
    /// Requests under way at once, up to [`LATE`](crate::world::LATE).
    pub late: usize,
    /// The most surprises of one history: requests that are lost, late or refused, deaths, and turns in the middle of a step.
    pub surprises: u32,
}

pub const PROTOCOL: Rules = Rules {
    stop_before_commit: true,
    settle_after_a_crash: true,
    withdraw_before_going_on: true,
    lost_reply_is_unknown: true,
    replaced_after_a_lost_reply_is_unknown: true,
    unknown_stays_still: true,
    end_is_as_careful: true,
    decide_before_running: true,
    own_outcome_is_ours: true,
    remember_before_restoring: true,
    moved_away_is_standby: true,
    what_is_new_is_looked_at: true,
    newest_outcome_first: true,
    withdraw_what_is_pending: true,
    head_before_outcomes: true,
    left_running_is_not_offered: true,
    store_is_fenced: true,
    newest_mark_stays: true,
    last: 2,
    epochs: 2,
    late: 1,
    surprises: 3,
};
