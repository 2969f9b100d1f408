//! Processes: fork, exec, wait and kill, with plain numbers. The usual libraries' types reject statuses with
//! a real-time signal.

use std::{
    ffi::{CStr, CString, OsStr, OsString},
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
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
    /// By this signal.
    Killed(Signal),
}

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Fork {
    /// The child.
    Child,
    /// The parent, with the child's PID.
    Parent(i32),
}

/// Forks. Only for a process with one thread, such as init: otherwise the child may inherit locks that no
/// thread releases.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: with one thread the child is a full copy.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Executes a program, searched in PATH if its name has no slash. Returns only on error: `NotFound` if there
/// is no such file. A folder of PATH that is closed to us does not change that; execvp(3) would report
/// `PermissionDenied`.
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

/// Executes one file, by the shell if it is a text without `#!`, as execvp(3) does.
fn exec_at(file: &[u8], command: &[CString]) -> io::Error {
    let Ok(file) = CString::new(file) else { return io::ErrorKind::InvalidInput.into() };
    let argv = pointers(command);
    // SAFETY: strings that end in NUL, in an array that ends in NULL.
    unsafe { libc::execvp(file.as_ptr(), argv.as_ptr()) };
    io::Error::last_os_error()
}

/// Executes an open file with an empty environment. Returns only on error.
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

/// An anonymous executable file in memory that contains `program` and closes on exec.
///
/// # Errors
/// If there is no memory, or the system forbids executable memory files (`vm.memfd_noexec=2`).
pub fn program_in_memory(name: &CStr, program: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: a string that ends in NUL; the kernel makes the descriptor.
    let create = |flags| unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | flags) };
    // Linux before 6.3 neither knows nor needs MFD_EXEC.
    let fd = match create(libc::MFD_EXEC) {
        -1 if io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) => create(0),
        fd => fd,
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nothing else has it.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(program)?;
    Ok(file.into())
}

/// Reaps one ended child, if there is one.
pub fn reap() -> Option<(i32, Ending)> {
    let mut status = 0;
    // SAFETY: the kernel writes only the status.
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
    // SAFETY: a null pointer asks for no information.
    pid > 0 && unsafe { libc::waitid(libc::P_PID, pid as u32, ptr::null_mut(), flags) } == 0
}

/// Sends a signal to a process (`pid` > 0) or a process group (`pid` < -1). Returns whether there was one.
/// Never signals all processes or the caller's own group.
pub fn kill(pid: i32, signal: Signal) -> bool {
    // SAFETY: touches no memory.
    !(-1..=0).contains(&pid) && unsafe { libc::kill(pid, signal) } == 0
}

/// Sends a signal to the process of this pidfd, whose number may be another's by now (pidfd_send_signal(2)). Returns
/// whether it was there.
pub fn kill_exactly(pidfd: BorrowedFd, signal: Signal) -> bool {
    // SAFETY: numbers, and a null pointer, which stands for what kill(2) sends.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, ptr::null::<u8>(), 0) == 0 }
}

/// Starts a new session and process group, unless this process already leads a group.
pub fn lead_session() {
    // SAFETY: touches no memory.
    unsafe { libc::setsid() };
}

/// Makes this process a subreaper, which adopts its descendants' orphans. The attribute survives exec
/// (prctl(2)).
pub fn adopt_orphans() {
    // SAFETY: touches no memory.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Lets every process of the same user attach to this one where Yama's scope 1 is in force, and changes nothing
/// elsewhere (PR_SET_PTRACER).
pub fn let_anyone_attach() {
    // SAFETY: touches no memory.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY, 0, 0, 0) };
}

/// Requests a signal on the death of this process's parent.
pub fn on_parent_death(signal: Signal) {
    // SAFETY: touches no memory.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) };
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: i32) {
    // SAFETY: the callers do not use these descriptors again: init at its start, and children just before
    // exec.
    if unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } == 0 {
        return;
    }
    // Linux before 5.9, and old seccomp filters.
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .map(|entries| entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_default();
    for fd in open.into_iter().filter(|fd| *fd >= first) {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
}

/// Duplicates `fd` to the number `target`, open across exec.
///
/// # Errors
/// If the limit of descriptors is below `target`.
pub fn place(fd: &OwnedFd, target: i32) -> io::Result<()> {
    // SAFETY: the callers do not use the old `target` again, because they are about to execute a program.
    let done = unsafe {
        if fd.as_raw_fd() == target {
            libc::fcntl(target, libc::F_SETFD, 0)
        } else {
            libc::dup2(fd.as_raw_fd(), target)
        }
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Removes empty variables that begin with `prefix` from the environment. To be called before any thread
/// starts.
pub fn forget_empty_variables(prefix: &str) {
    let is_empty =
        |(name, value): &(OsString, OsString)| value.is_empty() && name.to_string_lossy().starts_with(prefix);
    for (name, _) in std::env::vars_os().filter(is_empty) {
        // SAFETY: this process has one thread, so nothing reads the environment meanwhile.
        unsafe { std::env::remove_var(name) };
    }
}

/// Sets variables for the program that this process executes. To be called before any thread starts.
pub fn set_variables<'a>(variables: impl IntoIterator<Item = (&'a str, &'a OsStr)>) {
    for (name, value) in variables {
        // SAFETY: this process has one thread, so nothing reads the environment meanwhile.
        unsafe { std::env::set_var(name, value) };
    }
}

/// Takes over an inherited descriptor. To be called once for each.
///
/// # Errors
/// If it is not open.
pub fn inherited(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: reads the descriptor's flags.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and its number is fixed by convention, so nothing else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes every descriptor from `first` on close on exec: the launcher may have left some of its own.
pub fn close_all_on_exec(first: i32) {
    // SAFETY: changes flags only.
    if unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) } == 0 {
        return;
    }
    // Linux before 5.11, and old seccomp filters.
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for fd in open.filter(|fd| *fd >= first) {
        // SAFETY: changes flags only.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Exits at once, without destructors: for a child that could not execute its program.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(i32::from(code)) }
}
