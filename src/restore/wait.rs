//! A standby: waits until a generation is offered, with everything prepared in advance.
//!
//! Never starts anything of the service, never gives up because a store does not answer, and never starts a
//! thread while it waits, as each takes a PID.

use std::os::unix::process::parent_id;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::ahead::MemoryAhead;
use super::look::Newest;
use super::presence::{self, Presence};
use super::{Policy, choose};
use crate::control::protocol::{Event, Phase};
use crate::criu::command::Criu;
use crate::fail_points::{Point, reach};
use crate::host::pid_counting::Round;
use crate::image::{self, FetchThreads, Heartbeat, ImageError, Lease, Manifest, Result, Vault};
use crate::job::{Choice, Common, cores};
use crate::store::{CachedStore, Store};
use crate::sys::pids;

/// Shortest time between two warnings, and between two reads of a generation that cannot be read.
const QUIET: Duration = Duration::from_secs(60);
/// Intervals without a heartbeat after which the lease owner is presumed dead.
const SILENT: u32 = 3;
/// PIDs that must be left below the service's: CRIU and its helpers take some. With no more than this the
/// container is worn out.
const LEAST_PIDS: i32 = 50;
/// Poll interval while a generation is about to be offered, and how long it applies at most.
const NEAR_POLL: Duration = Duration::from_millis(20);
const NEAR: Duration = Duration::from_secs(120);
/// The service's lowest PID if no generation tells.
const FIRST_PID: i32 = 1000;

/// Bound of the back-off after failed polls, in poll intervals: a poll may be expensive.
const PATIENCE: u32 = 8;

/// How a wait ends.
pub enum Woken {
    Restore(Box<Ready>),
    /// Start the service afresh: the exclusive owner is gone and has committed nothing.
    Start {
        vault: Vault,
        /// This container's; not claimed yet.
        lease: Lease,
    },
    /// This container's PIDs are nearly used up: one sentence.
    PidsExhausted(String),
}

/// A generation to restore, and what was prepared for it.
pub struct Ready {
    /// The store, with its prefetched packs.
    pub vault: Vault,
    pub threads: Arc<FetchThreads>,
    /// This container's; not claimed yet.
    pub lease: Lease,
    /// If its outcome is open, the container that decides it has the service.
    pub newest: Newest,
    pub ahead: MemoryAhead,
}

/// Waits without a time limit. With `pids_matter` (PIDs only go up here) it ends when the service's PIDs are
/// nearly out of reach. With `program` that criu takes memory in meanwhile. `unfit` says why this container could not
/// restore a generation. `tell` gets all events but the last.
///
/// Fails only before the wait begins, if its threads cannot start.
pub fn wait(
    store: Arc<dyn Store>,
    common: &Common,
    policy: &Policy,
    pids_matter: bool,
    program: Option<Criu>,
    unfit: &dyn Fn(&Manifest) -> Option<String>,
    tell: &dyn Fn(&Event),
) -> Result<Woken> {
    let cached = CachedStore::new(store, &policy.standby.cache, policy.standby.cache_bytes)?;
    let threads = Arc::new(FetchThreads::start(&cached, cores())?);
    let newest_pid = if pids_matter { pids::newest } else { || None };
    let ahead = MemoryAhead::nothing(program, &threads, common.memory);
    let mut watch = Watch::new(Arc::new(cached), threads, common, policy, unfit, tell, newest_pid);
    watch.ahead = ahead;
    tell(&Event::Waiting { generation: 0 });
    loop {
        if let Some(woken) = watch.step(Instant::now()) {
            return Ok(woken);
        }
        reach(Point::RestoreWaiting);
        watch.rest();
    }
}

struct Watch<'a> {
    store: Arc<CachedStore>,
    threads: Arc<FetchThreads>,
    ahead: MemoryAhead,
    common: &'a Common,
    policy: &'a Policy,
    unfit: &'a dyn Fn(&Manifest) -> Option<String>,
    tell: &'a dyn Fn(&Event),
    newest_pid: fn() -> Option<i32>,
    vault: Option<Vault>,
    /// The last head that was handled completely, and the generation that it names.
    head: Option<Lease>,
    newest: Option<Newest>,
    /// When to read a generation again that could not be read.
    again: Option<Instant>,
    /// Which head says that a generation is about to be offered, and since when.
    near: Option<(Lease, Instant)>,
    /// The generation last reported to init.
    told: u64,
    warned: Option<Instant>,
    /// Failed polls since the last successful one.
    failed: u32,
    /// With `exclusive`: what was last seen of the lease owner.
    still: Option<Still>,
    presence: Presence<'a>,
}

/// A lease owner that shows no change.
struct Still {
    since: Instant,
    /// The last poll.
    last: Instant,
    head: Lease,
    heartbeat: Option<Heartbeat>,
}

impl<'a> Watch<'a> {
    fn new(
        store: Arc<CachedStore>,
        threads: Arc<FetchThreads>,
        common: &'a Common,
        policy: &'a Policy,
        unfit: &'a dyn Fn(&Manifest) -> Option<String>,
        tell: &'a dyn Fn(&Event),
        newest_pid: fn() -> Option<i32>,
    ) -> Self {
        let (vault, head, newest, again, near, warned, still) = (None, None, None, None, None, None, None);
        let (told, failed) = (0, 0);
        let poll = Duration::from_millis(policy.standby.poll_ms);
        let ahead = MemoryAhead::nothing(None, &threads, common.memory);
        let presence = Presence::new(&common.instance, poll, unfit);
        Self {
            store,
            threads,
            ahead,
            common,
            policy,
            unfit,
            tell,
            newest_pid,
            vault,
            head,
            newest,
            again,
            near,
            told,
            warned,
            failed,
            still,
            presence,
        }
    }

    /// One poll of the store, and of this container's PIDs.
    fn step(&mut self, now: Instant) -> Option<Woken> {
        if let Some(message) = self.worn_out() {
            self.vault.iter().for_each(|vault| presence::leave(vault, &self.common.instance, None));
            return Some(Woken::PidsExhausted(message));
        }
        match self.look(now) {
            Ok(Some((woken, message))) => {
                self.store.stop();
                (self.tell)(&Event::Chosen { message });
                (self.tell)(&Event::Progress { phase: Phase::Check, bytes: 0, total: 0 });
                return Some(woken);
            }
            Ok(None) => {
                self.failed = 0;
                self.prepared(now);
            }
            Err(error) => {
                // The lease owner may not reach the store either, so its silence means nothing.
                self.still = None;
                self.failed += 1;
                self.warn(now, || {
                    Some(format!("{error}. This container keeps waiting for a generation to be handed over"))
                });
            }
        }
        None
    }

    fn look(&mut self, now: Instant) -> Result<Option<(Woken, String)>> {
        let vault = self.open()?;
        let glance = image::glance(&vault)?;
        if let Some((head, moving)) = glance
            && let Some(chosen) = self.look_at(&vault, head, moving, now)?
        {
            return Ok(Some(chosen));
        }
        // One with another choice would lose the service's state.
        if self.policy.choice == Choice::Newest
            && let Err(error) = self.presence.keep(&vault, glance, self.told, now)
        {
            self.warn(now, || Some(format!("{error}. So a container does not know that this standby is there")));
        }
        Ok(None)
    }

    fn look_at(&mut self, vault: &Vault, head: Lease, moving: bool, now: Instant) -> Result<Option<(Woken, String)>> {
        // Each round of a move begins anew.
        self.near = moving.then(|| self.near.filter(|(of, _)| *of == head).unwrap_or((head, now)));
        if (self.head != Some(head) || self.again.is_some_and(|again| now >= again))
            && let Some(chosen) = self.take_in(vault, head, now)?
        {
            return Ok(Some(chosen));
        }
        match self.policy.exclusive {
            Some(interval) if !head.is_unclaimed() => self.look_for_heartbeat(vault, head, interval, now),
            _ => Ok(None),
        }
    }

    /// Whether a generation is about to be offered. Bounded by [`NEAR`], as it may never come.
    fn is_near(&self, now: Instant) -> bool {
        self.near.is_some_and(|(_, since)| now.duration_since(since) < NEAR)
    }

    /// Time until the next poll.
    fn pause(&self, now: Instant) -> Duration {
        let poll = self.poll();
        if self.is_near(now) {
            // Memory that is still to be decoded is not kept waiting for the store too often.
            poll.min(if self.ahead.is_settled() { NEAR_POLL } else { NEAR_POLL * 5 })
        } else {
            poll * PATIENCE.min(1 << self.failed.min(16))
        }
    }

    /// Until the next poll, takes memory in.
    fn rest(&mut self) {
        let until = Instant::now() + self.pause(Instant::now());
        if self.store.is_settled() {
            self.ahead.work(until);
        }
        thread::sleep(until.saturating_duration_since(Instant::now()));
    }

    fn poll(&self) -> Duration {
        Duration::from_millis(self.policy.standby.poll_ms)
    }

    /// Begins an empty store, so that the first checkpoint finds this standby in it.
    fn open(&mut self) -> Result<Vault> {
        Ok(match &self.vault {
            Some(vault) => vault.clone(),
            None => self.vault.insert(Vault::create(self.store.clone(), &self.common.keys)?).clone(),
        })
    }

    /// Reads the generation that head names now, and chooses it or prepares for it.
    fn take_in(&mut self, vault: &Vault, head: Lease, now: Instant) -> Result<Option<(Woken, String)>> {
        let known = self.head.map_or(0, |head| head.generation);
        if head.generation < known {
            return Err(ImageError::OldHead { url: vault.url().into(), found: head.generation, known });
        }
        // Reads head again, as excluding an old head is more expensive.
        let Some(head) = Lease::of_head(vault)? else { return Ok(None) };
        let newest = Newest::load(vault, &head)?;
        self.again = None;
        match newest.as_ref().map(|newest| (newest.offered(), &newest.manifest)) {
            Some((Some(manifest), _)) => {
                let (generation, from, url) = (head.generation, &manifest.instance, vault.url());
                let plan = choose::plan(self.policy.choice, generation);
                let message = format!("{plan}: {from} hands over generation {generation} of {url}");
                return Ok(newest.map(|newest| (self.restore(vault, &head, newest), message)));
            }
            // Taken by a late request of this container. With `exclusive` another one may have claimed it
            // since, so that one must fall silent first.
            _ if self.policy.exclusive.is_none()
                && newest.as_ref().is_some_and(|newest| newest.is_of(&self.common.instance)) =>
            {
                let (generation, url) = (head.generation, vault.url());
                let plan = choose::plan(self.policy.choice, generation);
                let message = format!("{plan}: this container has already taken generation {generation} of {url}");
                return Ok(newest.map(|newest| (self.restore(vault, &head, newest), message)));
            }
            Some((None, Ok(manifest))) => {
                self.store.want(manifest.packs.iter().map(|pack| (pack.key(), pack.size)));
                // Told while the service still runs elsewhere.
                let (generation, lacks) = (head.generation, (self.unfit)(manifest));
                if lacks.is_none() {
                    self.ahead.want(vault, manifest);
                }
                self.warn(now, || Some(format!("this standby could not restore generation {generation}: {}", lacks?)));
            }
            Some((None, Err(damage))) => {
                self.again = Some(now + QUIET);
                self.warn(now, || {
                    Some(format!("{damage}. This container keeps waiting for a generation to be handed over"))
                });
            }
            None => {}
        }
        (self.head, self.newest) = (Some(head), newest);
        Ok(None)
    }

    fn restore(&mut self, vault: &Vault, head: &Lease, newest: Newest) -> Woken {
        let (vault, threads, lease) = (vault.clone(), self.threads.clone(), Lease::after(head));
        let ahead = self.ahead.hand_over();
        Woken::Restore(Box::new(Ready { vault, threads, lease, newest, ahead }))
    }

    /// Takes over if neither head nor the heartbeat has changed for [`SILENT`] intervals, under uninterrupted
    /// observation.
    fn look_for_heartbeat(
        &mut self,
        vault: &Vault,
        head: Lease,
        interval: Duration,
        now: Instant,
    ) -> Result<Option<(Woken, String)>> {
        // The heartbeat of a former owner does not count.
        let heartbeat = Heartbeat::read(vault)?.filter(|heartbeat| heartbeat.is_of(&head));
        // After a gap between polls the observation starts over: this container may have stood still together
        // with the owner.
        let gap = interval.max(self.poll() * 2);
        let since = match &self.still {
            Some(still)
                if (still.head, &still.heartbeat) == (head, &heartbeat) && now.duration_since(still.last) <= gap =>
            {
                still.since
            }
            _ => now,
        };
        let silent = now.duration_since(since);
        let name = heartbeat.as_ref().map(|heartbeat| heartbeat.party.instance.clone());
        self.still = Some(Still { since, last: now, head, heartbeat });
        if silent < interval * SILENT {
            return Ok(None);
        }
        let name = name.as_deref().unwrap_or("its owner");
        let (seconds, url) = (silent.as_secs(), vault.url());
        let taking = format!("taking over the lease of {url}, because {name} sent no heartbeat for {seconds} s");
        Ok(Some(match self.newest.take() {
            Some(newest) => {
                let message = format!("{taking}: {}", choose::plan(self.policy.choice, newest.generation));
                (self.restore(vault, &head, newest), message)
            }
            None => {
                let woken = Woken::Start { vault: vault.clone(), lease: Lease::after(&head) };
                (woken, format!("{taking} and has committed no generation: starting the command"))
            }
        }))
    }

    /// Reports that a newer generation is prefetched, or what went wrong.
    fn prepared(&mut self, now: Instant) {
        let generation = self.newest.as_ref().map_or(0, |newest| newest.generation);
        if generation != self.told && self.store.is_settled() && self.ahead.is_settled() {
            self.told = generation;
            (self.tell)(&Event::Waiting { generation });
        }
        let store = self.store.clone();
        self.warn(now, || store.trouble().inspect(|_| store.try_again()));
    }

    fn warn(&mut self, now: Instant, message: impl FnOnce() -> Option<String>) {
        if self.warned.is_none_or(|warned| now.duration_since(warned) >= QUIET)
            && let Some(message) = message()
        {
            self.warned = Some(now);
            (self.tell)(&Event::Warning { message });
        }
    }

    /// PIDs only go up here, and the service's must still be free when it comes, or soon be free again.
    fn worn_out(&self) -> Option<String> {
        let manifest = self.newest.as_ref().and_then(|newest| newest.manifest.as_ref().ok());
        let processes = manifest.into_iter().flat_map(|manifest| &manifest.processes);
        let lowest = processes.map(|process| process.pid).min().unwrap_or(FIRST_PID);
        let newest = (self.newest_pid)()?;
        let passed = lowest.saturating_sub(newest) <= LEAST_PIDS;
        (passed && !Round::is_quick_below(parent_id())).then(|| {
            format!(
                "this container has used PIDs up to {newest} while it waited, and the service needs the PIDs from \
                 {lowest} on; start a new container, which has fresh PIDs"
            )
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
