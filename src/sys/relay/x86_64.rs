//! The relay's entry point and system calls on x86-64.

use core::arch::naked_asm;

use super::relay;

pub const SYS_KILL: usize = 62;
pub const SYS_SIGTIMEDWAIT: usize = 128;

/// The kernel enters here with the argument vector on the stack: `[argc, argv[0], argv[1], …]`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {relay}", "ud2", relay = sym relay)
}
