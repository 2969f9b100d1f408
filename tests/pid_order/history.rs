//! Trees as they come about: a few calls of random processes, with the kernel's rules for sessions, groups and orphans.

use std::collections::BTreeMap;

use freeze::proc::tree::Process;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::corpus::{self, Node};

/// What a process does next.
#[derive(Debug, Clone)]
pub enum Call {
    Fork,
    StartThread,
    Setsid,
    /// Its own group, or that of another process.
    Setpgid(Option<Index>),
    BecomeSubreaper,
    Exit,
    /// Reaps a zombie.
    Wait,
    /// Something else takes a number.
    LoseNumber,
}

/// A process, by its place among those that live, and its call.
pub type Step = (Index, Call);

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let call = prop_oneof![
        10 => Just(Call::Fork),
        1 => Just(Call::StartThread),
        4 => Just(Call::Setsid),
        4 => any::<Option<Index>>().prop_map(Call::Setpgid),
        2 => Just(Call::BecomeSubreaper),
        6 => Just(Call::Exit),
        6 => Just(Call::Wait),
        1 => Just(Call::LoseNumber),
    ];
    prop::collection::vec((any::<Index>(), call), 5..60)
}

/// The tree that a service of one process has become by these steps.
pub fn tree(steps: &[Step]) -> Vec<Node> {
    let mut nodes = corpus::above_service();
    nodes.push(corpus::node("1001 1000 1001 1001"));
    let mut kernel = Kernel { nodes, last: 1001 };
    for (who, call) in steps {
        kernel.step(who, call);
    }
    kernel.nodes
}

struct Kernel {
    /// In the order in which they were created. The first is the subreaper above the service.
    nodes: Vec<Node>,
    /// The newest number.
    last: i32,
}

impl Kernel {
    fn step(&mut self, who: &Index, call: &Call) {
        let living: Vec<i32> = self.pids(|node| !node.process.is_zombie() && node.process.pid != 1000);
        let pid = *who.get(&living);
        match call {
            Call::Fork => {
                let process = self.get(pid).process.clone();
                let pid = self.next();
                let process = Process { pid, ppid: process.pid, threads: vec![pid], ..process };
                self.nodes.push(Node { process, subreaper: false });
            }
            Call::StartThread => {
                let tid = self.next();
                self.get(pid).process.threads.push(tid);
            }
            Call::Setsid if self.pids(|node| node.process.pgid == pid).is_empty() => {
                let process = &mut self.get(pid).process;
                (process.sid, process.pgid) = (pid, pid);
            }
            Call::Setpgid(group) => self.setpgid(pid, group.as_ref()),
            Call::BecomeSubreaper => self.get(pid).subreaper = true,
            Call::Exit if pid != 1001 => self.exit(pid),
            Call::Wait => {
                if let Some(zombie) = self.pids(|node| node.process.is_zombie() && node.process.ppid == pid).first() {
                    self.nodes.retain(|node| node.process.pid != *zombie);
                }
            }
            Call::LoseNumber => drop(self.next()),
            Call::Setsid | Call::Exit => {}
        }
    }

    fn pids(&self, wanted: impl Fn(&Node) -> bool) -> Vec<i32> {
        self.nodes.iter().filter(|node| wanted(node)).map(|node| node.process.pid).collect()
    }

    fn get(&mut self, pid: i32) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.process.pid == pid).expect("parents are in the tree")
    }

    fn next(&mut self) -> i32 {
        self.last += 1;
        self.last
    }

    /// Into a group of its session, which a leader of a session cannot.
    fn setpgid(&mut self, pid: i32, group: Option<&Index>) {
        let sid = self.get(pid).process.sid;
        let groups: BTreeMap<i32, i32> =
            self.nodes.iter().map(|node| (node.process.pgid, node.process.sid)).filter(|(_, of)| *of == sid).collect();
        let pgid = group.map_or(pid, |group| *group.get(&groups.into_keys().collect::<Vec<_>>()));
        if sid != pid {
            self.get(pid).process.pgid = pgid;
        }
    }

    /// Leaves a zombie, and its children to the next subreaper. What is above the service reaps at once.
    fn exit(&mut self, pid: i32) {
        let ppid = self.get(pid).process.ppid;
        let mut reaper = ppid;
        while !self.get(reaper).subreaper {
            reaper = self.get(reaper).process.ppid;
        }
        for node in self.nodes.iter_mut().filter(|node| node.process.ppid == pid) {
            node.process.ppid = reaper;
        }
        let process = &mut self.get(pid).process;
        (process.state, process.threads) = ('Z', vec![pid]);
        self.nodes.retain(|node| !(node.process.is_zombie() && node.process.ppid == 1000));
    }
}
