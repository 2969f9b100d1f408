//! The subreaper's entry point on x86-64.

use core::arch::naked_asm;

use super::{fail, reap};

/// The kernel enters here with the argument vector on the stack: `[argc, argv[0], argv[1], …]`.
///
/// Copies the file's pages to anonymous memory and continues in the copy, because the program is
/// position-independent. The linker's symbols are the file's first and last address.
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
        "call {reap}",
        "ud2",
        fail = sym fail,
        reap = sym reap
    )
}
