//! A handover that is interrupted on either side. An orchestrator starts again what has ended. Never do two copies answer, and in the end
//! one does, with all that was committed.

use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use freeze::fail_points::Point::{self, *};

use super::Victim::{self, Criu, Worker};
use super::{each, ticks};
use crate::harness::{App, Container, Setting};
use crate::s3::Remote;

/// How long a service is held for another container to take it: longer than a container takes to be started again.
const HELD_MS: u64 = 30_000;
/// How long the end of it may take.
const PATIENCE: Duration = Duration::from_secs(60);
const STANDBY: [&str; 4] = ["--standby-poll", "20ms", "--standby-cache", "/runtime/cache"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Target,
}

use Side::{Source, Target};

/// Where something is killed, at which step, what, and who has the service then; either, where it depends on who is faster.
type Case = (Side, Point, Victim, Option<Side>);

/// Until the generation can be taken the source keeps its service, and then it has given it away.
const GIVING: &[(Point, &[Victim], Option<Side>)] = &[
    (CheckpointChecked, &[Worker, Victim::Container], Some(Source)),
    (CheckpointHeld, &[Worker, Victim::Container], Some(Source)),
    (CheckpointStopped, &[Worker, Victim::Container], Some(Source)),
    (CheckpointManifest, &[Worker, Victim::Container], Some(Source)),
    (CheckpointCommitting, &[Worker, Victim::Container], Some(Source)),
    (CheckpointCommitting, &[Criu], Some(Target)),
    (CheckpointHead, &[Worker, Victim::Container], None),
    (CheckpointHead, &[Criu], Some(Target)),
    (HandoverOffered, &[Worker, Criu, Victim::Container], Some(Target)),
    (HandoverDecided, &[Worker, Criu, Victim::Container], Some(Target)),
    (HandoverSettled, &[Worker, Criu, Victim::Container], Some(Target)),
    (HandoverReleased, &[Worker, Victim::Container], Some(Target)),
];

/// The source waits for the target, which is started again.
const TAKING: &[(Point, &[Victim])] = &[
    (RestoreBegun, &[Worker]),
    (RestoreWaiting, &[Worker]),
    (RestoreFound, &[Worker, Victim::Container]),
    (RestoreRemembered, &[Worker, Victim::Container]),
    (RestoreChecked, &[Worker]),
    (RestoreFiles, &[Worker]),
    (RestoreCriu, &[Worker, Criu]),
    (RestoreHeld, &[Worker, Criu, Victim::Container]),
    (RestoreTaken, &[Worker, Criu, Victim::Container]),
    (RestoreLetGo, &[Worker, Victim::Container]),
    (RestoreRunning, &[Worker, Victim::Container]),
    (RestoreReported, &[Worker, Victim::Container]),
    (RestoreClaimed, &[Worker, Victim::Container]),
];

/// Where the store decides.
const DECIDING: [Case; 6] = [
    (Source, CheckpointCommitting, Worker, Some(Source)),
    (Source, CheckpointHead, Worker, None),
    (Source, HandoverOffered, Worker, Some(Target)),
    (Target, RestoreHeld, Worker, Some(Target)),
    (Target, RestoreTaken, Worker, Some(Target)),
    (Target, RestoreTaken, Victim::Container, Some(Target)),
];

fn giving() -> Vec<Case> {
    let cases = GIVING.iter();
    cases.flat_map(|(point, victims, end)| victims.iter().map(|victim| (Source, *point, *victim, *end))).collect()
}

fn taking() -> Vec<Case> {
    let cases = TAKING.iter();
    cases.flat_map(|(point, victims)| victims.iter().map(|victim| (Target, *point, *victim, Some(Target)))).collect()
}

pub fn points() -> Vec<Point> {
    giving().iter().chain(&taking()).map(|case| case.1).collect()
}

#[test]
fn on_the_side_of_the_source() {
    through_a_folder(&giving());
}

#[test]
fn on_the_side_of_the_target() {
    through_a_folder(&taking());
}

fn through_a_folder(cases: &[Case]) {
    each(cases, |case| {
        let app = App::new(Setting::Restricted, &["big", "4"]).with_fail_points();
        Pair::new(&|point, options| app.start_stopping_at(point, options), *case).play();
    });
}

#[test]
fn through_s3() {
    each(&DECIDING, |case| {
        let remote = Remote::new(&[]).with_fail_points();
        Pair::new(&|point, options| remote.start_stopping_at(point, options), *case).play();
    });
}

type Start<'a> = &'a (dyn Fn(Option<Point>, &[&str]) -> Container + Sync);

/// Two containers of one application; an orchestrator keeps both alive.
struct Pair<'a> {
    start: Start<'a>,
    case: Case,
    members: [Mutex<Arc<Container>>; 2],
    /// How far the service had counted before it was ever committed.
    counted: u64,
}

/// What a container answered, and when it was asked.
#[derive(Debug, Clone, Copy)]
struct Answer {
    asked: Instant,
    came: Instant,
    ticks: u64,
}

impl<'a> Pair<'a> {
    fn new(start: Start<'a>, case: Case) -> Self {
        let source = launch(start, Source, None);
        let counted = ticks(&source.verified());
        source.checkpoint(&["--leave-running"]);
        let target = launch(start, Target, (case.0 == Target).then_some(case.1));
        if case.1 != RestoreBegun {
            target.reaches("standby");
        }
        Self { start, case, members: [source, target].map(|member| Mutex::new(Arc::new(member))), counted }
    }

    /// The handover, with the kill.
    fn play(&self) {
        let (side, point, victim, end) = self.case;
        let source = self.member(Source);
        let before = ticks(&source.verified());
        if side == Source {
            source.stop_at(point);
        }
        let mut socket = source.control();
        writeln!(socket, r#"{{"version":1,"op":"checkpoint","handover_ms":{HELD_MS}}}"#).unwrap();
        let ([gave, took], died, end) = thread::scope(|scope| {
            let watch = [Source, Target].map(|side| {
                let (stop, stopped) = channel::<()>();
                (stop, scope.spawn(move || self.watch(side, &stopped)))
            });
            victim.die(&self.member(side));
            let (died, end) = (Instant::now(), self.settle(end));
            let answers = watch.map(|(stop, thread)| {
                drop(stop);
                thread.join().unwrap()
            });
            (answers, died, end)
        });
        // A target that only waits dies before the handover begins. At all other points the source stands still once it gives its service away.
        let begun = !matches!(point, RestoreBegun | RestoreWaiting);
        let silent = if end == Target && begun { Some(died) } else { took.first().map(|answer| answer.came) };
        let late = silent.and_then(|silent| gave.iter().find(|answer| answer.asked > silent));
        assert!(late.is_none(), "two copies answer: {gave:#?}\n{took:#?}");
        let answered = gave.iter().map(|answer| answer.ticks).max().unwrap_or(before);
        // What a container that crashed has answered since the newest generation is lost with it.
        let least = if (side, victim, end) == (Source, Victim::Container, Source) { self.counted } else { answered };
        let now = ticks(&self.member(end).verified());
        assert!(now >= least, "{now} ticks of at least {least}");
    }

    /// Starts again what has ended, until one runs, `end` where that is known, and the other one stands by. Returns who runs.
    fn settle(&self, end: Option<Side>) -> Side {
        let until = Instant::now() + PATIENCE;
        loop {
            let states = [Source, Target].map(|side| {
                let mut member = self.members[side as usize].lock().unwrap();
                if member.has_ended() {
                    *member = Arc::new(launch(self.start, side, None));
                }
                member.status().unwrap_or_default()
            });
            let is = |side: Side, state: &str| states[side as usize].contains(&format!(r#""state":"{state}""#));
            for (side, other) in [(Source, Target), (Target, Source)] {
                if end != Some(other) && is(side, "running") && is(other, "standby") {
                    return side;
                }
            }
            let story = || [Source, Target].map(|side| self.member(side).story()).concat();
            assert!(Instant::now() < until, "who has it? {states:#?}\n{}", story());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it again and again.
    fn watch(&self, side: Side, stopped: &Receiver<()>) -> Vec<Answer> {
        let mut answers = Vec::new();
        while stopped.recv_timeout(Duration::from_millis(5)) == Err(RecvTimeoutError::Timeout) {
            let (member, asked) = (self.member(side), Instant::now());
            if let Some(text) = member.ask_within(Duration::from_millis(100), "verify") {
                answers.push(Answer { asked, came: Instant::now(), ticks: ticks(&text) });
            }
        }
        answers
    }

    fn member(&self, side: Side) -> Arc<Container> {
        self.members[side as usize].lock().unwrap().clone()
    }
}

/// The target stands by at first; after that both do what they find.
fn launch(start: Start, side: Side, point: Option<Point>) -> Container {
    let options: &[&str] = match side {
        Source => &["--instance", "one"],
        Target => &["--instance", "two", "--standby"],
    };
    start(point, &[options, &STANDBY].concat())
}
