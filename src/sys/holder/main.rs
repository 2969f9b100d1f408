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

use arch::{exit, wait};

const EINTR: isize = -4;
const ALL_CHILDREN: usize = usize::MAX;
/// Status where the service is not a child any more: freeze's own fatal error.
const LOST: i32 = 170;

/// Where there is no memory to move to.
extern "C" fn fail() -> ! {
    exit(LOST)
}

/// Reaps until the service ends. `argv[1]` is its PID in decimal.
extern "C" fn hold(stack: *const usize) -> ! {
    // SAFETY: the kernel put argc and argv there, and init always passes two arguments.
    let service = decimal(unsafe { *stack.add(2) as *const u8 });
    loop {
        let mut status = 0i32;
        match wait(&mut status) {
            EINTR => {}
            error if error < 0 => exit(LOST),
            pid if pid == service => exit(code(status)),
            _orphan => {}
        }
    }
}

/// What a shell makes of a wait status: the exit code, or 128 and the signal.
fn code(status: i32) -> i32 {
    match status & 0x7f {
        0 => (status >> 8) & 0xff,
        signal => 128 + signal,
    }
}

/// Reads a number up to the first byte that is no digit.
fn decimal(mut text: *const u8) -> isize {
    let mut number = 0;
    loop {
        // SAFETY: arguments are NUL-terminated, and NUL ends the loop.
        let byte = unsafe { *text };
        if !byte.is_ascii_digit() {
            return number;
        }
        number = number * 10 + (byte - b'0') as isize;
        // SAFETY: not past the NUL.
        text = unsafe { text.add(1) };
    }
}

/// Nothing here panics; the language asks for it.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(LOST)
}
