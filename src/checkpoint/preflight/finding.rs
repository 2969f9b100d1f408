//! One finding, and a bounded list of findings.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use crate::demands::Unfit;
use crate::proc::tree::Process;

/// Effect on the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The checkpoint is impossible, or would lose something in silence.
    Refused,
    /// The checkpoint works, but the service notices something after a restore.
    Changed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    Descriptor(i32),
    /// Start address.
    Mapping(u64),
    /// Thread ID, unless it is the first thread's.
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

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Owner {
    /// In the observer's PID namespace.
    pub pid: i32,
    /// The kernel's name of the process, at most 15 bytes.
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
    pub severity: Severity,
    /// None if it belongs to the whole container.
    pub process: Option<Owner>,
    /// The first of several places.
    pub place: Option<Place>,
    /// Number of further places.
    pub others: usize,
    /// The predicate of a sentence: `has io_uring open, which cannot be checkpointed`.
    pub what: String,
    pub advice: Cow<'static, str>,
}

impl Finding {
    pub fn refused(process: Option<&Process>, what: &str, advice: &'static str) -> Self {
        let process = process.map(|process| Owner { pid: process.pid, name: process.comm.clone() });
        let (what, advice) = (what.to_owned(), advice.into());
        Self { severity: Severity::Refused, process, place: None, others: 0, what, advice }
    }

    /// The container could not restore its own service.
    pub fn unfit(unfit: &Unfit) -> Self {
        let (fact, advice) = unfit.fact_and_advice();
        let what = format!("could not restore this service: {fact}");
        Self { advice: advice.into(), ..Self::refused(None, &what, "") }
    }

    pub fn changed(process: Option<&Process>, what: &str, advice: &'static str) -> Self {
        Self { severity: Severity::Changed, ..Self::refused(process, what, advice) }
    }

    pub fn at(self, place: Place) -> Self {
        Self { place: Some(place), ..self }
    }

    /// Whether they differ only in their places.
    fn is_alike(&self, other: &Self) -> bool {
        (self.severity, &self.process, &self.what) == (other.severity, &other.process, &other.what)
    }

    /// Such as `descriptor 5 and 2 more`; empty without a place.
    pub fn places(&self) -> String {
        match (self.place, self.others) {
            (None, _) => String::new(),
            (Some(place), 0) => place.to_string(),
            (Some(place), others) => format!("{place} and {others} more"),
        }
    }
}

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

/// Limit of groups per severity: a service may have thousands of findings.
const LIMIT: usize = 200;

/// Findings that differ only in their places.
#[derive(Debug)]
struct Group {
    /// The first of them.
    finding: Finding,
    places: Vec<Option<Place>>,
}

impl Group {
    fn into_finding(self) -> Finding {
        let place = self.places.first().copied().flatten();
        Finding { place, others: self.places.len().saturating_sub(1), ..self.finding }
    }
}

/// Findings, grouped by everything but their places.
#[derive(Debug, Default)]
pub struct Findings {
    list: Vec<Group>,
    dropped_changes: usize,
    dropped_refusals: usize,
}

impl Findings {
    pub fn add(&mut self, finding: Finding) {
        if let Some(alike) = self.list.iter_mut().rev().find(|known| known.finding.is_alike(&finding)) {
            alike.places.push(finding.place);
        } else if self.groups(finding.severity).count() < LIMIT {
            self.list.push(Group { places: vec![finding.place], finding });
        } else {
            match finding.severity {
                Severity::Refused => self.dropped_refusals += 1,
                Severity::Changed => self.dropped_changes += 1,
            }
        }
    }

    fn groups(&self, severity: Severity) -> impl Iterator<Item = &Group> {
        self.list.iter().filter(move |group| group.finding.severity == severity)
    }

    pub fn has_refused(&self) -> bool {
        self.groups(Severity::Refused).next().is_some()
    }

    /// Drops refusals that are not in `before` for the same process, thing and place. Keeps all if either
    /// list is cut, since the missing ones are unknown.
    pub fn staying(mut self, before: &Self) -> Self {
        if before.dropped_refusals == 0 && self.dropped_refusals == 0 {
            self.list.iter_mut().filter(|group| group.finding.severity == Severity::Refused).for_each(|group| {
                let known = before.list.iter().find(|known| known.finding.is_alike(&group.finding));
                let known: BTreeSet<_> = known.into_iter().flat_map(|known| &known.places).collect();
                group.places.retain(|place| known.contains(place));
            });
            self.list.retain(|group| !group.places.is_empty());
        }
        self
    }

    /// All findings, refusals first, and how many were left out.
    pub fn sorted(mut self) -> (Vec<Finding>, usize) {
        self.list.sort_by_key(|group| group.finding.severity);
        let list = self.list.into_iter().map(Group::into_finding).collect();
        (list, self.dropped_changes + self.dropped_refusals)
    }

    pub fn into_refused(self) -> Vec<Finding> {
        let refused = self.list.into_iter().filter(|group| group.finding.severity == Severity::Refused);
        refused.map(Group::into_finding).collect()
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
        let unfit = Unfit::Descriptors { needed: 1152, limit: 512 };
        insta::assert_snapshot!(Finding::unfit(&unfit), @"the container could not restore this service: a restore of the service needs 1152 descriptors in one process, but this container's hard limit of open files is 512; raise it (--ulimit nofile=1152)");
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
        let findings = |list: &[Finding]| all(list.iter().cloned());
        let changed = Finding::changed(None, "closes", "open");
        let before = findings(&[finding(7, 5), finding(8, 5)]);
        let after = findings(&[finding(7, 5), finding(8, 6), finding(9, 5), changed.clone()]).staying(&before);
        assert!(after.has_refused() && !all([changed.clone()]).has_refused());
        assert_eq!(after.sorted().0, [finding(7, 5), changed]);
    }

    fn numbers(count: usize) -> impl Iterator<Item = i32> {
        (0..).take(count)
    }

    fn all(list: impl IntoIterator<Item = Finding>) -> Findings {
        let mut findings = Findings::default();
        list.into_iter().for_each(|one| findings.add(one));
        findings
    }

    #[test]
    fn what_lasts_is_refused_although_the_first_of_its_kind_has_gone() {
        let before = all([5, 6, 9].map(|fd| finding(7, fd)));
        let after = all([6, 9, 10].map(|fd| finding(7, fd))).staying(&before);
        let places: Vec<_> = after.sorted().0.iter().map(Finding::places).collect();
        assert_eq!(places, ["descriptor 6 and 1 more"]);
    }

    #[test]
    fn changes_never_crowd_out_what_is_refused() {
        let changes = numbers(LIMIT + 1).map(|fd| Finding::changed(None, &format!("changes {fd}"), "wait"));
        let findings = all(changes.chain([finding(7, 5)]));
        assert!(findings.has_refused());
        assert_eq!(findings.sorted().1, 1);
    }

    #[test]
    fn what_lasts_beyond_the_limit_is_refused() {
        let before = all(numbers(LIMIT + 1).map(|pid| finding(pid, 5)));
        let last = LIMIT as i32;
        assert!(all([finding(last, 5)]).staying(&before).has_refused());
    }

    #[test]
    fn what_is_refused_comes_first() {
        let mut findings = Findings::default();
        findings.add(Finding::changed(None, "closes", "open"));
        findings.add(finding(7, 5));
        assert_eq!(findings.sorted().0[0].severity, Severity::Refused);
    }
}
