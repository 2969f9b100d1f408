//! Tracers: processes between init and the subreaper, so ancestors of the whole service. Where Yama lets only
//! an ancestor attach, criu runs in one of them (docs/explanation/tracer.md).
//!
//! A tracer at rest (src/sys/tracer) knows its only child and its channel from init, and ends as its child
//! does. A worker sends it a connection; then it executes `freeze tracer`, which reads a [`Request`] and
//! executes criu, which executes the tracer at rest again. So its PID and its child stay.

mod request;
mod serve;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::proc::stat::Stat;
use crate::sys::signals::{self, Signal};
use crate::sys::{fd, process};

pub(super) use request::Request;
pub(crate) use serve::serve;

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tracer"));
/// Name of a tracer at rest, as ps shows it.
pub const NAME: &str = "freeze-tracer";
/// Descriptor of a tracer's channel from init.
const CHANNEL_FD: i32 = 3;
/// The lowest number of criu's descriptors in a tracer, whose own have lower ones.
pub(super) const FIRST_NUMBER: i32 = 32;
/// How many stand above a service: the outermost is used, and is lost with a criu that is killed.
pub const COUNT: usize = 2;
/// End a criu that dumps in a tracer, and never a tracer at rest: all signals are blocked in that, and in a criu that is about to
/// execute it (criu/README.md, 0075). A process that is stopped ends once it goes on.
pub const END: [Signal; 2] = [libc::SIGTERM, libc::SIGCONT];

/// A tracer as a worker sees it, and init's end of its channel.
#[derive(Debug, Clone)]
pub struct Tracer {
    pub pid: i32,
    pub channel: Arc<OwnedFd>,
}

impl Tracer {
    /// Sends the tracer a connection on which it expects a [`Request`]. Returns the other end of that.
    pub(super) fn connect(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let freeze = File::open("/proc/self/exe")?;
        fd::send(self.channel.as_fd(), &[theirs.as_fd(), freeze.as_fd()])?;
        // Also wakes one that is stopped, as by a `kill -STOP -1` in the service.
        process::kill(self.pid, libc::SIGCONT);
        Ok(ours)
    }
}

/// A channel: init's end, which does not block, and the tracer's.
pub fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    fd::set_nonblocking(ours.as_fd())?;
    Ok((ours, theirs))
}

/// Whether the tracer `pid` is there and not at rest: it is about to become criu, or is criu.
pub fn is_busy(pid: i32) -> bool {
    pid > 0 && Stat::read(pid).is_ok_and(|stat| stat.comm != NAME.as_bytes() && !matches!(stat.state, 'Z' | 'X'))
}

/// Becomes a tracer at rest with this child and channel. Returns only on error. All else of this process is
/// closed but for descriptors 0, 1 and 2.
pub fn rest(channel: &OwnedFd, child: i32) -> io::Error {
    signals::hold();
    let executed = program().and_then(|program| {
        process::place(channel, CHANNEL_FD)?;
        process::close_all_on_exec(CHANNEL_FD + 1);
        Ok(process::exec_file(&program, &[CString::new(NAME)?, CString::new(child.to_string())?]))
    });
    executed.unwrap_or_else(|error| error)
}

/// The tracer at rest, as a file that can be executed.
fn program() -> io::Result<OwnedFd> {
    fd::not_below(process::program_in_memory(c"freeze-tracer", PROGRAM)?.as_fd(), request::ASIDE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_gone_is_not_busy_and_cannot_be_asked() {
        let us = std::process::id() as i32;
        assert_eq!([us, 0, i32::MAX].map(is_busy), [true, false, false]);
        let (channel, theirs) = channel().unwrap();
        drop(theirs);
        assert!(Tracer { pid: i32::MAX, channel: Arc::new(channel) }.connect().is_err());
    }
}
