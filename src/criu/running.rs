//! A criu that runs: a child of the worker, or a tracer that has become criu. Dropping it leaves it alone.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use super::command::{self, Criu, NotStarted};
use super::tracer::{self, Request, Tracer};
use crate::sys::namespace::{self, TimeSpace};
use crate::sys::{fd, process};

/// Between two looks at one that does not end.
const LONG: Duration = Duration::from_secs(3600);

/// Where criu runs.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// Beside the service.
    Here,
    /// In a tracer above the service.
    In(&'a Tracer),
    /// In the inner one of two tracers that are made for it, and that stay above the tree with this root. The
    /// tracers' ends of their channels.
    InNew(&'a [OwnedFd; tracer::COUNT], i32),
}

/// A criu that is about to start, with the descriptors that its command line names.
#[derive(Debug)]
pub struct Start<'a> {
    place: Place<'a>,
    watch: fd::ExitWatch,
    keep: Vec<OwnedFd>,
}

#[derive(Debug)]
pub struct Running {
    process: Process,
    /// Readable once criu has ended.
    exit: OwnedFd,
    /// Whether it has succeeded, once that is known.
    ended: Option<bool>,
}

#[derive(Debug)]
enum Process {
    Child(Child),
    Tracer {
        pid: i32,
        /// [`Running::exit`] watches it as long as it is open.
        pidfd: OwnedFd,
        /// One byte, the exit status, comes from a criu that ends by itself.
        connection: UnixStream,
        /// The tracer above it, if they were made by this process.
        above: Option<Child>,
    },
}

/// Ends a criu that dumps, and never a tracer at rest. Returns whether there was a process.
fn end(tracer: BorrowedFd) -> bool {
    let [ended, _] = tracer::END.map(|signal| process::kill_exactly(tracer, signal));
    ended
}

impl<'a> Start<'a> {
    /// Prepares what could fail, or start a thread, later.
    pub fn prepare(place: Place<'a>) -> io::Result<Self> {
        Ok(Self { place, watch: fd::ExitWatch::prepare()?, keep: Vec::new() })
    }

    /// Keeps a copy of `fd` for criu. Returns the number by which criu knows it.
    pub fn keep(&mut self, fd: BorrowedFd) -> io::Result<i32> {
        let lowest = if let Place::Here = self.place { 0 } else { tracer::FIRST_NUMBER };
        let copy = fd::not_below(fd, lowest)?;
        let number = command::number(copy.as_fd());
        self.keep.push(copy);
        Ok(number)
    }

    /// Starts the criu beside this freeze, with the worker's descriptors 0, 1 and 2.
    pub fn start(self, criu: Criu, args: Vec<OsString>, time: TimeSpace) -> Result<Running, NotStarted> {
        let path = command::path(criu).map_err(|error| NotStarted::new(command::PLAIN.into(), error))?;
        let not_started = |error| NotStarted::new(path.clone(), error);
        match self.place {
            Place::Here => self.beside(&path, &args, time),
            Place::In(_) | Place::InNew(..) => {
                command::look_for(criu)?;
                self.above(path.clone().into(), args, time)
            }
        }
        .map_err(not_started)
    }

    /// What was kept, for a criu that has started before.
    pub fn kept(&self) -> &[OwnedFd] {
        &self.keep
    }

    fn beside(self, path: &Path, args: &[OsString], time: TimeSpace) -> io::Result<Running> {
        let mut command = Command::new(path);
        command.args(args).env_clear().current_dir("/");
        for one in &self.keep {
            fd::inherit(one.as_fd())?;
        }
        namespace::start_in(&mut command, time);
        let mut child = command.spawn()?;
        let exit = self.watch.of(&child).inspect_err(|_| {
            let _ = child.kill();
            let _ = child.wait();
        })?;
        Ok(Running { process: Process::Child(child), exit, ended: None })
    }

    fn above(self, criu: OsString, args: Vec<OsString>, time: TimeSpace) -> io::Result<Running> {
        let oom_score_adj = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        let (above, mut connection, channels, root) = match self.place {
            Place::In(tracer) => (None, tracer.connect()?, Vec::new(), 0),
            Place::InNew(channels, root) => {
                let (child, connection) = spawn()?;
                let channels: io::Result<_> = channels.iter().map(OwnedFd::try_clone).collect();
                (Some(child), connection, channels?, root)
            }
            Place::Here => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let (mut executed, until_exec) = io::pipe()?;
        let until_exec = until_exec.into();
        Request { criu, args, keep: self.keep, time, oom_score_adj, root, channels, until_exec }.send(&connection)?;
        let mut pid = [0; 4];
        connection.read_exact(&mut pid)?;
        executed.read_to_end(&mut Vec::new())?;
        let pid = i32::from_ne_bytes(pid);
        let pidfd = fd::process(pid)?;
        let exit = fd::either(pidfd.as_fd(), connection.as_fd())?;
        Ok(Running { process: Process::Tracer { pid, pidfd, connection, above }, exit, ended: None })
    }
}

/// Starts `freeze tracer` for tracers that are to be made.
fn spawn() -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = OwnedFd::from(theirs);
    let number = command::number(theirs.as_fd());
    fd::inherit(theirs.as_fd())?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("freeze").args(["tracer", "0", &number.to_string()]).env_clear();
    Ok((command.spawn()?, ours))
}

impl Running {
    pub fn pid(&self) -> i32 {
        match &self.process {
            Process::Child(child) => child.id() as i32,
            Process::Tracer { pid, .. } => *pid,
        }
    }

    /// The tracers that were made for it, outermost first; 0 for none.
    pub fn tracers(&self) -> [i32; tracer::COUNT] {
        match &self.process {
            Process::Tracer { pid, above: Some(above), .. } => [above.id() as i32, *pid],
            _ => [0; tracer::COUNT],
        }
    }

    /// A descriptor that is readable once criu has ended.
    pub fn exit(&self) -> BorrowedFd<'_> {
        self.exit.as_fd()
    }

    /// The PID of one whose end costs nothing: it is beside the service.
    pub fn child(&self) -> Option<i32> {
        match &self.process {
            Process::Child(child) => Some(child.id() as i32),
            Process::Tracer { .. } => None,
        }
    }

    pub fn kill(&mut self) {
        match &self.process {
            _ if self.ended.is_some() => false,
            Process::Child(child) => process::kill(child.id() as i32, libc::SIGKILL),
            // In a restore it blocks signals, and its tracers end with it.
            Process::Tracer { pidfd, above: Some(_), .. } => process::kill_exactly(pidfd.as_fd(), libc::SIGKILL),
            Process::Tracer { pidfd, .. } => end(pidfd.as_fd()),
        };
    }

    pub fn has_ended(&mut self) -> bool {
        if self.ended.is_none() && fd::is_readable_within(self.exit.as_fd(), Duration::ZERO) {
            self.wait();
        }
        self.ended.is_some()
    }

    /// Waits until criu ends. Returns whether it has succeeded.
    pub fn wait(&mut self) -> bool {
        if let Some(ended) = self.ended {
            return ended;
        }
        let success = match &mut self.process {
            Process::Child(child) => child.wait().is_ok_and(|status| status.success()),
            Process::Tracer { connection, above, .. } => {
                while !fd::is_readable_within(self.exit.as_fd(), LONG) {}
                // One that was killed has left no status, but its children may keep the connection open.
                let _ = connection.set_nonblocking(true);
                let mut status = [u8::MAX];
                let success = connection.read(&mut status).is_ok_and(|read| read == 1 && status == [0]);
                // It ends as a restore that has failed, and goes on as a tracer otherwise.
                if !success && let Some(above) = above {
                    let _ = above.wait();
                }
                success
            }
        };
        self.ended = Some(success);
        success
    }
}

#[cfg(test)]
impl Running {
    pub fn of(child: Child) -> Self {
        let exit = fd::ExitWatch::prepare().and_then(|watch| watch.of(&child)).unwrap();
        Self { process: Process::Child(child), exit, ended: None }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_criu_in_a_tracer_ends_even_if_it_is_stopped() {
        for signal in [0, libc::SIGSTOP] {
            let mut criu = Command::new("sleep").arg("60").spawn().unwrap();
            let pid = criu.id() as i32;
            let pidfd = fd::process(pid).unwrap();
            assert!(process::kill(pid, signal) && end(pidfd.as_fd()));
            assert_eq!(criu.wait().unwrap().signal(), Some(libc::SIGTERM));
            assert!(!end(pidfd.as_fd()));
        }
    }
}
