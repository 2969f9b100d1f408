//! Sequences of inputs, each for one rule of the machine. `world` tries every input in every state.

mod heartbeats;
mod world;

use super::*;
use crate::control::protocol::{HeartbeatReport, MAX_NAMED, Op, Pace, Phase, Report, RestoreReport, Wanted};
use crate::files::selection::{Named, Selection};
use crate::host::clock::Policy;
use crate::image::{Hex, KeyFiles};
use crate::init::config::{Hook, Hooks, OnTerm};
use crate::job::{AfterCommit, Choice, OnFailure, Standby, VolumeChanged};
use crate::store::Location;

const LEASE: Lease = Lease { generation: 4, epoch: 2, writer: Hex([1; 8]) };
const TREE: Tree = Tree { tracers: [0; 2], root: 1000, service: 1001 };
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
        files: Selection::default(),
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
        volume_changed: VolumeChanged::Refuse,
        clock: Policy::Auto,
        standby: Standby { always: false, poll_ms: 1000, cache: "/c".into(), cache_bytes: 1 },
        exclusive: busy.then(|| Duration::from_secs(10)),
        trace: None,
    }
}

/// One that was killed with a restore that failed is not the one that the next attempt has made.
#[test]
fn the_root_of_an_earlier_attempt_is_not_the_service() {
    let restored = || Event::Restored {
        root: 1000,
        service: 1001,
        tracers: [0; 2],
        lease: LEASE,
        restore: RestoreReport::default(),
    };
    let buried = || Input::Buried { pid: 1000, ending: Ending::Killed(9), heir: None };
    let restoring = || Input::Said(Event::Restoring { root: 1000 });
    for (inputs, is_there) in [(vec![restoring(), buried(), restoring()], true), (vec![restoring(), buried()], false)] {
        let mut machine = Machine::new(config(false));
        for input in [vec![Input::Begin], inputs, vec![Input::Said(restored())]].concat() {
            machine.step(Now::default(), input);
        }
        assert_eq!(machine.tree().is_some(), is_there);
    }
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

const END: Op =
    Op::Checkpoint(Wanted { leave_running: false, handover_ms: None, pace: Pace::DEFAULT, named: Named::NONE });
const HANDOVER: Op =
    Op::Checkpoint(Wanted { leave_running: false, handover_ms: Some(1000), pace: Pace::DEFAULT, named: Named::NONE });

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
fn files_that_a_request_names_are_for_its_checkpoint_alone() {
    let mut machine = running(|_| ());
    let named = Named { include: vec!["/a".into()], ..Named::NONE };
    let wanted = Op::Checkpoint(Wanted { leave_running: true, named: named.clone(), ..Wanted::default() });
    does(&mut machine, asked(0, wanted));
    assert_eq!(machine.files().named, named);
    // One that names nothing waits for its own.
    does(&mut machine, asked(1, Op::Checkpoint(Wanted { leave_running: true, ..Wanted::default() })));
    does(&mut machine, said_failed());
    does(&mut machine, gone());
    assert_eq!(machine.files().named, Named::NONE);
    assert_eq!(machine.state(), State::Checkpointing);
    let long = Named { include: vec!["/".repeat(MAX_NAMED).into()], ..Named::NONE };
    let refused = does(&mut machine, asked(2, Op::Checkpoint(Wanted { named: long, ..Wanted::default() })));
    assert!(matches!(refused.first(), Some(Action::Finish(_, Event::Failed { .. }))), "{refused:?}");
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
    let over = does(&mut machine, Input::Buried { pid: 1000, ending: Ending::Killed(9), heir: None });
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
    for (op, thaws) in [(END, false), (Op::Checkpoint(Wanted { leave_running: true, ..Wanted::default() }), true)] {
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

/// One that would end the service becomes a handover when a standby is ready.
#[test]
fn a_standby_that_is_ready_gets_the_service_and_sigterm_waits_for_none() {
    let mut machine = running(|config| config.on_term = OnTerm::Checkpoint);
    does(&mut machine, asked(0, END));
    assert_eq!(machine.hold(), Some(machine.config.restore_timeout));
    let event = Event::HandingOver { to: "other".to_owned(), timeout_ms: 1000 };
    let told = does(&mut machine, Input::Said(event.clone()));
    assert_eq!(told, [Action::Send(ClientId::of(0), event)]);
    let committed = does(&mut machine, Input::Said(Event::Committed { lease: LEASE }));
    assert!(committed.contains(&Action::UnlimitWorker) && !machine.is_committed());
    // The next worker waits for the rest of the time.
    assert!(starts(&does(&mut machine, gone()), Task::Settle { generation: 4, remaining_ms: 1000 }));
    does(&mut machine, Input::Said(Event::Settled { taken_by: None }));
    assert_eq!(does(&mut machine, gone()).last(), Some(&Action::Rest));
    does(&mut machine, Input::Signal(15));
    assert_eq!((machine.state(), machine.hold()), (State::Checkpointing, None));
}

/// The standbys lack something, or none takes it in time.
#[test]
fn standbys_do_not_keep_sigterm_from_a_checkpoint() {
    let mut machine = running(|config| config.on_term = OnTerm::Checkpoint);
    does(&mut machine, asked(0, END));
    does(&mut machine, Input::Signal(15));
    does(&mut machine, said_failed());
    assert!(starts(&does(&mut machine, gone()), Task::Checkpoint(AfterCommit::Stop)));
    assert_eq!(machine.hold(), None);
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

/// Each criu that is killed takes the outermost tracer along.
#[test]
fn a_lost_tracer_is_told_and_the_service_runs_on() {
    let mut machine = running(|_| ());
    let tree = Tree { tracers: [7, 8], ..TREE };
    machine.tree = None;
    machine.started(tree);
    machine.actions.clear();
    assert_eq!(machine.status.tracers, Some(2));
    let killed = |pid, heir| Input::Buried { pid, ending: Ending::Killed(9), heir: Some(heir) };
    // It is below the other one, which still has to end.
    assert_eq!(does(&mut machine, killed(8, 1000)), []);
    for (pid, heir, left) in [(7, 8, 1), (8, 1000, 0)] {
        let actions = does(&mut machine, killed(pid, heir));
        assert!(matches!(&actions[..], [Action::Say(said)] if said.contains("tracer")), "{actions:?}");
        assert_eq!((machine.tree(), machine.status.tracers), (Some(tree.below(heir)), Some(left)));
    }
    let over = does(&mut machine, Input::Buried { pid: 1000, ending: Ending::Exited(7), heir: None });
    assert!(over.contains(&Action::Exit(7)), "{over:?}");
}

#[test]
fn an_exit_status_comes_from_the_outermost_tracer() {
    let mut machine = running(|_| ());
    machine.tree = Some(Tree { tracers: [7, 8], ..TREE });
    let over = does(&mut machine, Input::Buried { pid: 7, ending: Ending::Exited(7), heir: None });
    assert!(over.contains(&Action::Exit(7)), "{over:?}");
}
