//! The restore worker: read the store, wait if necessary, choose a generation, check this container, put
//! files back, restore all processes up to the gate, take the generation, open the gate, claim the lease.
//!
//! Without privileges PIDs only go up, so all threads start before CRIU and nothing forks after that. Never
//! runs anything of the service before this container has the right to it, or after a failure.

mod ahead;
mod check;
mod choose;
mod clocks;
mod criu;
mod error;
mod exclusive;
mod look;
mod meter;
mod owner;
mod pids;
mod presence;
mod retry;
mod serve;
mod stdio;
mod take;
mod verify;
mod volumes;
mod wait;

pub(crate) use check::{lowered, missing, short_host};
pub(crate) use exclusive::heartbeat;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::control::protocol::{ClockReport, Event, Phase, RestoreReport, millis, now_ms};
use crate::criu::command::{self, SystemV};
use crate::criu::{log, tracer};
use crate::demands::{self, Means};
use crate::fail_points::{Point, reach};
use crate::files::half_done::Mark;
use crate::files::mounts::Mounts;
use crate::files::names;
use crate::files::put_back;
use crate::files::put_back::staged::{self, Staged};
use crate::files::selection::Scope;
use crate::host::clock::{self, Plan};
use crate::host::{env, limits, memory, pid_counting};
use crate::image::{self, FetchThreads, Fetcher, ImageError, Lease, Manifest, Vault};
use crate::job::reporter::Reporter;
use crate::job::work_folder::Work;
use crate::job::{self, Choice, Common, Failure, OnFailure, Standby, VolumeChanged};
use crate::privileges::{Abilities, RestorePlan};
use crate::store::{self, Store};
use crate::sys::stderr::say;
use ahead::MemoryAhead;
use choose::Pick;
pub(crate) use criu::{OfContainer, RestoreGate};
pub(crate) use error::RestoreError;
use look::Found;
pub use look::Newest;
pub(crate) use meter::Meter;
pub use owner::reason_to_wait;
use retry::{Next, Tries};
use take::Verdict;
use volumes::Decision;
pub(crate) use volumes::changed;
use wait::{Ready, Woken};

/// Which generation to restore, when, and what to do if that fails.
#[derive(Debug)]
pub struct Policy {
    /// Which generation, if any.
    pub choice: Choice,
    /// What follows a restore that fails.
    pub failure: OnFailure,
    /// What to do if a volume has changed since.
    pub volume_changed: VolumeChanged,
    /// What to do if the service's clocks would go back.
    pub clock: clock::Policy,
    /// How this container waits for a handover.
    pub standby: Standby,
    /// Interval of heartbeats; None without `--exclusive`.
    pub exclusive: Option<Duration>,
    /// Which files the checkpoints of this container will carry.
    pub files: Scope,
    /// The tracers' ends of their channels, if the service needs tracers.
    pub tracers: Option<[OwnedFd; tracer::COUNT]>,
}

/// Restores a generation according to `policy`, or lets init start the command. Returns the last event for
/// init.
pub(crate) fn run(common: &Common, policy: &Policy, reporter: &Reporter) -> Result<Event, Failure> {
    reach(Point::RestoreBegun);
    if policy.files == Scope::Changed {
        // Without them, what the service deletes comes back at the next restore.
        let failed = names::keep_or_warn(&common.runtime_dir, parent_id() as i32, Vec::new());
        failed.into_iter().for_each(|message| reporter.warn(message));
    }
    let mut restore = Restore::new(common, policy, reporter);
    let result = restore.insist();
    if let Some(vault) = &restore.stood_by {
        let gives_up = matches!(&result, Err(_) | Ok(Event::VolumeChanged { .. } | Event::ClockBack { .. }));
        let failed = restore.found.as_ref().filter(|_| gives_up).map(|found| found.lease.generation);
        presence::leave(vault, &common.instance, failed);
    }
    result
}

/// The state of this worker: what one attempt leaves to the next.
struct Restore<'a> {
    common: &'a Common,
    policy: &'a Policy,
    reporter: &'a Reporter,
    /// Probed once, before there are threads.
    abilities: Abilities,
    store: Option<Arc<dyn Store>>,
    /// Started once, as each takes a PID.
    threads: Option<Arc<FetchThreads>>,
    /// What the store said at first. A generation that was open then must be taken before anything runs, in
    /// every attempt.
    found: Option<Found>,
    pick: Pick,
    /// The current step, for a failure's report.
    phase: Phase,
    /// When the restore was decided on: its duration counts from here.
    decided: Instant,
    /// The generation that is being restored, once it is known.
    generation: Option<u64>,
    /// The generation whose files are here, wholly or in part.
    files_of: Option<u64>,
    /// PIDs of the service may be used up.
    criu_ran: bool,
    /// The store that knows this container as a standby.
    stood_by: Option<Vault>,
    /// The memory that came while it waited, for the first attempt.
    ahead: Option<MemoryAhead>,
}

/// What to do next, according to the store.
enum Turn {
    Restore(Box<Found>),
    Start(Option<Vault>, Lease),
    /// End with this event.
    Over(Event),
}

/// What becomes of a generation beside its volumes.
enum Beside {
    /// It is restored, with these files that have grown.
    Restore { longer: Vec<PathBuf> },
    /// It is not; end with this event.
    Over(Event),
}

/// A failed attempt, and where its CRIU log is kept.
struct Failed {
    error: Box<RestoreError>,
    log: Option<PathBuf>,
}

impl<E: Into<RestoreError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { error: Box::new(error.into()), log: None }
    }
}

impl<'a> Restore<'a> {
    fn new(common: &'a Common, policy: &'a Policy, reporter: &'a Reporter) -> Self {
        Self {
            common,
            policy,
            reporter,
            abilities: Abilities::probe(),
            store: None,
            threads: None,
            found: None,
            pick: Pick::Told(policy.choice),
            phase: Phase::Check,
            decided: Instant::now(),
            generation: None,
            files_of: None,
            criu_ran: false,
            stood_by: None,
            ahead: None,
        }
    }

    /// Retries until an attempt succeeds or the policy gives up.
    fn insist(&mut self) -> Result<Event, Failure> {
        let mut tries = Tries::new(self.policy.failure);
        loop {
            let Failed { error, log } = match self.attempt() {
                Ok(event) => return Ok(event),
                Err(failed) => failed,
            };
            // The log is in a folder that goes with the container.
            for line in log.iter().flat_map(|log| log::last_errors(log)) {
                say(&format!("CRIU's log: {line}"));
            }
            let failure = Failure { message: self.sentence(&error), log, phase: Some(self.phase) };
            let more = !self.criu_ran || self.plan().can_go_back() || self.round(self.found.as_ref()).is_some();
            match tries.after(error.hope(), more, || self.earlier()) {
                Next::Again(pause) => {
                    self.reporter.warn(format!("{}. Next attempt {}", failure.message, pids::when(pause)));
                    thread::sleep(pause);
                }
                Next::Earlier(generation) => {
                    self.reporter.warn(failure.message);
                    self.warn_of_files();
                    self.pick = Pick::Instead { generation, of: self.generation.unwrap_or(generation) };
                    self.found.iter().for_each(|found| self.announce(found));
                }
                Next::Afresh => {
                    self.warn_of_files();
                    return self.start_instead(failure);
                }
                Next::Fail if error.is_of_clocks() => return Ok(Event::ClockBack { message: failure.message }),
                Next::Fail => return Err(self.with_offer(failure, error.hope())),
            }
        }
    }

    /// One attempt: look, wait, choose, restore. Starts over if another container was faster to claim the
    /// application.
    fn attempt(&mut self) -> Result<Event, Failed> {
        loop {
            self.enter(Phase::Check);
            let found = match self.found.take() {
                Some(found) => found,
                None => match self.look()? {
                    Turn::Restore(found) => *found,
                    Turn::Over(event) => return Ok(event),
                    Turn::Start(vault, lease) => match self.start(vault.as_ref(), lease)? {
                        Some(event) => return Ok(event),
                        None => continue,
                    },
                },
            };
            reach(Point::RestoreFound);
            let result = self.bring_back(&found).transpose();
            if let Some(result) = result {
                self.found = Some(found);
                return result;
            }
        }
    }

    /// Reads the store, and waits until it is this container's turn.
    fn look(&mut self) -> Result<Turn, RestoreError> {
        let store = match &self.store {
            Some(store) => store.clone(),
            None => self.store.insert(store::open(&self.common.store)?).clone(),
        };
        let vault = Vault::open(store.clone(), &self.common.keys)?;
        let lease = self.lease_to_start(vault.as_ref())?;
        // Read before the outcomes: a generation that another container takes meanwhile is noticed there or
        // at the decision.
        let found = vault.as_ref().map(Found::look).transpose()?.flatten();
        let may_wait = self.policy.choice == Choice::Newest || self.policy.exclusive.is_some();
        let newest = found.as_ref().map_or(0, |found| found.newest.generation);
        let reason =
            if may_wait { owner::reason_to_wait(vault.as_ref(), newest, self.common, self.policy)? } else { None };
        let turn = match reason {
            None => match found {
                Some(found) => {
                    self.announce(&found);
                    Turn::Restore(Box::new(found))
                }
                None => Turn::Start(vault, lease),
            },
            Some(reason) => {
                self.reporter.send(&Event::Chosen { message: format!("waiting for a generation: {reason}") });
                let pids_matter = !self.plan().can_go_back();
                let unfit = |manifest: &Manifest| check::foretell(manifest, Means::with(&self.abilities, self.clock()));
                let tell = |event: &Event| self.reporter.send(event);
                // Tracers are made with the restore, so that criu cannot run in one before.
                let program = self.policy.tracers.is_none().then(|| self.plan().criu);
                match wait::wait(store, self.common, self.policy, pids_matter, program, &unfit, &tell)? {
                    Woken::PidsExhausted(message) => Turn::Over(Event::PidsExhausted { message }),
                    Woken::Start { vault, lease } => {
                        self.stood_by = Some(vault.clone());
                        Turn::Start(Some(vault), lease)
                    }
                    Woken::Restore(ready) => {
                        let Ready { vault, threads, lease, newest, ahead } = *ready;
                        (self.threads, self.ahead) = (Some(threads), Some(ahead));
                        self.stood_by = Some(vault.clone());
                        Turn::Restore(Box::new(Found::new(vault, lease, newest)))
                    }
                }
            }
        };
        self.decided = Instant::now();
        Ok(turn)
    }

    /// The lease with which the command starts. An earlier start of this container may have claimed head with `--exclusive`,
    /// and committed nothing. Read before the owner is looked up: one that claims meanwhile is noticed at the claim.
    fn lease_to_start(&self, vault: Option<&Vault>) -> Result<Lease, ImageError> {
        let head = match vault.filter(|_| self.policy.exclusive.is_some()) {
            Some(vault) => Lease::of_head(vault)?,
            None => None,
        };
        Ok(head.filter(|head| !head.is_unclaimed()).map_or_else(Lease::fresh, |head| Lease::after(&head)))
    }

    /// Restores the chosen generation. None if the store must be read anew.
    fn bring_back(&mut self, found: &Found) -> Result<Option<Event>, Failed> {
        let Some(generation) = self.pick.number(found.lease.generation) else {
            return self.start(Some(&found.vault), found.lease);
        };
        self.generation = Some(generation);
        let manifest = found.manifest(generation);
        // Before the store learns that this container has begun.
        let clock = self.clock();
        let clocks = manifest.as_ref().map_or(Ok(Plan::default()), |manifest| Self::plan_clocks(manifest, clock))?;
        take::remember(found, &self.common.instance)?;
        reach(Point::RestoreRemembered);
        let manifest = manifest?;
        let work = Work::new(&self.common.runtime_dir, command::RESTORE_LOG).map_err(|e| self.unusable_folder(e))?;
        let restored = self.restore(found, &manifest, (clock, clocks), &work);
        restored.map(Some).map_err(|error| {
            let log = if error.is_of_criu() { work.kept_log() } else { None };
            Failed { error: Box::new(error), log }
        })
    }

    /// Check, files, CRIU up to the gate, take, open the gate, claim.
    fn restore(
        &mut self,
        found: &Found,
        manifest: &Manifest,
        (clock, clocks): (Option<clock::Means>, Plan),
        work: &Work,
    ) -> Result<Event, RestoreError> {
        self.refresh_pids(found, manifest);
        let warnings = check::check(manifest, || Means::with(&self.abilities, clock))?;
        warnings.into_iter().for_each(|warning| self.reporter.warn(warning));
        let mounts = Mounts::read().map_err(RestoreError::Volumes)?;
        let longer = match self.look_at_volumes(found, manifest, &mounts)? {
            Beside::Over(event) => return Ok(event),
            Beside::Restore { longer } => longer,
        };
        volumes::overwritten(manifest, &mounts).into_iter().for_each(|warning| self.reporter.warn(warning));
        let counted_up_to = manifest.highest_id().filter(|_| !self.plan().can_go_back());
        if let Some(message) = counted_up_to.and_then(pid_counting::before_restore) {
            self.reporter.send(&Event::Chosen { message });
        }
        limits::raise();
        // Before any page is read: a full disk must not discard a restored service.
        env::write(&self.common.runtime_dir).map_err(|error| self.unusable_folder(error))?;
        let for_pages = demands::for_pages(self.common.memory, &demands::of(manifest), memory::limit_with_swap());
        let mut fetcher = Fetcher::on(&self.threads(&found.vault)?, &found.vault, manifest, for_pages);
        reach(Point::RestoreChecked);
        self.phase = Phase::Restore;
        let mut meter = Meter::start(self.reporter, manifest);
        if !(manifest.files.is_empty() && manifest.deleted.is_empty()) {
            self.files_of = Some(manifest.generation);
        }
        let mut lost = put_back::delete(&manifest.deleted);
        let (own, shared) = staged::split(&manifest.files, &mounts);
        lost.extend(put_back::put_back(&own, &mut fetcher)?);
        let mut staged = Staged::new(&self.common.runtime_dir, Mark::of(manifest));
        lost.extend(staged.stage(shared, &mut fetcher)?);
        self.warn_of_lost(&lost);
        let mut elsewhere = staged.elsewhere(manifest, &mut fetcher)?;
        elsewhere.resized.extend(longer);
        if self.policy.files == Scope::Changed && !manifest.deleted.is_empty() {
            let deleted = manifest.deleted.iter().map(|path| OsString::from_vec(path.clone()).into()).collect();
            let failed = names::keep_or_warn(&self.common.runtime_dir, parent_id() as i32, deleted);
            failed.into_iter().for_each(|message| self.reporter.warn(message));
        }
        reach(Point::RestoreFiles);
        meter.add(meter::bytes_of_files(manifest));
        if !self.plan().can_go_back() {
            found.vault.store().start_nothing_more();
        }
        stdio::lost_terminal(&manifest.stdio).into_iter().for_each(|warning| self.reporter.warn(warning));
        self.reporter.send(&Event::Restoring { root: manifest.root_pid });
        stdio::await_terminal(&manifest.stdio, parent_id() as i32);
        self.criu_ran = true;
        let criu = self.plan().criu;
        // A pod's IPC namespace outlives its containers. Only of an earlier start is it known that it has ended.
        let objects = Some(SystemV::of(image::container_id(&found.vault, &self.common.instance)));
        let (parent, tracers) = (parent_id() as i32, self.policy.tracers.as_ref());
        let of_container = OfContainer { objects, elsewhere, tracers, clocks, ahead: self.ahead.take() };
        let mut gate = RestoreGate::restore(criu, manifest, &mut fetcher, work, &mut meter, parent, of_container)?;
        self.check_clocks(clocks, &gate)?;
        reach(Point::RestoreHeld);
        let exclusive = self.policy.exclusive.is_some();
        let check = || gate.check().and_then(|()| Ok(staged.check()?));
        if let Verdict::Lost(message) = take::take(found, &self.common.instance, exclusive, check)? {
            return Ok(Event::Lost { message });
        }
        reach(Point::RestoreTaken);
        self.warn_of_lost(&staged.take_places()?);
        let clocks = self.tell_clocks(clocks, &gate, manifest);
        let tracers = gate.tracers();
        gate.let_go()?;
        reach(Point::RestoreRunning);
        let restore = RestoreReport { clocks, ..self.report(manifest, &meter) };
        for difference in verify::differences(manifest) {
            self.reporter.warn(format!("after the restore, {difference}; the next checkpoint may be refused"));
        }
        let (root, service) = (manifest.root_pid, manifest.service_pid);
        self.reporter.send(&Event::Restored { root, service, tracers, lease: found.lease, restore });
        reach(Point::RestoreReported);
        // Not earlier: if the restore fails, the former owner keeps the application.
        let claimed = self.claim(found, manifest.generation);
        reach(Point::RestoreClaimed);
        take::tell_former(found, &self.common.instance);
        Ok(claimed)
    }

    /// Compares the volumes.
    fn look_at_volumes(&self, found: &Found, manifest: &Manifest, mounts: &Mounts) -> Result<Beside, RestoreError> {
        Ok(match volumes::decide(manifest, mounts, self.policy.volume_changed) {
            Decision::Unchanged => Beside::Restore { longer: Vec::new() },
            Decision::Restore { message, longer } => {
                self.reporter.warn(message);
                Beside::Restore { longer }
            }
            Decision::Refuse(message) => Beside::Over(Event::VolumeChanged { message }),
            Decision::Start(message) => {
                let event = self.start_beside(found)?;
                if matches!(event, Event::NothingToRestore { .. }) {
                    self.reporter.send(&Event::Chosen { message });
                }
                Beside::Over(event)
            }
        })
    }

    /// Lets init start the command in the place of what was found, once the right to that is this container's.
    fn start_beside(&self, found: &Found) -> Result<Event, RestoreError> {
        Ok(match take::take_for_command(found, &self.common.instance, self.policy.exclusive.is_some())? {
            Verdict::Ours => Event::NothingToRestore { lease: found.lease },
            Verdict::Lost(message) => Event::Lost { message },
        })
    }

    fn warn_of_lost(&self, lost: &[put_back::Lost]) {
        if let [first, more @ ..] = lost {
            let more = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
            self.reporter.warn(format!("{first}{more}"));
        }
    }

    /// Says that something else starts among the files of a generation.
    fn warn_of_files(&self) {
        if let Some(generation) = self.files_of {
            self.reporter.warn(format!(
                "the files of generation {generation} were put back here before, and what it had deleted is gone; \
                 for a clean file system, start a fresh container"
            ));
        }
    }

    fn plan(&self) -> RestorePlan {
        RestorePlan::of(&self.abilities)
    }

    /// Claims the application for the running service.
    fn claim(&self, found: &Found, generation: u64) -> Event {
        let (vault, lease) = (&found.vault, &found.lease);
        let claimed = match self.policy.exclusive {
            Some(_) => exclusive::claim(vault, lease, &self.common.instance),
            None => lease.claim(vault),
        };
        match claimed {
            Ok(()) => Event::Claimed,
            Err(error) => Event::Warning { message: unclaimed(&error, generation) },
        }
    }

    /// Lets init start the command. With `--exclusive` it claims the application first. None if another
    /// container was faster, so this one must wait.
    fn start(&self, vault: Option<&Vault>, lease: Lease) -> Result<Option<Event>, Failed> {
        if let Some(vault) = vault
            && let Verdict::Lost(message) = take::close_above(vault, &lease, &self.common.instance)?
        {
            return Ok(Some(Event::Lost { message }));
        }
        if self.policy.exclusive.is_some() {
            let vault = match (vault, &self.store) {
                (None, Some(store)) => &Vault::create(store.clone(), &self.common.keys)?,
                (Some(vault), _) => vault,
                (None, None) => return Err(ImageError::Ended.into()),
            };
            match exclusive::claim(vault, &lease, &self.common.instance) {
                Err(ImageError::Replaced { .. }) => return Ok(None),
                result => result?,
            }
        }
        let message = choose::nothing(&self.common.store.url, self.policy.choice);
        self.reporter.send(&Event::Chosen { message });
        Ok(Some(Event::NothingToRestore { lease }))
    }

    /// Lets init start the command after a failed restore, unless another container has the service or may
    /// have it.
    fn start_instead(&self, failure: Failure) -> Result<Event, Failure> {
        let (us, exclusive) = (&self.common.instance, self.policy.exclusive.is_some());
        let event = match &self.found {
            Some(found) => {
                let right = take::remember(found, us).map_err(RestoreError::Undecided);
                match right.and_then(|()| self.start_beside(found)) {
                    Ok(event) => event,
                    Err(error) => return Err(nor_started(failure, &error.to_string())),
                }
            }
            None if exclusive => {
                return Err(nor_started(failure, "with --exclusive, this container must hold the lease first"));
            }
            None => Event::NothingToRestore { lease: Lease::unknown() },
        };
        if matches!(event, Event::NothingToRestore { .. }) {
            let message = format!("starting the command afresh: the restore failed: {}", failure.message);
            self.reporter.send(&Event::Chosen { message });
        }
        Ok(event)
    }

    /// The newest generation before the one that cannot be restored.
    fn earlier(&self) -> Option<u64> {
        let (found, last) = (self.found.as_ref()?, self.generation?);
        let all = image::generations(&found.vault).ok()?;
        all.iter().map(|generation| generation.number).rfind(|number| *number < last)
    }

    fn threads(&mut self, vault: &Vault) -> Result<Arc<FetchThreads>, ImageError> {
        Ok(match &self.threads {
            Some(threads) => threads.clone(),
            None => self.threads.insert(Arc::new(FetchThreads::start(&**vault.store(), job::cores())?)).clone(),
        })
    }

    /// Logs which generation is restored, and why.
    fn announce(&self, found: &Found) {
        if let Some(message) = self.pick.sentence(found, &self.common.instance) {
            self.reporter.send(&Event::Chosen { message });
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.reporter.progress(phase);
    }

    fn report(&self, manifest: &Manifest, meter: &Meter) -> RestoreReport {
        RestoreReport {
            generation: manifest.generation,
            at_ms: now_ms(),
            total_ms: millis(self.decided.elapsed()),
            bytes: meter.total(),
            ahead: meter.ahead(),
            from: manifest.instance.clone(),
            clocks: ClockReport::default(),
        }
    }

    fn sentence(&self, error: &RestoreError) -> String {
        match self.generation {
            Some(generation) => format!("generation {generation} cannot be restored: {error}"),
            None => error.to_string(),
        }
    }

    fn unusable_folder(&self, error: io::Error) -> RestoreError {
        RestoreError::RuntimeDir { path: self.common.runtime_dir.clone(), error }
    }
}

fn nor_started(failure: Failure, why: &str) -> Failure {
    Failure { message: format!("{}. The command cannot be started instead: {why}", failure.message), ..failure }
}

fn unclaimed(error: &ImageError, generation: u64) -> String {
    match error {
        ImageError::Replaced { .. } => format!("this container's checkpoints will be refused: {error}"),
        error => format!(
            "the service runs, but the lease could not be claimed ({error}). If another container restores generation \
             {generation} too, freeze notices only at the next checkpoint"
        ),
    }
}

#[cfg(test)]
mod tests;
