//! Init whose workers are played. Init executes its own file as its worker, so a test file that uses this is all three: as `run`
//! init, as `worker` a player of the steps that the environment lists for its job, and else the tests.

use std::{
    fs,
    io::Write,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    thread,
};

use freeze::{
    control::{
        client::Client,
        lines::{self, Lines},
        protocol::{Awaited, Event, Named, Op, Pace, Phase, Report, RestoreReport, State, Status, Wanted},
    },
    image::{Hex, Lease},
    job::{Job, SOCKET_FD},
    sys::process::inherited,
};

use super::*;

/// What `main` of such a test file is.
pub fn be_all_three(tests: &[(&str, fn())]) -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("run") => freeze::commands::main(),
        Some("worker") => play(),
        only => test(tests, only.filter(|text| !text.starts_with('-'))),
    }
}

fn test(tests: &[(&str, fn())], only: Option<&str>) -> ExitCode {
    for (name, test) in tests.iter().filter(|(name, _)| only.is_none_or(|only| name.contains(only))) {
        test();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

/// The worker: does the steps that the environment lists.
fn play() -> ExitCode {
    let mut socket = UnixStream::from(inherited(SOCKET_FD).unwrap());
    let mut received = Lines::default();
    let job: Job = loop {
        if let Some(job) = received.next_line() {
            break job.unwrap();
        }
        received.read(&mut socket).unwrap();
    };
    let (steps, tree, lease) = match &job {
        Job::Restore { .. } => ("PLAY_RESTORE", (0, 0), LEASE),
        Job::Checkpoint { root, service, lease, .. } => ("PLAY_CHECKPOINT", (*root, *service), *lease),
        Job::Settle { lease, .. } => ("PLAY_SETTLE", (0, 0), *lease),
        Job::Heartbeat { lease, .. } => ("PLAY_HEARTBEAT", (0, 0), *lease),
    };
    let mut marks = fs::OpenOptions::new().append(true).create(true).open(go_file().with_file_name("marks")).unwrap();
    marks.write_all(b"worker\n").unwrap();
    for step in std::env::var(steps).unwrap_or_else(|_| "nothing".to_owned()).split(' ') {
        do_step(step, &mut socket, tree, lease);
    }
    ExitCode::SUCCESS
}

fn do_step(step: &str, socket: &mut UnixStream, (root, service): (i32, i32), lease: Lease) {
    let mut send = |event: Event| lines::write(socket, &event).unwrap();
    match step {
        "nothing" => send(Event::NothingToRestore { lease: LEASE }),
        "fail" => send(Event::Failed { message: "no luck".to_owned(), log: Some("/log".into()), phase: None }),
        "preflight" => send(Event::Progress { phase: Phase::Preflight, bytes: 0, total: 0 }),
        "progress" => send(PROGRESS),
        "flood" => (0..20_000).for_each(|_| send(PROGRESS)),
        "committed" => send(Event::Committed { lease: Lease { generation: lease.generation + 1, ..lease } }),
        "claimed" => send(Event::Claimed),
        "committing" => send(Event::Committing { generation: 5 }),
        "taken" => send(Event::Settled { taken_by: Some("other".to_owned()) }),
        "withdrawn" => send(Event::Settled { taken_by: None }),
        "waiting" => send(Event::Waiting { generation: 3 }),
        "lost" => send(Event::Lost { message: "another container has it".to_owned() }),
        "pids-exhausted" => send(Event::PidsExhausted { message: "no PIDs are left".to_owned() }),
        "volume-changed" => send(Event::VolumeChanged { message: "the volume is newer".to_owned() }),
        "clock-back" => send(Event::ClockBack { message: "the clock would go back".to_owned() }),
        "still-owner" => send(Event::StillOwner),
        "warn" => send(Event::Warning { message: format!("held: {} {}", lease.generation, lease.epoch) }),
        "checkpointed" => send(Event::Checkpointed(REPORT)),
        "garbage" => socket.write_all(b"garbage\n").unwrap(),
        "huge" => drop(socket.write_all(&[b'x'; 20_000])),
        "restored" => {
            let text = "trap 'exit 6' TERM; echo restored; while :; do sleep 0.01; done";
            let pid = Command::new("setsid").args(["sh", "-c", text]).spawn().unwrap().id() as i32;
            send(Event::Restored { root: pid, service: pid, tracers: [0; 2], lease: LEASE, restore: restored_here() });
        }
        // Its parent ends at once, so that init reaps it while this worker still talks.
        "restored-briefly" => {
            let text =
                "setsid sh -c 'until [ -e \"$PLAY_GO\" ]; do sleep 0.01; done; exit 4' >/dev/null 2>&1 & echo $!";
            let output = Command::new("sh").args(["-c", text]).output().unwrap();
            let root: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
            send(Event::Restoring { root });
            fs::write(go_file(), "").unwrap();
            wait_for(|| (!exists(root)).then_some(()));
            send(Event::Restored { root, service: root, tracers: [0; 2], lease: LEASE, restore: restored_here() });
        }
        "linger" => thread::sleep(std::time::Duration::from_secs(7)),
        "restored-nobody" => send(Event::Restored {
            root: 4_000_000,
            service: 4_000_000,
            tracers: [0; 2],
            lease: LEASE,
            restore: restored_here(),
        }),
        "orphan" => {
            drop(Command::new("sleep").arg("1000").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        }
        "kill-tree" => [root, service].into_iter().for_each(|pid| kill(pid, 9)),
        // Its subreaper ends by itself, and so may be gone before it could be killed.
        "kill-service" => kill(service, 9),
        "stop-service" => {
            kill(service, 19);
            wait_for(|| state(service).filter(|state| state == "T"));
        }
        "order" => {
            let mut line = [0; 64];
            let read = std::io::Read::read(socket, &mut line).unwrap();
            assert_eq!(&line[..read], b"{\"order\":\"withdraw\"}\n");
        }
        "wait" => wait_for(|| go_file().exists().then_some(())),
        "wait-more" => wait_for(|| go_file().with_extension("more").exists().then_some(())),
        "die" => kill(std::process::id() as i32, 9),
        "hang" => thread::park(),
        other => panic!("no such step: {other}"),
    }
}

fn restored_here() -> RestoreReport {
    RestoreReport { generation: LEASE.generation, ..RestoreReport::default() }
}

/// Whether there is such a process, if only as a zombie.
fn exists(pid: i32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

pub const PROGRESS: Event = Event::Progress { phase: Phase::Dump, bytes: 0, total: 0 };
pub const REPORT: Report =
    Report { generation: 5, bytes: 1, stored: 2, new: 1, shared: 0, frozen_ms: 3, total_ms: 4, ended: true };
pub const LEFT_RUNNING: Op =
    Op::Checkpoint(Wanted { leave_running: true, handover_ms: None, pace: Pace::DEFAULT, named: Named::NONE });

/// The lease that this container holds.
pub const LEASE: Lease = Lease { generation: 4, epoch: 2, writer: Hex([1; 8]) };

/// A worker that waits goes on when this file exists.
pub fn go_file() -> PathBuf {
    PathBuf::from(std::env::var_os("PLAY_GO").unwrap())
}

pub struct Play {
    /// Init.
    pub init: Init,
}

/// Init whose workers play these steps, with a service that says so when it runs.
pub fn start(place: Place, options: &[&str], restore: &str, checkpoint: &str) -> Play {
    start_with(place, options, &[("PLAY_RESTORE", restore), ("PLAY_CHECKPOINT", checkpoint)])
}

/// The same, with the steps of each kind of worker by its variable.
pub fn start_with(place: Place, options: &[&str], steps: &[(&str, &str)]) -> Play {
    let folder = folder();
    fs::create_dir(folder.path().join("store")).unwrap();
    let me = std::env::current_exe().unwrap();
    let text = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done";
    let arguments = [&[me.to_str().unwrap(), "run"], options, &["--", "sh", "-c", text]].concat();
    let mut command = command_at(place, folder.path(), &arguments);
    command.envs(steps.iter().copied()).env("PLAY_GO", folder.path().join("go")).stdin(Stdio::null());
    Play { init: Init::start(place, command, folder) }
}

/// The same, once the service runs.
pub fn running(place: Place, options: &[&str], checkpoint: &str) -> Play {
    let mut play = start(place, options, "nothing", checkpoint);
    play.init.expect("ready");
    play
}

impl Play {
    pub fn ask(&self, op: Op) -> Client {
        wait_for(|| Client::ask(Some(&self.init.runtime_dir()), op.clone()).ok())
    }

    pub fn checkpoint(&self) -> Client {
        self.ask(Op::Checkpoint(Wanted::default()))
    }

    /// Asks for a checkpoint that must fail; the sentence.
    pub fn refused(&self) -> String {
        let mut client = self.checkpoint();
        loop {
            match client.next_event().unwrap() {
                Event::Failed { message, .. } => return message,
                Event::Progress { .. } | Event::Settled { .. } | Event::Warning { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn wait_until(&self, until: Awaited) {
        assert_eq!(self.ask(Op::Wait { until }).next_event().unwrap(), Event::Reached);
    }

    pub fn state(&self) -> State {
        self.status().state
    }

    pub fn status(&self) -> Status {
        match self.ask(Op::Status).next_event().unwrap() {
            Event::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until so many workers have been started since the last call: each leaves a mark.
    pub fn wait_for_workers(&self, number: usize) {
        let marks = self.init.folder.path().join("marks");
        let count = || fs::read_to_string(&marks).map_or(0, |text| text.lines().count());
        let before = count();
        wait_for(|| (count() >= before + number).then_some(()));
    }

    pub fn go(&self) {
        fs::write(self.init.folder.path().join("go"), "").unwrap();
    }

    /// The service still runs, and SIGTERM ends it with its own status.
    pub fn runs_on(self) {
        wait_for(|| (self.state() == State::Running).then_some(()));
        self.init.signal(15);
        assert_eq!(self.init.end().0, 9);
    }
}
