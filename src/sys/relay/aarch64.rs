//! The relay's entry point and system calls on aarch64.

use core::arch::naked_asm;

use super::relay;

pub const SYS_KILL: usize = 129;
pub const SYS_SIGTIMEDWAIT: usize = 137;

/// The kernel enters here with the argument vector on the stack: `[argc, argv[0], argv[1], …]`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("mov x29, xzr", "mov x30, xzr", "mov x0, sp", "bl {relay}", "udf 0", relay = sym relay)
}
