//! The tracer's entry point and system calls on x86-64.

use core::arch::naked_asm;

use super::tracer;

pub const SYS_WRITE: usize = 1;
pub const SYS_CLOSE: usize = 3;
pub const SYS_SIGPROCMASK: usize = 14;
pub const SYS_GETPID: usize = 39;
pub const SYS_RECVMSG: usize = 47;
pub const SYS_EXECVE: usize = 59;
pub const SYS_KILL: usize = 62;
pub const SYS_CHDIR: usize = 80;
pub const SYS_SIGTIMEDWAIT: usize = 128;
pub const SYS_PRCTL: usize = 157;

/// The kernel enters here with the argument vector on the stack: `[argc, argv[0], argv[1], …]`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {tracer}", "ud2", tracer = sym tracer)
}
