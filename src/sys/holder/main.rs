//! The holder: root of the tree that a checkpoint dumps. A program of its own, freestanding and of one page, that build.rs
//! compiles and init executes from memory, so that no checkpoint depends on the file or the version of `freeze`.
//!
//! It begins by moving out of its file into memory of its own, for CRIU dumps no page that a file holds, and this file is gone.
//! Then it adopts and reaps what the service's daemons leave behind, and ends as the service ends. It must never allocate, open
//! anything, or use a library, for all that it owns is dumped and restored with the service. Its signals are blocked by init.

#![no_std]
#![no_main]

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;
#[path = "../freestanding/mod.rs"]
mod freestanding;

use freestanding::{LOST, code, exit, pid_argument, wait};

const EINTR: isize = -4;

/// Where there is no memory to move to.
extern "C" fn fail() -> ! {
    exit(LOST)
}

/// Reaps until the service ends. `argv[1]` is its PID in decimal.
extern "C" fn hold(stack: *const usize) -> ! {
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
