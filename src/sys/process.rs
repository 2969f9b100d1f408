//! Processes: fork, exec, wait, kill, by plain numbers, for the usual libraries' types refuse statuses with a real-time signal.

use std::{
    ffi::{CStr, CString, OsStr, OsString},
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
};

use super::signals::Signal;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this exit code.
    Exited(u8),
    /// Killed by this signal.
    Killed(Signal),
}

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old one, with the new one's PID.
    Parent(i32),
}

/// Forks. Only for a process of one thread, as init is: in another the child may find locks that nobody will ever release.
///
/// # Errors
/// Where the limit of processes or memory is reached.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: with one thread the child is a full copy.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Executes a program, looked for in PATH if its name has no slash. Returns only the error: `NotFound` where there is no such
/// file, also where a folder of PATH is closed to us, which execvp(3) would tell as `PermissionDenied`.
pub fn exec(command: &[CString]) -> io::Error {
    let Some(program) = command.first().map(|name| name.to_bytes()) else { return io::ErrorKind::NotFound.into() };
    if program.is_empty() || program.contains(&b'/') {
        return exec_at(program, command);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut best = io::Error::from_raw_os_error(libc::ENOENT);
    for folder in std::env::split_paths(&path) {
        let file = Path::new(".").join(folder).join(OsStr::from_bytes(program));
        let error = exec_at(file.as_os_str().as_bytes(), command);
        if file.is_file() && error.kind() != io::ErrorKind::NotFound {
            best = error;
        }
    }
    best
}

/// Executes one file; by the shell if it is a text without `#!`, as execvp(3) does.
fn exec_at(file: &[u8], command: &[CString]) -> io::Error {
    let Ok(file) = CString::new(file) else { return io::ErrorKind::InvalidInput.into() };
    let argv = pointers(command);
    // SAFETY: strings that end in NUL, in an array that ends in NULL.
    unsafe { libc::execvp(file.as_ptr(), argv.as_ptr()) };
    io::Error::last_os_error()
}

/// Executes an open file with an empty environment. Returns only the error.
pub fn exec_file(file: &OwnedFd, arguments: &[CString]) -> io::Error {
    let argv = pointers(arguments);
    let environment = [ptr::null::<libc::c_char>()];
    // SAFETY: as above.
    unsafe {
        libc::execveat(
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr().cast(),
            environment.as_ptr().cast(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

/// An anonymous executable file in memory that holds `program`. It closes on exec.
///
/// # Errors
/// Where there is no memory, or the system forbids executable memory files (`vm.memfd_noexec=2`).
pub fn program_in_memory(name: &CStr, program: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: a string that ends in NUL; the kernel makes the descriptor.
    let create = |flags| unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | flags) };
    // Kernels before 6.3 do not know MFD_EXEC, and need none.
    let fd = match create(libc::MFD_EXEC) {
        -1 if io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) => create(0),
        fd => fd,
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else has it.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(program)?;
    Ok(file.into())
}

/// Reaps one child that has ended, if there is one.
pub fn reap() -> Option<(i32, Ending)> {
    let mut status = 0;
    // SAFETY: the kernel writes the status only.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    let ending = match status {
        _ if pid <= 0 => return None,
        status if libc::WIFSIGNALED(status) => Ending::Killed(libc::WTERMSIG(status)),
        status => Ending::Exited(libc::WEXITSTATUS(status) as u8),
    };
    Some((pid, ending))
}

/// Whether `pid` is a child of this process, ended or not.
pub fn is_child(pid: i32) -> bool {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: no information is wanted.
    pid > 0 && unsafe { libc::waitid(libc::P_PID, pid as u32, ptr::null_mut(), flags) } == 0
}

/// Sends a signal to a process (`pid` > 0) or a process group (`pid` < -1); whether there was one. Never to all or to one's own.
pub fn kill(pid: i32, signal: Signal) -> bool {
    // SAFETY: touches no memory.
    !(-1..=0).contains(&pid) && unsafe { libc::kill(pid, signal) } == 0
}

/// Starts a session and a process group of its own. A process that leads a group already stays as it is.
pub fn lead_session() {
    // SAFETY: touches no memory.
    unsafe { libc::setsid() };
}

/// Makes this process the parent of its descendants' orphans. The attribute survives exec (prctl(2)).
pub fn adopt_orphans() {
    // SAFETY: touches no memory.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Asks for a signal at the death of this process's parent.
pub fn on_parent_death(signal: Signal) {
    // SAFETY: touches no memory.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) };
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: i32) {
    // SAFETY: the callers hold nothing that they mean to use again: init at its start, and children just before exec.
    if unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } == 0 {
        return;
    }
    // Kernels before 5.9, and old seccomp filters.
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .map(|entries| entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_default();
    for fd in open.into_iter().filter(|fd| *fd >= first) {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
}

/// Puts `fd` in the place of `target`, open across exec.
///
/// # Errors
/// Where the limit of descriptors is below `target`.
pub fn place(fd: &OwnedFd, target: i32) -> io::Result<()> {
    // SAFETY: what was at `target` is not used again by the callers, which are about to execute a program.
    let done = unsafe {
        if fd.as_raw_fd() == target {
            libc::fcntl(target, libc::F_SETFD, 0)
        } else {
            libc::dup2(fd.as_raw_fd(), target)
        }
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes the variables that begin with `prefix` and are empty out of the environment. To be called before any thread is made.
pub fn forget_empty_variables(prefix: &str) {
    let is_empty =
        |(name, value): &(OsString, OsString)| value.is_empty() && name.to_string_lossy().starts_with(prefix);
    for (name, _) in std::env::vars_os().filter(is_empty) {
        // SAFETY: this process has one thread, so nobody reads the environment meanwhile.
        unsafe { std::env::remove_var(name) };
    }
}

/// Sets variables for what this process executes. To be called before any thread is made.
pub fn set_variables<'a>(variables: impl IntoIterator<Item = (&'a str, &'a OsStr)>) {
    for (name, value) in variables {
        // SAFETY: this process has one thread, so nobody reads the environment meanwhile.
        unsafe { std::env::set_var(name, value) };
    }
}

/// Takes over a descriptor that this process got from the one that started it. To be called once for each.
///
/// # Errors
/// Where it is not open.
pub fn inherited(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: reads the descriptor's flags.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and its number is agreed upon: nobody else in this process has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a descriptor close on exec.
pub fn close_on_exec(fd: i32) {
    // SAFETY: changes a flag of the descriptor, if there is one.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
}

/// Makes every descriptor from `first` on close on exec: whoever started this process may have left it some of his.
pub fn close_all_on_exec(first: i32) {
    // SAFETY: changes flags only.
    if unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) } == 0 {
        return;
    }
    // Kernels before 5.11, and old seccomp filters.
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    open.filter(|fd| *fd >= first).for_each(close_on_exec);
}

/// Ends this process at once, without a destructor: for a child that could not execute its program.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(i32::from(code)) }
}
