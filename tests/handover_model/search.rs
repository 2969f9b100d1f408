//! The search through all states, breadth first, so that what it finds is short.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use crate::state::*;

/// What a search found.
pub struct Found {
    pub states: usize,
    pub steps: usize,
    /// What is wrong, and the events that lead there.
    pub wrong: Option<(&'static str, Vec<String>)>,
}

/// Enough for states, and fast without optimization.
#[derive(Default)]
pub struct Mix(u64);

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

pub fn search(rules: &Rules) -> Found {
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
