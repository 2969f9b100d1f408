//! One thing found, and a bounded list of them.

use std::fmt;

use crate::proc::tree::Process;

/// What becomes of what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The checkpoint cannot be made, or something would be lost in silence.
    Refused,
    /// The checkpoint works, and the service will notice something after a restore.
    Changed,
}

/// Where in a process it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Number of a descriptor.
    Descriptor(i32),
    /// Address of a mapping.
    Mapping(u64),
    /// Thread ID, where it is not the process's first thread.
    Thread(i32),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptor(fd) => write!(f, "descriptor {fd}"),
            Self::Mapping(address) => write!(f, "mapping {address:x}"),
            Self::Thread(tid) => write!(f, "thread {tid}"),
        }
    }
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Owner {
    /// In the PID namespace of whoever looks.
    pub pid: i32,
    /// As the kernel keeps it, at most 15 bytes.
    pub name: String,
}

/// `1001 (redis-server)`.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.pid, self.name)
    }
}

/// One thing that a checkpoint cannot carry, or changes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What becomes of it.
    pub severity: Severity,
    /// Whose it is; none where it belongs to the whole container.
    pub process: Option<Owner>,
    /// Where it is; of several alike, the first.
    pub place: Option<Place>,
    /// How many more of the kind the process has.
    pub others: usize,
    /// What is the matter, as what follows a name in a sentence: `has io_uring open, which cannot be checkpointed`.
    pub what: String,
    /// What to do.
    pub advice: &'static str,
}

impl Finding {
    /// Something that a checkpoint is refused for.
    pub fn refused(process: Option<&Process>, what: &str, advice: &'static str) -> Self {
        let process = process.map(|process| Owner { pid: process.pid, name: process.comm.clone() });
        Self { severity: Severity::Refused, process, place: None, others: 0, what: what.to_owned(), advice }
    }

    /// Something that will be different after a restore.
    pub fn changed(process: Option<&Process>, what: &str, advice: &'static str) -> Self {
        Self { severity: Severity::Changed, ..Self::refused(process, what, advice) }
    }

    /// The same at a place.
    pub fn at(self, place: Place) -> Self {
        Self { place: Some(place), ..self }
    }

    /// Whether they differ in their places alone.
    fn is_alike(&self, other: &Self) -> bool {
        (self.severity, &self.process, &self.what) == (other.severity, &other.process, &other.what)
    }

    /// Whether they are one thing, found twice.
    fn is_same(&self, other: &Self) -> bool {
        self.is_alike(other) && self.place == other.place
    }

    /// Such as `descriptor 5 and 2 more`; empty where it has no place.
    pub fn places(&self) -> String {
        match (self.place, self.others) {
            (None, _) => String::new(),
            (Some(place), 0) => place.to_string(),
            (Some(place), others) => format!("{place} and {others} more"),
        }
    }
}

/// One sentence.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some(process) => write!(f, "process {process}")?,
            None => write!(f, "the container")?,
        }
        write!(f, " {}", self.what)?;
        if self.place.is_some() {
            write!(f, " ({})", self.places())?;
        }
        write!(f, "; {}", self.advice)
    }
}

/// How many findings are kept, as a service may have thousands.
const LIMIT: usize = 200;

/// What was found, like things of one process put together.
#[derive(Debug, Default)]
pub struct Findings {
    list: Vec<Finding>,
    /// How many were left out.
    dropped: usize,
}

impl Findings {
    /// Takes one in.
    pub fn add(&mut self, finding: Finding) {
        if let Some(alike) = self.list.iter_mut().rev().find(|known| known.is_alike(&finding)) {
            alike.others += 1;
        } else if self.list.len() < LIMIT {
            self.list.push(finding);
        } else {
            self.dropped += 1;
        }
    }

    /// Whether a checkpoint is refused.
    pub fn has_refused(&self) -> bool {
        self.list.iter().any(|finding| finding.severity == Severity::Refused)
    }

    /// These without the refusals that were not there `before`: of the same process, for the same thing, at the same place.
    pub fn staying(mut self, before: &Self) -> Self {
        let stays = |finding: &Finding| {
            finding.severity != Severity::Refused || before.list.iter().any(|known| known.is_same(finding))
        };
        self.list.retain(stays);
        self
    }

    /// All, those first that a checkpoint is refused for.
    pub fn sorted(mut self) -> (Vec<Finding>, usize) {
        self.list.sort_by_key(|finding| finding.severity);
        (self.list, self.dropped)
    }

    /// Those that a checkpoint is refused for.
    pub fn into_refused(self) -> Vec<Finding> {
        self.list.into_iter().filter(|finding| finding.severity == Severity::Refused).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(pid: i32, fd: i32) -> Finding {
        let process = Process { pid, comm: "app".into(), ..Process::default() };
        Finding::refused(Some(&process), "has io_uring open, which cannot be checkpointed", "switch it off")
            .at(Place::Descriptor(fd))
    }

    #[test]
    fn sentences_name_process_and_place() {
        insta::assert_snapshot!(finding(7, 5), @"process 7 (app) has io_uring open, which cannot be checkpointed (descriptor 5); switch it off");
        insta::assert_snapshot!(Finding::refused(None, "is ill", "cure it"), @"the container is ill; cure it");
    }

    #[test]
    fn things_alike_of_one_process_are_one_finding() {
        let mut findings = Findings::default();
        [finding(7, 5), finding(8, 5), finding(7, 6), finding(7, 9)].into_iter().for_each(|one| findings.add(one));
        let places: Vec<_> = findings.sorted().0.iter().map(Finding::places).collect();
        assert_eq!(places, ["descriptor 5 and 2 more", "descriptor 5"]);
    }

    #[test]
    fn what_is_refused_has_to_stay() {
        let findings = |list: &[Finding]| {
            let mut findings = Findings::default();
            list.iter().cloned().for_each(|one| findings.add(one));
            findings
        };
        let changed = Finding::changed(None, "closes", "open");
        let before = findings(&[finding(7, 5), finding(8, 5)]);
        let after = findings(&[finding(7, 5), finding(8, 6), finding(9, 5), changed.clone()]).staying(&before);
        assert_eq!(after.list, [finding(7, 5), changed.clone()]);
        assert!(after.has_refused() && !findings(&[changed]).has_refused());
    }

    #[test]
    fn what_is_refused_comes_first() {
        let mut findings = Findings::default();
        findings.add(Finding::changed(None, "closes", "open"));
        findings.add(finding(7, 5));
        assert_eq!(findings.sorted().0[0].severity, Severity::Refused);
    }
}
