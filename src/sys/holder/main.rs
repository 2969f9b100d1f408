//! The holder: root of the tree that a checkpoint dumps. A program of its own, freestanding and of one page, that build.rs
//! compiles and init executes from memory, so that no checkpoint depends on the file or the version of `freeze`.
//!
//! It begins by moving out of its file into memory of its own, for CRIU dumps no page that a file holds, and this file is gone.
//! Then it adopts and reaps what the service's daemons leave behind, and ends as the service ends. It must never allocate, open
//! anything, or use a library, for all that it owns is dumped and restored with the service. Its signals are blocked by init.

#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

const SYS_EXIT_GROUP: usize = 231;
const SYS_WAIT4: usize = 61;
const EINTR: isize = -4;
const ALL_CHILDREN: usize = usize::MAX;
/// Status where the service is not a child any more: freeze's own fatal error.
const LOST: i32 = 170;

/// The kernel enters here with the argument vector on the stack: `[argc, argv[0], argv[1], …]`.
///
/// Maps memory, copies the file's pages there and goes on in the copy; all of the program is position-independent. The
/// linker's symbols are the file's first and last address.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!(
        "xor ebp, ebp",
        "mov r12, rsp",
        "and rsp, -16",
        "lea rbx, [rip + __executable_start]",
        "lea r13, [rip + _end + 4095]",
        "and r13, -4096",
        "sub r13, rbx",
        // mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        "mov eax, 9",
        "xor edi, edi",
        "mov rsi, r13",
        "mov edx, 3",
        "mov r10d, 0x22",
        "mov r8, -1",
        "xor r9d, r9d",
        "syscall",
        "test rax, rax",
        "js {fail}",
        "mov r14, rax",
        "mov rdi, rax",
        "mov rsi, rbx",
        "mov rcx, r13",
        "rep movsb",
        // mprotect(copy, length, PROT_READ | PROT_EXEC)
        "mov eax, 10",
        "mov rdi, r14",
        "mov rsi, r13",
        "mov edx, 5",
        "syscall",
        "test rax, rax",
        "js {fail}",
        "lea rax, [rip + 2f]",
        "sub rax, rbx",
        "add rax, r14",
        "jmp rax",
        // munmap(file, length), from the copy
        "2:",
        "mov eax, 11",
        "mov rdi, rbx",
        "mov rsi, r13",
        "syscall",
        "mov rdi, r12",
        "call {hold}",
        "ud2",
        fail = sym fail,
        hold = sym hold
    )
}

/// Where there is no memory to move to.
extern "C" fn fail() -> ! {
    exit(LOST)
}

/// Reaps until the service ends. `argv[1]` is its PID in decimal.
extern "C" fn hold(stack: *const usize) -> ! {
    // SAFETY: the kernel put argc and argv there, and init always passes two arguments.
    let service = decimal(unsafe { *stack.add(2) as *const u8 });
    loop {
        let mut status = 0i32;
        match wait(&mut status) {
            EINTR => {}
            error if error < 0 => exit(LOST),
            pid if pid == service => exit(code(status)),
            _orphan => {}
        }
    }
}

/// What a shell makes of a wait status: the exit code, or 128 and the signal.
fn code(status: i32) -> i32 {
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

fn wait(status: &mut i32) -> isize {
    let result;
    // SAFETY: wait4(2) writes nothing but the status.
    unsafe {
        asm!("syscall", inlateout("rax") SYS_WAIT4 => result, in("rdi") ALL_CHILDREN, in("rsi") status, in("rdx") 0,
             in("r10") 0, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

fn exit(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { asm!("syscall", "ud2", in("rax") SYS_EXIT_GROUP, in("rdi") code, options(noreturn, nostack)) }
}

/// Nothing here panics; the language asks for it.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(LOST)
}
