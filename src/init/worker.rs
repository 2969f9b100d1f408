//! A worker as init sees it: a process group that may fail in any way, and a socket on which it reports.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use super::{config::is_missing, isolate};
use crate::control::lines::{self, Got, Lines};
use crate::control::protocol::Event;
use crate::exit;
use crate::image::Lease;
use crate::job::{Choice, Job, Order, SOCKET_FD};
use crate::sys::process::{self, Ending, Fork};
use crate::sys::signals;

/// Longest time limit, and as good as none: sums of times must not overflow.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long processes that a worker left behind may go on before they are killed.
const GRACE: Duration = Duration::from_secs(5);
/// How long init waits for those to be gone once they were killed.
const BURIAL: Duration = Duration::from_secs(1);
/// Reads in one go, so that a worker that talks without end cannot keep init from its other duties.
const MAX_READS: usize = 64;

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    pid: i32,
    socket: UnixStream,
    lines: Lines,
    /// The socket is at its end, or what came was no event.
    closed: bool,
    limit: Duration,
    /// When something must be done if the worker, or what it left behind, is still there.
    deadline: Instant,
    /// It has done its work.
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
    /// Starts a worker and gives it its job.
    ///
    /// # Errors
    /// Where there can be no further process, socket or message.
    pub fn start(job: &Job, limit: Duration) -> io::Result<Worker> {
        let (mut socket, theirs) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        lines::write(&mut socket, job)?;
        let theirs = OwnedFd::from(theirs);
        match process::fork()? {
            Fork::Child => be_worker(&theirs, job),
            Fork::Parent(pid) => {
                let deadline = Instant::now() + limit.min(LONGEST);
                Ok(Worker {
                    pid,
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

    /// The socket, to be polled for input as long as it has more to say; upon input [`next_event`](Self::next_event) is due.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        (!self.closed).then(|| self.socket.as_fd())
    }

    /// The next event that has come, or `None` where there is none now. A line that is no event is the worker's end.
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

    /// Has a worker that hands over take back its generation. One that is gone is found to be gone.
    pub fn tell_to_withdraw(&mut self) {
        let _ = lines::write(&mut self.socket, &Order::Withdraw);
    }

    /// Ends a worker whose result nobody wants any more.
    pub fn dismiss(&mut self) {
        self.give_up(Fault::Unwanted);
    }

    /// Kills the worker alone: its CRIU notices, and clears up behind itself. What is left after a while is killed as well.
    fn give_up(&mut self, fault: Fault) {
        // What it has said before is heard still: it may have committed.
        self.closed |= fault == Fault::Garbled;
        self.fault.get_or_insert(fault);
        if self.ending.is_none() {
            process::kill(self.pid, libc::SIGKILL);
        }
    }

    /// Whether this was the worker's process that ended.
    pub fn ended(&mut self, pid: i32, ending: Ending) -> bool {
        if pid != self.pid || self.ending.is_some() {
            return false;
        }
        self.ending = Some(ending);
        self.deadline = Instant::now() + if self.killed { BURIAL } else { GRACE };
        true
    }

    /// Looks at the clock. Returns whether the worker and all of its process group are gone.
    pub fn is_gone(&mut self, now: Instant) -> bool {
        let alone = self.ending.is_some() && !process::kill(-self.pid, 0);
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

    /// When to look again, at the latest.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The worker has done its work and should end by itself now.
    pub fn hurry(&mut self) {
        self.done = true;
        self.deadline = self.deadline.min(Instant::now() + GRACE);
    }

    /// Kills the worker and its process group.
    pub fn kill(&mut self) {
        self.killed = true;
        process::kill(-self.pid, libc::SIGKILL);
        // In its first moments it does not lead a group yet. Once it was reaped the number may be another's.
        if self.ending.is_none() {
            process::kill(self.pid, libc::SIGKILL);
        }
    }

    /// Why a worker that is gone without a result has none; continues "the worker …".
    pub fn reason(&self) -> String {
        match (self.fault, self.ending) {
            (Some(Fault::Expired), _) => {
                format!("exceeded its time limit of {}", humantime::format_duration(self.limit))
            }
            (Some(Fault::Slow), _) => "took too long to end and was killed".to_owned(),
            (Some(Fault::Unwanted), _) => "was ended".to_owned(),
            (Some(Fault::Garbled), _) => "sent what is no message of this version of freeze".to_owned(),
            (None, Some(Ending::Killed(libc::SIGKILL))) => {
                "was killed by signal 9: the container's memory may have run out".to_owned()
            }
            (None, Some(Ending::Killed(signal))) => format!("was killed by signal {signal}"),
            (None, Some(Ending::Exited(code))) => format!("ended without a result (exit status {code})"),
            (None, None) => "could not be ended".to_owned(),
        }
    }
}

/// The child: this executable again, in a session of its own, with the socket at the agreed descriptor.
///
/// Where a folder that is to be the store does not exist there is nothing to restore, and nothing to execute for that, unless a
/// key has to be looked at. Only this child looks: a file system that does not answer must not hang init.
fn be_worker(socket: &OwnedFd, job: &Job) -> ! {
    process::lead_session();
    if let Job::Restore { common, choice: Choice::Newest, standby, .. } = job
        && !standby.always
        && common.exclusive_ms.is_none()
        && is_missing(&common.store)
        && !common.keys.are_given()
        && let Ok(socket) = socket.try_clone()
    {
        let mut socket = UnixStream::from(socket);
        let message =
            format!("starting the command: {} does not exist, so there is nothing to restore", common.store.url);
        let told = lines::write(&mut socket, &Event::Chosen { message })
            .and_then(|()| lines::write(&mut socket, &Event::NothingToRestore { lease: Lease::fresh() }));
        process::exit_now(if told.is_ok() { exit::OK } else { exit::FATAL });
    }
    if process::place(socket, SOCKET_FD).is_ok() {
        isolate::keep_capabilities();
        signals::release();
        process::exec(&[c"/proc/self/exe", c"worker"].map(CString::from));
    }
    process::exit_now(exit::FATAL)
}
