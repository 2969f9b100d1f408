//! What of the relay is aarch64's.

use core::arch::{asm, naked_asm};

use super::relay;

pub const SYS_KILL: usize = 129;
pub const SYS_WAIT4: usize = 260;
pub const SYS_SIGTIMEDWAIT: usize = 137;
pub const SYS_EXIT_GROUP: usize = 94;

/// The kernel enters here with the argument vector on the stack: `[argc, argv[0], argv[1], …]`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("mov x29, xzr", "mov x30, xzr", "mov x0, sp", "bl {relay}", "udf 0", relay = sym relay)
}

/// A system call: its number and four arguments.
pub fn call([number, a, b, c, d]: [usize; 5]) -> isize {
    let result;
    // SAFETY: of those made here only wait4(2) writes, and that only the status that its caller owns.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d, options(nostack));
    }
    result
}
