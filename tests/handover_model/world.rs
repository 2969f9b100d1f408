//! What there is: containers, a store, and what is under way between them.

use freeze::image::{Hex, Lease, manifest_key, outcome_key};

use crate::code::{Answer, Code, Key, Node, Object, Put, Then, writer};
use crate::events::Around;
use crate::steps::*;

/// The most keys, and the most late requests at once.
pub const KEYS: usize = 14;
pub const LATE: usize = 2;
/// Names that a container may have in head: one for each start that is still mentioned somewhere.
pub const WRITERS: usize = 16;
/// The store, as the cause of an event.
pub const STORE: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub nodes: [Node; 3],
    /// Tasks run that should stand still.
    pub loose: [bool; 3],
    /// By key; 0 for none.
    pub objects: [Object; KEYS],
    /// Puts that the store may yet carry out.
    pub late: [Option<Put>; LATE],
    /// Who is in the middle of a step.
    pub turn: Option<u8>,
    /// The newcomer has the place of the others, which do not come back.
    pub replaced: bool,
    /// The newcomer has restored something, and is started again whatever became of that.
    pub tried: bool,
    /// A copy was ended whose generation head did not name.
    pub lost: bool,
}

impl State {
    pub fn object(&self, key: Key) -> Object {
        self.objects[usize::from(key)]
    }

    /// Whether somebody else is in the middle of a step.
    pub fn is_turn_of_another(&self, who: usize) -> bool {
        self.turn.is_some_and(|turn| usize::from(turn) != who)
    }
}

/// What happened, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub who: usize,
    pub what: What,
    /// 0 for what has to happen in the end.
    pub surprises: u32,
}

#[derive(Clone, Copy, Debug)]
pub enum What {
    Hears(Answer),
    /// What it asked for is carried out, and it does not learn that.
    GetsNoReply,
    AskedInVain,
    /// What it asked for may yet be carried out.
    AskedTooEarly,
    Begins(Step),
    WorkerDies,
    CriuDies,
    ReplacesTheOthers,
    CarriesOut(Put),
    /// A prune removes a mark that a newer one of the same instance stands for.
    RemovesMark(Key),
}

/// The code under test, and what it may come to.
pub struct World {
    pub code: Code,
}

impl World {
    pub fn new(rules: Rules) -> Self {
        let mut code = Code::new(rules);
        code.keys.extend((1..=rules.last).map(manifest_key));
        code.keys.extend((2..=rules.last).map(outcome_key));
        Self { code }
    }

    /// There is generation 1, whose service runs; and a standby.
    pub fn first(&mut self) -> State {
        let lease = Lease { generation: 0, epoch: 1, writer: name(SOURCE, 0) };
        let commits = self.code.root(SOURCE, Step::Commits(AfterCommit::Resume, lease));
        let mut state = State {
            nodes: [commits, self.code.root(STANDBY, Step::Wait), self.code.root(NEWCOMER, Step::Down)],
            loose: [false; 3],
            objects: [0; KEYS],
            late: [None; LATE],
            turn: None,
            replaced: false,
            tried: false,
            lost: false,
        };
        while let Some(Then::Ask(ask)) = self.code.at(state.nodes[SOURCE]).then {
            let mut around = Around { code: &mut self.code, state: &state, left: 0, found: Vec::new() };
            around.asks(SOURCE, ask);
            state = around.found[0].1;
        }
        state
    }

    /// Each of them takes no more surprises than are `left`.
    pub fn events(&mut self, state: &State, left: u32) -> Vec<(Event, State)> {
        let mut around = Around { code: &mut self.code, state, left, found: Vec::new() };
        around.all();
        around.found
    }

    pub fn running(&self, state: &State) -> usize {
        (0..3).filter(|who| self.code.at(state.nodes[*who]).step.runs() || state.loose[*who]).count()
    }

    /// What must never be.
    pub fn wrong(&self, state: &State) -> Option<&'static str> {
        let copies = (self.running(state) > 1).then_some("two copies run");
        copies.or(state.lost.then_some("a copy was ended that was not committed"))
    }
}

/// One of the names of a container in head.
pub fn name(who: usize, number: usize) -> Hex<8> {
    // 0 is the writer of a new store's head.
    writer(who * WRITERS + number + 1)
}
