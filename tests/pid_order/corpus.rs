//! Reads `corpus.txt`, whose head describes its format.

use std::str::FromStr;

use freeze::checkpoint::pid_order::Disorder;
use freeze::proc::tree::Process;

/// A process of a tree, and what /proc does not tell of it.
#[derive(Debug, Clone)]
pub struct Node {
    pub process: Process,
    pub subreaper: bool,
}

/// What is said of a tree: that it can be created in ascending order, or the kind of [`Disorder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Ok,
    Thread,
    Child,
    Session,
    Group,
    Left,
    Passed,
}

impl FromStr for Verdict {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Ok(match word {
            "ok" => Self::Ok,
            "thread" => Self::Thread,
            "child" => Self::Child,
            "session" => Self::Session,
            "group" => Self::Group,
            "left" => Self::Left,
            "passed" => Self::Passed,
            other => return Err(format!("{other} is no verdict")),
        })
    }
}

impl From<Result<(), Disorder>> for Verdict {
    fn from(checked: Result<(), Disorder>) -> Self {
        match checked {
            Ok(()) => Self::Ok,
            Err(Disorder::Thread { .. }) => Self::Thread,
            Err(Disorder::Child { .. }) => Self::Child,
            Err(Disorder::Session { .. }) => Self::Session,
            Err(Disorder::Group { .. }) => Self::Group,
            Err(Disorder::Left { .. }) => Self::Left,
            Err(Disorder::Passed { .. }) => Self::Passed,
        }
    }
}

/// One tree with its verdict.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    pub verdict: Verdict,
    pub tree: Vec<Node>,
}

/// The subreaper that freeze puts above a service.
pub fn above_service() -> Vec<Node> {
    vec![node("1000 1 1000 1000 subreaper")]
}

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in include_str!("corpus.txt").lines() {
        if let Some(title) = line.strip_prefix("== ") {
            let (name, verdict) = title.rsplit_once(": ").unwrap_or_else(|| panic!("no verdict in {line}"));
            cases.push(Case { name: name.to_owned(), verdict: verdict.parse().unwrap(), tree: above_service() });
        } else if !line.is_empty() && !line.starts_with('#') {
            cases.last_mut().expect("a title comes first").tree.push(node(line));
        }
    }
    cases
}

/// A process, from its line.
pub fn node(line: &str) -> Node {
    let mut words = line.split_whitespace();
    let mut number =
        || words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("a number lacks: {line}"));
    let (pid, ppid, sid, pgid) = (number(), number(), number(), number());
    let mut node = Node {
        process: Process { pid, ppid, sid, pgid, state: 'S', comm: "app".to_owned(), threads: vec![pid], start: 0 },
        subreaper: false,
    };
    for word in words {
        match word {
            "subreaper" => node.subreaper = true,
            "zombie" => node.process.state = 'Z',
            tid => node.process.threads.push(tid.parse().unwrap_or_else(|_| panic!("{tid} is no remark: {line}"))),
        }
    }
    node.process.threads.sort_unstable();
    node
}
