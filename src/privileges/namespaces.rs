//! Probes which namespaces this container may create, by creating them in short-lived children.
//!
//! Only for single-threaded commands that restore nothing: each probe takes PIDs that a restore may need.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use caps::{CapSet, Capability};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::userns;
use crate::sys::namespace::{self, MOUNT, PID, USER};
use crate::sys::process::{self, Fork};

/// Leaves the bounding set unchanged.
const WHOLE: u64 = u64::MAX;

/// A user namespace, as `--isolate auto` creates it.
pub fn user() -> io::Result<()> {
    in_child(|| Ok(userns::own_users(WHOLE)?))
}

/// User, PID and mount namespaces with a new /proc, as `--isolate auto` creates them.
pub fn processes() -> io::Result<()> {
    let (mut ours, mut theirs) = UnixStream::pair()?;
    match namespace::fork_into(USER | PID | MOUNT)? {
        Fork::Child => {
            drop(ours);
            end(theirs.read_exact(&mut [0]).and_then(|()| namespace::mount_proc()))
        }
        Fork::Parent(pid) => {
            drop(theirs);
            let mapped = userns::map(pid).and_then(|()| ours.write_all(&[0]));
            drop(ours);
            let ended = ended(pid);
            mapped.and(ended)
        }
    }
}

/// A time namespace, in this user namespace if SYS_ADMIN is effective, else in a new one.
pub fn time() -> io::Result<()> {
    in_child(|| {
        if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false) {
            userns::own_users(WHOLE)?;
        }
        namespace::try_time()
    })
}

fn in_child(act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    match process::fork()? {
        Fork::Child => end(act()),
        Fork::Parent(pid) => ended(pid),
    }
}

/// The exit status is the errno; 0 is success.
fn end(found: io::Result<()>) -> ! {
    let error = found.err().map(|error| error.raw_os_error().unwrap_or(libc::EIO));
    process::exit_now(error.and_then(|number| u8::try_from(number).ok()).unwrap_or(0))
}

fn ended(pid: i32) -> io::Result<()> {
    match waitpid(Pid::from_raw(pid), None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        WaitStatus::Exited(_, error) => Err(io::Error::from_raw_os_error(error)),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_finds_is_told() {
        // Other tests run threads, so this one runs in a process of its own.
        if std::env::var_os("ALONE").is_none() {
            let mut again = std::process::Command::new(std::env::current_exe().unwrap());
            again.args(["--exact", "privileges::namespaces::tests::what_a_child_finds_is_told"]).env("ALONE", "1");
            assert!(again.status().unwrap().success());
            return;
        }
        assert!(in_child(|| Ok(())).is_ok());
        let refused = in_child(|| Err(io::Error::from_raw_os_error(libc::ENOSPC))).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(in_child(|| Err(io::ErrorKind::UnexpectedEof.into())).unwrap_err().raw_os_error(), Some(libc::EIO));
    }
}
