//! The tree that the proof checkpoints and restores: four processes, three threads among them in mixed order,
//! pipes, a file, a timer, and a listening socket. Over the socket the doctor asks whether the tree is
//! intact.
//!
//! Never keeps a PID or TID in memory: where PIDs cannot be chosen, the tree is restored under others. Ends
//! by itself soon after the proof is gone.

use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::sys::process;

/// The hidden verb.
pub const VERB: &str = "doctor-subject";
/// The answer of an intact tree.
pub const WELL: &str = "well";
/// Name of the open file in the scratch folder.
const FILE: &str = "file";
/// Milliseconds that the tree waits for a question. After that the proof is gone, and the tree ends.
const PATIENCE: u16 = 30_000;
/// Milliseconds that the timer may take for its next tick.
const TICK_LIMIT: u16 = 10_000;
const TICK: Duration = Duration::from_millis(20);
/// Bytes of memory in each process, of the file before its offset, and of unread data in the pipe.
const MEMORY: usize = 256 << 10;
const POSITION: usize = 12_345;
const IN_PIPE: usize = 4321;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// The first one: leads the session, has all that is not process, thread or pipe.
    Root,
    /// Its child that has a child itself.
    Middle,
    /// One with neither children nor threads.
    Leaf,
}

enum Start {
    Thread,
    Child(Role),
}

impl Role {
    /// Threads between children: some TIDs are then below the PID of a later process, so a restore must make
    /// processes and threads in the order of their IDs.
    fn plan(self) -> &'static [Start] {
        match self {
            Role::Root => &[Start::Thread, Start::Child(Role::Middle), Start::Thread, Start::Child(Role::Leaf)],
            Role::Middle => &[Start::Thread, Start::Child(Role::Leaf)],
            Role::Leaf => &[],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Role::Root => "root",
            Role::Middle => "middle",
            Role::Leaf => "leaf",
        }
    }
}

/// Runs one process of the tree until its questions end. The root has the socket as its standard input, the
/// others a pipe.
pub fn main(role: Role, folder: &Path) -> io::Result<()> {
    match role {
        Role::Root => {
            process::lead_session();
            let listener = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
            serve(&listener, Root::new(folder))
        }
        Role::Middle | Role::Leaf => {
            let mut node = Node::new(role)?;
            let mut answers = io::stdout();
            for question in io::stdin().lock().lines() {
                let found = node.check(&question?).err().unwrap_or_else(|| WELL.to_owned());
                writeln!(answers, "{found}")?;
            }
            Ok(())
        }
    }
}

/// Answers one question after another. If the root could not be made, its error is the answer.
fn serve(listener: &UnixListener, mut root: io::Result<Root>) -> io::Result<()> {
    loop {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PATIENCE) {
            Ok(0) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => continue,
            result => result?,
        };
        let mut socket = listener.accept()?.0;
        let mut question = String::new();
        BufReader::new(&socket).read_line(&mut question)?;
        let found = match &mut root {
            Ok(root) => root.check(question.trim_end()).err().unwrap_or_else(|| WELL.to_owned()),
            Err(error) => format!("it could not be created: {error}"),
        };
        writeln!(socket, "{found}")?;
    }
}

/// Asks the tree at `socket` whether it is intact, and waits up to `limit` for the answer. Reads to the end
/// of the connection, as an open one cannot be checkpointed.
pub fn ask(socket: &Path, question: &str, limit: Duration) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(limit))?;
    writeln!(stream, "{question}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}

/// State that every process has.
struct Node {
    memory: Vec<u8>,
    threads: Vec<Echo>,
    children: Vec<Below>,
}

impl Node {
    fn new(role: Role) -> io::Result<Self> {
        // The doctor's criu runs beside the tree, and not above it as for a service.
        process::let_anyone_attach();
        let mut node = Self { memory: pattern(MEMORY).collect(), threads: Vec::new(), children: Vec::new() };
        for start in role.plan() {
            match start {
                Start::Thread => node.threads.push(Echo::start(node.threads.len() as u64)?),
                Start::Child(role) => node.children.push(Below::start(*role)?),
            }
        }
        Ok(node)
    }

    /// The error is a sentence that names what has changed.
    fn check(&mut self, question: &str) -> Result<(), String> {
        if !self.memory.iter().copied().eq(pattern(MEMORY)) {
            return Err("its memory has changed".to_owned());
        }
        self.threads.iter().try_for_each(Echo::check)?;
        self.children.iter_mut().try_for_each(|child| child.check(question))
    }
}

/// A thread that adds the number in its thread-local storage to each number that it gets.
struct Echo {
    number: u64,
    to: Sender<u64>,
    from: Receiver<u64>,
}

thread_local! {
    static NUMBER: std::cell::Cell<u64> = const { std::cell::Cell::new(u64::MAX) };
}

impl Echo {
    fn start(number: u64) -> io::Result<Self> {
        let (to, questions) = mpsc::channel::<u64>();
        let (answers, from) = mpsc::channel();
        thread::Builder::new().spawn(move || {
            NUMBER.set(number);
            for question in questions {
                let _ = answers.send(question + NUMBER.get());
            }
        })?;
        Ok(Self { number, to, from })
    }

    fn check(&self) -> Result<(), String> {
        const QUESTION: u64 = 7000;
        let answer = self.to.send(QUESTION).ok().and_then(|()| self.from.recv().ok());
        if answer == Some(QUESTION + self.number) { Ok(()) } else { Err("one of its threads has changed".into()) }
    }
}

/// A child process between two pipes. It ends when this end of them closes.
struct Below {
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Below {
    fn start(role: Role) -> io::Result<Self> {
        let mut child = command(role, Path::new("/"))?;
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(to), Some(from)) => Ok(Self { to, from: BufReader::new(from) }),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn check(&mut self, question: &str) -> Result<(), String> {
        let mut answer = String::new();
        let asked = writeln!(self.to, "{question}").and_then(|()| self.from.read_line(&mut answer));
        match (asked, answer.trim_end()) {
            (Ok(_), WELL) => Ok(()),
            (Ok(0), _) | (Err(_), _) => Err("one of its processes has ended".to_owned()),
            (Ok(_), sentence) => Err(sentence.to_owned()),
        }
    }
}

/// The command line of one process of the tree, with an empty environment.
pub fn command(role: Role, folder: &Path) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(VERB).arg(role.name()).arg(folder).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

/// State of the first process.
struct Root {
    node: Node,
    file: File,
    timer: TimerFd,
    pipe: (PipeReader, PipeWriter),
}

impl Root {
    fn new(folder: &Path) -> io::Result<Self> {
        Self::with(Node::new(Role::Root)?, folder)
    }

    fn with(node: Node, folder: &Path) -> io::Result<Self> {
        let mut file = File::options().read(true).write(true).create_new(true).open(folder.join(FILE))?;
        file.write_all(&pattern(2 * POSITION).collect::<Vec<_>>())?;
        file.seek(SeekFrom::Start(POSITION as u64))?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty())?;
        timer.set(Expiration::Interval(TimeSpec::from_duration(TICK)), TimerSetTimeFlags::empty())?;
        let mut pipe = io::pipe()?;
        pipe.1.write_all(&pattern(IN_PIPE).collect::<Vec<_>>())?;
        Ok(Self { node, file, timer, pipe })
    }

    /// As [`Node::check`]. Puts back everything that it reads, except the timer's ticks.
    fn check(&mut self, question: &str) -> Result<(), String> {
        let lost = |what: &'static str| move |error: io::Error| format!("{what} cannot be used ({error})");
        self.node.check(question)?;
        let mut rest = Vec::new();
        let position = self.file.stream_position().map_err(lost("its open file"))?;
        self.file.read_to_end(&mut rest).map_err(lost("its open file"))?;
        self.file.seek(SeekFrom::Start(position)).map_err(lost("its open file"))?;
        if position != POSITION as u64 || !rest.into_iter().eq(pattern(2 * POSITION).skip(POSITION)) {
            return Err(format!("its open file has changed (position {position})"));
        }
        let mut waiting = vec![0; IN_PIPE];
        self.pipe.0.read_exact(&mut waiting).map_err(lost("the content of a pipe"))?;
        self.pipe.1.write_all(&waiting).map_err(lost("a pipe"))?;
        if !waiting.into_iter().eq(pattern(IN_PIPE)) {
            return Err("the content of a pipe has changed".to_owned());
        }
        let mut fds = [PollFd::new(self.timer.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, TICK_LIMIT).is_ok_and(|ready| ready > 0) {
            self.timer.wait().map_err(|error| lost("its timer")(error.into()))
        } else {
            Err("its timer no longer ticks".to_owned())
        }
    }
}

/// Varying bytes, so that no page is zero or uniform.
fn pattern(length: usize) -> impl Iterator<Item = u8> {
    (0..length as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without children: a child executes this program, and a test's executable lacks the verb.
    fn root(folder: &Path) -> Root {
        let mut node = Node::new(Role::Leaf).unwrap();
        node.threads = vec![Echo::start(0).unwrap(), Echo::start(1).unwrap()];
        Root::with(node, folder).unwrap()
    }

    fn after(change: impl FnOnce(&mut Root)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let mut root = root(folder.path());
        for _ in 0..2 {
            assert_eq!(root.check("before"), Ok(()));
        }
        change(&mut root);
        root.check("after").unwrap_err()
    }

    #[test]
    fn whatever_is_not_as_it_was_is_noticed() {
        assert_eq!(after(|root| root.node.memory[70_000] ^= 1), "its memory has changed");
        assert_eq!(after(|root| root.node.threads[1].number = 3), "one of its threads has changed");
        let moved = |root: &mut Root| drop(root.file.seek(SeekFrom::Start(7)));
        assert_eq!(after(moved), "its open file has changed (position 7)");
        let shorter = |root: &mut Root| root.file.set_len(2 * POSITION as u64 - 1).unwrap();
        assert_eq!(after(shorter), format!("its open file has changed (position {POSITION})"));
        let mixed = |root: &mut Root| {
            root.pipe.0.read_exact(&mut [0]).unwrap();
            root.pipe.1.write_all(&[0]).unwrap();
        };
        assert_eq!(after(mixed), "the content of a pipe has changed");
    }

    #[test]
    fn a_child_that_has_ended_is_noticed() {
        let mut child = Command::new("true").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        child.wait().unwrap();
        assert_eq!(Below { to, from }.check("?"), Err("one of its processes has ended".to_owned()));
    }

    #[test]
    fn a_question_over_the_socket_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = thread::spawn(move || ask(&socket, "how", Duration::from_secs(60)).unwrap());
        let broken = Err(io::Error::other("no memory"));
        let served = thread::spawn(move || serve(&listener, broken));
        assert_eq!(asked.join().unwrap(), "it could not be created: no memory");
        assert!(!served.is_finished());
    }

    #[test]
    fn a_thread_has_an_id_below_a_process_that_is_made_after_it() {
        let plan = Role::Root.plan();
        assert!(matches!(plan, [Start::Thread, Start::Child(_), Start::Thread, Start::Child(_)]));
    }
}
