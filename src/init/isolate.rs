//! `--isolate`: namespaces of init's own, where the container allows them (docs/isolation.md).
//!
//! Whatever is refused is given up before anything has changed, and the next best is tried. Must leave the service no capability that
//! it would not have had, and its first process's signals, terminal and exit status as they were.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use caps::{CapSet, Capability};

use crate::{
    control::protocol::Isolation,
    exit,
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

/// Enters the best namespaces that there are to be had. Returns in the process that is to be init, which may be another one: the
/// first then ends as that one does. The signals must be held.
pub fn enter() -> Isolation {
    // What the service could have had must be known before, for whoever enters a user namespace has everything there.
    let bounding = caps::read(None, CapSet::Bounding).unwrap_or_default();
    let isolation = match own_processes() {
        Ok(()) => Isolation::Processes,
        Err(_) if own_users().is_ok() => Isolation::Users,
        Err(_) => return Isolation::Nothing,
    };
    ENTERED.store(true, Relaxed);
    // Only now: nothing becomes inheritable any more that is not in the bounding set (capabilities(7)).
    for capability in FOR_WORKERS {
        let _ = caps::raise(None, CapSet::Inheritable, capability);
    }
    for capability in caps::all().difference(&bounding) {
        let _ = caps::drop(None, CapSet::Bounding, *capability);
    }
    isolation
}

/// For a process that is about to execute a worker: what that needs survives the exec.
pub fn keep_capabilities() {
    for capability in FOR_WORKERS.into_iter().filter(|_| ENTERED.load(Relaxed)) {
        let _ = caps::raise(None, CapSet::Ambient, capability);
    }
}

/// For a process that is about to execute what is the user's: nothing survives the exec but what could be had outside as well.
pub fn keep_no_capabilities() {
    if ENTERED.load(Relaxed) {
        let _ = caps::clear(None, CapSet::Inheritable);
    }
}

/// A user, PID and mount namespace. Their first process is init; this one becomes the relay.
fn own_processes() -> io::Result<()> {
    let relay = process::program_in_memory(c"freeze-relay", RELAY)?;
    let (mut ours, theirs) = UnixStream::pair()?;
    match namespace::fork_into(USER | PID | MOUNT)? {
        Fork::Child => {
            drop(ours);
            be_init(theirs);
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
fn be_init(mut relay: UnixStream) {
    process::on_parent_death(libc::SIGKILL);
    // Whoever is in the first process's group hears of a hang-up when that gives up the terminal.
    process::lead_session();
    let ready = relay.read_exact(&mut [0]).and_then(|()| namespace::mount_proc());
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

/// A user namespace alone, made by a child and then entered, so that this process is in none that has no users.
pub(crate) fn own_users() -> io::Result<()> {
    let (ours, mut theirs) = UnixStream::pair()?;
    match namespace::fork_into(USER)? {
        Fork::Child => {
            drop(ours);
            let _ = theirs.read(&mut [0]);
            process::exit_now(exit::OK)
        }
        Fork::Parent(pid) => {
            let entered = map(pid)
                .and_then(|()| File::open(format!("/proc/{pid}/ns/user")))
                .and_then(|users| namespace::enter(users.as_fd(), USER));
            end(pid);
            entered
        }
    }
}

/// Gives the user namespace of a child the users of ours: all of them where we may, else this one.
pub(crate) fn map(pid: i32) -> io::Result<()> {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let file = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    if fs::write(file("gid_map"), all("/proc/self/gid_map")?).is_err() {
        fs::write(file("setgroups"), "deny")?;
        fs::write(file("gid_map"), one(gid))?;
    }
    let uid_map = file("uid_map");
    fs::write(&uid_map, all("/proc/self/uid_map")?).or_else(|_| fs::write(&uid_map, one(uid)))
}

/// A map that leaves all the IDs that there are here as they are (user_namespaces(7)).
fn all(ours: &str) -> io::Result<String> {
    let ours = fs::read_to_string(ours)?;
    Ok(ours.lines().filter_map(identity).collect())
}

fn identity(line: &str) -> Option<String> {
    let mut words = line.split_ascii_whitespace();
    let (first, count) = (words.next()?, words.nth(1)?);
    Some(format!("{first} {first} {count}\n"))
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

    #[test]
    fn all_ids_stay_what_they_are_whatever_they_are_outside() {
        let ours = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(ours.lines().filter_map(identity).collect::<String>(), "0 0 1\n1 1 65536\n");
        assert_eq!(identity("0 1000"), None);
    }
}
