//! Every input in every state that can be reached, and long walks among them.
//!
//! A world beside the machine knows what a worker, a hook and a service can do next, and checks each action: at most one worker or
//! hook at a time, the service killed only when its checkpoint or another container allows it, never let go while it is offered,
//! each client answered once, one end. From every state, what goes on by itself leads to rest or to the end.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use proptest::prelude::*;

use super::*;

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
                (Some(Task::Settle { .. }), ..) if !world.withdrawn && !world.taken => {
                    Input::Said(Event::Settled { taken_by: None })
                }
                (Some(_), ..) => Input::WorkerGone { reason: "ended".to_owned(), root_is_ours: true },
                (None, true, _) => Input::HookOver { failure: None },
                (_, _, Busy::Farewell(_)) => {
                    let pid = if world.orphaned { TREE.service } else { TREE.root };
                    Input::Buried { pid, ending: Ending::Exited(0), heir: None }
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
            Input::Said(Event::HandingOver { timeout_ms, .. }) => {
                self.worker = Some(Task::Checkpoint(AfterCommit::HandOver { timeout_ms: *timeout_ms }));
            }
            Input::Said(Event::Lost { .. }) => self.lost = true,
            Input::Said(Event::Restored { .. }) => self.service = true,
            Input::WorkerEnded => self.ended_worker = true,
            Input::WorkerGone { .. } | Input::NoWorker { .. } => {
                (self.worker, self.ended_worker) = (None, false);
            }
            Input::HookOver { .. } => self.hook = false,
            // Of the subreaper alone, where the service lives on.
            Input::Buried { heir, .. } => (self.service, self.orphaned) = (heir.is_some(), heir.is_some()),
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
            Some(Task::Settle { .. }) => inputs.extend(self.outcomes().into_iter().map(Input::Said)),
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
            inputs.push(Input::Buried { pid, ending, heir: None });
            if !self.orphaned {
                inputs.push(Input::Buried { pid, ending, heir: Some(1001) });
            }
        }
        inputs.extend(Timer::ALL.map(Input::Elapsed));
        inputs
    }

    /// What a worker may say of an offered generation. An outcome is final: a later worker reads the same one.
    fn outcomes(&self) -> Vec<Event> {
        let mut outcomes = vec![];
        if !self.taken {
            outcomes.push(Event::Settled { taken_by: None });
        }
        if !self.withdrawn {
            outcomes.push(Event::Settled { taken_by: Some("other".to_owned()) });
        }
        outcomes
    }

    fn requests(&self) -> Vec<Input> {
        let wanted = [(false, None), (true, None), (false, Some(1000))].map(|(leave_running, handover_ms)| {
            Op::Checkpoint(Wanted { leave_running, handover_ms, ..Wanted::default() })
        });
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
        Event::Restored { root: 1000, service: 1001, tracers: [0; 2], lease: LEASE, restore: RestoreReport::default() },
        failed(message()),
        Event::Lost { message: message() },
        Event::PidsExhausted { message: message() },
        Event::VolumeChanged { message: message() },
        Event::ClockBack { message: message() },
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
            events = match (world.taken, world.withdrawn) {
                (false, false) => world.outcomes(),
                (true, _) => events,
                (_, true) => vec![failed("nobody took it".to_owned())],
            };
        }
    } else {
        if after_commit == AfterCommit::Stop {
            events.push(Event::HandingOver { to: "other".to_owned(), timeout_ms: 1000 });
        }
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

#[test]
fn every_input_in_every_state() {
    let states = [explore(false, 7), explore(true, 7)];
    println!("{states:?} states");
    assert!(states.iter().all(|states| *states > 1000), "{states:?}");
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
