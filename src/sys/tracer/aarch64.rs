//! The tracer's entry point and system calls on aarch64.

use core::arch::naked_asm;

use super::tracer;

pub const SYS_CHDIR: usize = 49;
pub const SYS_CLOSE: usize = 57;
pub const SYS_WRITE: usize = 64;
pub const SYS_KILL: usize = 129;
pub const SYS_SIGPROCMASK: usize = 135;
pub const SYS_SIGTIMEDWAIT: usize = 137;
pub const SYS_PRCTL: usize = 167;
pub const SYS_GETPID: usize = 172;
pub const SYS_RECVMSG: usize = 212;
pub const SYS_EXECVE: usize = 221;

/// The kernel enters here with the argument vector on the stack: `[argc, argv[0], argv[1], …]`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("mov x29, xzr", "mov x30, xzr", "mov x0, sp", "bl {tracer}", "udf 0", tracer = sym tracer)
}
