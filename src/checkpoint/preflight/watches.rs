//! inotify: an instance is carried; a watch only where CRIU finds the inode again.

use super::Finding;
use super::descriptors::{Descriptor, info};
use crate::tree::Process;

pub fn descriptor(process: &Process, descriptor: &Descriptor) -> Option<Finding> {
    let watches = descriptor.target == "anon_inode:inotify"
        && info(process.pid, descriptor.fd).lines().any(|line| line.starts_with("inotify "));
    watches.then(|| {
        Finding::refused(
            Some(process),
            "has inotify watches open, which cannot be checkpointed",
            "switch off the service's file watching",
        )
    })
}
