//! What of the relay is x86-64's.

use core::arch::{asm, naked_asm};

use super::relay;

pub const SYS_KILL: usize = 62;
pub const SYS_WAIT4: usize = 61;
pub const SYS_SIGTIMEDWAIT: usize = 128;
pub const SYS_EXIT_GROUP: usize = 231;

/// The kernel enters here with the argument vector on the stack: `[argc, argv[0], argv[1], …]`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {relay}", "ud2", relay = sym relay)
}

/// A system call: its number and four arguments.
pub fn call([number, a, b, c, d]: [usize; 5]) -> isize {
    let result;
    // SAFETY: of those made here only wait4(2) writes, and that only the status that its caller owns.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}
