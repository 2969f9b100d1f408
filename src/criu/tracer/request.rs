//! What a worker sends to `freeze tracer`: one byte with all descriptors, then JSON up to the end of what it
//! writes. Back come the PID of the process that executes criu and, at the end, criu's exit status.

use std::ffi::{CString, OsString};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

use crate::sys::fd;
use crate::sys::namespace::TimeSpace;

/// Most bytes of a request: a dump names each watched file, some thousand times a path.
const LONGEST: u64 = 64 << 20;
/// Most descriptors: criu's, the channels, and the time namespace. Their copies are below criu's numbers.
const MOST_FDS: usize = 8;

/// Below it are the numbers that a tracer and criu are given, so a copy that has one would be in the way.
pub(super) const ASIDE: i32 = 10;

/// A command line of criu, and what its process needs.
#[derive(Debug)]
pub(in crate::criu) struct Request {
    pub criu: OsString,
    pub args: Vec<OsString>,
    /// criu finds them under these numbers.
    pub keep: Vec<OwnedFd>,
    pub time: TimeSpace,
    /// As the worker has it.
    pub oom_score_adj: String,
    /// The tracer's child once criu has ended, unless it has one already.
    pub root: i32,
    /// The tracers' ends of their channels, outermost first, if the tracers are to be made.
    pub channels: Vec<OwnedFd>,
    /// A pipe that ends once criu is executed: before that it is in no time namespace of its own.
    pub until_exec: OwnedFd,
}

/// The part of a [`Request`] that is no descriptor.
#[derive(Serialize, Deserialize)]
struct Text {
    criu: OsString,
    args: Vec<OsString>,
    numbers: Vec<i32>,
    time: Time,
    oom_score_adj: String,
    root: i32,
}

#[derive(Serialize, Deserialize, PartialEq, Eq)]
enum Time {
    Ours,
    /// Its descriptor follows criu's.
    Existing,
    New(CString),
}

impl Request {
    pub fn send(&self, to: &UnixStream) -> io::Result<()> {
        let time = match &self.time {
            TimeSpace::Ours => Time::Ours,
            TimeSpace::Existing(_) => Time::Existing,
            TimeSpace::New(offsets) => Time::New(offsets.clone()),
        };
        let mut fds: Vec<BorrowedFd> = self.keep.iter().map(AsFd::as_fd).collect();
        if let TimeSpace::Existing(namespace) = &self.time {
            fds.push(namespace.as_fd());
        }
        fds.push(self.until_exec.as_fd());
        fds.extend(self.channels.iter().map(AsFd::as_fd));
        let text = Text {
            criu: self.criu.clone(),
            args: self.args.clone(),
            numbers: self.keep.iter().map(AsRawFd::as_raw_fd).collect(),
            time,
            oom_score_adj: self.oom_score_adj.clone(),
            root: self.root,
        };
        fd::send(to.as_fd(), &fds)?;
        let mut to = to;
        to.write_all(&serde_json::to_vec(&text)?)?;
        to.shutdown(Shutdown::Write)
    }

    /// The request, and the numbers that `keep` has in it.
    pub fn receive(from: &UnixStream) -> io::Result<(Self, Vec<i32>)> {
        let received = fd::receive_all(from.as_fd(), MOST_FDS)?;
        let aside: io::Result<Vec<OwnedFd>> = received.iter().map(|one| fd::not_below(one.as_fd(), ASIDE)).collect();
        let mut fds = aside?.into_iter();
        let mut text = Vec::new();
        from.take(LONGEST).read_to_end(&mut text)?;
        let Text { criu, args, numbers, time, oom_score_adj, root } = serde_json::from_slice(&text)?;
        let keep: Vec<OwnedFd> = fds.by_ref().take(numbers.len()).collect();
        let time = match time {
            Time::Ours => TimeSpace::Ours,
            Time::Existing => TimeSpace::Existing(fds.next().ok_or(io::ErrorKind::InvalidData)?),
            Time::New(offsets) => TimeSpace::New(offsets),
        };
        let until_exec = fds.next().ok_or(io::ErrorKind::InvalidData)?;
        if keep.len() != numbers.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let channels = fds.collect();
        Ok((Self { criu, args, keep, time, oom_score_adj, root, channels, until_exec }, numbers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fds: usize) -> Request {
        let fd = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        Request {
            criu: "/opt/criu".into(),
            args: vec!["dump".into(), "--irmap-scan-path".into()],
            keep: (0..fds).map(|_| fd()).collect(),
            time: TimeSpace::Existing(fd()),
            oom_score_adj: "7".into(),
            root: 1000,
            channels: vec![fd(), fd()],
            until_exec: fd(),
        }
    }

    #[test]
    fn what_is_sent_is_received() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sent = request(2);
        sent.send(&ours).unwrap();
        let (got, numbers) = Request::receive(&theirs).unwrap();
        assert_eq!((got.criu, got.args, got.oom_score_adj, got.root), (sent.criu, sent.args, sent.oom_score_adj, 1000));
        assert_eq!(numbers, sent.keep.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>());
        assert_eq!((got.keep.len(), got.channels.len()), (2, 2));
        assert!(matches!(got.time, TimeSpace::Existing(_)));
    }

    #[test]
    fn a_worker_that_dies_before_it_has_asked_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        assert!(Request::receive(&theirs).is_err());
    }

    #[test]
    fn more_descriptors_than_there_may_be_are_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        request(MOST_FDS).send(&ours).unwrap();
        assert!(Request::receive(&theirs).is_err());
    }
}
