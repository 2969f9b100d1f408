//! Every input in every state that can be reached, and long walks among them.
//!
//! A world beside the machine knows what a worker, a hook and a service can do next, and checks each action: at most one worker or
//! hook at a time, the service killed only when its checkpoint or another container allows it, never let go while it is offered,
//! each client answered once, one end. From every state, what goes on by itself leads to rest or to the end.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use proptest::prelude::*;

use super::*;
use crate::control::protocol::{HeartbeatReport, Op, Phase, Report, RestoreReport, Wanted};
use crate::image::{Hex, KeyFiles};
use crate::init::config::{Hook, Hooks, OnTerm};
use crate::job::{AfterCommit, Choice, OnFailure, Standby};
use crate::store::Location;

const LEASE: Lease = Lease { generation: 4, epoch: 2, writer: Hex([1; 8]) };
const TREE: Tree = Tree { root: 1000, service: 1001 };
/// RTMIN+1.
const CHECKPOINT: Signal = 35;
const REPORT: Report =
    Report { generation: 5, bytes: 1, stored: 2, new: 1, shared: 0, frozen_ms: 3, total_ms: 4, ended: true };

fn config(busy: bool) -> Config {
    let hook = busy.then(|| Hook::Command(vec![c"/hook".into()]));
    Config {
        command: vec![c"/service".into()],
        store: Location::at("file:/s"),
        keys: KeyFiles::default(),
        runtime_dir: None,
        isolate: crate::init::Isolate::Never,
        first_pid: 1000,
        rewrites: vec![],
        to_group: false,
        kill_timeout: Some(Duration::from_secs(3)),
        remap_exit: vec![],
        parent_death_signal: None,
        checkpointed_status: exit::CHECKPOINTED,
        checkpoint_timeout: Duration::from_secs(60),
        restore_timeout: Duration::from_secs(60),
        include: vec![],
        ephemeral_store: false,
        memory: 1,
        instance: "one".to_owned(),
        checkpoint_signal: Some(CHECKPOINT),
        on_term: if busy { OnTerm::Checkpoint } else { OnTerm::Forward },
        term_grace: Duration::from_secs(10),
        every: busy.then(|| Duration::from_secs(60)),
        hooks: Hooks {
            before_checkpoint: hook.clone(),
            after_checkpoint: hook.clone(),
            on_restore: hook,
            on_app_ready: Some(Hook::Signal(10)),
            timeout: Duration::from_secs(1),
            may_fail: false,
        },
        restore: Choice::Newest,
        restore_failure: OnFailure::Fail,
        standby: Standby { always: false, poll_ms: 1000, cache: "/c".into(), cache_bytes: 1 },
        exclusive: busy.then(|| Duration::from_secs(10)),
    }
}

/// What is around the machine.
#[derive(Debug, Clone, Default)]
struct World {
    worker: Option<Task>,
    /// The worker has committed, or has said that its generation is taken, or withdrawn.
    committed: bool,
    taken: bool,
    withdrawn: bool,
    ended_worker: bool,
    hook: bool,
    service: bool,
    /// The service has lost its subreaper.
    orphaned: bool,
    starting: bool,
    lost: bool,
    /// The service was ended, as its checkpoint or another container allowed.
    killed: bool,
    exits: Vec<u8>,
    term: bool,
    /// Clients that wait for an answer.
    open: BTreeSet<u64>,
    asked: u64,
    begun: bool,
}

#[derive(Clone)]
struct Both {
    machine: Machine,
    world: World,
}

impl Both {
    fn new(busy: bool) -> Both {
        Both { machine: Machine::new(config(busy)), world: World::default() }
    }

    /// One step, each of whose actions is checked; whatever has to follow at once does.
    fn step(&mut self, input: Input) {
        self.world.before(&input);
        let rests = matches!(self.machine.busy, Busy::Nothing) && !self.machine.lease_check.is_under_way();
        let whole = self.machine.tree.is_some_and(|tree| tree.root > 0);
        let drains = rests && whole && self.machine.term == Term::None && input == Input::Signal(15);
        let drains = drains && self.machine.config.on_term == OnTerm::Checkpoint && !self.is_over();
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let offered = self.machine.is_offered();
            let actions = self.machine.step(Now { ms: 5, wall_ms: 5 }, input);
            let begins =
                |action: &Action| matches!(action, Action::RunHook(call) if call.moment == Moment::BeforeCheckpoint);
            assert!(!drains || actions.iter().any(begins), "SIGTERM begins no checkpoint");
            for action in actions {
                assert!(
                    action != Action::ContinueTree || !offered || self.world.withdrawn,
                    "an offered service runs on"
                );
                if action == Action::StartService {
                    next = Some(Input::Started(TREE));
                }
                self.world.act(action);
            }
        }
        if !self.world.exits.is_empty() {
            assert!(self.world.open.is_empty(), "{:?} are never answered", self.world.open);
        }
    }

    fn is_over(&self) -> bool {
        !self.world.exits.is_empty()
    }

    /// All goes on by itself: it comes to rest, or to its end.
    fn come_to_rest(mut self, story: impl Fn() -> String) {
        for _ in 0..60 {
            let world = &self.world;
            let input = match (world.worker, world.hook, &self.machine.busy) {
                _ if self.is_over() => return,
                (Some(Task::Restore), ..) if !world.service => Input::Said(Event::NothingToRestore { lease: LEASE }),
                (Some(Task::Settle { .. }), ..) if !world.withdrawn => Input::Said(Event::Settled { taken_by: None }),
                (Some(_), ..) => Input::WorkerGone { reason: "ended".to_owned(), root_is_ours: true },
                (None, true, _) => Input::HookOver { failure: None },
                (_, _, Busy::Farewell(_)) => {
                    let pid = if world.orphaned { TREE.service } else { TREE.root };
                    Input::Buried { pid, ending: Ending::Exited(0), service_is_ours: false }
                }
                (_, _, Busy::Pause(_)) => Input::Elapsed(Timer::Settle),
                (_, _, Busy::Nothing) => {
                    assert!(self.machine.queue.is_empty() && self.world.service, "{}", story());
                    assert!(self.machine.term != Term::Trying, "SIGTERM is forgotten after {}", story());
                    return;
                }
                other => panic!("stuck: {other:?}\n{}", story()),
            };
            if let (Some(Task::Restore), Input::Said(_)) = (world.worker, &input) {
                self.step(input);
                self.step(Input::WorkerGone { reason: "ended".to_owned(), root_is_ours: false });
                continue;
            }
            self.step(input);
        }
        panic!("it never rests\n{}", story());
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        format!("{:?}{:?}", self.machine, self.world).hash(&mut hasher);
        hasher.finish()
    }
}

impl World {
    fn before(&mut self, input: &Input) {
        match input {
            Input::Begin => self.begun = true,
            Input::Asked(..) => {
                self.open.insert(self.asked);
                self.asked += 1;
            }
            Input::Left(_) => drop(self.open.pop_last()),
            Input::Said(Event::Committed { .. }) => self.committed = true,
            Input::Said(Event::Settled { taken_by }) => {
                (self.taken, self.withdrawn) = (taken_by.is_some(), taken_by.is_none());
            }
            Input::Said(Event::Lost { .. }) => self.lost = true,
            Input::Said(Event::Restored { .. }) => self.service = true,
            Input::WorkerEnded => self.ended_worker = true,
            Input::WorkerGone { .. } | Input::NoWorker { .. } => {
                (self.worker, self.ended_worker) = (None, false);
            }
            Input::HookOver { .. } => self.hook = false,
            // Of the subreaper alone, where the service lives on.
            Input::Buried { service_is_ours, .. } => {
                (self.service, self.orphaned) = (*service_is_ours, *service_is_ours)
            }
            Input::Signal(15) => self.term = true,
            _ => {}
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::StartWorker(task) => {
                assert!(self.worker.is_none() && (!self.hook || task == Task::Heartbeat), "a second worker: {task:?}");
                assert!(self.exits.is_empty() && (self.service != (task == Task::Restore)), "{task:?}");
                if matches!(task, Task::Checkpoint(_)) {
                    (self.committed, self.taken, self.withdrawn) = (false, false, false);
                }
                self.worker = Some(task);
            }
            Action::RunHook(_) => {
                assert!(matches!(self.worker, None | Some(Task::Heartbeat)) && !self.hook, "a second hook");
                self.hook = true;
            }
            Action::StartService => {
                assert!(!self.service && !self.starting);
                (self.service, self.starting) = (true, true);
            }
            Action::KillTree => {
                assert!(self.committed || self.taken || self.lost, "killed for nothing");
                self.killed = true;
            }
            Action::Finish(client, _) => assert!(self.open.remove(&number(client)), "{client:?} is answered twice"),
            Action::Close(_) => self.open.clear(),
            Action::Exit(code) => {
                assert!(self.exits.is_empty());
                let ours = [exit::CHECKPOINTED, exit::REPLACED].contains(&code);
                assert!(ours || !self.killed, "{code} for a service that was ended");
                self.exits.push(code);
            }
            Action::Signal(15) => assert!(self.term),
            _ => {}
        }
    }

    /// What can happen next.
    fn inputs(&self) -> Vec<Input> {
        if !self.begun {
            return vec![Input::Begin, Input::Signal(15)];
        }
        let mut inputs: Vec<Input> = [15, 2, 20, CHECKPOINT].map(Input::Signal).into();
        if self.asked < 3 {
            inputs.extend(self.requests());
        }
        if let Some(client) = self.open.last() {
            inputs.push(Input::Left(ClientId::of(*client)));
        }
        match self.worker {
            Some(Task::Restore) if !self.service => inputs.extend(restore_events()),
            Some(Task::Checkpoint(after_commit)) => inputs.extend(checkpoint_events(after_commit, self)),
            Some(Task::Settle { .. }) => {
                inputs.extend([None, Some("other".to_owned())].map(|by| Input::Said(Event::Settled { taken_by: by })));
            }
            Some(Task::Heartbeat) => {
                inputs.extend([Event::StillOwner, Event::Lost { message: "replaced".to_owned() }].map(Input::Said));
            }
            _ => {}
        }
        if self.worker.is_some() {
            let reason = || "died".to_owned();
            if !self.ended_worker {
                inputs.push(Input::WorkerEnded);
            }
            inputs.push(Input::WorkerGone { reason: reason(), root_is_ours: true });
            inputs.push(Input::NoWorker { error: reason() });
        }
        if self.hook {
            inputs.extend([None, Some("failed".to_owned())].map(|failure| Input::HookOver { failure }));
        }
        if self.service {
            let ending = Ending::Killed(9);
            let pid = if self.orphaned { TREE.service } else { TREE.root };
            inputs.push(Input::Buried { pid, ending, service_is_ours: false });
            if !self.orphaned {
                inputs.push(Input::Buried { pid, ending, service_is_ours: true });
            }
        }
        inputs.extend(Timer::ALL.map(Input::Elapsed));
        inputs
    }

    fn requests(&self) -> Vec<Input> {
        let wanted = [(false, None), (true, None), (false, Some(1000))]
            .map(|(leave_running, handover_ms)| Op::Checkpoint(Wanted { leave_running, handover_ms }));
        let waits = [Awaited::Running, Awaited::Restored, Awaited::Checkpointed, Awaited::Idle];
        let others = waits.map(|until| Op::Wait { until }).into_iter().chain([Op::Cancel, Op::Status]);
        wanted.into_iter().chain(others).map(|op| Input::Asked(ClientId::of(self.asked), op)).collect()
    }
}

fn number(client: ClientId) -> u64 {
    (0..64).find(|number| ClientId::of(*number) == client).unwrap()
}

fn restore_events() -> Vec<Input> {
    let message = || "so".to_owned();
    [
        Event::Waiting { generation: 3 },
        Event::Warning { message: message() },
        Event::Restoring { root: 1000 },
        Event::Chosen { message: message() },
        Event::Progress { phase: Phase::Check, bytes: 0, total: 0 },
        Event::NothingToRestore { lease: LEASE },
        Event::Restored { root: 1000, service: 1001, lease: LEASE, restore: RestoreReport::default() },
        failed(message()),
        Event::Lost { message: message() },
        Event::PidsExhausted { message: message() },
    ]
    .map(Input::Said)
    .into()
}

fn checkpoint_events(after_commit: AfterCommit, world: &World) -> Vec<Input> {
    let handover = matches!(after_commit, AfterCommit::HandOver { .. });
    let mut events = vec![failed("no luck".to_owned())];
    if world.committed {
        events = vec![Event::Checkpointed(REPORT)];
        if handover {
            let settled = |taken_by| Event::Settled { taken_by };
            events = match (world.taken, world.withdrawn) {
                (false, false) => vec![settled(None), settled(Some("other".to_owned()))],
                (true, _) => events,
                (_, true) => vec![failed("nobody took it".to_owned())],
            };
        }
    } else {
        events.push(Event::Progress { phase: Phase::Dump, bytes: 0, total: 0 });
        events.push(Event::Committing { generation: 5 });
        events.push(Event::Committed { lease: Lease { generation: 5, ..LEASE } });
    }
    events.into_iter().map(Input::Said).collect()
}

/// All states that `depth` inputs lead to; returns how many.
fn explore(busy: bool, depth: usize) -> usize {
    let mut seen = HashSet::new();
    let mut queue = VecDeque::from([(Both::new(busy), Vec::<Input>::new())]);
    while let Some((both, story)) = queue.pop_front() {
        if !seen.insert(both.key()) || both.is_over() {
            continue;
        }
        if both.world.begun {
            let rests = both.clone();
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rests.come_to_rest(String::new)));
            assert!(result.is_ok(), "no rest after {story:#?}");
        }
        for input in both.world.inputs() {
            let mut next = both.clone();
            let mut longer = story.clone();
            longer.push(input.clone());
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| next.step(input)));
            assert!(result.is_ok(), "after {longer:#?}");
            if longer.len() < depth {
                queue.push_back((next, longer));
            }
        }
    }
    seen.len()
}

/// One that was killed with a restore that failed is not the one that the next attempt has made.
#[test]
fn the_root_of_an_earlier_attempt_is_not_the_service() {
    let restored = || Event::Restored { root: 1000, service: 1001, lease: LEASE, restore: RestoreReport::default() };
    let buried = || Input::Buried { pid: 1000, ending: Ending::Killed(9), service_is_ours: false };
    let restoring = || Input::Said(Event::Restoring { root: 1000 });
    for (inputs, is_there) in [(vec![restoring(), buried(), restoring()], true), (vec![restoring(), buried()], false)] {
        let mut machine = Machine::new(config(false));
        for input in [vec![Input::Begin], inputs, vec![Input::Said(restored())]].concat() {
            machine.step(Now::default(), input);
        }
        assert_eq!(machine.tree().is_some(), is_there);
    }
}

#[test]
fn every_input_in_every_state() {
    let states = [explore(false, 7), explore(true, 7)];
    println!("{states:?} states");
    assert!(states.iter().all(|states| *states > 1000), "{states:?}");
}

/// Init whose service runs, without hooks or other options but those that `change` sets.
fn running(change: impl Fn(&mut Config)) -> Machine {
    let mut config = config(false);
    change(&mut config);
    let mut machine = Machine::new(config);
    does(&mut machine, Input::Begin);
    does(&mut machine, Input::Said(Event::NothingToRestore { lease: LEASE }));
    does(&mut machine, gone());
    does(&mut machine, Input::Started(TREE));
    machine
}

fn does(machine: &mut Machine, input: Input) -> Vec<Action> {
    machine.step(Now { ms: 5, wall_ms: 5 }, input)
}

fn gone() -> Input {
    Input::WorkerGone { reason: "died".to_owned(), root_is_ours: true }
}

fn asked(client: u64, op: Op) -> Input {
    Input::Asked(ClientId::of(client), op)
}

fn progress(phase: Phase) -> Input {
    Input::Said(Event::Progress { phase, bytes: 0, total: 0 })
}

fn said_failed() -> Input {
    Input::Said(failed("no luck".to_owned()))
}

const END: Op = Op::Checkpoint(Wanted { leave_running: false, handover_ms: None });
const HANDOVER: Op = Op::Checkpoint(Wanted { leave_running: false, handover_ms: Some(1000) });

fn starts(actions: &[Action], task: Task) -> bool {
    actions.contains(&Action::StartWorker(task))
}

#[test]
fn a_failed_checkpoint_does_not_keep_sigterm_from_another() {
    let mut machine = running(|config| config.on_term = OnTerm::Checkpoint);
    does(&mut machine, asked(0, END));
    does(&mut machine, said_failed());
    does(&mut machine, gone());
    assert!(starts(&does(&mut machine, Input::Signal(15)), Task::Checkpoint(AfterCommit::Stop)));
}

#[test]
fn what_was_given_up_does_not_run_because_its_hook_was_quick() {
    let hook = || Some(Hook::Command(vec![c"/hook".into()]));
    let mut machine = running(|config| config.hooks.before_checkpoint = hook());
    does(&mut machine, asked(0, END));
    assert!(does(&mut machine, asked(1, Op::Cancel)).contains(&Action::Finish(ClientId::of(1), Event::Done)));
    let actions = does(&mut machine, Input::HookOver { failure: None });
    assert!(!starts(&actions, Task::Checkpoint(AfterCommit::Stop)), "{actions:?}");
    // Nothing was stopped, so nothing is continued that its user may have stopped.
    assert!(!actions.contains(&Action::ContinueTree));
}

#[test]
fn who_waits_hears_of_the_checkpoint_that_ended_last() {
    let mut machine = running(|_| ());
    does(&mut machine, asked(0, END));
    does(&mut machine, said_failed());
    does(&mut machine, gone());
    does(&mut machine, asked(1, END));
    does(&mut machine, Input::Said(Event::Committed { lease: LEASE }));
    does(&mut machine, gone());
    assert_eq!(does(&mut machine, asked(2, Op::Wait { until: Awaited::Checkpointed })), []);
    let over = does(&mut machine, Input::Buried { pid: 1000, ending: Ending::Killed(9), service_is_ours: false });
    assert!(over.contains(&Action::Finish(ClientId::of(2), Event::Reached)), "{over:?}");
}

#[test]
fn what_is_about_to_end_is_not_checkpointed_by_the_timer() {
    let mut machine = running(|config| {
        config.every = Some(Duration::from_secs(60));
        config.kill_timeout = None;
    });
    assert!(starts(&does(&mut machine, Input::Elapsed(Timer::Every)), Task::Checkpoint(AfterCommit::Resume)));
    does(&mut machine, gone());
    does(&mut machine, Input::Signal(15));
    assert!(!starts(&does(&mut machine, Input::Elapsed(Timer::Every)), Task::Checkpoint(AfterCommit::Resume)));
}

/// It would be in the checkpoint, and end the restored service.
#[test]
fn a_frozen_service_gets_its_signals_later() {
    let term = Action::Signal(15);
    for (op, thaws) in [(END, false), (Op::Checkpoint(Wanted { leave_running: true, handover_ms: None }), true)] {
        let mut machine = running(|_| ());
        does(&mut machine, asked(0, op));
        does(&mut machine, progress(Phase::Dump));
        assert!(!does(&mut machine, Input::Signal(15)).contains(&term));
        assert_eq!(does(&mut machine, progress(Phase::Commit)).contains(&term), thaws);
        does(&mut machine, said_failed());
        assert_eq!(does(&mut machine, gone()).contains(&term), !thaws);
    }
}

#[test]
fn a_handover_that_fails_does_not_keep_sigterm_from_a_checkpoint() {
    let mut machine = running(|config| config.on_term = OnTerm::Checkpoint);
    does(&mut machine, asked(0, HANDOVER));
    does(&mut machine, Input::Signal(15));
    does(&mut machine, said_failed());
    assert!(starts(&does(&mut machine, gone()), Task::Checkpoint(AfterCommit::Stop)));
}

#[test]
fn a_handover_is_taken_back_whoever_has_to_do_it() {
    let mut machine = running(|_| ());
    does(&mut machine, asked(0, HANDOVER));
    does(&mut machine, Input::Said(Event::Committed { lease: LEASE }));
    let cancelled = does(&mut machine, asked(1, Op::Cancel));
    assert!(cancelled.contains(&Action::Withdraw) && cancelled.contains(&Action::Finish(ClientId::of(1), Event::Done)));
    assert!(starts(&does(&mut machine, gone()), Task::Settle { generation: 4, remaining_ms: 0 }));
}

#[test]
fn the_application_is_looked_after_beside_hooks_and_not_beside_a_checkpoint() {
    let hook = || Some(Hook::Command(vec![c"/hook".into()]));
    let mut machine = running(|config| {
        config.exclusive = Some(Duration::from_secs(10));
        config.hooks.before_checkpoint = hook();
    });
    does(&mut machine, asked(0, END));
    assert!(starts(&does(&mut machine, Input::Elapsed(Timer::Heartbeat)), Task::Heartbeat));
    let due = does(&mut machine, Input::HookOver { failure: None });
    assert!(due.contains(&Action::DismissWorker) && !starts(&due, Task::Checkpoint(AfterCommit::Stop)));
    assert!(starts(&does(&mut machine, gone()), Task::Checkpoint(AfterCommit::Stop)));
    assert!(!starts(&does(&mut machine, Input::Elapsed(Timer::Heartbeat)), Task::Heartbeat));
}

/// What is said at `seconds`, when the heartbeat that is due then ends with `event`, or with its worker's death.
fn beat(machine: &mut Machine, seconds: u64, event: Option<Event>) -> Vec<String> {
    let now = Now { ms: seconds * 1000, wall_ms: seconds * 1000 };
    let inputs = [Some(Input::Elapsed(Timer::Heartbeat)), event.map(Input::Said), Some(gone())];
    let actions = inputs.into_iter().flatten().flat_map(|input| machine.step(now, input)).collect::<Vec<_>>();
    actions.into_iter().filter_map(|action| if let Action::Say(text) = action { Some(text) } else { None }).collect()
}

#[test]
fn heartbeats_that_fail_are_told_at_times() {
    let mut machine = running(|config| config.exclusive = Some(Duration::from_secs(10)));
    let away = || Some(failed("the store is away".to_owned()));
    assert_eq!(beat(&mut machine, 10, Some(Event::StillOwner)), [""; 0]);
    let told = beat(&mut machine, 20, away());
    assert!(told.len() == 1 && told[0].contains("the store is away") && told[0].contains("30s"), "{told:?}");
    let told: Vec<_> = (3..10).flat_map(|n| beat(&mut machine, n * 10, None)).collect();
    assert!(told.len() == 1 && told[0].contains("(7 in a row)") && told[0].contains("died"), "{told:?}");
    let told = beat(&mut machine, 100, Some(Event::StillOwner));
    assert!(told.len() == 1 && told[0].contains("again") && told[0].contains('8'), "{told:?}");
    // One that comes and goes is not told each time.
    let told: Vec<_> = (11..14)
        .flat_map(|n| beat(&mut machine, n * 10, if n % 2 == 1 { away() } else { Some(Event::StillOwner) }))
        .collect();
    assert_eq!(told, [""; 0]);
    let told = beat(&mut machine, 140, away());
    assert!(told.len() == 1 && told[0].contains("(2 in a row)"), "{told:?}");
    let heartbeat = HeartbeatReport { at_ms: Some(120_000), failures: 11, in_a_row: 2 };
    assert_eq!(machine.status.heartbeat, Some(heartbeat));
}

/// A counter that begins at its first failure shows no increase for it.
#[test]
fn heartbeats_are_counted_before_the_first() {
    let machine = running(|config| config.exclusive = Some(Duration::from_secs(10)));
    assert_eq!(machine.status.heartbeat, Some(HeartbeatReport::default()));
    assert_eq!(running(|_| {}).status.heartbeat, None);
}

/// The minute without warnings covers short outages, and none that costs the application.
#[test]
fn a_new_outage_is_told_before_the_takeover() {
    let mut machine = running(|config| config.exclusive = Some(Duration::from_secs(10)));
    assert_eq!(beat(&mut machine, 10, None).len(), 1);
    assert_eq!(beat(&mut machine, 20, Some(Event::StillOwner)).len(), 1);
    let told = [30, 40, 50, 60].map(|seconds| beat(&mut machine, seconds, None));
    assert_eq!(told.each_ref().map(Vec::len), [0, 1, 0, 0], "{told:?}");
    assert!(told[1][0].contains("(2 in a row)"), "{told:?}");
}

#[test]
fn a_heartbeat_that_hangs_is_told_and_one_that_gives_way_to_a_checkpoint_is_no_failure() {
    let mut machine = running(|config| config.exclusive = Some(Duration::from_secs(10)));
    let at = |seconds: u64| Now { ms: seconds * 1000, wall_ms: seconds * 1000 };
    let failures = |machine: &Machine| machine.status.heartbeat.map(|heartbeat| heartbeat.failures);
    assert!(starts(&machine.step(at(10), Input::Elapsed(Timer::Heartbeat)), Task::Heartbeat));
    let said = machine.step(at(20), Input::Elapsed(Timer::Heartbeat));
    assert!(matches!(&said[..], [.., Action::Say(text)] if text.contains("not answered for 10s")), "{said:?}");
    machine.step(at(21), gone());
    assert_eq!(failures(&machine), Some(2));
    machine.step(at(30), Input::Elapsed(Timer::Heartbeat));
    machine.step(at(30), asked(0, END));
    let due = machine.step(at(30), gone());
    assert!(starts(&due, Task::Checkpoint(AfterCommit::Stop)), "{due:?}");
    assert_eq!(failures(&machine), Some(2));
}

#[test]
fn a_start_can_be_ended_whatever_its_signals_mean() {
    let changes: [fn(&mut Config); 2] =
        [|config| config.checkpoint_signal = Some(15), |config| config.rewrites = vec!["TERM:0".parse().unwrap()]];
    for change in changes {
        let mut config = config(false);
        change(&mut config);
        let mut machine = Machine::new(config);
        does(&mut machine, Input::Begin);
        assert!(does(&mut machine, Input::Signal(15)).contains(&Action::KillWorker));
        assert!(does(&mut machine, gone()).contains(&Action::Exit(143)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn long_walks_come_to_rest(busy: bool, choices in prop::collection::vec(any::<prop::sample::Index>(), 1..60)) {
        let mut both = Both::new(busy);
        both.step(Input::Begin);
        let mut story = vec![];
        for choice in choices {
            if both.is_over() {
                break;
            }
            let input = choice.get(&both.world.inputs()).clone();
            story.push(input.clone());
            both.step(input);
        }
        both.come_to_rest(|| format!("{story:#?}"));
    }

    /// Also what no worker, hook or client of ours would do.
    #[test]
    fn nothing_makes_it_panic(choices in prop::collection::vec(any::<prop::sample::Index>(), 1..40)) {
        let all_after = [AfterCommit::Stop, AfterCommit::Resume, AfterCommit::HandOver { timeout_ms: 5 }];
        let world = World { begun: true, service: true, hook: true, worker: Some(Task::Heartbeat), ..World::default() };
        let mut all = world.inputs();
        all.extend(restore_events());
        all.extend(all_after.into_iter().flat_map(|after_commit| checkpoint_events(after_commit, &world)));
        all.extend([Input::Begin, Input::Started(TREE), Input::NotStarted { error: "so".to_owned() }]);
        let mut machine = Machine::new(config(true));
        for choice in choices {
            let _ = machine.step(Now::default(), choice.get(&all).clone());
        }
    }
}
