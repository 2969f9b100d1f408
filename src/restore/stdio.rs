//! Joins the restored service to the new container's stdin, stdout and stderr.
//!
//! Every container has new pipes. What the service knew as `pipe:[N]` is replaced by our own descriptor 0, 1 or 2, which
//! the worker has from init; so it goes on for any number of generations.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;

use crate::criu::command::{Inherit, number};
use crate::image::Stdio as Recorded;

/// What CRIU is to put in the place of the old container's stdio.
#[derive(Debug)]
pub struct Stdio {
    inherit: Vec<Inherit>,
    /// Stands for a stdin pipe that this container does not have.
    null: Option<File>,
}

impl Stdio {
    /// Works out the replacements for what the checkpoint recorded.
    pub fn join(recorded: &[Recorded]) -> io::Result<Self> {
        let mut stdio = Self { inherit: Vec::new(), null: None };
        for old in recorded {
            let key = String::from_utf8_lossy(&old.target);
            if !replaceable(&key) || stdio.inherit.iter().any(|one| one.key == key) {
                continue;
            }
            let fd = if old.fd == 0 && !is_pipe(0) { stdio.null_fd()? } else { old.fd as i32 };
            stdio.inherit.push(Inherit { fd, key: key.into_owned() });
        }
        Ok(stdio)
    }

    /// The replacements.
    pub fn inherit(&self) -> &[Inherit] {
        &self.inherit
    }

    /// Descriptors that CRIU needs beside 0, 1 and 2.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.null.iter().map(AsFd::as_fd).collect()
    }

    fn null_fd(&mut self) -> io::Result<i32> {
        let null = self.null.insert(File::open("/dev/null")?);
        Ok(number(null.as_fd()))
    }
}

/// What has no path by which CRIU could open it again.
fn replaceable(target: &str) -> bool {
    target.starts_with("pipe:[")
}

fn is_pipe(fd: i32) -> bool {
    fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|target| target.to_string_lossy().starts_with("pipe:["))
}

/// What descriptors 0, 1 and 2 of this process lead to; a closed one is left out.
pub fn record() -> Vec<Recorded> {
    let target = |fd: u32| Some(fs::read_link(format!("/proc/self/fd/{fd}")).ok()?.into_os_string().into_vec());
    (0..3).filter_map(|fd| Some(Recorded { fd, target: target(fd)? })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(fd: u32, target: &str) -> Recorded {
        Recorded { fd, target: target.into() }
    }

    #[test]
    fn pipes_are_replaced_and_files_are_not() {
        let stdio = Stdio::join(&[recorded(1, "pipe:[7]"), recorded(2, "/dev/null")]).unwrap();
        assert_eq!(stdio.inherit(), [Inherit { fd: 1, key: "pipe:[7]".into() }]);
    }

    #[test]
    fn one_pipe_for_both_is_joined_once() {
        let stdio = Stdio::join(&[recorded(1, "pipe:[7]"), recorded(2, "pipe:[7]")]).unwrap();
        assert_eq!(stdio.inherit().len(), 1);
    }
}
