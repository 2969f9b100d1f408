//! The relay: the container's first process where init and all below it live in namespaces of their own. A program of its own,
//! freestanding and of a page, that build.rs compiles and that is executed from memory, so that next to nothing stays resident.
//!
//! It passes every signal on to init, reaps what is executed in the container from outside and leaves orphans behind, and ends as
//! init ends. It must never allocate, open anything, or use a library. Its signals are blocked by who executes it.

#![no_std]
#![no_main]

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;

use arch::{SYS_EXIT_GROUP, SYS_KILL, SYS_SIGTIMEDWAIT, SYS_WAIT4, call};

const ALL_CHILDREN: usize = usize::MAX;
const WNOHANG: usize = 1;
static ALL_SIGNALS: u64 = u64::MAX;
const SIGCHLD: isize = 17;
/// Status where init is no child: freeze's own fatal error.
const LOST: i32 = 170;

/// Relays until init ends. `argv[1]` is its PID in decimal.
extern "C" fn relay(stack: *const usize) -> ! {
    // SAFETY: the kernel put argc and argv there, and there are always two arguments.
    let init = decimal(unsafe { *stack.add(2) as *const u8 });
    loop {
        reap(init);
        let signal = call([SYS_SIGTIMEDWAIT, (&raw const ALL_SIGNALS).addr(), 0, 0, 8]);
        if signal > 0 && signal != SIGCHLD {
            call([SYS_KILL, init as usize, signal as usize, 0, 0]);
        }
    }
}

/// Reaps whoever has ended; ends with init.
fn reap(init: isize) {
    loop {
        let mut status = 0i32;
        match call([SYS_WAIT4, ALL_CHILDREN, (&raw mut status).addr(), WNOHANG, 0]) {
            0 => return,
            pid if pid == init => exit(code(status)),
            pid if pid < 0 => exit(LOST),
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

fn exit(code: i32) -> ! {
    call([SYS_EXIT_GROUP, code as usize, 0, 0, 0]);
    loop {}
}

/// Nothing here panics; the language asks for it.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(LOST)
}
