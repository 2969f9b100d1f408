//! The controlling terminal. A service that leads its own session gets the terminal only after init has given
//! it up.

use super::{
    process,
    signals::{self, Set},
};

/// Gives up standard input as this process's controlling terminal, if it is that and this process leads the
/// session. The signals must be blocked.
pub fn give_up() {
    let mut hangup: Set =
        [libc::SIGHUP, libc::SIGCONT].into_iter().filter(|signal| !signals::pending().contains(*signal)).collect();
    // SAFETY: the calls take numbers only.
    let given = unsafe { libc::getsid(0) == libc::getpid() && libc::ioctl(0, libc::TIOCNOTTY) == 0 };
    // The kernel sends SIGHUP and SIGCONT to the foreground group, which is init's own. They are discarded.
    while given && signals::take_pending(hangup).is_some_and(|signal| hangup.remove(signal)) {}
}

/// Makes standard input, if it is a terminal, the controlling terminal of this process, which must have just
/// become a session leader. Its group becomes the foreground group. Never takes another session's terminal.
pub fn take() {
    // SAFETY: the argument is a number, which says not to steal the terminal.
    unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
}

/// Stops this process, as the terminal's stop key would.
pub fn stop_self() {
    process::kill(std::process::id() as i32, libc::SIGSTOP);
}
