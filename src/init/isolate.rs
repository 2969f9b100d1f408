//! `--isolate`: namespaces of init's own, where the container allows them (docs/isolation.md).
//!
//! Whatever is refused is given up before anything has changed, and the next best is tried. Must leave the service all capabilities
//! that it would have had and none beside, and its first process's signals, terminal and exit status as they were.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use caps::{CapSet, Capability};

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

/// What a worker and its CRIU need of the capabilities that init has in its user namespace: exact PIDs and exe links, the service's
/// processes under Yama, its bounding set, and its clocks.
const FOR_WORKERS: [Capability; 5] = [
    Capability::CAP_CHECKPOINT_RESTORE,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SETPCAP,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_TIME,
];

/// Whether to use namespaces of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Isolate {
    /// The best that the container allows
    Auto,
    /// None
    Never,
}

/// Init is in a user namespace of its own.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// Why there are no namespaces of our own; continues "no namespaces of init's own: ".
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// No /proc.
    #[error("/proc/self/status does not say which capabilities there are")]
    Unknown,
    /// Capabilities would no longer be over the container, but over the namespace only.
    #[error("the container's capabilities would be lost")]
    Capabilities,
    /// A user namespace alone would take away what is there.
    #[error("PIDs can be chosen without, and no longer in a user namespace")]
    Pids,
    /// The kernel, or a seccomp filter.
    #[error("the container does not permit them ({0})")]
    System(#[from] io::Error),
}

/// Enters the best namespaces that there are to be had. Returns in the process that is to be init, which may be another one: the
/// first then ends as that one does. The signals must be held.
pub fn enter() -> Isolation {
    match best() {
        Ok(isolation) => {
            ENTERED.store(true, Relaxed);
            isolation
        }
        Err(refused) => {
            super::say(&format!("no namespaces of init's own: {refused}"));
            Isolation::Nothing
        }
    }
}

fn best() -> Result<Isolation, Refused> {
    // What the service could have had must be known before, for whoever enters a user namespace has everything there.
    let sets = Sets::read().ok_or(Refused::Unknown)?;
    if sets.has_any(nix::unistd::geteuid().is_root()) {
        return Err(Refused::Capabilities);
    }
    if own_processes(sets.bounding).is_ok() {
        return Ok(Isolation::Processes);
    }
    // By a criu with capabilities of its file: those count where the PID namespace belongs.
    if RestorePlan::here().can_go_back() {
        return Err(Refused::Pids);
    }
    own_users(sets.bounding)?;
    Ok(Isolation::Users)
}

/// This process's capabilities, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sets {
    /// In effect, permitted, inheritable or ambient.
    held: u64,
    bounding: u64,
}

impl Sets {
    /// From /proc: asking for one by one fails for those that the kernel does not know yet.
    fn read() -> Option<Sets> {
        Sets::parse(&fs::read_to_string("/proc/self/status").ok()?)
    }

    fn parse(status: &str) -> Option<Sets> {
        let set = |name| {
            let digits = status.lines().find_map(|line| line.strip_prefix(name))?;
            u64::from_str_radix(digits.trim(), 16).ok()
        };
        let held = set("CapEff:")? | set("CapPrm:")? | set("CapInh:")? | set("CapAmb:")?;
        Some(Sets { held, bounding: set("CapBnd:")? })
    }

    /// Whether a program has capabilities, or gets some by being executed as root (capabilities(7)).
    fn has_any(self, root: bool) -> bool {
        self.held != 0 || root && self.bounding != 0
    }
}

/// Sets apart what workers need, and makes the bounding set no larger than it was outside.
fn limit(bounding: u64) -> io::Result<()> {
    // Only now: nothing becomes inheritable any more that is not in the bounding set (capabilities(7)).
    for capability in FOR_WORKERS {
        let _ = caps::raise(None, CapSet::Inheritable, capability);
    }
    for capability in caps::all().into_iter().filter(|capability| bounding & capability.bitmask() == 0) {
        let _ = caps::drop(None, CapSet::Bounding, capability);
    }
    match Sets::read() {
        Some(now) if now.bounding & !bounding == 0 => Ok(()),
        _ => Err(io::Error::other("the bounding set of capabilities cannot be lowered")),
    }
}

/// For a process that is about to execute a worker: what that needs survives the exec.
pub fn keep_capabilities() {
    for capability in FOR_WORKERS.into_iter().filter(|_| ENTERED.load(Relaxed)) {
        let _ = caps::raise(None, CapSet::Ambient, capability);
    }
}

/// For a process that is about to execute what is the user's: nothing survives the exec but what could be had outside as well. Ends
/// where that cannot be had.
pub fn keep_no_capabilities() {
    if ENTERED.load(Relaxed) && caps::clear(None, CapSet::Inheritable).is_err() {
        super::say("cannot give up the capabilities that are only for freeze's own processes");
        process::exit_now(exit::FATAL);
    }
}

/// A user, PID and mount namespace. Their first process is init; this one becomes the relay.
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

/// The child: ends where it cannot be init. Says when it can, and waits until the terminal is free.
fn be_init(mut relay: UnixStream, bounding: u64) {
    process::on_parent_death(libc::SIGKILL);
    // Whoever is in the first process's group hears of a hang-up when that gives up the terminal.
    process::lead_session();
    let ready = relay.read_exact(&mut [0]).and_then(|()| namespace::mount_proc()).and_then(|()| limit(bounding));
    let ready = ready.and_then(|()| relay.write_all(&[0])).and_then(|()| relay.read_exact(&mut [0]));
    if ready.is_err() {
        process::exit_now(exit::FATAL);
    }
    tty::take();
}

/// The parent: from here on the container's first process does nothing but pass signals on.
fn be_relay(relay: &OwnedFd, mut init: UnixStream, pid: i32) -> ! {
    tty::give_up();
    let _ = std::env::set_current_dir("/");
    let told = init.write_all(&[0]);
    let arguments = [c"freeze-relay".to_owned(), std::ffi::CString::new(pid.to_string()).unwrap_or_default()];
    let error = told.map_or_else(|error| error, |()| process::exec_file(relay, &arguments));
    super::say(&format!("the process that passes signals on to init cannot be started: {error}"));
    process::exit_now(exit::FATAL)
}

/// A user namespace alone, made by a child and then entered, so that this process is in none that has no users. The child tries
/// first what has to work inside, as there is no way back: AppArmor may let a user namespace be made and allow nothing in it.
pub(crate) fn own_users(bounding: u64) -> io::Result<()> {
    let (mut ours, mut theirs) = UnixStream::pair()?;
    match namespace::fork_into(USER)? {
        Fork::Child => {
            drop(ours);
            let tried = theirs.read_exact(&mut [0]).and_then(|()| limit(bounding));
            let _ = tried.and_then(|()| theirs.write_all(&[0])).and_then(|()| theirs.read_exact(&mut [0]));
            process::exit_now(exit::OK)
        }
        Fork::Parent(pid) => {
            drop(theirs);
            let mut entered = || {
                map(pid)?;
                ours.write_all(&[0])?;
                ours.read_exact(&mut [0])?;
                namespace::enter(File::open(format!("/proc/{pid}/ns/user"))?.as_fd(), USER)
            };
            let entered = entered();
            end(pid);
            entered?;
            if let Err(error) = limit(bounding) {
                super::say(&format!("cannot run in a user namespace: {error}; use --isolate never"));
                process::exit_now(exit::FATAL);
            }
            Ok(())
        }
    }
}

/// Gives the user namespace of a child our user and group, as they are; more takes capabilities (user_namespaces(7)).
pub(crate) fn map(pid: i32) -> io::Result<()> {
    let write = |name: &str, text: &str| fs::write(format!("/proc/{pid}/{name}"), text);
    write("setgroups", "deny")?;
    write("gid_map", &one(nix::unistd::getegid().as_raw()))?;
    write("uid_map", &one(nix::unistd::geteuid().as_raw()))
}

fn one(id: u32) -> String {
    format!("{id} {id} 1\n")
}

fn end(pid: i32) {
    process::kill(pid, libc::SIGKILL);
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
        CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n";

    #[test]
    fn whoever_has_or_gets_a_capability_stays_outside() {
        let sets = Sets::parse(STATUS).unwrap();
        assert_eq!(sets, Sets { held: 0, bounding: 0xa804_25fb });
        assert!(!sets.has_any(false) && sets.has_any(true) && !Sets { bounding: 0, ..sets }.has_any(true));
        for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let (none, one) = (format!("{name}:\t0000000000000000"), format!("{name}:\t0000010000000000"));
            assert!(Sets::parse(&STATUS.replace(&none, &one)).unwrap().has_any(false), "{name}");
        }
    }

    #[test]
    fn sets_that_are_not_all_told_are_not_guessed() {
        for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(Sets::parse(&STATUS.replace(name, "Cap")), None);
        }
        assert_eq!(Sets::parse(&STATUS.replace("a80425fb", "none")), None);
    }

    #[test]
    fn a_refusal_says_why() {
        let said = |refused: Refused| format!("no namespaces of init's own: {refused}");
        insta::assert_snapshot!(said(Refused::Capabilities), @"no namespaces of init's own: the container's capabilities would be lost");
        insta::assert_snapshot!(said(Refused::Pids), @"no namespaces of init's own: PIDs can be chosen without, and no longer in a user namespace");
        let error = io::Error::from_raw_os_error(libc::EPERM);
        insta::assert_snapshot!(said(error.into()), @"no namespaces of init's own: the container does not permit them (Operation not permitted (os error 1))");
    }
}
