//! Services that are handed over while something is killed: a container, a worker or a CRIU, on either side, at any moment. An
//! orchestrator starts again what has ended. Never do two copies answer, and in the end one does, with all that was committed.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting};
use crate::s3::Remote;

/// How long a service is held for another container to take it.
const HELD_MS: u64 = 1500;
/// Longer than a handover without a kill.
const LONGEST: Duration = Duration::from_millis(900);
const STANDBY: [&str; 4] = ["--standby-poll", "20ms", "--standby-cache", "/runtime/cache"];
/// What is killed; of the source in the first half, of the target in the second.
const VICTIMS: [&[&str]; 3] = [&["/opt/freeze/freeze", "run"], &["/proc/self/exe", "worker"], &["/opt/freeze/criu"]];

#[test]
fn through_a_folder() {
    let app = App::new(Setting::Restricted, &["big", "16"]);
    Fleet::new(&|options| app.start_with(options)).survives(24);
}

#[test]
fn through_s3() {
    let remote = Remote::new(&[]);
    Fleet::new(&|options| remote.start_with(options)).survives(12);
}

/// Two containers of one application, by their names; an orchestrator keeps both alive.
struct Fleet<'a> {
    start: &'a dyn Fn(&[&str]) -> Container,
    members: [Container; 2],
}

/// What a container answered, and when it was asked.
#[derive(Debug, Clone, Copy)]
struct Answer {
    asked: Instant,
    came: Instant,
    ticks: u64,
}

impl<'a> Fleet<'a> {
    fn new(start: &'a dyn Fn(&[&str]) -> Container) -> Self {
        let first = launch(start, 0);
        first.verified();
        Self { start, members: [first, launch(start, 1)] }
    }

    fn survives(mut self, rounds: u64) {
        let seed = RandomState::new().hash_one(0u64);
        println!("seed {seed}");
        let mut source = 0;
        // What the newest generation holds at least.
        let mut committed = 0;
        for round in 0..rounds {
            self.members[1 - source].reaches("standby");
            let hash = blake3::hash(&[seed, round].map(u64::to_le_bytes).concat());
            let moment = LONGEST.mul_f64(f64::from(hash.as_bytes()[0]) / 256.0);
            let before = ticks(&self.members[source].verified()).expect("it counts");
            let victim = usize::try_from(round).unwrap() % 6;
            let whose = if victim < 3 { source } else { 1 - source };
            let answers = self.round(source, whose, VICTIMS[victim % 3], moment);
            let told = |text: &str| format!("seed {seed}, round {round}: {text}\n{answers:#?}");
            let [gave, took] = [source, 1 - source].map(|member| &answers[member]);
            if let Some(first) = took.first() {
                let late = gave.iter().find(|answer| answer.asked > first.came);
                assert!(late.is_none(), "{}", told("two copies answer"));
            }
            let runs = usize::from(!self.runs(0));
            let now = ticks(&self.members[runs].verified()).expect("it counts");
            let answered = answers.iter().flatten().map(|answer| answer.ticks).max().unwrap_or(before);
            // What a container that crashed has answered since the newest generation is lost with it.
            let least = match victim {
                0 => committed,
                3 => before,
                _ => answered,
            };
            assert!(now >= least, "{}", told(&format!("{now} ticks of at least {least}")));
            if runs != source {
                committed = before;
            }
            source = runs;
        }
    }

    /// One handover, with a kill. Returns what each of them answered meanwhile.
    fn round(&mut self, source: usize, whose: usize, victim: &[&str], moment: Duration) -> [Vec<Answer>; 2] {
        let over = AtomicBool::new(false);
        let mut socket = self.members[source].control();
        writeln!(socket, r#"{{"version":1,"op":"checkpoint","handover_ms":{HELD_MS}}}"#).unwrap();
        let killed = &self.members[whose];
        let mut answers = std::thread::scope(|scope| {
            let watched = self.members.each_ref().map(|member| scope.spawn(|| watch(member, &over)));
            std::thread::sleep(moment);
            if let Some(pid) = killed.find(victim) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            // The source lets it run on, or has ended, or its container has.
            let settled = Instant::now() + Duration::from_millis(HELD_MS);
            while Instant::now() < settled && !self.members.iter().any(Container::has_ended) {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(100));
            over.store(true, Relaxed);
            watched.map(|thread| thread.join().unwrap())
        });
        drop(socket);
        self.settle(&mut answers);
        answers
    }

    /// Starts again what has ended, until one runs and the other one stands by.
    fn settle(&mut self, answers: &mut [Vec<Answer>; 2]) {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            for ((number, member), answers) in self.members.iter_mut().enumerate().zip(answers.iter_mut()) {
                if member.has_ended() {
                    *member = launch(self.start, number);
                }
                answers.extend(answer(member));
            }
            let states = self.members.each_ref().map(|member| member.status().unwrap_or_default());
            let is = |state: &str| states.iter().filter(|status| status.contains(state)).count();
            if is(r#""state":"running""#) == 1 && is(r#""state":"standby""#) == 1 {
                return;
            }
            let story = || self.members.iter().map(Container::story).collect::<String>();
            assert!(Instant::now() < until, "nobody has it: {states:#?}\n{}", story());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn runs(&self, member: usize) -> bool {
        self.members[member].status().is_some_and(|status| status.contains(r#""state":"running""#))
    }
}

/// The second one stands by at first; after that both do what they find.
fn launch(start: &dyn Fn(&[&str]) -> Container, member: usize) -> Container {
    let name = if member == 0 { ["--instance", "one"] } else { ["--instance", "two"] };
    let standby: &[&str] = if member == 0 { &[] } else { &["--standby"] };
    start(&[&name[..], &STANDBY, standby].concat())
}

fn watch(member: &Container, over: &AtomicBool) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !over.load(Relaxed) {
        answers.extend(answer(member));
        std::thread::sleep(Duration::from_millis(2));
    }
    answers
}

fn answer(member: &Container) -> Option<Answer> {
    let asked = Instant::now();
    let text = member.ask_within(Duration::from_millis(100), "verify")?;
    let ticks = ticks(&text).unwrap_or_else(|| panic!("{text}\n{}", member.story()));
    Some(Answer { asked, came: Instant::now(), ticks })
}

fn ticks(answer: &str) -> Option<u64> {
    answer.strip_prefix("ok ")?.split(' ').find_map(|word| word.strip_prefix("ticks="))?.parse().ok()
}
