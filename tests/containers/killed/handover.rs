//! A handover that is interrupted on either side. An orchestrator starts again what has ended. Never do two copies answer, and in the end
//! one does, with all that was committed.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use freeze::fail_points::Point::{self, *};

use super::application::Application;
use super::table::End::{Absent, AtSource, AtTarget, Either};
use super::table::Victim::{self, Client, Container as Box, Criu, Worker};
use super::table::{End, Table};
use super::{Share, below_tracers, each, on_both_stores, ticks};
use crate::harness::Container;

/// How long a service is held for another container to take it: longer than a container takes to be started again.
const HELD: &str = "--handover=30s";
/// How long the end of it may take.
const PATIENCE: Duration = Duration::from_secs(300);
const STANDBY: [&str; 4] = ["--standby-poll", "20ms", "--standby-cache", "/runtime/cache"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Target,
}

use Side::{Source, Target};

/// Until the generation can be taken the source keeps its service, and then it has given it away. The target, which is
/// started again, takes it.
pub static TABLES: [Table; 2] = [
    Table {
        name: "A handover, in the container that gives the service",
        victims: &[Worker, Criu, Client, Box],
        steps: &[
            (CheckpointBegun, &[AtSource, Absent, AtSource, AtSource]),
            (CheckpointChecked, &[AtSource, Absent, AtSource, AtSource]),
            (CheckpointDumping, &[AtSource, AtSource, AtSource, AtSource]),
            (CheckpointHeld, &[AtSource, AtSource, AtSource, AtSource]),
            (CheckpointFiles, &[AtSource, AtSource, AtSource, AtSource]),
            (CheckpointPacked, &[AtSource, AtSource, AtSource, AtSource]),
            (CheckpointStopped, &[AtSource, AtTarget, AtSource, AtSource]),
            (CheckpointManifest, &[AtSource, AtTarget, AtSource, AtSource]),
            (CheckpointCommitting, &[AtSource, AtTarget, AtSource, AtSource]),
            (CheckpointHead, &[Either, AtTarget, Either, Either]),
            (HandoverOffered, &[AtTarget, AtTarget, AtTarget, AtTarget]),
            (HandoverDecided, &[AtTarget, AtTarget, AtTarget, AtTarget]),
            (HandoverSettled, &[AtTarget, AtTarget, AtTarget, AtTarget]),
            (HandoverReleased, &[AtTarget, Absent, AtTarget, AtTarget]),
        ],
    },
    Table {
        name: "A handover, in the container that takes the service",
        victims: &[Worker, Criu, Box],
        steps: &[
            (RestoreBegun, &[AtTarget, Absent, AtTarget]),
            (RestoreWaiting, &[AtTarget, Absent, AtTarget]),
            (RestoreFound, &[AtTarget, Absent, AtTarget]),
            (RestoreRemembered, &[AtTarget, Absent, AtTarget]),
            (RestoreChecked, &[AtTarget, Absent, AtTarget]),
            (RestoreFiles, &[AtTarget, Absent, AtTarget]),
            (RestoreCriu, &[AtTarget, AtTarget, AtTarget]),
            (RestoreHeld, &[AtTarget, AtTarget, AtTarget]),
            (RestoreTaken, &[AtTarget, AtTarget, AtTarget]),
            (RestoreLetGo, &[AtTarget, Absent, AtTarget]),
            (RestoreRunning, &[AtTarget, Absent, AtTarget]),
            (RestoreReported, &[AtTarget, Absent, AtTarget]),
            (RestoreClaimed, &[AtTarget, Absent, AtTarget]),
        ],
    },
];

/// Where something is killed, at which step, what, and who has the service then.
type Case = (Side, Point, Victim, End);

fn giving(share: Share) {
    play(share, Source);
}

fn taking(share: Share) {
    play(share, Target);
}

mod source {
    use super::giving;
    super::on_both_stores!(giving);
    super::below_tracers!(giving);
}

mod target {
    use super::taking;
    super::on_both_stores!(taking);
    super::below_tracers!(taking);
}

fn play(share: Share, side: Side) {
    let cases = TABLES[side as usize].cases().into_iter().filter(|case| (share.plays)(case.0));
    let cases: Vec<Case> = cases.map(|(point, victim, end)| (side, point, victim, end)).collect();
    each(&cases, |case| Pair::new(&Application::new(share, &[]), *case).play());
}

/// Two containers of one application; an orchestrator keeps both alive.
struct Pair<'a> {
    app: &'a Application,
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
    fn new(app: &'a Application, case: Case) -> Self {
        let source = launch(app, Source, None);
        let counted = ticks(&source.verified());
        source.checkpoint(&["--leave-running"]);
        let target = launch(app, Target, (case.0 == Target).then_some(case.1));
        if case.1 != RestoreBegun {
            target.reaches("standby");
        }
        Self { app, case, members: [source, target].map(|member| Mutex::new(Arc::new(member))), counted }
    }

    /// The handover, with the kill.
    fn play(&self) {
        let (side, point, victim, end) = self.case;
        let source = self.member(Source);
        let before = ticks(&source.verified());
        if side == Source {
            source.stop_at(point);
        }
        let committed = self.app.generations();
        let ([gave, took], died, end) = thread::scope(|scope| {
            let watch = [Source, Target].map(|side| {
                let (stop, stopped) = channel::<()>();
                (stop, scope.spawn(move || self.watch(side, &stopped)))
            });
            scope.spawn(|| source.try_checkpoint(&[HELD]));
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
        let least = if (side, victim, end) == (Source, Box, Source) { self.counted } else { answered };
        let now = ticks(&self.member(end).verified());
        assert!(now >= least, "{now} ticks of at least {least}");
        let generations = self.app.generations();
        assert!(generations.starts_with(&committed), "{committed:?} became {generations:?}");
    }

    /// Starts again what has ended, until one runs, `end` where that is known, and the other one stands by. Returns who runs.
    fn settle(&self, end: End) -> Side {
        let until = Instant::now() + PATIENCE;
        loop {
            let states = [Source, Target].map(|side| {
                let mut member = self.members[side as usize].lock().unwrap();
                if member.has_ended() {
                    *member = Arc::new(launch(self.app, side, None));
                }
                member.status().unwrap_or_default()
            });
            let is = |side: Side, state: &str| states[side as usize].contains(&format!(r#""state":"{state}""#));
            for (side, other, excluded) in [(Source, Target, AtTarget), (Target, Source, AtSource)] {
                if end != excluded && is(side, "running") && is(other, "standby") {
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
fn launch(app: &Application, side: Side, point: Option<Point>) -> Container {
    let options: &[&str] = match side {
        Source => &["--instance", "one"],
        Target => &["--instance", "two", "--standby"],
    };
    app.start_stopping_at(point, &[options, &STANDBY].concat())
}
