//! System calls of aarch64.

use core::arch::asm;

pub const SYS_WAIT4: usize = 260;
pub const SYS_EXIT_GROUP: usize = 94;

/// A system call with four arguments.
#[inline(always)]
pub fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result;
    // SAFETY: only wait4(2) and recvmsg(2) write to memory, and only to what their callers own and pass.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d, options(nostack));
    }
    result
}
