//! Performs the machine's actions.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{LINGER, Supervisor};
use crate::control::protocol::millis;
use crate::init::hook::Hook;
use crate::init::machine::{Action, Input, Task, Timer};
use crate::init::service::StartError;
use crate::init::tree::{self, Tree};
use crate::init::worker::{LONGEST, Worker};
use crate::init::{say, service};
use crate::job::{Common, Job};
use crate::sys::{memory, random, tty};

/// Time limit of a worker that only reads and writes a few small objects.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// `--every`'s interval varies within 1/JITTER of it: by 5 % up or down.
const JITTER: u32 = 10;

impl Supervisor {
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::StartWorker(task) => self.start_worker(task),
            Action::LimitWorker => self.with_worker(|worker, limit| worker.limit(limit)),
            Action::UnlimitWorker => self.with_worker(|worker, _| worker.limit(LONGEST)),
            Action::HurryWorker => self.with_worker(|worker, _| worker.hurry()),
            Action::DismissWorker => self.with_worker(|worker, _| worker.dismiss()),
            Action::KillWorker => self.with_worker(|worker, _| worker.kill()),
            Action::Withdraw => self.with_worker(|worker, _| worker.tell_to_withdraw()),
            Action::StartService => self.start_service(),
            Action::Signal(signal) => {
                let to_group = self.machine.config().to_group;
                self.with_tree(|tree| tree.signal(signal, to_group));
            }
            Action::GiveUpTerminal => tty::give_up(),
            Action::StopSelf => {
                if std::process::id() != 1 {
                    tty::stop_self();
                }
            }
            Action::KillTree => self.with_tree(Tree::kill),
            Action::ContinueTree => {
                let stopped = self.was_stopped;
                self.with_tree(|tree| tree::continue_all(tree.top(), stopped.then_some(tree.service)));
            }
            Action::KillBelow => tree::kill_below(std::process::id() as i32),
            Action::RunHook(call) => match Hook::start(&call, self.machine.config(), &self.runtime_dir) {
                Ok(hook) => self.hook = Some(hook),
                Err(error) => {
                    self.inputs.push_back(Input::HookOver { failure: Some(format!("could not be started: {error}")) });
                }
            },
            Action::KillHook => self.hook.iter_mut().for_each(Hook::kill),
            Action::Set(timer, after) => self.set(timer, after),
            Action::Clear(timer) => self.put(timer, None),
            Action::Send(client, event) => {
                if !self.server.send(client, &event) {
                    self.inputs.push_back(Input::Left(client));
                }
            }
            Action::Finish(client, event) => self.server.finish(client, &event),
            Action::Close(reason) => self.server.close(&reason),
            Action::Say(message) => say(&message),
            Action::Rest => self.rests = true,
            Action::Exit(code) => self.exit(code),
        }
    }

    /// Gives back what only the start or a worker needed: the working directory, and memory. Call it last
    /// before init sleeps, as code that runs afterwards makes pages of the executable resident again.
    pub(super) fn rest(&mut self) {
        if std::mem::replace(&mut self.rests, false) {
            let _ = std::env::set_current_dir("/");
            memory::give_back();
        }
    }

    fn exit(&mut self, code: u8) {
        self.worker = None;
        self.timers = [None; Timer::COUNT];
        self.end = Some((code, Instant::now() + LINGER));
    }

    fn with_worker(&mut self, act: impl FnOnce(&mut Worker, Duration)) {
        let limit = self.machine.config().restore_timeout;
        if let Some(worker) = &mut self.worker {
            act(worker, limit);
        }
    }

    fn with_tree(&self, act: impl FnOnce(Tree)) {
        if let Some(tree) = self.machine.tree() {
            act(tree);
        }
    }

    fn start_worker(&mut self, task: Task) {
        let config = self.machine.config();
        let limit = match task {
            Task::Restore => config.restore_timeout,
            Task::Checkpoint(_) => config.checkpoint_timeout,
            Task::Settle { .. } => LONGEST,
            Task::Heartbeat => LOOK_LIMIT,
        };
        match self.worker_for(task, limit) {
            Ok(worker) => self.worker = Some(worker),
            Err(error) => self.inputs.push_back(Input::NoWorker { error: error.to_string() }),
        }
        if let (Task::Checkpoint(_), Some(tree)) = (task, self.machine.tree()) {
            self.was_stopped = tree::is_stopped(tree.service);
        }
    }

    /// A restore's worker makes the tracers, a checkpoint's uses one.
    fn worker_for(&mut self, task: Task, limit: Duration) -> io::Result<Worker> {
        let made = if task == Task::Restore { self.tracers.make()? } else { None };
        let used = self.machine.tree().filter(|_| matches!(task, Task::Checkpoint(_)));
        let used = used.and_then(|tree| self.tracers.first(tree));
        let job = self.job(task, used.map(|(pid, _)| pid), made.is_some());
        let channels = made.iter().flatten().map(AsFd::as_fd).chain(used.map(|(_, channel)| channel));
        Worker::start(&job, limit, &channels.collect::<Vec<_>>())
    }

    fn job(&self, task: Task, tracer: Option<i32>, tracers: bool) -> Job {
        let config = self.machine.config();
        let common = Common {
            store: config.store.clone(),
            keys: config.keys.clone(),
            runtime_dir: self.runtime_dir.clone(),
            memory: config.memory,
            instance: config.instance.clone(),
            exclusive_ms: config.exclusive.map(millis),
            trace: config.trace.clone(),
        };
        let lease = self.machine.lease();
        let tree = self.machine.tree().unwrap_or_default();
        match task {
            Task::Restore => Job::Restore {
                common,
                choice: config.restore,
                failure: config.restore_failure,
                volume_changed: config.volume_changed,
                clock: config.clock,
                standby: config.standby.clone(),
                files: config.files.scope,
                tracers,
            },
            Task::Checkpoint(after_commit) => {
                let (files, ephemeral_store) = (self.machine.files(), config.ephemeral_store);
                let hold_ms = self.machine.hold().map(millis);
                Job::Checkpoint {
                    common,
                    root: tree.root,
                    service: tree.service,
                    tracer,
                    lease,
                    after_commit,
                    hold_ms,
                    within_ms: self.machine.within().map(millis),
                    pace: self.machine.pace(),
                    files,
                    ephemeral_store,
                    clock_ahead_s: self.machine.clock_ahead_s(),
                }
            }
            Task::Settle { generation, remaining_ms } => Job::Settle { common, generation, remaining_ms, lease },
            Task::Heartbeat => Job::Heartbeat { common, lease },
        }
    }

    fn start_service(&mut self) {
        crate::host::env::renew_generation_id(&self.runtime_dir);
        let channels = self.tracers.make().map_err(StartError::Fork);
        self.inputs.push_back(match channels.and_then(|channels| service::start(self.machine.config(), channels)) {
            Ok(tree) => Input::Started(tree),
            Err(error) => Input::NotStarted { error: error.to_string() },
        });
    }

    fn set(&mut self, timer: Timer, after: Duration) {
        let after = if timer == Timer::Every { jittered(after) } else { after };
        self.put(timer, Instant::now().checked_add(after));
    }

    fn put(&mut self, timer: Timer, at: Option<Instant>) {
        if let Some(place) = self.timers.get_mut(timer as usize) {
            *place = at;
        }
    }
}

/// Containers that start together would otherwise load their store at the same moments.
fn jittered(time: Duration) -> Duration {
    let mut byte = [0];
    random::fill(&mut byte);
    time.saturating_add(time / JITTER * u32::from(byte[0]) / 255).saturating_sub(time / JITTER / 2)
}
