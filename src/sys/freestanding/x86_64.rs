//! System calls of x86-64.

use core::arch::asm;

pub const SYS_WAIT4: usize = 61;
pub const SYS_EXIT_GROUP: usize = 231;

/// A system call with four arguments.
#[inline(always)]
pub fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result;
    // SAFETY: only wait4(2) and recvmsg(2) write to memory, and only to what their callers own and pass.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}
