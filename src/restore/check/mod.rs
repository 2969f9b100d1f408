//! Checks whether this container can restore a generation, before any page is fetched. A failed check is one
//! sentence.
//!
//! Every restore runs the checks, and so does `freeze doctor --for`. They are cheap and change nothing.

mod files;
mod here;
mod needs;

pub(crate) use here::{Here, pid_max};

use std::fmt;
use std::path::PathBuf;

use crate::image::{Manifest, SavedRegisters};
use needs::Needs;

/// One thing that this container lacks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("the checkpoint is from a {theirs} machine, and this machine is {ours}; restore it on {theirs}")]
    Architecture { theirs: String, ours: String },
    #[error(
        "this CPU lacks {missing}, which the CPU of the checkpoint had and the service may use; restore it on a host with these features"
    )]
    CpuFeatures { missing: String },
    /// Fewer registers are saved, or the area is smaller.
    #[error(
        "this host saves {ours} of a program's registers, and the host of the checkpoint saved {theirs}, which the service may use; restore it on a host with such a CPU and an equally new kernel"
    )]
    SavedRegisters { theirs: SavedRegisters, ours: SavedRegisters },
    #[error(
        "PID {wanted} of the service is not available here, because this container has already used PIDs up to {used}; start a new container, which has fresh PIDs"
    )]
    PidsUsed {
        /// Lowest PID of the service.
        wanted: i32,
        /// Newest PID here.
        used: i32,
    },
    #[error("the service has PID {wanted}, but PIDs end at {max} on this host; raise the host's kernel.pid_max")]
    PidMax {
        /// Highest PID or TID of the service.
        wanted: i32,
        max: i32,
    },
    #[error(
        "the service ran as uid {theirs}, but this container runs as uid {ours}; start the container as the same user"
    )]
    User { theirs: u32, ours: u32 },
    #[error("the service needs {needed} MiB of memory, but this container may use {limit} MiB; raise its memory limit")]
    Memory {
        /// MiB.
        needed: u64,
        /// MiB, swap included.
        limit: u64,
    },
    #[error(
        "the service has {needed} processes and threads, but this container may have {free} more; raise its PIDs limit (--pids-limit, podPidsLimit)"
    )]
    Processes {
        /// The service's, and a few for CRIU.
        needed: u64,
        free: u64,
    },
    #[error(
        "the service has descriptor {wanted}, but this container's hard limit of open files is {limit}; raise it (--ulimit nofile={enough})", enough = .wanted + 1
    )]
    Descriptors { wanted: u64, limit: u64 },
    #[error(
        "the service has a System V message queue for {needed} bytes, but this container's limit is {limit}; raise it (--sysctl kernel.msgmnb={needed})"
    )]
    Queue { needed: u64, limit: u64 },
    /// A capability outside the bounding set cannot be restored.
    #[error(
        "the service has capabilities that this container does not have ({missing}); start the container with the same capabilities"
    )]
    Capabilities {
        /// Without `CAP_`.
        missing: String,
    },
    #[error("no restore is possible here, because {ability} is missing ({reason})")]
    Kernel { ability: &'static str, reason: String },
    #[error(
        "the service's file {path} cannot be put back ({reason}); make it and its folder writable for the container's user"
    )]
    Unwritable { path: PathBuf, reason: String },
    #[error(
        "the service's file {path} cannot be put back: {link} is a symbolic link here, and was a folder at the checkpoint; replace the link by a folder, because freeze does not follow it"
    )]
    Link { path: PathBuf, link: PathBuf },
    #[error("the application's file {path} {what}; start the same image")]
    Executable { path: PathBuf, what: String },
}

/// Why the restore cannot work here. Nothing was started or changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct NotFit(Vec<Unfit>);

impl fmt::Display for NotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => Ok(()),
            [only] => only.fmt(f),
            [first, more @ ..] => {
                write!(f, "{first} (and {} more: `freeze doctor --for GENERATION` lists them)", more.len())
            }
        }
    }
}

/// Runs all checks. Returns a warning about a risk that does not refuse the restore.
pub fn check(manifest: &Manifest, here: &Here) -> Result<Option<String>, NotFit> {
    let missing = missing(manifest, here);
    if missing.is_empty() { Ok(short_host(manifest, here)) } else { Err(NotFit(missing)) }
}

/// A warning if the host has less memory left than the service needs. No error, as that changes at any
/// moment.
pub fn short_host(manifest: &Manifest, here: &Here) -> Option<String> {
    let (needed, left) = (Needs::of(manifest).memory(), here.host_memory?);
    let mib = |bytes: u64| bytes >> 20;
    (left < needed).then(|| {
        format!(
            "the service needs {} MiB of memory, but the host has {} MiB left, swap included: the host may kill processes for lack of memory",
            mib(needed),
            mib(left)
        )
    })
}

/// Everything that a container lacks for a generation, the hopeless first.
pub fn missing(manifest: &Manifest, here: &Here) -> Vec<Unfit> {
    let mut missing = Needs::of(manifest).missing(here);
    missing.extend(files::executables(manifest));
    missing.extend(files::unwritable(manifest));
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Body, CriuImage};
    use crate::privileges::Abilities;

    #[test]
    fn the_first_is_said_and_the_others_are_counted() {
        let user = || Unfit::User { theirs: 1000, ours: 1001 };
        insta::assert_snapshot!(NotFit(vec![user()]), @"the service ran as uid 1000, but this container runs as uid 1001; start the container as the same user");
        insta::assert_snapshot!(NotFit(vec![user(), user(), user()]), @"the service ran as uid 1000, but this container runs as uid 1001; start the container as the same user (and 2 more: `freeze doctor --for GENERATION` lists them)");
    }

    #[test]
    fn an_empty_generation_of_this_machine_fits() {
        let (arch, uid) = (std::env::consts::ARCH.to_owned(), nix::unistd::geteuid().as_raw());
        let here = Here::with(&Abilities::probe());
        assert_eq!(check(&Manifest { arch, uid, ..Manifest::default() }, &here), Ok(None));
    }

    #[test]
    fn a_host_that_is_short_of_memory_is_no_reason_to_refuse() {
        let pages = CriuImage { name: "pages-1.img".into(), body: Some(Body::from_inline(vec![1; 3 << 20])) };
        let manifest = Manifest { images: vec![pages], ..Manifest::default() };
        let here = |left| Here { host_memory: Some(left), ..Here::default() };
        assert_eq!(check(&manifest, &here(3 << 20)), Ok(None));
        insta::assert_snapshot!(check(&manifest, &here(1 << 20)).unwrap().unwrap(), @"the service needs 3 MiB of memory, but the host has 1 MiB left, swap included: the host may kill processes for lack of memory");
    }
}
