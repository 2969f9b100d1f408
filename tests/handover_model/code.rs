//! The code under test as a tree. What it does next depends on its step and on the store's answers so far, and on nothing else. So the code
//! runs once for each node, and the search walks from node to node.

use std::collections::HashMap;

use bytes::Bytes;
use foldhash::fast::FixedState;
use freeze::image::{Hex, Lease};
use freeze::store::{PutMode, Version};
use serde_json::Value;

use crate::run::Run;
use crate::script::{Call, Reply, Script};
use crate::steps::*;
use crate::world::KEYS;

/// An object's key, by its place in [`Code::keys`].
pub type Key = u8;
/// What an object may be, by its place in [`Code::objects`].
pub type Object = u16;
/// The key that is known before all others.
pub const HEAD: Key = 0;
/// A node, by its place in [`Code::nodes`].
pub type Node = u32;

/// A call to the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ask {
    Get(Key),
    List(u8),
    Put(Put),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Put {
    pub key: Key,
    pub object: Object,
    pub mode: Mode,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Mode {
    Overwrite,
    Create,
    Update(Object),
}

/// What the store says; of keys the bits of those that there are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    Done,
    Object(Object),
    Keys(u16),
    NotFound,
    Exists,
    Changed,
    Full,
    Nothing,
}

#[derive(Clone, Copy, Debug)]
pub enum Then {
    Ask(Ask),
    Done(Next),
}

/// How far the code is in one step.
pub struct At {
    pub who: usize,
    pub step: Step,
    pub heard: Vec<Answer>,
    /// The generation of which init knows that it is being committed.
    pub said: Option<u64>,
    /// None for a step that runs no code.
    pub then: Option<Then>,
    /// The names of containers in head that it knows of.
    pub writers: u64,
}

/// What an object may be.
pub struct Content {
    pub data: Bytes,
    /// The names of containers in head that it has.
    pub writers: u64,
    /// Of a head.
    pub head: Option<Head>,
}

#[derive(Clone, Copy)]
pub struct Head {
    pub generation: u64,
    pub epoch: u64,
}

type Map<K, V> = HashMap<K, V, FixedState>;

pub struct Code {
    pub rules: Rules,
    format: Bytes,
    pub keys: Vec<String>,
    pub prefixes: Vec<String>,
    /// The first one stands for none.
    objects: Vec<Content>,
    nodes: Vec<At>,
    roots: Map<(usize, Step), Node>,
    children: Map<(Node, Answer), Node>,
    /// The node after a proposal, by its number: a proposal consists of its number and lease, so the answers before it make no difference.
    said: Map<(usize, Step, u64), Node>,
}

/// The name of a container in head; a container has 16 of them, so that two of its starts are told apart.
pub fn writer(bit: usize) -> Hex<8> {
    Hex([bit as u8; 8])
}

fn bit(lease: Lease) -> u64 {
    if lease.writer == UNNAMED || lease.writer == Hex::default() { 0 } else { 1 << lease.writer.0[0] }
}

impl Code {
    pub fn new(rules: Rules) -> Self {
        let none = Content { data: Bytes::new(), writers: 0, head: None };
        Self {
            rules,
            format: Script::new_format(),
            keys: vec!["head".to_owned()],
            prefixes: Vec::new(),
            objects: vec![none],
            nodes: Vec::new(),
            roots: Map::default(),
            children: Map::default(),
            said: Map::default(),
        }
    }

    pub fn at(&self, node: Node) -> &At {
        &self.nodes[node as usize]
    }

    pub fn object(&self, object: Object) -> &Content {
        &self.objects[usize::from(object)]
    }

    /// How often the code was run.
    pub fn runs(&self) -> usize {
        self.nodes.len()
    }

    /// The key of the highest generation's manifest: those of manifests come in their order.
    pub fn last_manifest(&self) -> Key {
        self.rules.last as Key
    }

    pub fn is_manifest(&self, key: Key) -> bool {
        self.keys[usize::from(key)].ends_with(".manifest")
    }

    /// The keys with that prefix, as bits, of those that have an object.
    pub fn listed(&self, prefix: u8, objects: &[Object]) -> u16 {
        let prefix = &self.prefixes[usize::from(prefix)];
        let there = |(key, name): &(usize, &String)| objects[*key] != 0 && name.starts_with(prefix);
        self.keys.iter().enumerate().filter(there).fold(0, |bits, (key, _)| bits | 1 << key)
    }

    /// The generation and the instance of a lost mark.
    pub fn mark(&self, key: Key) -> Option<(u64, &str)> {
        let (generation, instance) = self.keys[usize::from(key)].strip_prefix("outcomes/")?.split_once(".lost.")?;
        Some((generation.parse().ok()?, instance))
    }

    /// The marks that a prune may remove.
    pub fn superseded_marks(&self, objects: &[Object]) -> Vec<Key> {
        let there = || (0..self.keys.len() as Key).filter(|key| objects[usize::from(*key)] != 0);
        let marks = || there().filter_map(|key| Some((key, self.mark(key)?)));
        let newest_stays = self.rules.newest_mark_stays;
        let is_superseded = |(generation, instance): (u64, &str)| {
            marks().any(|(_, (other, whose))| whose == instance && (other > generation || !newest_stays))
        };
        marks().filter(|(_, mark)| is_superseded(*mark)).map(|(key, _)| key).collect()
    }

    /// Where a step begins.
    pub fn root(&mut self, who: usize, step: Step) -> Node {
        if let Some(node) = self.roots.get(&(who, step)) {
            return *node;
        }
        let node = self.play(who, step, Vec::new());
        self.roots.insert((who, step), node);
        node
    }

    /// Where an answer leads to.
    pub fn child(&mut self, node: Node, answer: Answer) -> Node {
        if let Some(child) = self.children.get(&(node, answer)) {
            return *child;
        }
        let At { who, step, ref heard, said, .. } = self.nodes[node as usize];
        let heard = [&heard[..], &[answer]].concat();
        let mut child = self.play(who, step, heard);
        if let (None, Some(generation)) = (said, self.nodes[child as usize].said) {
            child = *self.said.entry((who, step, generation)).or_insert(child);
        }
        self.children.insert((node, answer), child);
        child
    }

    /// Runs the code with these answers.
    fn play(&mut self, who: usize, step: Step, heard: Vec<Answer>) -> Node {
        let mut writers = step.lease().map_or(0, bit);
        for answer in &heard {
            if let Answer::Object(object) = answer {
                writers |= self.objects[usize::from(*object)].writers;
            }
        }
        let (then, said) = match step {
            Step::Down | Step::Runs(_) => (None, None),
            step => {
                let replies: Vec<Reply> = heard.iter().map(|answer| self.reply(*answer)).collect();
                let script = Script::new(self.format.clone(), replies);
                let next = Run { rules: &self.rules, who, script: script.clone() }.run(step);
                let (call, said) = script.end();
                (Some(call.map_or(Then::Done(next), |call| Then::Ask(self.ask(call)))), said)
            }
        };
        self.nodes.push(At { who, step, heard, said, then, writers });
        self.nodes.len() as Node - 1
    }

    fn reply(&self, answer: Answer) -> Reply {
        match answer {
            Answer::Done => Reply::Done,
            Answer::Object(object) => {
                Reply::Object(self.objects[usize::from(object)].data.clone(), Version(object.to_string()))
            }
            Answer::Keys(bits) => {
                let keys = self.keys.iter().enumerate().filter(|(key, _)| bits & 1 << key != 0);
                let mut keys: Vec<String> = keys.map(|(_, key)| key.clone()).collect();
                keys.sort();
                Reply::Keys(keys)
            }
            Answer::NotFound => Reply::NotFound,
            Answer::Exists => Reply::Exists,
            Answer::Changed => Reply::Changed,
            Answer::Full => Reply::Full,
            Answer::Nothing => Reply::Nothing,
        }
    }

    fn ask(&mut self, call: Call) -> Ask {
        match call {
            Call::Get(key) => Ask::Get(place(&mut self.keys, key) as Key),
            Call::List(prefix) => Ask::List(place(&mut self.prefixes, prefix) as u8),
            Call::Put(key, data, mode) => {
                let key = place(&mut self.keys, key) as Key;
                assert!(usize::from(key) < KEYS, "there is no room for {}", self.keys[usize::from(key)]);
                let object = self.numbered(key, data);
                let mode = match mode {
                    PutMode::Overwrite => Mode::Overwrite,
                    PutMode::Create => Mode::Create,
                    PutMode::Update(Version(version)) => Mode::Update(version.parse().expect("it is one of ours")),
                };
                Ask::Put(Put { key, object, mode })
            }
        }
    }

    fn numbered(&mut self, key: Key, data: Bytes) -> Object {
        // The first one, which is none, has no data; what is kept apart by its key may be the same.
        if let Some(found) = self.objects.iter().skip(1).position(|object| object.data == data) {
            return found as Object + 1;
        }
        let text = String::from_utf8_lossy(&data).into_owned();
        let named = |bit: &usize| text.contains(&writer(*bit).to_string());
        let writers = (1..64).filter(named).fold(0, |bits, bit| bits | 1 << bit);
        let head = (key == HEAD).then(|| {
            let head: Value = serde_json::from_slice(&data).expect("head is JSON");
            let number = |name| head[name].as_u64().expect("head has its numbers");
            Head { generation: number("generation"), epoch: number("epoch") }
        });
        self.objects.push(Content { data, writers, head });
        self.objects.len() as Object - 1
    }
}

/// The place of something in a list to which it is added where it is not there.
fn place(list: &mut Vec<String>, what: String) -> usize {
    list.iter().position(|one| *one == what).unwrap_or_else(|| {
        list.push(what);
        list.len() - 1
    })
}
