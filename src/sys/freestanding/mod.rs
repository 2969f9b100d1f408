//! Code that the subreaper, the relay and the tracer share. Never contains or refers to static data: the subreaper does
//! not run at the address for which it was linked.

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;

pub use arch::call;
use arch::{SYS_EXIT_GROUP, SYS_WAIT4};

/// Exit status after a failure, such as a process to wait for that is no child: freeze's own fatal error.
pub const LOST: i32 = 170;

const ALL_CHILDREN: usize = usize::MAX;

/// Parses `argv[1]`, a PID in decimal.
///
/// # Safety
/// `stack` is as the kernel makes it: `[argc, argv[0], argv[1], …]`, with at least two arguments.
pub unsafe fn pid_argument(stack: *const usize) -> isize {
    // SAFETY: promised by the caller.
    decimal(unsafe { *stack.add(2) as *const u8 })
}

/// wait4(2) for any child. Returns its PID or a negative error, and its status.
#[inline(always)]
pub fn wait(options: usize) -> (isize, i32) {
    let mut status = 0i32;
    let pid = call(SYS_WAIT4, ALL_CHILDREN, (&raw mut status).expose_provenance(), options, 0);
    (pid, status)
}

pub fn exit(code: i32) -> ! {
    call(SYS_EXIT_GROUP, code as usize, 0, 0, 0);
    loop {}
}

/// Converts a wait status as shells do: the exit code, or 128 plus the signal.
pub fn code(status: i32) -> i32 {
    match status & 0x7f {
        0 => (status >> 8) & 0xff,
        signal => 128 + signal,
    }
}

/// Parses digits up to the first other byte.
fn decimal(mut text: *const u8) -> isize {
    let mut number = 0;
    loop {
        // SAFETY: arguments are NUL-terminated, and NUL ends the loop.
        let byte = unsafe { *text };
        if !byte.is_ascii_digit() {
            return number;
        }
        number = number * 10 + (byte - b'0') as isize;
        // SAFETY: this byte is a digit, so the NUL is still ahead.
        text = unsafe { text.add(1) };
    }
}

/// Required by the language; nothing here panics.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(LOST)
}
