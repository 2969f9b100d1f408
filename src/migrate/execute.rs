//! Runs one of the user's commands and collects its output.
//!
//! Never waits beyond its [`Limit`], and never keeps more than [`MOST`] bytes of a stream. The command's exit
//! counts, not the end of its output, since a process that it leaves behind may keep the pipes open (ssh's
//! ControlMaster does).

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use crate::control::protocol::MAX_LINE;

/// Maximum size of what is kept: the first bytes of standard output, the last lines of standard error.
const MOST: usize = 1 << 20;
/// Lines of standard error in an error message.
const LINES: usize = 5;
/// How long to wait for the end of the output after the command exited. Usually it comes at once.
const LATE: Duration = Duration::from_secs(5);
/// Capacity of the output queue, in pieces.
const WAITING: usize = 16;

/// How long a command may run.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// From its start.
    Whole(Duration),
    /// Since its last output.
    Silence(Duration),
}

/// That the limit has passed, as it follows the command in a sentence.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Whole(limit) => write!(f, "did not end within {} s", limit.as_secs()),
            Limit::Silence(limit) => write!(f, "printed nothing for {} s", limit.as_secs()),
        }
    }
}

/// Result of a command.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    /// Last lines of standard error, without those that `hear` took.
    pub stderr: Vec<String>,
}

/// A command gave no usable answer.
#[derive(Debug, thiserror::Error)]
#[error("`{command}` {what}")]
pub struct NoAnswer {
    command: String,
    what: String,
}

impl NoAnswer {
    /// The command ended without an answer.
    pub fn of(words: &[String], ran: &Ran) -> Self {
        let said: Vec<_> = ran.stderr.iter().rev().take(LINES).rev().map(|line| line.trim()).collect();
        let said = if said.is_empty() { "no output".to_owned() } else { said.join("; ") };
        Self::new(words, format!("ended with {}: {said}", ran.status))
    }

    /// `freeze wait restored` succeeded, and then the target was in another state.
    pub fn of_state(state: &str) -> Self {
        Self { command: "freeze wait restored".to_owned(), what: format!("ended, and the target is {state}") }
    }

    fn new(words: &[String], what: String) -> Self {
        Self { command: words.join(" "), what }
    }
}

enum Piece {
    Out(Vec<u8>),
    Err(String),
}

/// Runs a command and returns its output. `hear` gets each line of standard error at once, and returns
/// whether it has handled the line; other lines are kept.
///
/// # Errors
/// The command cannot be started, or exceeded its limit and was killed.
pub fn execute(words: &[String], limit: Limit, hear: &dyn Fn(&str) -> bool) -> Result<Ran, NoAnswer> {
    let (program, arguments) = words.split_first().ok_or_else(|| NoAnswer::new(words, "is empty".to_owned()))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| NoAnswer::new(words, format!("cannot be started ({error})")))?;
    let mut running = Running(child);
    let (mut stdout, mut stderr, mut heard) = (Vec::new(), Vec::new(), Instant::now());
    let mut keep = |piece| match piece {
        Piece::Out(bytes) => stdout.extend(bytes.into_iter().take(MOST - stdout.len().min(MOST))),
        Piece::Err(line) if hear(&line) => {}
        Piece::Err(line) => {
            stderr.push(line);
            stderr.drain(..stderr.len().saturating_sub(MOST / MAX_LINE));
        }
    };
    let pieces = running.pieces();
    let begun = Instant::now();
    let is_over = |heard: Instant| match limit {
        Limit::Whole(limit) => begun.elapsed() >= limit,
        Limit::Silence(limit) => heard.elapsed() >= limit,
    };
    let status = loop {
        match pieces.recv_timeout(Duration::from_millis(20)) {
            Ok(piece) => {
                heard = Instant::now();
                keep(piece);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(5)),
        }
        match running.0.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if is_over(heard) => return Err(NoAnswer::new(words, limit.to_string())),
            Ok(None) => {}
            Err(error) => return Err(NoAnswer::new(words, format!("cannot be waited for ({error})"))),
        }
    };
    let until = Instant::now() + LATE;
    while let Ok(piece) = pieces.recv_timeout(until.saturating_duration_since(Instant::now())) {
        keep(piece);
    }
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    Ok(Ran { status, stdout, stderr })
}

/// A child process that is killed and reaped on drop.
struct Running(Child);

impl Running {
    fn pieces(&mut self) -> mpsc::Receiver<Piece> {
        let (sender, receiver) = mpsc::sync_channel(WAITING);
        if let Some(mut stdout) = self.0.stdout.take() {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut buffer = vec![0; MAX_LINE];
                while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                    if sender.send(Piece::Out(buffer.get(..count).unwrap_or_default().to_vec())).is_err() {
                        return;
                    }
                }
            });
        }
        if let Some(stderr) = self.0.stderr.take() {
            thread::spawn(move || lines(BufReader::new(stderr), &sender));
        }
        receiver
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if the child was already reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lines(mut stream: impl BufRead, sender: &SyncSender<Piece>) {
    loop {
        let mut line = Vec::new();
        match stream.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line) {
            Ok(1..) if sender.send(Piece::Err(String::from_utf8_lossy(line.trim_ascii_end()).into_owned())).is_ok() => {
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn sh(script: &str, limit: Limit) -> (Result<Ran, NoAnswer>, Vec<String>) {
        let heard = RefCell::new(Vec::new());
        let hear = |line: &str| {
            heard.borrow_mut().push(line.to_owned());
            line.starts_with('{')
        };
        let ran = execute(&["sh", "-c", script].map(str::to_owned), limit, &hear);
        (ran, heard.into_inner())
    }

    const LONG: Limit = Limit::Whole(Duration::from_secs(60));

    #[test]
    fn what_it_prints_and_how_it_ends_is_told() {
        let (ran, heard) = sh("echo out; echo '{1}' >&2; echo no >&2; exit 3", LONG);
        let ran = ran.unwrap();
        assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(3), "out\n"));
        assert_eq!((ran.stderr.clone(), heard), (vec!["no".to_owned()], vec!["{1}".to_owned(), "no".to_owned()]));
        let words = ["docker", "exec", "a"].map(str::to_owned);
        insta::assert_snapshot!(NoAnswer::of(&words, &ran), @"`docker exec a` ended with exit status: 3: no");
    }

    #[test]
    fn its_end_counts_not_that_of_its_output() {
        let begun = Instant::now();
        let (ran, _) = sh("sleep 50 & echo out", LONG);
        assert_eq!(ran.unwrap().stdout, "out\n");
        assert!(begun.elapsed() < Duration::from_secs(40));
    }

    #[test]
    fn one_that_says_nothing_is_ended() {
        let (ran, _) = sh("exec sleep 50", Limit::Silence(Duration::from_millis(50)));
        insta::assert_snapshot!(ran.unwrap_err(), @"`sh -c exec sleep 50` printed nothing for 0 s");
    }

    #[test]
    fn one_that_goes_on_for_ever_is_ended() {
        let (ran, _) = sh("while :; do echo x; sleep 0.01; done", Limit::Whole(Duration::from_millis(100)));
        insta::assert_snapshot!(ran.unwrap_err(), @"`sh -c while :; do echo x; sleep 0.01; done` did not end within 0 s");
    }

    #[test]
    fn too_much_is_cut() {
        let (ran, heard) = sh("yes | head -c 3000000; yes x | head -n 1000 >&2", LONG);
        let ran = ran.unwrap();
        assert_eq!((ran.stdout.len(), ran.stderr.len(), heard.len()), (MOST, MOST / MAX_LINE, 1000));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let error = execute(&["/no/such".to_owned()], LONG, &|_| false).unwrap_err();
        insta::assert_snapshot!(error, @"`/no/such` cannot be started (No such file or directory (os error 2))");
    }
}
