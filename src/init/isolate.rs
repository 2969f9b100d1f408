//! `--isolate`: namespaces of init's own, if the container allows them (docs/explanation/privileges.md).
//!
//! A refusal changes nothing, and the next best kind is tried. The service keeps exactly the capabilities
//! that it would have without namespaces, and its first process keeps its signals, terminal and exit status.

use std::{
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use caps::CapSet;

use crate::privileges::userns::{FOR_WORKERS, NoUserNamespace, Sets, end, limit, map, own_users};
use crate::{
    control::protocol::Isolation,
    exit,
    privileges::RestorePlan,
    sys::{
        namespace::{self, MOUNT, PID, USER},
        process::{self, Fork},
        tty,
    },
};

const RELAY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/relay"));

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Isolate {
    /// As far as the container permits
    Auto,
    /// No namespaces
    Never,
}

/// Init is in a user namespace of its own.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// Why there are no namespaces of our own; continues "init runs without namespaces of its own: ".
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("/proc/self/status does not show the capabilities")]
    Unknown,
    /// The capabilities would hold over the new namespace alone, no longer over the container.
    #[error("they would lose the container's capabilities")]
    Capabilities,
    /// A user namespace alone would end the choice of PIDs that criu-caps has now.
    #[error("freeze can choose PIDs without them, and could not in a user namespace")]
    Pids,
    #[error("the container does not permit them ({0})")]
    System(#[from] io::Error),
}

/// Enters the best namespaces available. Returns in the process that becomes init, which may be a child: this
/// process then ends as the child does. All signals must be blocked.
pub fn enter() -> Isolation {
    match best() {
        Ok(isolation) => {
            ENTERED.store(true, Relaxed);
            isolation
        }
        Err(refused) => {
            super::say(&format!("init runs without namespaces of its own: {refused}"));
            Isolation::Nothing
        }
    }
}

fn best() -> Result<Isolation, Refused> {
    // Read first: a process that enters a new user namespace has every capability there.
    let sets = Sets::read().ok_or(Refused::Unknown)?;
    if sets.has_any(nix::unistd::geteuid().is_root()) {
        return Err(Refused::Capabilities);
    }
    if own_processes(sets.bounding).is_ok() {
        return Ok(Isolation::Processes);
    }
    // Only criu-caps can do so here, and its file capabilities count only in the user namespace that owns the
    // PID namespace.
    if RestorePlan::here().can_go_back() {
        return Err(Refused::Pids);
    }
    match own_users(sets.bounding) {
        Ok(()) => Ok(Isolation::Users),
        Err(NoUserNamespace::Refused(error)) => Err(error.into()),
        Err(NoUserNamespace::Unlimited(error)) => {
            super::say(&format!("cannot run in a user namespace: {error}; use --isolate never"));
            process::exit_now(exit::FATAL);
        }
    }
}

/// For a process that is about to execute a worker: the capabilities that a worker needs survive the exec.
pub fn keep_capabilities() {
    for capability in FOR_WORKERS.into_iter().filter(|_| ENTERED.load(Relaxed)) {
        let _ = caps::raise(None, CapSet::Ambient, capability);
    }
}

/// For a process that is about to execute a user's program: no capability of the namespace survives the exec.
/// Ends this process if that cannot be ensured.
pub fn keep_no_capabilities() {
    if ENTERED.load(Relaxed) && caps::clear(None, CapSet::Inheritable).is_err() {
        super::say("cannot drop the capabilities that are only for freeze's own processes");
        process::exit_now(exit::FATAL);
    }
}

/// Makes a user, PID and mount namespace. Their first process becomes init, this one the relay.
fn own_processes(bounding: u64) -> io::Result<()> {
    let relay = process::program_in_memory(c"freeze-relay", RELAY)?;
    let (mut ours, theirs) = UnixStream::pair()?;
    match namespace::fork_into(USER | PID | MOUNT)? {
        Fork::Child => {
            drop(ours);
            be_init(theirs, bounding);
            Ok(())
        }
        Fork::Parent(pid) => {
            drop(theirs);
            let mut entered = || {
                map(pid)?;
                ours.write_all(&[0])?;
                ours.read_exact(&mut [0])
            };
            match entered() {
                Ok(()) => be_relay(&relay, ours, pid),
                Err(error) => {
                    end(pid);
                    Err(error)
                }
            }
        }
    }
}

/// The child: reports that it can be init, then waits until the terminal is free. Ends if it cannot be init.
fn be_init(mut relay: UnixStream, bounding: u64) {
    process::on_parent_death(libc::SIGKILL);
    // Leaves the parent's process group, which gets SIGHUP when the parent gives up the terminal.
    process::lead_session();
    let ready = relay.read_exact(&mut [0]).and_then(|()| namespace::mount_proc()).and_then(|()| limit(bounding));
    let ready = ready.and_then(|()| relay.write_all(&[0])).and_then(|()| relay.read_exact(&mut [0]));
    if ready.is_err() {
        process::exit_now(exit::FATAL);
    }
    tty::take();
}

/// The parent: from here on the container's first process only relays signals and the exit status.
fn be_relay(relay: &OwnedFd, mut init: UnixStream, pid: i32) -> ! {
    tty::give_up();
    let _ = std::env::set_current_dir("/");
    let told = init.write_all(&[0]);
    let arguments = [c"freeze-relay".to_owned(), std::ffi::CString::new(pid.to_string()).unwrap_or_default()];
    let error = told.map_or_else(|error| error, |()| process::exec_file(relay, &arguments));
    super::say(&format!("cannot start the process that passes signals on to init: {error}"));
    process::exit_now(exit::FATAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_why() {
        let said = |refused: Refused| format!("init runs without namespaces of its own: {refused}");
        insta::assert_snapshot!(said(Refused::Capabilities), @"init runs without namespaces of its own: they would lose the container's capabilities");
        insta::assert_snapshot!(said(Refused::Pids), @"init runs without namespaces of its own: freeze can choose PIDs without them, and could not in a user namespace");
        let error = io::Error::from_raw_os_error(libc::EPERM);
        insta::assert_snapshot!(said(error.into()), @"init runs without namespaces of its own: the container does not permit them (Operation not permitted (os error 1))");
    }
}
