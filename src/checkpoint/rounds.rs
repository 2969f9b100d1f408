//! The rounds of a move: each saves what has changed since the one before, while the service runs, so that it stands still
//! for little at the end.
//!
//! A round is a generation like any other. The next one begins when a standby has decoded it. Rounds end when the last step is
//! predicted to be short, or no shorter by another.

use std::time::{Duration, Instant};

use super::announce::Announced;
use super::heartbeat::Heartbeats;
use super::take::Taken;
use super::tree_of_service::Tree;
use super::{Target, standbys};
use crate::control::protocol::{Event, NotConverging, Pace, Phase, RoundReport, millis};
use crate::fail_points;
use crate::image::{Vault, standby};
use crate::job::reporter::Reporter;
use crate::job::{AfterCommit, Common};
use crate::proc::status::Status;
use crate::store;

/// Bytes that are read, compressed and decoded in a second, at least, on the slower of two hosts.
const SPEED: u64 = 256 << 20;
/// Bytes of a service that a first round saves in a second, at least, to a store that is not too slow for rounds.
const FIRST_SPEED: u64 = SPEED / 2;
/// How long a standby may take for a round, beside twice as long as the source has taken, and at most.
const FOLLOWS: Duration = Duration::from_secs(5);
const FOLLOWS_MOST: Duration = Duration::from_secs(120);
/// Most rounds.
const MOST: u32 = 8;
/// A round helps if it reads less than this part of what the one before has read.
const HELPS: (u64, u64) = (7, 10);

/// The service writes too fast for a short last step.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "after {rounds} rounds the service would still stand still for about {predicted_ms} ms, and --max-downtime allows {most_ms} ms, so freeze gives up the move, and the service keeps running; allow more, move it when it writes less, or leave out --if-not-converging"
)]
pub struct NotConverged {
    predicted_ms: u64,
    most_ms: u64,
    rounds: u32,
}

pub struct Rounds {
    wanted: bool,
    pace: Pace,
    /// When the last step must have ended.
    until: Option<Instant>,
    done: u32,
    /// How long the last round took here; an estimate before the first.
    took: Duration,
    /// When the last round began to hold the service, and what the last two rounds read.
    since: Instant,
    read: [u64; 2],
    predicted_ms: u64,
    /// Whether a standby has not followed in time.
    is_alone: bool,
    /// Standbys look more often as long as this is there.
    announced: Option<Announced>,
}

impl Rounds {
    /// For a service that is to run elsewhere afterwards: if it has so much memory that they help.
    pub fn of(common: &Common, target: &Target) -> Self {
        let (pace, until, moves) = (target.pace, target.until, moves(common, target));
        let memory = if moves { memory(target) } else { 0 };
        let wanted = moves && memory >= least(pace);
        let took = Duration::from_millis(memory * 1000 / FIRST_SPEED);
        Self { took, ..Self::new(wanted, pace, until) }
    }

    fn new(wanted: bool, pace: Pace, until: Option<Instant>) -> Self {
        Self {
            wanted,
            pace,
            until,
            done: 0,
            took: Duration::ZERO,
            since: Instant::now(),
            read: [0; 2],
            predicted_ms: 0,
            is_alone: false,
            announced: None,
        }
    }

    /// Whether another round is to be taken.
    pub fn go_on(&self) -> bool {
        let [before, last] = self.read;
        let helps = last * HELPS.1 < before * HELPS.0;
        let is_needed = match self.done {
            0 | 1 => self.wanted,
            2 => self.is_too_long(),
            done => done < MOST && self.is_too_long() && helps,
        };
        is_needed && self.is_in_time()
    }

    /// Whether there is time for another round, and for a last step that takes as long.
    fn is_in_time(&self) -> bool {
        self.until.is_none_or(|until| self.took * 2 <= until.saturating_duration_since(Instant::now()))
    }

    /// Why the last step is not to come, if that was asked for.
    pub fn give_up(&self) -> Option<NotConverged> {
        let Pace { max_downtime_ms: most_ms, if_not_converging } = self.pace;
        let gives_up = if_not_converging == NotConverging::GiveUp && self.is_too_long();
        gives_up.then_some(NotConverged { predicted_ms: self.predicted_ms, most_ms, rounds: self.done })
    }

    /// The last step has ended them.
    pub fn end(mut self) {
        self.announced.take().into_iter().for_each(Announced::disarm);
    }

    fn is_too_long(&self) -> bool {
        self.predicted_ms > self.pace.max_downtime_ms
    }

    /// Takes in what a round has read, when a standby has it, too, and says so.
    pub fn take_in(&mut self, taken: &mut Taken, common: &Common, reporter: &Reporter) {
        // The commit has replaced the one before.
        std::mem::replace(&mut self.announced, taken.announced.take()).into_iter().for_each(Announced::disarm);
        self.follow(taken, common, reporter);
        let between = taken.frozen.duration_since(self.since);
        (self.since, self.took) = (taken.frozen, Duration::from_millis(taken.report.total_ms));
        self.read = [self.read[1], taken.read];
        self.done += 1;
        // The first has read what is there. From this one until the last step is as long as from its begin until now.
        let changes = if self.done == 1 { 0 } else { rate(taken.read, between) };
        let read_again = changes * millis(taken.begun.elapsed()) / 1000;
        let predicted_ms = (self.done > 1).then(|| taken.report.frozen_ms + read_again * 1000 / SPEED);
        self.predicted_ms = predicted_ms.unwrap_or(0);
        reporter.send(&Event::Round(RoundReport {
            round: self.done,
            generation: taken.report.generation,
            read: taken.read,
            changes,
            frozen_ms: taken.report.frozen_ms,
            predicted_ms,
        }));
    }

    /// Waits for a standby. Otherwise the service would stand still while that decodes the round.
    fn follow(&mut self, taken: &Taken, common: &Common, reporter: &Reporter) {
        let Some(announced) = self.announced.as_ref().filter(|_| !self.is_alone) else { return };
        reporter.progress(Phase::Follow);
        // Otherwise a container that waits for this one to die would take the round.
        let interval = common.exclusive_ms.map(Duration::from_millis);
        let _heartbeats = Heartbeats::start(announced.vault(), taken.target.lease, &common.instance, interval);
        let (now, took) = (Instant::now(), taken.begun.elapsed());
        let patience = (took * 2 + FOLLOWS).min(FOLLOWS_MOST);
        // The last step takes as long as this round at most.
        let left = self.until.map(|until| until.saturating_duration_since(now).saturating_sub(took));
        let patience = left.map_or(patience, |left| patience.min(left));
        let (generation, asked) = (taken.report.generation, taken.target.asked);
        self.is_alone = !standbys::follow(announced.vault(), &common.instance, asked, generation, now + patience);
        if self.is_alone {
            reporter.warn(format!(
                "no standby has read generation {generation} within {}, so the service may stand still for longer at the end",
                humantime::format_duration(Duration::from_secs(patience.as_secs()))
            ));
        }
    }
}

/// Bytes a second.
fn rate(bytes: u64, time: Duration) -> u64 {
    bytes * 1000 / millis(time).max(1)
}

/// Whether another container waits for the service, and copies can be kept: a CRIU in a tracer ends before the next begins.
fn moves(common: &Common, target: &Target) -> bool {
    let is_awaited = match target.after_commit {
        AfterCommit::Resume => false,
        AfterCommit::HandOver { .. } => true,
        // An orchestrator starts the container that waits when it ends this one.
        AfterCommit::Stop => common.exclusive_ms.is_some() || has_standby(common),
    };
    is_awaited && target.tracer.is_none()
}

/// Errors show at the checkpoint itself.
fn has_standby(common: &Common) -> bool {
    let vault = store::open(&common.store).ok().and_then(|store| Vault::open(store, &common.keys).ok()?);
    vault.and_then(|vault| standby::listed(&**vault.store()).ok()).is_some_and(|standbys| !standbys.is_empty())
}

/// Bytes of the service's private memory.
fn memory(target: &Target) -> u64 {
    let tree = Tree::of_service(target.root, target.service, &[]);
    let processes = tree.iter().flat_map(Tree::processes);
    let of_one =
        |pid| Status::read(pid).map_or(0, |status| status.anonymous.unwrap_or(0) + status.swapped.unwrap_or(0));
    processes.map(|process| of_one(process.pid)).sum()
}

/// Less is read in time at the end.
fn least(pace: Pace) -> u64 {
    fail_points::rounds().map_or((SPEED / 1000).saturating_mul(pace.max_downtime_ms), u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(max_downtime_ms: u64) -> Rounds {
        let pace = Pace { max_downtime_ms, if_not_converging: NotConverging::GiveUp };
        Rounds::new(true, pace, None)
    }

    /// After rounds that have read so much, of which the last one predicts these milliseconds.
    fn after(read: &[u64], predicted_ms: u64) -> Rounds {
        let mut rounds = rounds(300);
        for one in read {
            rounds.read = [rounds.read[1], *one];
            rounds.done += 1;
        }
        rounds.predicted_ms = predicted_ms;
        rounds
    }

    #[test]
    fn rounds_go_on_while_they_are_needed_and_help() {
        assert!(rounds(300).go_on() && after(&[900], 0).go_on());
        assert!(!after(&[900, 10], 299).go_on() && after(&[900, 10], 301).go_on());
        assert!(after(&[900, 100, 60], 400).go_on() && !after(&[900, 100, 70], 400).go_on());
        assert!(!after(&[900, 800, 500, 300, 200, 100, 60, 30], 400).go_on());
        assert!(!Rounds { wanted: false, ..rounds(300) }.go_on());
    }

    #[test]
    fn the_last_step_comes_in_time() {
        let until = Some(Instant::now() + Duration::from_secs(60));
        let took = |seconds| Rounds { until, took: Duration::from_secs(seconds), ..after(&[900], 0) };
        assert!(took(29).go_on() && !took(31).go_on());
    }

    #[test]
    fn who_asked_for_it_gives_up_where_the_last_step_is_too_long() {
        assert_eq!(after(&[900, 10], 300).give_up(), None);
        let go = Rounds { pace: Pace::DEFAULT, ..after(&[900, 800, 790], 400) };
        assert_eq!(go.give_up(), None);
        insta::assert_snapshot!(after(&[900, 800, 790], 400).give_up().unwrap(), @"after 3 rounds the service would still stand still for about 400 ms, and --max-downtime allows 300 ms, so freeze gives up the move, and the service keeps running; allow more, move it when it writes less, or leave out --if-not-converging");
    }
}
