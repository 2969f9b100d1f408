//! The subreaper's entry point on aarch64.

use core::arch::naked_asm;

use super::{fail, reap};

/// The kernel enters here with the argument vector on the stack: `[argc, argv[0], argv[1], …]`.
///
/// Copies the file's pages to anonymous memory and continues in the copy, because the program is
/// position-independent. The linker's symbols are the file's first and last address. The whole program is
/// text, so it ends at `etext`; GNU ld puts `_end` on a later page, where data would be.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!(
        "mov x29, xzr",
        "mov x30, xzr",
        "mov x19, sp",
        "adrp x20, __executable_start",
        "add x20, x20, :lo12:__executable_start",
        "adrp x21, etext + 4095",
        "add x21, x21, :lo12:etext + 4095",
        "and x21, x21, -4096",
        "sub x21, x21, x20",
        // mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        "mov x8, 222",
        "mov x0, xzr",
        "mov x1, x21",
        "mov x2, 3",
        "mov x3, 0x22",
        "mov x4, -1",
        "mov x5, xzr",
        "svc 0",
        "tbnz x0, 63, {fail}",
        "mov x22, x0",
        "mov x9, x20",
        "add x10, x0, x21",
        "2:",
        "ldp x11, x12, [x9], 16",
        "stp x11, x12, [x0], 16",
        "cmp x0, x10",
        "b.lo 2b",
        // Makes the copy visible to instruction fetches. A cache line is at least a word long.
        "mov x9, x22",
        "3:",
        "dc cvau, x9",
        "add x9, x9, 4",
        "cmp x9, x10",
        "b.lo 3b",
        "dsb ish",
        "mov x9, x22",
        "4:",
        "ic ivau, x9",
        "add x9, x9, 4",
        "cmp x9, x10",
        "b.lo 4b",
        "dsb ish",
        "isb",
        // mprotect(copy, length, PROT_READ | PROT_EXEC)
        "mov x8, 226",
        "mov x0, x22",
        "mov x1, x21",
        "mov x2, 5",
        "svc 0",
        "tbnz x0, 63, {fail}",
        "adr x9, 5f",
        "sub x9, x9, x20",
        "add x9, x9, x22",
        "br x9",
        // munmap(file, length), from the copy
        "5:",
        "mov x8, 215",
        "mov x0, x20",
        "mov x1, x21",
        "svc 0",
        "mov x0, x19",
        "bl {reap}",
        "udf 0",
        fail = sym fail,
        reap = sym reap
    )
}
