//! A worker as init sees it: a process group that may fail in any way, and a socket that carries its events.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
        unix::process::parent_id,
    },
    time::{Duration, Instant},
};

use super::{config::is_missing, isolate};
use crate::control::lines::{self, Got, Lines};
use crate::control::protocol::Event;
use crate::criu::tracer;
use crate::exit;
use crate::files::names;
use crate::files::selection::Scope;
use crate::image::Lease;
use crate::job::{Choice, Job, Order, SOCKET_FD, TRACER_FD};
use crate::sys::fd;
use crate::sys::process::{self, Ending, Fork};
use crate::sys::signals;

/// Longest time limit, in effect none. Bounded so that deadlines do not overflow.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a worker that is done, or a process that a worker left behind, may go on before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// How long init waits for killed processes to be gone.
const BURIAL: Duration = Duration::from_secs(1);
/// Reads in one round, so that a worker that talks without end cannot starve init's loop.
const MAX_READS: usize = 64;

#[derive(Debug)]
pub struct Worker {
    pid: i32,
    /// The tracer that it may use, which must be at rest before the worker is gone; 0 for none.
    tracer: i32,
    socket: UnixStream,
    lines: Lines,
    /// The socket is at its end, or a line was no event.
    closed: bool,
    limit: Duration,
    /// When to act if the worker, or a process that it left behind, is still there.
    deadline: Instant,
    done: bool,
    killed: bool,
    fault: Option<Fault>,
    ending: Option<Ending>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Expired,
    Garbled,
    Unwanted,
    Slow,
}

impl Worker {
    /// Starts a worker and sends it its job. It has `channels` from [`TRACER_FD`] on.
    ///
    /// # Errors
    /// If a process or socket cannot be made, or the job cannot be sent.
    pub fn start(job: &Job, limit: Duration, channels: &[BorrowedFd]) -> io::Result<Worker> {
        let (mut socket, theirs) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        lines::write(&mut socket, job)?;
        let theirs = OwnedFd::from(theirs);
        match process::fork()? {
            Fork::Child => be_worker(&theirs, job, channels),
            Fork::Parent(pid) => {
                let deadline = Instant::now() + limit.min(LONGEST);
                Ok(Worker {
                    pid,
                    tracer: if let Job::Checkpoint { tracer, .. } = job { tracer.unwrap_or(0) } else { 0 },
                    socket,
                    lines: Lines::default(),
                    closed: false,
                    limit,
                    deadline,
                    done: false,
                    killed: false,
                    fault: None,
                    ending: None,
                })
            }
        }
    }

    /// The socket to poll for input, until it is at its end. Upon input, call
    /// [`next_event`](Self::next_event).
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        (!self.closed).then(|| self.socket.as_fd())
    }

    /// The next event, or `None` if there is none now. Kills a worker that sends a line that is no event.
    pub fn next_event(&mut self) -> Option<Event> {
        for _ in 0..MAX_READS {
            match self.lines.next_line() {
                Some(Ok(event)) => return Some(event),
                Some(Err(_)) => self.give_up(Fault::Garbled),
                None => {}
            }
            if self.closed {
                return None;
            }
            match self.lines.read(&mut self.socket) {
                Ok(Got::Bytes) => {}
                Ok(Got::Nothing) => return None,
                Ok(Got::End) => self.closed = true,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => self.give_up(Fault::Garbled),
                Err(_) => self.closed = true,
            }
        }
        None
    }

    /// Begins a new time limit.
    pub fn limit(&mut self, limit: Duration) {
        self.limit = limit;
        self.deadline = Instant::now() + limit.min(LONGEST);
    }

    /// Tells a worker that hands over to withdraw its generation. Ignores errors: the loop notices a worker
    /// that is gone.
    pub fn tell_to_withdraw(&mut self) {
        let _ = lines::write(&mut self.socket, &Order::Withdraw);
    }

    /// Ends a worker whose result is not wanted any more.
    pub fn dismiss(&mut self) {
        self.give_up(Fault::Unwanted);
    }

    /// Kills the worker alone: its CRIU notices and cleans up. Processes that are left after [`GRACE`] are
    /// killed as well.
    fn give_up(&mut self, fault: Fault) {
        // Earlier events are still read, as the worker may have committed; only garbled input closes the
        // socket.
        self.closed |= fault == Fault::Garbled;
        self.fault.get_or_insert(fault);
        if self.ending.is_none() {
            process::kill(self.pid, libc::SIGKILL);
        }
    }

    /// Records the end of the worker's process. Returns whether `pid` was that.
    pub fn ended(&mut self, pid: i32, ending: Ending) -> bool {
        if pid != self.pid || self.ending.is_some() {
            return false;
        }
        self.ending = Some(ending);
        self.deadline = Instant::now() + if self.killed { BURIAL } else { GRACE };
        true
    }

    /// Acts on a deadline that has passed. Returns whether the worker and its whole process group are gone,
    /// or cannot be ended.
    pub fn is_gone(&mut self, now: Instant) -> bool {
        let alone = self.ending.is_some() && !process::kill(-self.pid, 0) && !self.has_busy_tracer();
        if alone || now < self.deadline {
            return alone;
        }
        match (self.ending, self.killed) {
            (Some(_), true) => return true,
            (None, false) => self.give_up(if self.done { Fault::Slow } else { Fault::Expired }),
            _ => self.kill(),
        }
        self.deadline = now + BURIAL;
        false
    }

    /// Once the tracer is reaped its PID may be another process's, which is no child of init.
    fn has_busy_tracer(&self) -> bool {
        process::is_child(self.tracer) && tracer::is_busy(self.tracer)
    }

    /// When to call [`is_gone`](Self::is_gone) again, at the latest.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The worker is done and must end by itself within [`GRACE`].
    pub fn hurry(&mut self) {
        self.done = true;
        self.deadline = self.deadline.min(Instant::now() + GRACE);
    }

    /// Kills the worker and its process group, and a CRIU that runs in a tracer for it.
    pub fn kill(&mut self) {
        self.killed = true;
        if self.has_busy_tracer() {
            for signal in tracer::END {
                process::kill(self.tracer, signal);
            }
        }
        process::kill(-self.pid, libc::SIGKILL);
        // Before setsid(2) the worker leads no group. Once it is reaped its PID may be another process's.
        if self.ending.is_none() {
            process::kill(self.pid, libc::SIGKILL);
        }
    }

    /// Why the worker left no result; continues "the worker …".
    pub fn reason(&self) -> String {
        match (self.fault, self.ending) {
            (Some(Fault::Expired), _) => {
                format!("exceeded its time limit of {}", humantime::format_duration(self.limit))
            }
            (Some(Fault::Slow), _) => "took too long to end and was killed".to_owned(),
            (Some(Fault::Unwanted), _) => "was stopped".to_owned(),
            (Some(Fault::Garbled), _) => "sent a message that this version of freeze does not understand".to_owned(),
            (None, Some(Ending::Killed(libc::SIGKILL))) => {
                "was killed by signal 9, probably because the container ran out of memory".to_owned()
            }
            (None, Some(Ending::Killed(signal))) => format!("was killed by signal {signal}"),
            (None, Some(Ending::Exited(code))) => format!("ended without a result (exit status {code})"),
            (None, None) => "could not be ended".to_owned(),
        }
    }
}

/// The child: executes this program as a worker, in a session of its own, with the socket at [`SOCKET_FD`].
///
/// If the store's folder does not exist there is nothing to restore, so the child answers without an exec,
/// unless a key has to be checked. The child looks, not init: a file system that does not answer must not
/// hang init.
fn be_worker(socket: &OwnedFd, job: &Job, channels: &[BorrowedFd]) -> ! {
    process::lead_session();
    if let Job::Restore { common, choice: Choice::Newest, standby, files, .. } = job
        && !standby.always
        && common.exclusive_ms.is_none()
        && is_missing(&common.store)
        && !common.keys.are_given()
        && let Ok(socket) = socket.try_clone()
    {
        let mut socket = UnixStream::from(socket);
        if *files == Scope::Changed
            && let Some(message) = names::keep_or_warn(&common.runtime_dir, parent_id() as i32, Vec::new())
        {
            let _ = lines::write(&mut socket, &Event::Warning { message });
        }
        let message =
            format!("starting the command: {} does not exist, so there is nothing to restore", common.store.url);
        let told = lines::write(&mut socket, &Event::Chosen { message })
            .and_then(|()| lines::write(&mut socket, &Event::NothingToRestore { lease: Lease::fresh() }));
        process::exit_now(if told.is_ok() { exit::OK } else { exit::FATAL });
    }
    if place(socket, channels).is_ok() {
        isolate::keep_capabilities();
        signals::release();
        process::exec(&[c"/proc/self/exe", c"worker"].map(CString::from));
    }
    process::exit_now(exit::FATAL)
}

/// Gives the worker its descriptors. Copies first, as one may have another's number.
fn place(socket: &OwnedFd, channels: &[BorrowedFd]) -> io::Result<()> {
    let aside = |one: BorrowedFd| fd::not_below(one, TRACER_FD + tracer::COUNT as i32);
    let channels = channels.iter().map(|channel| aside(*channel)).collect::<io::Result<Vec<_>>>()?;
    process::place(&aside(socket.as_fd())?, SOCKET_FD)?;
    (TRACER_FD..).zip(&channels).try_for_each(|(number, channel)| process::place(channel, number))
}
