//! The search through all states, in the order of the surprises that they take, so that a history that it finds is short.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use indexmap::IndexMap;

use crate::steps::Rules;
use crate::world::{Event, State, World};

/// What a search found.
pub struct Found {
    pub states: usize,
    /// Transitions from one state to another.
    pub ways: usize,
    /// Runs of the code under test.
    pub runs: usize,
    /// What is wrong, and the events that lead there.
    pub wrong: Option<(&'static str, Vec<String>)>,
}

/// How many surprises it takes to get to a state, and from where.
#[derive(Clone, Copy)]
struct Way {
    surprises: u32,
    from: Option<u32>,
}

/// States in the order in which they were found: those between two steps, and those that a surprise leads to.
#[derive(Default)]
struct Seen(IndexMap<State, Way, FixedState>);

impl Seen {
    /// Notes a state, and says whether it is new or took more surprises so far.
    fn add(&mut self, state: State, surprises: u32, from: Option<u32>) -> (u32, bool) {
        let way = Way { surprises, from };
        let entry = self.0.entry(state);
        let number = entry.index() as u32;
        let known = entry.or_insert(Way { surprises: u32::MAX, from });
        let is_better = surprises < known.surprises;
        if is_better {
            *known = way;
        }
        (number, is_better)
    }

    fn get(&self, number: u32) -> (State, Way) {
        let (state, way) = self.0.get_index(number as usize).expect("it was found");
        (*state, *way)
    }

    fn path(&self, world: &mut World, mut at: u32) -> Vec<String> {
        let mut events = Vec::new();
        while let (to, Way { surprises, from: Some(before) }) = self.get(at) {
            let (from, way) = self.get(before);
            let mut found = Vec::new();
            follow(world, from, surprises - way.surprises, &mut Vec::new(), &mut |passed, more, state| {
                if state == to && way.surprises + more == surprises {
                    found = passed.to_vec();
                }
            });
            events.extend(found.iter().rev().map(|(state, event)| world.tell(state, *event)));
            at = before;
        }
        events.reverse();
        events
    }
}

/// Visits all states that come next with at most `left` surprises, with the events that lead there and their surprises. A step is followed
/// up to its end or to a surprise, so that few states have to be remembered.
fn follow(
    world: &mut World,
    state: State,
    left: u32,
    way: &mut Vec<(State, Event)>,
    visit: &mut impl FnMut(&[(State, Event)], u32, State),
) {
    for (event, next) in world.events(&state, left) {
        way.push((state, event));
        if event.surprises == 0 && next.turn.is_some() {
            follow(world, next, left, way, visit);
        } else {
            visit(way, event.surprises, next);
        }
        way.pop();
    }
}

pub fn search(rules: Rules) -> Found {
    let mut world = World::new(rules);
    let mut seen = Seen::default();
    let first = world.first();
    seen.add(first, 0, None);
    let mut backward: Vec<(u32, u32)> = Vec::new();
    // By how many surprises they take.
    let mut queues = vec![VecDeque::new(); rules.surprises as usize + 1];
    queues[0].push_back(0);
    let (mut ways, mut wrong) = (0, None);
    for surprises in 0..=rules.surprises {
        while let Some(at) = queues[surprises as usize].pop_front().filter(|_| wrong.is_none()) {
            let (state, way) = seen.get(at);
            if way.surprises < surprises {
                continue;
            }
            wrong = world.wrong(&state).map(|wrong| (wrong, at));
            follow(&mut world, state, rules.surprises - surprises, &mut Vec::new(), &mut |_, more, next| {
                let takes = surprises + more;
                ways += 1;
                let (number, is_better) = seen.add(next, takes, Some(at));
                if is_better {
                    queues[takes as usize].push_back(number);
                }
                if more == 0 {
                    backward.push((number, at));
                }
            });
        }
    }
    let wrong = wrong.or_else(|| stuck(&world, &seen, backward).map(|at| ("no copy ever runs again", at)));
    let wrong = wrong.map(|(wrong, at)| (wrong, seen.path(&mut world, at)));
    Found { states: seen.0.len(), ways, runs: world.code.runs(), wrong }
}

/// A state from where no copy runs in the end.
fn stuck(world: &World, seen: &Seen, mut backward: Vec<(u32, u32)>) -> Option<u32> {
    backward.sort_unstable();
    let mut good: Vec<bool> = seen.0.keys().map(|state| world.running(state) == 1).collect();
    let mut queue: Vec<usize> = (0..good.len()).filter(|index| good[*index]).collect();
    while let Some(at) = queue.pop() {
        let begin = backward.partition_point(|(to, _)| (*to as usize) < at);
        for (_, before) in backward[begin..].iter().take_while(|(to, _)| *to as usize == at) {
            if !std::mem::replace(&mut good[*before as usize], true) {
                queue.push(*before as usize);
            }
        }
    }
    good.iter().position(|good| !good).map(|at| at as u32)
}
