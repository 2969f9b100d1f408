//! A worker: a short-lived process of the same executable that does what can fail, for one checkpoint or restore.
//!
//! Init starts it as `freeze worker` with a socket on descriptor [`SOCKET_FD`], sends it one line, the [`Job`], and reads
//! [`Event`](crate::control::protocol::Event) lines until it ends. Init may kill a worker at any time, and a worker may
//! die at any time: the service must go on running unless the generation was committed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The descriptor on which a worker finds its socket to init.
pub const SOCKET_FD: i32 = 3;

/// What a worker is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// Take one checkpoint.
    Checkpoint {
        /// What both kinds of job need to know.
        common: Common,
        /// Root of the tree to dump: the holder.
        root: i32,
        /// The service's first process.
        service: i32,
        /// Let the service run on after the commit.
        leave_running: bool,
        /// Files and folders to capture beside those that the service has open.
        include: Vec<PathBuf>,
    },
    /// Restore the newest generation, if there is one.
    Restore {
        /// What both kinds of job need to know.
        common: Common,
    },
}

/// What both kinds of job need to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Common {
    /// The store's URL, as given to `--store`.
    pub store: String,
    /// Folder for sockets and logs; exists.
    pub runtime_dir: PathBuf,
    /// The most memory that page data may take in the worker, in bytes.
    pub memory: u64,
}

/// Does the job that init gives it.
pub fn main() -> u8 {
    use crate::control::{lines, protocol::Event};
    use std::os::fd::FromRawFd;
    #[allow(unsafe_code)]
    // SAFETY: init put its socket there.
    let mut socket = unsafe { std::os::unix::net::UnixStream::from_raw_fd(SOCKET_FD) };
    let mut text = lines::Lines::default();
    let job = loop {
        if let Some(job) = text.next::<Job>() {
            break job;
        }
        if !matches!(text.read(&mut socket), Ok(lines::Got::Bytes)) {
            return 1;
        }
    };
    let event = match job {
        Ok(Job::Restore { .. }) => Event::NothingToRestore,
        _ => Event::Failed { message: "not built yet".into(), log: None },
    };
    let _ = lines::write(&mut socket, &event);
    0
}
