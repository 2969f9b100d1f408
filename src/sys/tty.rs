//! The controlling terminal. A service that leads a session of its own can only have the terminal that init gives up.

use super::{
    process,
    signals::{self, Set},
};

/// Gives up standard input as this process's controlling terminal, where it is that and this process leads the session.
/// The signals must be held.
pub fn give_up() {
    let mut hangup: Set =
        [libc::SIGHUP, libc::SIGCONT].into_iter().filter(|signal| !signals::pending().contains(*signal)).collect();
    // SAFETY: the calls take numbers only.
    let given = unsafe { libc::getsid(0) == libc::getpid() && libc::ioctl(0, libc::TIOCNOTTY) == 0 };
    // The kernel tells the foreground group, init's own, of a hang-up that nobody meant.
    while given && signals::take_pending(hangup).is_some_and(|signal| hangup.remove(signal)) {}
}

/// Makes standard input, where it is a terminal, the controlling terminal of this process, which must just have become a
/// session's leader; its group is then the foreground group. A terminal that another session has is left to it.
pub fn take() {
    // SAFETY: the argument is a number: do not steal.
    unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
}

/// Stops this process as the terminal's stop key would have.
pub fn stop_self() {
    process::kill(std::process::id() as i32, libc::SIGSTOP);
}
