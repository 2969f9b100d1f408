//! The relay: first process of a container whose init has namespaces of its own. It is a freestanding program
//! of a page, compiled by build.rs and executed from memory, so that next to nothing stays resident.
//!
//! It forwards signals to init, reaps the orphans of processes that are executed in the container from
//! outside, and exits with init's status. It must never allocate, open anything or use a library. Its signals
//! are blocked before it is executed.

#![no_std]
#![no_main]

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;
#[path = "../freestanding/mod.rs"]
mod freestanding;

use arch::{SYS_KILL, SYS_SIGTIMEDWAIT};
use freestanding::{LOST, call, code, exit, pid_argument, wait};

const WNOHANG: usize = 1;
static ALL_SIGNALS: u64 = u64::MAX;
const SIGCHLD: isize = 17;

/// Relays until init ends. `argv[1]` is init's PID in decimal.
extern "C" fn relay(stack: *const usize) -> ! {
    // SAFETY: the kernel put argc and argv there, and there are always two arguments.
    let init = unsafe { pid_argument(stack) };
    loop {
        reap(init);
        let signal = call(SYS_SIGTIMEDWAIT, (&raw const ALL_SIGNALS).expose_provenance(), 0, 0, 8);
        if signal > 0 && signal != SIGCHLD {
            call(SYS_KILL, init as usize, signal as usize, 0, 0);
        }
    }
}

/// Reaps ended children, and exits when init has ended.
fn reap(init: isize) {
    loop {
        match wait(WNOHANG) {
            (0, _) => return,
            (pid, status) if pid == init => exit(code(status)),
            (error, _) if error < 0 => exit(LOST),
            _orphan => {}
        }
    }
}
