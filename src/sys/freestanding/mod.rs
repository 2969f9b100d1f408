//! What the holder and the relay share. The holder runs elsewhere than where it was linked, so nothing here may be data or refer to any.

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;

pub use arch::call;
use arch::{SYS_EXIT_GROUP, SYS_WAIT4};

/// Status where the process to wait for is no child: freeze's own fatal error.
pub const LOST: i32 = 170;

const ALL_CHILDREN: usize = usize::MAX;

/// `argv[1]`, a PID in decimal.
///
/// # Safety
/// The stack is as the kernel makes it: `[argc, argv[0], argv[1], …]`, with at least two arguments.
pub unsafe fn pid_argument(stack: *const usize) -> isize {
    // SAFETY: the caller promises it.
    decimal(unsafe { *stack.add(2) as *const u8 })
}

/// wait4(2) for any child: its PID or a negative error, and its status.
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

/// What a shell makes of a wait status: the exit code, or 128 and the signal.
pub fn code(status: i32) -> i32 {
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
