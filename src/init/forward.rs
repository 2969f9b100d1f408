//! Translates a signal that init gets into the one that the service gets.

use super::config::{Pair, SignalArg};
use crate::sys::signals::Signal;

/// The signal to send to the service, or `None` for none.
///
/// The terminal's stop signals become SIGSTOP. The service leads a session of its own, so its process group
/// is orphaned, and there the kernel ignores them (setpgid(2), POSIX "orphaned process group").
pub fn translate(rewrites: &[Pair<SignalArg>], signal: Signal) -> Option<Signal> {
    if signal == libc::SIGCHLD {
        return None;
    }
    match rewrites.iter().find(|pair| pair.from.0 == signal) {
        Some(pair) => Some(pair.to.0).filter(|to| *to != 0),
        None if is_stop(signal) => Some(libc::SIGSTOP),
        None => Some(signal),
    }
}

/// Whether a terminal stops a job with this signal.
pub fn is_stop(signal: Signal) -> bool {
    [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_sigchld_pass_and_stop_signals_stop() {
        assert_eq!(translate(&[], libc::SIGCHLD), None);
        for stop in [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU] {
            assert_eq!(translate(&[], stop), Some(libc::SIGSTOP));
        }
        let plain = (1..=64).filter(|signal| *signal != libc::SIGCHLD && !is_stop(*signal));
        assert!(plain.into_iter().all(|signal| translate(&[], signal) == Some(signal)));
    }

    #[test]
    fn rewrites_come_first() {
        let rewrites = ["TERM:QUIT", "HUP:0", "TSTP:TSTP"].map(|text| text.parse().unwrap());
        assert_eq!(translate(&rewrites, libc::SIGTERM), Some(libc::SIGQUIT));
        assert_eq!(translate(&rewrites, libc::SIGHUP), None);
        assert_eq!(translate(&rewrites, libc::SIGTSTP), Some(libc::SIGTSTP));
    }
}
