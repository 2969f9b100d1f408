//! A user namespace for this process, and the limits of the capabilities in it.
//!
//! Never leaves a process with a capability that it could not have had outside.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use caps::{CapSet, Capability};

use crate::exit;
use crate::proc::status::Status;
use crate::sys::namespace::{self, USER};
use crate::sys::process::{self, Fork};

/// The capabilities in init's user namespace that a worker and its CRIU need: for exact PIDs and exe links,
/// for the service's processes under Yama, for its bounding set, and for its clocks.
pub(crate) const FOR_WORKERS: [Capability; 5] = [
    Capability::CAP_CHECKPOINT_RESTORE,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SETPCAP,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_TIME,
];

/// This process's capability sets, one bit per capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sets {
    /// Effective, permitted, inheritable or ambient.
    held: u64,
    pub bounding: u64,
}

impl Sets {
    /// Reads /proc, as querying one by one fails for capabilities that the kernel does not know.
    pub(crate) fn read() -> Option<Sets> {
        Sets::of(&Status::read("self").ok()?)
    }

    fn of(status: &Status) -> Option<Sets> {
        let held = status.effective? | status.permitted? | status.inheritable? | status.ambient?;
        Some(Sets { held, bounding: status.bounding? })
    }

    /// Whether a program has capabilities, or gains some because root executes it (capabilities(7)).
    pub(crate) fn has_any(self, root: bool) -> bool {
        self.held != 0 || root && self.bounding != 0
    }
}

/// Makes the workers' capabilities inheritable, then lowers the bounding set to `bounding`, the one outside.
pub(crate) fn limit(bounding: u64) -> io::Result<()> {
    // Must come first: a capability outside the bounding set cannot become inheritable (capabilities(7)).
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

/// Why there is no user namespace.
#[derive(Debug)]
pub(crate) enum NoUserNamespace {
    /// The kernel or a seccomp filter refuses one. Nothing has changed.
    Refused(io::Error),
    /// It was entered, but its capabilities cannot be limited. This process must end.
    Unlimited(io::Error),
}

impl From<io::Error> for NoUserNamespace {
    fn from(error: io::Error) -> Self {
        Self::Refused(error)
    }
}

impl From<NoUserNamespace> for io::Error {
    fn from(reason: NoUserNamespace) -> Self {
        let (NoUserNamespace::Refused(error) | NoUserNamespace::Unlimited(error)) = reason;
        error
    }
}

/// Enters a user namespace that a child has created and this process has mapped, so that it is never in one
/// without users. The child first tries what must work inside, as there is no way back: AppArmor may allow a
/// user namespace and nothing in it.
pub(crate) fn own_users(bounding: u64) -> Result<(), NoUserNamespace> {
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
            limit(bounding).map_err(NoUserNamespace::Unlimited)
        }
    }
}

/// Maps our user and group into a child's user namespace. Mapping more takes capabilities
/// (user_namespaces(7)).
pub(crate) fn map(pid: i32) -> io::Result<()> {
    let write = |name: &str, text: &str| fs::write(format!("/proc/{pid}/{name}"), text);
    write("setgroups", "deny")?;
    write("gid_map", &one(nix::unistd::getegid().as_raw()))?;
    write("uid_map", &one(nix::unistd::geteuid().as_raw()))
}

fn one(id: u32) -> String {
    format!("{id} {id} 1\n")
}

/// Kills and reaps a child that created namespaces.
pub(crate) fn end(pid: i32) {
    process::kill(pid, libc::SIGKILL);
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(status: &str) -> Option<Sets> {
        Sets::of(&Status::parse(status.as_bytes()))
    }

    const STATUS: &str = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
        CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n";

    #[test]
    fn whoever_has_or_gets_a_capability_stays_outside() {
        let sets = parse(STATUS).unwrap();
        assert_eq!(sets, Sets { held: 0, bounding: 0xa804_25fb });
        assert!(!sets.has_any(false) && sets.has_any(true) && !Sets { bounding: 0, ..sets }.has_any(true));
        for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let (none, one) = (format!("{name}:\t0000000000000000"), format!("{name}:\t0000010000000000"));
            assert!(parse(&STATUS.replace(&none, &one)).unwrap().has_any(false), "{name}");
        }
    }

    #[test]
    fn sets_that_are_not_all_told_are_not_guessed() {
        for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(parse(&STATUS.replace(name, "Cap")), None);
        }
        assert_eq!(parse(&STATUS.replace("a80425fb", "none")), None);
    }
}
