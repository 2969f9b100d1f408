//! What there is: containers, a store, and what is under way between them.

/// The first owner; the standby; the one that comes later.
pub const NAMES: [&str; 3] = ["source", "standby", "newcomer"];
pub const STANDBY: usize = 1;
pub const NEWCOMER: usize = 2;
/// There is generation 1 at first, whose service runs. It may stand for an empty store as well.
pub const LAST: u8 = 3;

/// What becomes of a service after its commit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fate {
    End,
    Handover,
}

/// How far a container is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// Not there, or ended.
    Down,
    /// It has begun, and looks at head.
    Start,
    /// It looks whether its service has moved away, and whether the generation that head named is offered.
    Look(u8),
    /// It makes sure that no later one can come.
    Secure(u8),
    /// It waits for one that is offered.
    Wait,
    /// It has restored one, whose tasks wait to be let go; `open` if that had no outcome.
    Restored { generation: u8, open: bool },
    /// It has taken that one.
    Won,
    /// The service runs.
    Runs,
    /// CRIU holds the tasks, and a SIGSTOP is pending for each of them.
    Stopped(Fate),
    /// The manifest is written.
    Proposed(Fate, u8),
    /// Head names it.
    Offered(u8),
    /// It may be known to others and is taken back.
    Withdraws(Fate, u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Container {
    pub step: Step,
    /// Tasks run although nobody has let them.
    pub loose: bool,
    /// Head is as this container found or wrote it.
    pub lease: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    Taken(u8),
    Withdrawn(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Manifest {
    pub by: u8,
    pub offered: bool,
}

/// A request that the store may yet carry out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Late {
    /// Only as long as head is what it was. `alive`: whoever sent it was not started again since.
    Head {
        by: u8,
        generation: u8,
        alive: bool,
    },
    Taken {
        by: u8,
        generation: u8,
    },
    Withdrawn {
        by: u8,
        generation: u8,
    },
}

/// At most so many are under way at once.
pub const LATE: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub containers: [Container; 3],
    pub head: u8,
    pub owner: u8,
    /// Of generations 2 and later.
    pub manifests: [Option<Manifest>; 2],
    pub outcomes: [Option<Outcome>; 2],
    /// Bits of those that said, before they restored it, that they have it only if its outcome says so.
    pub losers: [u8; 2],
    pub late: [Option<Late>; LATE],
    /// The newcomer has the place of the others, which do not come back.
    pub replaced: bool,
    /// The newcomer has restored something, and is started again whatever became of that.
    pub tried: bool,
    /// A copy was ended whose generation head did not name.
    pub lost: bool,
}

/// The protocol; each of these true is what the code does.
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
    /// The highest generation, up to [`LAST`].
    pub last: usize,
    /// Requests under way at once, up to [`LATE`].
    pub late: usize,
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
    last: 2,
    late: 2,
};

/// What happened, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub who: usize,
    pub what: &'static str,
    /// Nothing that must happen for the service to be there in the end.
    pub fault: bool,
}

impl State {
    pub fn first() -> Self {
        let down = Container { step: Step::Down, loose: false, lease: false };
        let runs = Container { step: Step::Runs, loose: false, lease: true };
        State {
            containers: [runs, Container { step: Step::Wait, ..down }, down],
            head: 1,
            owner: 0,
            manifests: [None; 2],
            outcomes: [None; 2],
            losers: [0; 2],
            late: [None; LATE],
            replaced: false,
            tried: false,
            lost: false,
        }
    }

    pub fn running(&self) -> usize {
        self.containers.iter().filter(|one| one.step == Step::Runs || one.loose).count()
    }

    pub fn manifest(&self, generation: u8) -> Option<Manifest> {
        (generation >= 2).then(|| self.manifests[usize::from(generation) - 2]).flatten()
    }

    pub fn outcome(&self, generation: u8) -> Option<Outcome> {
        (generation >= 2).then(|| self.outcomes[usize::from(generation) - 2]).flatten()
    }

    /// The index of the next generation's manifest.
    pub fn free(&self, rules: &Rules) -> Option<usize> {
        self.manifests[..rules.last - 1].iter().position(Option::is_none)
    }

    pub fn is_open(&self, generation: u8) -> bool {
        self.manifest(generation).is_some_and(|manifest| manifest.offered) && self.outcome(generation).is_none()
    }

    pub fn to(mut self, who: usize, step: Step) -> Self {
        self.containers[who].step = step;
        self
    }

    /// The create-once put of an outcome.
    pub fn decide(&mut self, generation: u8, wanted: Outcome, rules: &Rules) -> Outcome {
        let outcome = &mut self.outcomes[usize::from(generation) - 2];
        if rules.store_is_fenced { *outcome.get_or_insert(wanted) } else { *outcome.insert(wanted) }
    }

    /// The conditional put of head: whatever else was under way to it comes to nothing.
    pub fn put_head(&mut self, by: usize, generation: u8, alive: bool) {
        (self.head, self.owner) = (generation, by as u8);
        for (who, container) in self.containers.iter_mut().enumerate() {
            container.lease &= who == by && alive;
        }
        self.late = self.late.map(|late| late.filter(|late| !matches!(late, Late::Head { .. })));
        self.late.sort();
    }

    pub fn later(mut self, request: Late, rules: &Rules) -> Option<Self> {
        if !self.late.contains(&Some(request)) {
            *self.late[LATE - rules.late..].iter_mut().find(|late| late.is_none())? = Some(request);
            self.late.sort();
        }
        Some(self)
    }

    /// The container, its worker and its tasks are gone; their requests are not.
    pub fn down(mut self, who: usize) -> Self {
        self.containers[who] = Container { step: Step::Down, loose: false, lease: false };
        for late in self.late.iter_mut().flatten() {
            if let Late::Head { by, alive, .. } = late {
                *alive &= usize::from(*by) != who;
            }
        }
        self.late.sort();
        self
    }

    /// The source ends its copy.
    pub fn end(mut self, who: usize, generation: u8) -> Self {
        self.lost |= self.head < generation;
        self.down(who)
    }
}
