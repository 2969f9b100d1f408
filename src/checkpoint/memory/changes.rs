//! Which pages of the service are as they were in an earlier round.
//!
//! A copy by clone(2) shares each page with its process until one of them writes it: then each has a page of its own. So a
//! page is as it was if both still map, at its address, one that they do not have alone (bit 56 of /proc/PID/pagemap). One
//! side does not tell: memory that was dropped, moved, or shared with a child since then shows on the copy's side.
//!
//! Pages that mremap(2) has exchanged look the same on both sides ([`moved`]).
//!
//! A third process that maps the page hides a write. So pages that others mapped before the copy was made are in doubt, as
//! are all of a process that has had a child since. What is in doubt counts as written.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::listed::{Listed, Run};
use super::moved;
use crate::image::{Body, Extent, Slice};
use crate::proc::memory::Pagemap;
use crate::proc::ranges::Ranges;
use crate::proc::tree::Process;

/// A committed generation whose copies are still there.
#[derive(Debug)]
pub struct Round {
    pub generation: u64,
    tasks: BTreeMap<i32, Task>,
    /// The processes of the first round.
    first: Family,
}

#[derive(Debug)]
struct Task {
    copy: i32,
    listed: Listed,
    /// The body of its pages.
    body: Body,
    /// None if all of it is in doubt.
    doubts: Option<Ranges>,
}

/// PIDs and start times of processes.
pub type Family = BTreeSet<(i32, u64)>;

/// Pages in doubt, by PID. Of a process that is missing all are.
#[derive(Debug, Default)]
pub struct Doubts(BTreeMap<i32, Ranges>);

/// Pages that are as they were, by PID.
#[derive(Debug, Default)]
pub struct Unchanged(BTreeMap<i32, Ranges>);

impl Unchanged {
    pub fn of(&self, pid: i32) -> Option<&Ranges> {
        self.0.get(&pid)
    }

    /// What is unchanged of the service that stands still, with its `processes`, since the `round`. Nothing is of a process
    /// that cannot be looked at.
    pub fn since(round: &Round, processes: &[Process]) -> Self {
        let parents = parents_of_new(processes, &round.first);
        let kept = round.tasks.iter().filter(|(pid, _)| !parents.contains(pid));
        Self(kept.filter_map(|(pid, task)| Some((*pid, task.unchanged(*pid)?))).collect())
    }
}

impl Doubts {
    /// What others map of the listed memory of the service that stands still, before copies are made. What is unchanged
    /// since another round is shared with its copies alone.
    pub fn of(listed: &[Listed], unchanged: &Unchanged) -> Self {
        let of_one = |one: &Listed| {
            let shared = shared(one.pid, one).ok()?;
            let others = unchanged.of(one.pid).map(|unchanged| shared.without(unchanged));
            Some((one.pid, others.unwrap_or(shared)))
        };
        Self(listed.iter().filter_map(of_one).collect())
    }

    /// Of processes that share no memory.
    pub fn none(listed: &[Listed]) -> Self {
        Self(listed.iter().map(|one| (one.pid, Ranges::default())).collect())
    }
}

/// What the process `pid` shares of the memory that is listed of it, or of the one that it is a copy of.
fn shared(pid: i32, listed: &Listed) -> io::Result<Ranges> {
    let (pagemap, mut shared) = (Pagemap::of(pid)?, Ranges::default());
    for run in listed.runs.iter().filter(|run| run.data.is_none() && !run.is_mergeable) {
        pagemap.shared(run.start, run.end, &mut shared)?;
    }
    Ok(shared)
}

impl Round {
    /// A round that is committed: `copies` has the copy of each process, `body` the body of an image, `first` the
    /// processes of the first round if this is another.
    pub fn new(
        generation: u64,
        listed: Vec<Listed>,
        copies: &BTreeMap<i32, i32>,
        mut doubts: Doubts,
        mut body: impl FnMut(&str) -> Option<Body>,
        family: Family,
    ) -> Self {
        let task = |listed: Listed| {
            let pid = listed.pid;
            let doubts = doubts.0.remove(&pid);
            Some((pid, Task { copy: *copies.get(&pid)?, body: body(&listed.image)?, listed, doubts }))
        };
        Self { generation, tasks: listed.into_iter().filter_map(task).collect(), first: family }
    }

    /// Of a first round.
    pub fn family(processes: &[Process]) -> Family {
        processes.iter().map(|process| (process.pid, process.start)).collect()
    }

    /// The processes of the first round, for the next one.
    pub fn first(&self) -> &Family {
        &self.first
    }

    pub fn copies(&self) -> impl Iterator<Item = i32> {
        self.tasks.values().map(|task| task.copy)
    }

    /// Where the pages of a process are stored, in the order of addresses.
    pub fn stored(&self, pid: i32) -> Vec<Stored> {
        self.tasks.get(&pid).map(|task| stored(&task.listed.runs, &task.body)).unwrap_or_default()
    }
}

impl Task {
    fn unchanged(&self, pid: i32) -> Option<Ranges> {
        let of_both = shared(pid, &self.listed).ok()?.and(&shared(self.copy, &self.listed).ok()?);
        moved::in_place(pid, self.copy, &of_both.without(self.doubts.as_ref()?)).ok()
    }
}

/// Processes whose memory one may have that is not of the `first`: its ancestors. All of them if nobody knows which.
fn parents_of_new(processes: &[Process], first: &Family) -> BTreeSet<i32> {
    let parent = |pid: i32| processes.iter().find(|process| process.pid == pid).map(|process| process.ppid);
    let Some(root) = processes.first().map(|process| process.pid) else { return BTreeSet::new() };
    let is_new = |process: &&Process| !first.contains(&(process.pid, process.start));
    let mut found = BTreeSet::new();
    for process in processes.iter().filter(is_new) {
        // An orphan has another parent by now.
        if process.ppid == root {
            return processes.iter().map(|process| process.pid).collect();
        }
        let above = std::iter::successors(parent(process.pid), |pid| parent(*pid));
        found.extend(above.take(processes.len()));
        found.insert(process.pid);
    }
    found
}

/// Pages that are stored: at which address, and as what. None are zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    pub start: u64,
    pub end: u64,
    pub slice: Option<Slice>,
}

impl Stored {
    /// The pages from `start` to `end` of it.
    pub fn part(&self, start: u64, end: u64) -> Self {
        let behind = (start - self.start) as u32;
        let slice = self.slice.map(|slice| Slice { length: (end - start) as u32, ..slice.behind(behind) });
        Self { start, end, slice }
    }
}

fn stored(runs: &[Run], body: &Body) -> Vec<Stored> {
    let mut stored = Vec::new();
    let mut runs = runs.iter().map(|run| (run.start, run.end));
    let mut run = runs.next();
    for extent in body.extents() {
        let (mut slice, mut left) = match extent {
            Extent::Zero(length) => (None, length),
            Extent::Slice(slice) => (Some(slice), slice.length.into()),
        };
        while let Some((start, end)) = run.filter(|_| left > 0) {
            let length = left.min(end - start);
            let part = slice.map(|slice| Slice { length: length as u32, ..slice });
            stored.push(Stored { start, end: start + length, slice: part });
            slice = slice.map(|slice| slice.behind(length as u32));
            left -= length;
            run = if start + length < end { Some((start + length, end)) } else { runs.next() };
        }
    }
    stored
}
