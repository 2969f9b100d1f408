//! Brings the memory that is there to the state of one generation, process by process, a piece at a time.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;

use super::process::{Process, Unknown};
use super::runs::{Kind, Memory, Run, Source};
use super::{drop_pages, space};
use crate::criu::ahead::{Ahead, DATA_MAX};
use crate::image::{Body, Fetcher, Front, Manifest, StreamId};
use crate::sys::memory::page_size;

/// What one step has done.
pub(super) enum Step {
    /// There are frames to be sent.
    Queued,
    /// The store is to deliver.
    Pending,
    /// All is there that can be.
    Done,
}

pub(super) struct Update {
    fetcher: Fetcher,
    manifest: Manifest,
    /// Processes that are still to be looked at; None before the first step.
    left: Option<VecDeque<i32>>,
    reading: Option<Reading>,
}

/// The pages that a process lacks, in the order of the stream.
struct Reading {
    pid: i32,
    stream: StreamId,
    lacking: VecDeque<Run>,
}

impl Update {
    pub(super) fn new(fetcher: Fetcher, manifest: Manifest) -> Self {
        Self { fetcher, manifest, left: None, reading: None }
    }

    /// Readable when a step can go on that is pending.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.fetcher.wake_fd()
    }

    pub(super) fn step(&mut self, criu: &mut Ahead, ours: &mut BTreeMap<i32, Memory>) -> Result<Step, Unknown> {
        if let Some(reading) = &mut self.reading {
            let step = reading.step(&mut self.fetcher, criu, ours.entry(reading.pid).or_default())?;
            if let Step::Done = step {
                self.fetcher.close(reading.stream);
                self.reading = None;
            }
            return Ok(if let Step::Done = step { Step::Queued } else { step });
        }
        let manifest = &self.manifest;
        let left = self.left.get_or_insert_with(|| {
            ours.retain(|pid, _| {
                let stays = manifest.processes.iter().any(|process| process.pid == *pid);
                if !stays {
                    criu.forget(*pid);
                }
                stays
            });
            manifest.processes.iter().map(|process| process.pid).collect()
        });
        let Some(pid) = left.pop_front() else { return Ok(Step::Done) };
        match Process::read(manifest, &mut self.fetcher, pid)? {
            Some(process) => {
                self.reading = Some(begin(&process, pid, &mut self.fetcher, criu, ours.entry(pid).or_default()))
            }
            None if ours.remove(&pid).is_some() => criu.forget(pid),
            None => {}
        }
        Ok(Step::Queued)
    }
}

/// Drops what a process has no more, and asks for what it lacks.
fn begin(process: &Process, pid: i32, fetcher: &mut Fetcher, criu: &mut Ahead, ours: &mut Memory) -> Reading {
    let gone = ours.beside(&process.runs);
    drop_pages(criu, pid, &gone);
    gone.iter().for_each(|run| ours.clear(run.range()));
    for mapping in process.mappings.iter().filter(|mapping| mapping.kind != Kind::Other) {
        let first = process.runs.partition_point(|run| run.start < mapping.range.start);
        if process.runs.get(first).is_some_and(|run| run.start < mapping.range.end) {
            criu.map(space(pid, mapping.kind), &mapping.range);
        }
    }
    let (mut lacking, mut body) = (VecDeque::new(), Body::default());
    let changed: Vec<Run> = ours.compare(&process.runs).into_iter().filter_map(changed).collect();
    for run in changed {
        if run.source == Source::Zeros {
            drop_pages(criu, pid, &[run]);
            ours.put(run);
            continue;
        }
        ours.put(Run { source: Source::Unknown, ..run });
        run.extent().into_iter().for_each(|extent| body.push(extent));
        lacking.push_back(run);
    }
    Reading { pid, stream: fetcher.open(&body), lacking }
}

/// What is to come and is not there.
fn changed((run, same): (Run, bool)) -> Option<Run> {
    (!same && run.kind != Kind::Other).then_some(run)
}

impl Reading {
    fn step(&mut self, fetcher: &mut Fetcher, criu: &mut Ahead, ours: &mut Memory) -> Result<Step, Unknown> {
        fetcher.receive()?;
        let data = match fetcher.front(self.stream)? {
            Front::End => return Ok(Step::Done),
            Front::Pending => return Ok(Step::Pending),
            Front::Data(data) => data,
        };
        let run = self.lacking.front().copied().ok_or(Unknown::Malformed)?;
        let length = run.length.min(data.len().min(DATA_MAX) as u64);
        let part = run.within(&(run.start..run.start + length)).ok_or(Unknown::Malformed)?;
        if !part.length.is_multiple_of(page_size()) {
            return Err(Unknown::Malformed);
        }
        criu.data(space(self.pid, run.kind), part.start, &data[..length as usize]);
        ours.put(part);
        fetcher.consume(self.stream, length as usize);
        self.lacking.pop_front();
        if let Some(rest) = run.within(&(part.end()..run.end())) {
            self.lacking.push_front(rest);
        }
        Ok(Step::Queued)
    }
}
