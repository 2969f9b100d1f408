//! Init's ends of the channels to the tracers above the service, where it has any (docs/explanation/tracer.md).

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{MsgFlags, recv};

use super::tree::Tree;
use crate::criu::tracer::{self, COUNT};
use crate::privileges::DumpPlan;
use crate::proc;

const OOM_SCORE_ADJ: &str = "oom_score_adj";

/// In the order of [`Tree::tracers`]. None at all if the service needs no tracer.
#[derive(Debug, Default)]
pub struct Tracers {
    /// Probed once: what a container allows stays.
    needed: Option<bool>,
    channels: [Option<OwnedFd>; COUNT],
}

impl Tracers {
    /// Makes channels to tracers that are about to be made, if the service needs any. Returns the tracers' ends.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn make(&mut self) -> io::Result<Option<[OwnedFd; COUNT]>> {
        if !*self.needed.get_or_insert_with(|| DumpPlan::here().tracer) {
            return Ok(None);
        }
        let [(outer, of_outer), (inner, of_inner)] = [tracer::channel()?, tracer::channel()?];
        self.channels = [Some(outer), Some(inner)];
        Ok(Some([of_outer, of_inner]))
    }

    /// The channels to poll for input. Upon input, call [`hear`](Self::hear).
    pub fn fds(&self) -> [Option<BorrowedFd<'_>>; COUNT] {
        self.channels.each_ref().map(|channel| channel.as_ref().map(AsFd::as_fd))
    }

    /// Takes in that tracers are at rest again, or have ended.
    pub fn hear(&mut self, tree: Option<Tree>) {
        for (index, channel) in self.channels.iter_mut().enumerate() {
            let heard = channel.as_ref().map(|fd| recv(fd.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT));
            match heard {
                Some(Ok(read)) if read > 0 => {
                    let pid = tree.and_then(|tree| tree.tracers.get(index).copied());
                    pid.into_iter().for_each(be_like_init_for_the_oom_killer);
                }
                None | Some(Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR)) => {}
                Some(_) => *channel = None,
            }
        }
    }

    /// The tracer that a checkpoint uses: the outermost.
    pub fn first(&self, tree: Tree) -> Option<(i32, BorrowedFd<'_>)> {
        let all = tree.tracers.into_iter().zip(self.fds());
        all.filter(|(pid, _)| *pid > 0).find_map(|(pid, channel)| Some((pid, channel?)))
    }
}

/// A checkpoint has raised its score.
fn be_like_init_for_the_oom_killer(tracer: i32) {
    if let (true, Ok(ours)) = (tracer > 0, fs::read(proc::path("self", OOM_SCORE_ADJ))) {
        let _ = fs::write(proc::path(tracer, OOM_SCORE_ADJ), ours);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: Tree = Tree { tracers: [i32::MAX - 1, i32::MAX], root: 1000, service: 1001 };

    fn made() -> (Tracers, [OwnedFd; COUNT]) {
        let [(outer, of_outer), (inner, of_inner)] = [tracer::channel().unwrap(), tracer::channel().unwrap()];
        (Tracers { needed: Some(true), channels: [Some(outer), Some(inner)] }, [of_outer, of_inner])
    }

    fn first(tracers: &Tracers, tree: Tree) -> Option<i32> {
        tracers.first(tree).map(|(pid, _)| pid)
    }

    #[test]
    fn a_checkpoint_uses_the_outermost_that_is_left() {
        let (tracers, _theirs) = made();
        assert_eq!(first(&tracers, TREE), Some(i32::MAX - 1));
        assert_eq!(first(&tracers, TREE.below(i32::MAX)), Some(i32::MAX));
        assert_eq!(first(&tracers, TREE.below(1000)), None);
    }

    #[test]
    fn one_that_ends_is_not_listened_to_any_more() {
        let (mut tracers, [outer, inner]) = made();
        nix::unistd::write(&outer, b"r").unwrap();
        drop(inner);
        for _ in 0..2 {
            tracers.hear(Some(TREE));
            assert_eq!(tracers.fds().map(|fd| fd.is_some()), [true, false]);
        }
    }
}
