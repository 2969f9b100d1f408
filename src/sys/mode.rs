//! Opening a file that its mode no longer lets its owner open. The mode is changed for that, and changed back.

use std::{
    ffi::{CStr, CString},
    fs::{File, Metadata},
    io,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::fs::MetadataExt,
    },
};

use nix::unistd::{Gid, getegid, geteuid, getgroups};

const STACK: usize = 64 << 10;
const PERMISSIONS: u32 = 0o7777;

/// Whether this process may change the file's mode, and change it back: only a member of a file's group may
/// give it the set-group-ID bit (chmod(2)).
pub fn may_lend(meta: &Metadata) -> bool {
    let in_group = || {
        let group = Gid::from_raw(meta.gid());
        getegid() == group || getgroups().is_ok_and(|groups| groups.contains(&group))
    };
    meta.uid() == geteuid().as_raw() && (meta.mode() & libc::S_ISGID == 0 || meta.is_dir() || in_group())
}

struct Open<'a> {
    path: &'a CStr,
    mode: u32,
    result: Result<i32, i32>,
}

/// Opens the file of `place` for reading although its mode `meta` denies that to its owner. The file has its
/// mode again also if this process is killed, or its process group: another one does it, in a session of its
/// own, with this one's memory and descriptors. The OOM killer ends both, as they share memory.
///
/// # Errors
/// If a call fails, or the mode cannot be given back.
pub fn open_to_read(place: &File, meta: &Metadata) -> io::Result<File> {
    let path = CString::new(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
    let mut open = Open { path: &path, mode: meta.mode() & PERMISSIONS, result: Err(libc::EIO) };
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES;
    // SAFETY: as after vfork(2), this thread waits until the child has ended, so the stack and `open` stay, and the child makes
    // system calls alone.
    let pid = unsafe {
        libc::clone(lend, stack.as_mut_ptr_range().end.cast(), flags, (&raw mut open).cast::<libc::c_void>())
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes a number and no memory.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WCLONE) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
    match open.result {
        // SAFETY: the child has made it in the table that we share, and nothing else knows it.
        Ok(fd) => Ok(unsafe { File::from_raw_fd(fd) }),
        Err(errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// The child of [`open_to_read`].
extern "C" fn lend(open: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the parent waits, and nothing else has the pointer.
    let open = unsafe { &mut *open.cast::<Open>() };
    let errno = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    // SAFETY: a string that ends in NUL, and numbers.
    unsafe {
        libc::setsid();
        if libc::chmod(open.path.as_ptr(), open.mode | libc::S_IRUSR) < 0 {
            open.result = Err(errno());
            return 0;
        }
        let fd = libc::open(open.path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        open.result = if fd < 0 { Err(errno()) } else { Ok(fd) };
        if libc::chmod(open.path.as_ptr(), open.mode) < 0 {
            open.result = Err(errno());
            libc::close(fd);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions, Permissions};
    use std::io::Read;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    use std::process::exit;
    use std::time::{Duration, Instant};

    use nix::sys::signal::{Signal, killpg};
    use nix::sys::stat::Mode;
    use nix::sys::wait::waitpid;
    use nix::unistd::{ForkResult, Pid, fork, mkfifo, setpgid};

    use super::*;

    #[test]
    fn a_file_is_read_and_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for mode in [0, 0o200, 0o4055] {
            fs::write(&path, "content").unwrap();
            let place = File::open(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let meta = place.metadata().unwrap();
            assert!(may_lend(&meta));
            let mut text = String::new();
            open_to_read(&place, &meta).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!((&*text, place.metadata().unwrap().mode() & PERMISSIONS), ("content", mode));
            fs::remove_file(&path).unwrap();
        }
    }

    /// A fifo's open waits, so the kill comes in the middle.
    #[test]
    fn a_killed_process_group_leaves_no_other_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        mkfifo(&path, Mode::empty()).unwrap();
        let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path).unwrap();
        let meta = place.metadata().unwrap();
        let mode = || fs::metadata(&path).unwrap().mode() & PERMISSIONS;
        // SAFETY: the child makes no more than the calls of `open_to_read`.
        let ForkResult::Parent { child } = (unsafe { fork() }).unwrap() else {
            let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0)).map(|()| open_to_read(&place, &meta));
            exit(0);
        };
        until(|| mode() == 0o400);
        killpg(child, Signal::SIGKILL).unwrap();
        waitpid(child, None).unwrap();
        drop(OpenOptions::new().write(true).open(&path).unwrap());
        until(|| mode() == 0);
    }

    fn until(is: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !is() {
            assert!(Instant::now() < end, "the mode has not changed");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn only_the_owner_may() {
        assert_eq!(may_lend(&fs::metadata("/").unwrap()), geteuid().is_root());
    }
}
