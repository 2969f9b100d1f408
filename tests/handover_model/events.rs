//! Everything that can happen next.

use freeze::image::{Hex, Lease};

use crate::code::{Answer, Ask, At, Code, HEAD, Mode, Put, Then};
use crate::steps::*;
use crate::world::*;

/// What can happen in one state.
pub struct Around<'a> {
    pub code: &'a mut Code,
    pub state: &'a State,
    /// How many surprises there may be.
    pub left: u32,
    pub found: Vec<(Event, State)>,
}

impl Around<'_> {
    pub fn all(&mut self) {
        if let Some(who) = (0..3).find(|who| self.is_alone(*who)) {
            return self.of_container(who);
        }
        for who in 0..3 {
            // A turn of another takes a surprise.
            if self.left > 0 || !self.state.is_turn_of_another(who) {
                self.of_container(who);
            }
        }
        (0..LATE).for_each(|index| self.of_late(index));
        self.of_prune();
    }

    /// Whether this container reads an object that stays as it is. The order of that read and of other events makes no difference, so that it
    /// comes first.
    fn is_alone(&self, who: usize) -> bool {
        match self.at(who).then {
            Some(Then::Ask(Ask::Get(key))) => {
                let stays = key != HEAD && self.code.mark(key).is_none();
                stays && self.state.object(key) != 0 && !self.state.is_turn_of_another(who)
            }
            _ => false,
        }
    }

    fn at(&self, who: usize) -> &At {
        self.code.at(self.state.nodes[who])
    }

    fn add(&mut self, who: usize, fault: bool, what: What, mut state: State) {
        let surprises = u32::from(fault) + u32::from(self.state.is_turn_of_another(who));
        if surprises > self.left {
            return;
        }
        if who != STORE {
            let is_in_a_step = !self.code.at(state.nodes[who]).heard.is_empty();
            state.turn = is_in_a_step.then_some(who as u8);
        }
        self.found.push((Event { who, what, surprises }, state));
    }

    fn of_container(&mut self, who: usize) {
        let At { step, then, said, .. } = *self.at(who);
        if let Some(Then::Ask(ask)) = then {
            self.asks(who, ask);
        }
        match step {
            Step::Down => return self.of_none(who),
            Step::Runs(lease) if !self.is_full() => {
                for after_commit in [AfterCommit::Resume, AfterCommit::Stop, AfterCommit::HandOver] {
                    self.goes_on(
                        who,
                        false,
                        What::Begins(Step::Commits(after_commit, lease)),
                        Step::Commits(after_commit, lease),
                    );
                }
            }
            Step::Claims(lease, _) | Step::Commits(AfterCommit::Resume, lease) => {
                self.goes_on(who, true, What::WorkerDies, Step::Runs(lease));
            }
            Step::Commits(after_commit, lease) => self.of_still(who, after_commit, said, lease),
            Step::Offered(generation, lease) => {
                self.of_still(who, AfterCommit::HandOver, Some(generation), lease);
                let withdraws = Step::Withdraws(AfterCommit::HandOver, generation, lease);
                let step = if self.code.rules.withdraw_before_going_on { withdraws } else { Step::Runs(lease) };
                self.goes_on(who, false, What::Begins(step), step);
            }
            Step::Withdraws(after_commit, generation, lease) => {
                self.of_still(who, after_commit, Some(generation), lease)
            }
            _ => {}
        }
        self.goes_on(who, true, What::Begins(Step::Down), Step::Down);
    }

    fn of_none(&mut self, who: usize) {
        if !self.state.replaced || who == NEWCOMER {
            self.goes_on(who, false, What::Begins(Step::Start), Step::Start);
        }
        let all_down = (0..3).all(|one| self.at(one).step == Step::Down);
        if who == NEWCOMER && all_down && !self.state.replaced {
            // An operator does this, so a service that comes back by itself must not depend on it.
            let mut next = State { replaced: true, ..*self.state };
            self.enter(&mut next, who, Next::Go(Step::Start));
            self.add(who, true, What::ReplacesTheOthers, next);
        }
    }

    fn goes_on(&mut self, who: usize, fault: bool, what: What, step: Step) {
        let mut next = *self.state;
        self.enter(&mut next, who, Next::Go(step));
        self.add(who, fault, what, next);
    }

    /// A worker or CRIU dies while the tasks stand still. Once init knows the generation, only its outcome says who has the service.
    fn of_still(&mut self, who: usize, after_commit: AfterCommit, said: Option<u64>, lease: Lease) {
        let rules = self.code.rules;
        let careful = rules.end_is_as_careful || after_commit == AfterCommit::HandOver;
        let step = match said {
            Some(generation) if rules.settle_after_a_crash && careful => {
                Step::Withdraws(after_commit, generation, lease)
            }
            _ => Step::Runs(lease),
        };
        self.goes_on(who, true, What::WorkerDies, step);
        if said.is_some() && !(rules.stop_before_commit && careful) {
            let mut next = *self.state;
            next.loose[who] = true;
            self.add(who, true, What::CriuDies, next);
        }
    }

    /// All that may become of a call to the store.
    pub fn asks(&mut self, who: usize, ask: Ask) {
        let state = self.state;
        match ask {
            Ask::Get(key) => match state.object(key) {
                0 => self.hears(who, false, Answer::NotFound, *state),
                object => self.hears(who, false, Answer::Object(object), *state),
            },
            Ask::List(prefix) => self.hears(who, false, Answer::Keys(self.code.listed(prefix, &state.objects)), *state),
            Ask::Put(put) if !self.is_within(put) => return self.hears(who, false, Answer::Full, *state),
            Ask::Put(put) if !self.applies(put, state) => {
                let refusal = if put.mode == Mode::Create { Answer::Exists } else { Answer::Changed };
                self.hears(who, false, refusal, *state);
            }
            Ask::Put(put) => {
                let done = self.done(put, state);
                self.hears(who, false, Answer::Done, done);
                self.hears_nothing(who, What::GetsNoReply, done);
                self.hears(who, true, Answer::Full, *state);
                if let Some(late) = self.later(put) {
                    self.hears_nothing(who, What::AskedTooEarly, late);
                }
            }
        }
        self.hears_nothing(who, What::AskedInVain, *state);
    }

    fn hears(&mut self, who: usize, fault: bool, answer: Answer, mut next: State) {
        self.hear(&mut next, who, answer);
        self.add(who, fault, What::Hears(answer), next);
    }

    fn hears_nothing(&mut self, who: usize, what: What, mut next: State) {
        self.hear(&mut next, who, Answer::Nothing);
        self.add(who, true, what, next);
    }

    fn hear(&mut self, next: &mut State, who: usize, answer: Answer) {
        let child = self.code.child(next.nodes[who], answer);
        match self.code.at(child).then {
            Some(Then::Done(done)) => self.enter(next, who, done),
            _ => next.nodes[who] = child,
        }
    }

    /// A container goes on with another step.
    fn enter(&mut self, state: &mut State, who: usize, mut then: Next) {
        loop {
            let step = match then {
                Next::Go(step) => step,
                Next::End(generation) => {
                    let head = self.code.object(state.object(HEAD)).head;
                    state.lost |= head.is_none_or(|head| head.generation < generation);
                    Step::Down
                }
            };
            // A first start with nothing offered is for an orchestrator that knows that the service runs nowhere.
            let is_new = who == NEWCOMER && !state.tried && !state.replaced;
            let step = match step {
                Step::Chosen(Found { from: None, .. }) if is_new => Step::Down,
                step if step.is_unnamed() => step.named(self.free_name(state, who)),
                step => step,
            };
            state.tried |= who == NEWCOMER && matches!(step, Step::Restored(_));
            state.loose[who] &= step != Step::Down;
            let instance = if state.replaced && who == NEWCOMER { SUCCESSOR } else { who };
            state.nodes[who] = self.code.root(instance, step);
            match self.code.at(state.nodes[who]).then {
                Some(Then::Done(next)) => then = next,
                _ => return,
            }
        }
    }

    /// A name for a container that is in use nowhere.
    fn free_name(&self, state: &State, who: usize) -> Hex<8> {
        let objects = state.objects.into_iter().chain(state.late.iter().flatten().map(|put| put.object));
        let of_objects = objects.map(|object| self.code.object(object).writers);
        let of_nodes = (0..3).filter(|other| *other != who).map(|other| self.code.at(state.nodes[other]).writers);
        let used = of_objects.chain(of_nodes).fold(0, |used, bits| used | bits);
        let free = (0..WRITERS).map(|number| name(who, number)).find(|name| used & 1 << name.0[0] == 0);
        free.expect("a container has names enough")
    }

    /// Whether there is no room for another generation.
    fn is_full(&self) -> bool {
        self.state.object(self.code.last_manifest()) != 0
    }

    /// Whether its generation and epoch are within the bounds of the search.
    fn is_within(&self, put: Put) -> bool {
        let is_known = put.key <= self.code.last_manifest() || !self.code.is_manifest(put.key);
        let head = self.code.object(put.object).head;
        is_known && head.is_none_or(|head| head.epoch <= self.code.rules.epochs)
    }

    fn applies(&self, put: Put, state: &State) -> bool {
        !self.code.rules.store_is_fenced
            || match put.mode {
                Mode::Overwrite => true,
                Mode::Create => state.object(put.key) == 0,
                Mode::Update(version) => state.object(put.key) == version,
            }
    }

    /// Late requests whose condition can never hold again are dropped.
    fn done(&self, put: Put, state: &State) -> State {
        let mut done = *state;
        done.objects[usize::from(put.key)] = put.object;
        done.late = done.late.map(|late| late.filter(|late| self.applies(*late, &done)));
        done.late.sort();
        done
    }

    fn later(&self, put: Put) -> Option<State> {
        let mut later = *self.state;
        if !later.late.contains(&Some(put)) {
            *later.late[LATE - self.code.rules.late..].iter_mut().find(|late| late.is_none())? = Some(put);
            later.late.sort();
        }
        Some(later)
    }

    fn of_late(&mut self, index: usize) {
        let Some(put) = self.state.late[index] else { return };
        let mut without = *self.state;
        without.late[index] = None;
        without.late.sort();
        self.add(STORE, false, What::CarriesOut(put), self.done(put, &without));
    }

    fn of_prune(&mut self) {
        for key in self.code.superseded_marks(&self.state.objects) {
            let mut next = *self.state;
            next.objects[usize::from(key)] = 0;
            self.add(STORE, false, What::RemovesMark(key), next);
        }
    }
}
