//! The subreaper: root of the process tree that a checkpoint dumps. It is a freestanding program of one page,
//! which build.rs compiles and init executes from memory, so that no checkpoint depends on the file or the
//! version of `freeze`.
//!
//! It first moves from its file to anonymous memory: CRIU dumps no file-backed page, and this file is gone at
//! the restore. Then it adopts and reaps the orphans of the service's daemons, and exits with the service's
//! status. It must never allocate, open anything or use a library, because everything it owns is dumped and
//! restored with the service. Init has blocked its signals.

#![no_std]
#![no_main]

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;
#[path = "../freestanding/mod.rs"]
mod freestanding;

use freestanding::{LOST, code, exit, pid_argument, wait};

const EINTR: isize = -4;

/// Reached if there is no memory to move to.
extern "C" fn fail() -> ! {
    exit(LOST)
}

/// Reaps until the service ends. `argv[1]` is the service's PID in decimal.
extern "C" fn reap(stack: *const usize) -> ! {
    // SAFETY: the kernel put argc and argv there, and init always passes two arguments.
    let service = unsafe { pid_argument(stack) };
    loop {
        match wait(0) {
            (EINTR, _) => {}
            (error, _) if error < 0 => exit(LOST),
            (pid, status) if pid == service => exit(code(status)),
            _orphan => {}
        }
    }
}
