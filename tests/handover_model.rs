//! The protocol of handing a service over, searched through in every order of events: three containers, a store whose replies get
//! lost and whose requests arrive late, and the death of anything at any time.
//!
//! One container has the service at first, one is a standby, and one is started when the orchestrator likes: as a target, or
//! in the place of the others once they are dead for good. Each may give the service away, three generations long. A worker,
//! CRIU or container may die at any step. Every request may be carried out and answered, carried out without a reply, arrive
//! late, or never: a partition is that all of them get lost for a while.
//!
//! - **Never two**: at most one copy's tasks are not stopped.
//! - **Never none**: no copy is ended before head names its generation; and from every state on, if nothing more fails and
//!   containers that ended are started again, a copy runs in the end.
//!
//! Each rule of the protocol is then broken once, and the search must find what that leads to.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// The first owner; the standby; the one that comes later.
const NAMES: [&str; 3] = ["source", "standby", "newcomer"];
const STANDBY: usize = 1;
const NEWCOMER: usize = 2;
/// There is generation 1 at first, whose service runs. It may stand for an empty store as well.
const LAST: u8 = 3;

/// What becomes of a service after its commit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Fate {
    End,
    Handover,
}

/// How far a container is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Step {
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
struct Container {
    step: Step,
    /// Tasks run although nobody has let them.
    loose: bool,
    /// Head is as this container found or wrote it.
    lease: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Outcome {
    Taken(u8),
    Withdrawn(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Manifest {
    by: u8,
    offered: bool,
}

/// A request that the store may yet carry out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Late {
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
const LATE: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct State {
    containers: [Container; 3],
    head: u8,
    owner: u8,
    /// Of generations 2 and later.
    manifests: [Option<Manifest>; 2],
    outcomes: [Option<Outcome>; 2],
    /// Bits of those that lost a race for it and said so.
    losers: [u8; 2],
    late: [Option<Late>; LATE],
    /// The newcomer has the place of the others, which do not come back.
    replaced: bool,
    /// A copy was ended whose generation head did not name.
    lost: bool,
}

/// The protocol; each of these true is what the code does.
#[derive(Clone, Copy)]
struct Rules {
    stop_before_commit: bool,
    settle_after_a_crash: bool,
    withdraw_before_going_on: bool,
    lost_reply_is_unknown: bool,
    replaced_after_a_lost_reply_is_unknown: bool,
    unknown_stays_still: bool,
    end_is_as_careful: bool,
    decide_before_running: bool,
    own_outcome_is_ours: bool,
    moved_away_is_standby: bool,
    newest_outcome_first: bool,
    withdraw_what_is_pending: bool,
    head_before_outcomes: bool,
    left_running_is_not_offered: bool,
    store_is_fenced: bool,
    /// The highest generation, up to [`LAST`].
    last: usize,
    /// Requests under way at once, up to [`LATE`].
    late: usize,
}

const PROTOCOL: Rules = Rules {
    stop_before_commit: true,
    settle_after_a_crash: true,
    withdraw_before_going_on: true,
    lost_reply_is_unknown: true,
    replaced_after_a_lost_reply_is_unknown: true,
    unknown_stays_still: true,
    end_is_as_careful: true,
    decide_before_running: true,
    own_outcome_is_ours: true,
    moved_away_is_standby: true,
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
struct Event {
    who: usize,
    what: &'static str,
    /// Nothing that must happen for the service to be there in the end.
    fault: bool,
}

impl State {
    fn first() -> Self {
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
            lost: false,
        }
    }

    fn running(&self) -> usize {
        self.containers.iter().filter(|one| one.step == Step::Runs || one.loose).count()
    }

    fn manifest(&self, generation: u8) -> Option<Manifest> {
        (generation >= 2).then(|| self.manifests[usize::from(generation) - 2]).flatten()
    }

    fn outcome(&self, generation: u8) -> Option<Outcome> {
        (generation >= 2).then(|| self.outcomes[usize::from(generation) - 2]).flatten()
    }

    /// The index of the next generation's manifest.
    fn free(&self, rules: &Rules) -> Option<usize> {
        self.manifests[..rules.last - 1].iter().position(Option::is_none)
    }

    fn is_open(&self, generation: u8) -> bool {
        self.manifest(generation).is_some_and(|manifest| manifest.offered) && self.outcome(generation).is_none()
    }

    fn to(mut self, who: usize, step: Step) -> Self {
        self.containers[who].step = step;
        self
    }

    /// The create-once put of an outcome.
    fn decide(&mut self, generation: u8, wanted: Outcome, rules: &Rules) -> Outcome {
        let outcome = &mut self.outcomes[usize::from(generation) - 2];
        if rules.store_is_fenced { *outcome.get_or_insert(wanted) } else { *outcome.insert(wanted) }
    }

    /// The conditional put of head: whatever else was under way to it comes to nothing.
    fn put_head(&mut self, by: usize, generation: u8, alive: bool) {
        (self.head, self.owner) = (generation, by as u8);
        for (who, container) in self.containers.iter_mut().enumerate() {
            container.lease &= who == by && alive;
        }
        self.late = self.late.map(|late| late.filter(|late| !matches!(late, Late::Head { .. })));
        self.late.sort();
    }

    fn later(mut self, request: Late, rules: &Rules) -> Option<Self> {
        if !self.late.contains(&Some(request)) {
            *self.late[LATE - rules.late..].iter_mut().find(|late| late.is_none())? = Some(request);
            self.late.sort();
        }
        Some(self)
    }

    /// The container, its worker and its tasks are gone; their requests are not.
    fn down(mut self, who: usize) -> Self {
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
    fn end(mut self, who: usize, generation: u8) -> Self {
        self.lost |= self.head < generation;
        self.down(who)
    }

    /// What the outcomes say to a container that starts: its service has moved away, or it is its own; nothing otherwise.
    fn has_moved(&self, who: usize, rules: &Rules) -> Option<bool> {
        let us = who as u8;
        if self.replaced {
            // It comes by another name each time, so nothing concerns it.
            return None;
        }
        let concerns = |generation: u8| {
            let from = self.manifest(generation).map(|manifest| manifest.by);
            let lost = self.losers[usize::from(generation) - 2] & 1 << us != 0;
            match self.outcome(generation)? {
                Outcome::Taken(by) | Outcome::Withdrawn(by) if by == us => Some(lost),
                Outcome::Taken(_) if from == Some(us) => Some(rules.moved_away_is_standby),
                _ => lost.then_some(true),
            }
        };
        let mut generations: Vec<u8> = (2..=LAST).collect();
        if rules.newest_outcome_first {
            generations.reverse();
        }
        generations.into_iter().find_map(concerns)
    }

    /// Every event that is possible now, with the state after it.
    fn events(&self, rules: &Rules) -> Vec<(Event, State)> {
        let mut found = Vec::new();
        for who in 0..3 {
            let mut add = |fault: bool, what, state: State| found.push((Event { who, what, fault }, state));
            self.of_container(who, rules, &mut add);
            if self.containers[who].step != Step::Down {
                add(true, "the container dies", self.down(who));
            }
        }
        for index in 0..LATE {
            let Some(request) = self.late[index] else { continue };
            let mut gone = *self;
            gone.late[index] = None;
            gone.late.sort();
            let mut done = gone;
            let by = match request {
                Late::Head { by, generation, alive } => {
                    done.put_head(by.into(), generation, alive);
                    by
                }
                Late::Taken { by, generation } => {
                    done.decide(generation, Outcome::Taken(by), rules);
                    by
                }
                Late::Withdrawn { by, generation } => {
                    done.decide(generation, Outcome::Withdrawn(by), rules);
                    by
                }
            };
            let event = |what| Event { who: by.into(), what, fault: false };
            found.push((event("a late request is carried out"), done));
            found.push((event("a late request is lost"), gone));
        }
        found
    }

    fn of_container(&self, who: usize, rules: &Rules, add: &mut impl FnMut(bool, &'static str, State)) {
        let us = who as u8;
        match self.containers[who].step {
            Step::Down => {
                let next = self.to(who, Step::Start);
                if !self.replaced || who == NEWCOMER {
                    add(false, "starts", next);
                }
                let all_down = self.containers.iter().all(|one| one.step == Step::Down);
                if who == NEWCOMER && all_down && !self.replaced {
                    // That somebody has to do this is no part of a service that comes back by itself.
                    add(true, "starts in the place of the others", State { replaced: true, ..next });
                }
            }
            Step::Start if rules.head_before_outcomes => {
                let mut next = self.to(who, Step::Look(self.head));
                next.containers[who].lease = true;
                add(false, "looks at head", next);
            }
            Step::Start => match self.has_moved(who, rules) {
                Some(true) => add(false, "sees that its service has moved away", self.to(who, Step::Wait)),
                _ => add(false, "looks at outcomes", self.to(who, Step::Look(0))),
            },
            Step::Look(head) => self.look(who, head, rules, add),
            Step::Secure(head) => self.secure(who, head, rules, add),
            Step::Wait => {
                let decided =
                    matches!(self.outcome(self.head), Some(Outcome::Taken(by) | Outcome::Withdrawn(by)) if by == us);
                let ours = rules.own_outcome_is_ours && decided;
                if self.is_open(self.head) || ours {
                    let mut next = self.to(who, Step::Restored { generation: self.head, open: !ours });
                    next.containers[who].lease = true;
                    add(false, "restores what is offered", next);
                }
            }
            Step::Restored { generation, open } => self.restored(who, generation, open, rules, add),
            Step::Won => add(false, "lets the tasks go", self.to(who, Step::Runs)),
            Step::Runs => self.runs(who, rules, add),
            Step::Stopped(fate) => {
                add(true, "the worker dies", self.to(who, Step::Runs));
                add(true, "the manifest cannot be written", self.to(who, Step::Runs));
                if let Some(free) = self.free(rules) {
                    let mut next = self.to(who, Step::Proposed(fate, free as u8 + 2));
                    next.manifests[free] = Some(Manifest { by: us, offered: true });
                    add(false, "writes the manifest", next);
                }
            }
            Step::Proposed(fate, generation) => self.proposed(who, fate, generation, rules, add),
            Step::Offered(generation) => {
                self.faults_while_still(who, Fate::Handover, generation, rules, add);
                match self.outcome(generation) {
                    Some(Outcome::Taken(_)) => add(false, "sees that it was taken", self.end(who, generation)),
                    Some(Outcome::Withdrawn(_)) => add(false, "sees that it was withdrawn", self.to(who, Step::Runs)),
                    None if rules.withdraw_before_going_on => {
                        add(false, "has waited long enough", self.to(who, Step::Withdraws(Fate::Handover, generation)));
                    }
                    None => add(false, "has waited long enough and goes on", self.to(who, Step::Runs)),
                }
            }
            Step::Withdraws(fate, generation) => self.withdraws(who, fate, generation, rules, add),
        }
    }

    fn look(&self, who: usize, head: u8, rules: &Rules, add: &mut impl FnMut(bool, &'static str, State)) {
        let moved = match rules.head_before_outcomes {
            true => self.has_moved(who, rules),
            false => (who != NEWCOMER).then_some(false),
        };
        let mut next = *self;
        next.containers[who].lease |= !rules.head_before_outcomes;
        let head = if rules.head_before_outcomes { head } else { self.head };
        if moved == Some(true) {
            add(false, "sees that its service has moved away", self.to(who, Step::Wait));
        } else if moved.is_none() && who == STANDBY {
            add(false, "is a standby", self.to(who, Step::Wait));
        } else if self.is_open(head) {
            add(false, "restores what is offered", next.to(who, Step::Restored { generation: head, open: true }));
        } else if who == NEWCOMER && !self.replaced && moved.is_none() {
            // The one that had it may be alive, and who starts a container for it all the same has to know.
            add(false, "finds nothing that is for it", self.down(who));
        } else {
            add(false, "finds what was its own", next.to(who, Step::Secure(head)));
        }
    }

    /// Takes back what was proposed after the generation that it is going to restore: a put of head may be under way still.
    fn secure(&self, who: usize, head: u8, rules: &Rules, add: &mut impl FnMut(bool, &'static str, State)) {
        let us = who as u8;
        let withdrawn = |generation| matches!(self.outcome(generation), Some(Outcome::Withdrawn(_)));
        let offered = |generation| self.manifest(generation).is_some_and(|manifest| manifest.offered);
        let pending = (head + 1..=LAST).find(|generation| offered(*generation) && !withdrawn(*generation));
        let Some(generation) = pending.filter(|_| rules.withdraw_what_is_pending) else {
            add(false, "restores", self.to(who, Step::Restored { generation: head, open: false }));
            return;
        };
        let mut done = *self;
        match done.decide(generation, Outcome::Withdrawn(us), rules) {
            Outcome::Withdrawn(_) => add(false, "withdraws what may yet be committed", done),
            Outcome::Taken(_) => add(false, "finds it taken and begins anew", done.to(who, Step::Start)),
        }
        add(true, "gets no reply to its withdrawal", done);
        if let Some(late) = self.later(Late::Withdrawn { by: us, generation }, rules) {
            add(true, "its withdrawal is late", late);
        }
    }

    fn restored(
        &self,
        who: usize,
        generation: u8,
        open: bool,
        rules: &Rules,
        add: &mut impl FnMut(bool, &'static str, State),
    ) {
        let us = who as u8;
        if !open || !rules.decide_before_running {
            add(false, "lets the tasks go", self.to(who, Step::Runs));
            return;
        }
        let mut done = *self;
        let ours = match done.decide(generation, Outcome::Taken(us), rules) {
            Outcome::Taken(by) => by == us,
            Outcome::Withdrawn(by) => by == us && rules.own_outcome_is_ours,
        };
        if ours {
            add(false, "takes it", done.to(who, Step::Won));
        } else {
            let mut said = done;
            said.losers[usize::from(generation) - 2] |= 1 << us;
            add(false, "was too late, and says so", said.down(who));
            add(true, "was too late", done.down(who));
        }
        // What it does then is the same whether it is started again or waits on.
        let mut unknown = |what, state: State| {
            add(true, what, state.down(who));
            if who == STANDBY {
                add(true, what, state.down(who).to(who, Step::Wait));
            }
        };
        unknown("gets no reply to its take", done);
        if let Some(late) = self.later(Late::Taken { by: us, generation }, rules) {
            unknown("its take is late", late);
        }
    }

    fn runs(&self, who: usize, rules: &Rules, add: &mut impl FnMut(bool, &'static str, State)) {
        let us = who as u8;
        let ours = self.containers[who];
        // Whoever was replaced changes nothing.
        if !ours.lease {
            return;
        }
        if self.owner != us {
            let mut next = *self;
            if let Some(late) = next.later(Late::Head { by: us, generation: self.head, alive: true }, rules) {
                add(true, "its claim is late", late);
            }
            next.put_head(who, self.head, true);
            add(false, "claims head", next);
        }
        let Some(free) = self.free(rules) else { return };
        for fate in [Fate::End, Fate::Handover] {
            let what = if fate == Fate::End { "is to be checkpointed and end" } else { "is to be handed over" };
            add(false, what, self.to(who, Step::Stopped(fate)));
        }
        let generation = free as u8 + 2;
        let mut next = *self;
        next.manifests[free] = Some(Manifest { by: us, offered: !rules.left_running_is_not_offered });
        if let Some(late) = next.later(Late::Head { by: us, generation, alive: true }, rules) {
            add(true, "the commit of a checkpoint beside it is late", late);
        }
        next.put_head(who, generation, true);
        add(false, "commits a checkpoint and runs on", next);
    }

    /// A worker or CRIU dies while nobody knows who has the service.
    fn faults_while_still(
        &self,
        who: usize,
        fate: Fate,
        generation: u8,
        rules: &Rules,
        add: &mut impl FnMut(bool, &'static str, State),
    ) {
        let careful = rules.end_is_as_careful || fate == Fate::Handover;
        let mut next = *self;
        next.containers[who].loose = !rules.stop_before_commit || !careful;
        add(true, "CRIU dies", next);
        let settles = rules.settle_after_a_crash && careful;
        let step = if settles { Step::Withdraws(fate, generation) } else { Step::Runs };
        add(true, "the worker dies", next.to(who, step));
    }

    fn proposed(
        &self,
        who: usize,
        fate: Fate,
        generation: u8,
        rules: &Rules,
        add: &mut impl FnMut(bool, &'static str, State),
    ) {
        self.faults_while_still(who, fate, generation, rules, add);
        if !self.containers[who].lease {
            add(false, "was replaced by another container", self.to(who, Step::Runs));
            return;
        }
        let unknown = if rules.lost_reply_is_unknown { Step::Withdraws(fate, generation) } else { Step::Runs };
        if let Some(late) = self.later(Late::Head { by: who as u8, generation, alive: true }, rules) {
            add(true, "its commit is late", late.to(who, unknown));
        }
        let mut next = *self;
        next.put_head(who, generation, true);
        add(true, "gets no reply to its commit", next.to(who, unknown));
        match fate {
            Fate::End => add(false, "commits and ends", next.end(who, generation)),
            Fate::Handover => add(false, "commits", next.to(who, Step::Offered(generation))),
        }
    }

    fn withdraws(
        &self,
        who: usize,
        fate: Fate,
        generation: u8,
        rules: &Rules,
        add: &mut impl FnMut(bool, &'static str, State),
    ) {
        let us = who as u8;
        self.faults_while_still(who, fate, generation, rules, add);
        let mut done = *self;
        match done.decide(generation, Outcome::Withdrawn(us), rules) {
            Outcome::Withdrawn(_) => add(false, "takes it back", done.to(who, Step::Runs)),
            Outcome::Taken(_) => add(false, "learns that it was taken", done.end(who, generation)),
        }
        add(true, "gets no reply to its withdrawal", done);
        if let Some(late) = self.later(Late::Withdrawn { by: us, generation }, rules) {
            add(true, "its withdrawal is late", late);
        }
        if !rules.unknown_stays_still {
            add(true, "ends, not knowing", self.end(who, generation));
        }
        if !rules.end_is_as_careful && fate == Fate::End {
            add(true, "the store does not answer, so it goes on", self.to(who, Step::Runs));
        }
        if !rules.replaced_after_a_lost_reply_is_unknown && self.head >= generation && self.owner != us {
            add(false, "was replaced by another container", self.to(who, Step::Runs));
        }
    }
}

/// What a search found.
struct Found {
    states: usize,
    steps: usize,
    /// What is wrong, and the events that lead there.
    wrong: Option<(&'static str, Vec<String>)>,
}

/// Enough for states, and fast without optimization.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }
    fn write_u8(&mut self, byte: u8) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(byte)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    fn write_isize(&mut self, number: isize) {
        self.write_u8(number as u8);
    }
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }
}

fn search(rules: &Rules) -> Found {
    let mut number: HashMap<State, u32, BuildHasherDefault<Mix>> = HashMap::default();
    number.insert(State::first(), 0);
    let mut states = vec![(State::first(), None)];
    let mut backward: Vec<Vec<u32>> = vec![Vec::new()];
    let mut queue = VecDeque::from([0]);
    let mut steps = 0;
    let path = |states: &[(State, Option<(u32, Event)>)], mut at: usize| {
        let mut events = Vec::new();
        while let Some((before, Event { who, what, .. })) = states[at].1 {
            events.push(format!("{}: {what}", NAMES[who]));
            at = before as usize;
        }
        events.reverse();
        events
    };
    while let Some(at) = queue.pop_front() {
        let state = states[at as usize].0;
        let wrong = if state.running() > 1 {
            Some("two copies run")
        } else if state.lost {
            Some("a copy was ended that was not committed")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            return Found { states: states.len(), steps, wrong: Some((wrong, path(&states, at as usize))) };
        }
        for (event, next) in state.events(rules) {
            steps += 1;
            let index = *number.entry(next).or_insert_with(|| {
                states.push((next, Some((at, event))));
                backward.push(Vec::new());
                queue.push_back(states.len() as u32 - 1);
                states.len() as u32 - 1
            });
            if !event.fault {
                backward[index as usize].push(at);
            }
        }
    }
    // From where does a copy run in the end?
    let mut good: Vec<bool> = states.iter().map(|(state, _)| state.running() == 1).collect();
    let mut queue: Vec<usize> = (0..states.len()).filter(|index| good[*index]).collect();
    while let Some(at) = queue.pop() {
        for before in &backward[at] {
            if !std::mem::replace(&mut good[*before as usize], true) {
                queue.push(*before as usize);
            }
        }
    }
    let stuck = good.iter().position(|good| !good);
    Found { states: states.len(), steps, wrong: stuck.map(|at| ("no copy ever runs again", path(&states, at))) }
}

#[test]
fn there_is_never_more_than_one_copy_and_never_none_for_good() {
    // Without optimization the last takes minutes.
    let sizes = [(2, 2), (3, 0), (3, 1)];
    for (last, late) in &sizes[..if cfg!(debug_assertions) { 2 } else { 3 }] {
        let found = search(&Rules { last: *last, late: *late, ..PROTOCOL });
        let (states, steps) = (found.states, found.steps);
        println!("generations up to {last}, requests late at once {late}: {states} states, {steps} steps");
        assert!(found.wrong.is_none(), "{:#?}", found.wrong);
        assert!(states > 50_000);
    }
}

/// Breaks one rule and returns what that leads to.
fn without(what: &str, break_it: impl Fn(&mut Rules)) -> &'static str {
    let mut rules = PROTOCOL;
    break_it(&mut rules);
    let (wrong, events) = search(&rules).wrong.unwrap_or_else(|| panic!("nothing is wrong without {what}"));
    println!("without {what}: {wrong}\n  {}", events.join("\n  "));
    wrong
}

const TWO: &str = "two copies run";

#[test]
fn a_source_that_breaks_a_rule_makes_two_copies() {
    assert_eq!(without("stopping first", |rules| rules.stop_before_commit = false), TWO);
    assert_eq!(without("settling after a crash", |rules| rules.settle_after_a_crash = false), TWO);
    assert_eq!(without("withdrawing", |rules| rules.withdraw_before_going_on = false), TWO);
    assert_eq!(without("doubting a lost reply", |rules| rules.lost_reply_is_unknown = false), TWO);
    let doubt = |rules: &mut Rules| rules.replaced_after_a_lost_reply_is_unknown = false;
    assert_eq!(without("doubting a late refusal", doubt), TWO);
    assert_eq!(without("the same care at the end", |rules| rules.end_is_as_careful = false), TWO);
    assert_eq!(without("leaving alone what runs on", |rules| rules.left_running_is_not_offered = false), TWO);
}

#[test]
fn a_target_that_breaks_a_rule_makes_two_copies() {
    assert_eq!(without("deciding first", |rules| rules.decide_before_running = false), TWO);
    assert_eq!(without("standing by for what moved away", |rules| rules.moved_away_is_standby = false), TWO);
    assert_eq!(without("the newest outcome first", |rules| (rules.newest_outcome_first, rules.last) = (false, 3)), TWO);
    assert_eq!(without("withdrawing what is pending", |rules| rules.withdraw_what_is_pending = false), TWO);
    assert_eq!(without("looking at head first", |rules| rules.head_before_outcomes = false), TWO);
    assert_eq!(without("a store that keeps writers apart", |rules| rules.store_is_fenced = false), TWO);
}

#[test]
fn a_rule_broken_the_other_way_loses_the_service() {
    assert_eq!(
        without("standing still", |rules| rules.unknown_stays_still = false),
        "a copy was ended that was not committed"
    );
    assert_eq!(without("knowing oneself", |rules| rules.own_outcome_is_ours = false), "no copy ever runs again");
}
