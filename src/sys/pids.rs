//! Advances the kernel's PID counter, which only goes up: the next process gets the next number that is free.
//!
//! `clone3(set_tid)` does not help here: it gives one process its PID and leaves the counter where it was, so that the
//! service's next children would be numbered among init's own.

use std::{fs, io};

/// How often in a row a thread may be refused, each time giving way to those that are ending.
const MAX_REFUSALS: u32 = 100_000;
/// PIDs that [`advance_to`] uses up in a millisecond where it cannot write `ns_last_pid` (Linux 6.18, two cores): to predict, not to rely on.
pub const PER_MS: u64 = 50;
/// Where the counter can be read, and set by who has CHECKPOINT_RESTORE (proc_sys_kernel(5)).
pub const NS_LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

/// Advances the counter so that the next process gets `first` (or, where that is taken or passed, the next that is free).
///
/// Writes `ns_last_pid` where that is allowed (CAP_CHECKPOINT_RESTORE and a writable /proc/sys), else uses the numbers up by
/// threads that end at once. Returns the PID that was used last.
///
/// # Errors
/// Where no thread can be made, as the limit of processes is reached.
pub fn advance_to(first: i32) -> io::Result<i32> {
    let wanted = first - 1;
    let Some(mut last) = last_pid() else { return burn_up_to(wanted) };
    if last < wanted && fs::write(NS_LAST_PID, wanted.to_string()).is_ok() {
        last = last_pid().unwrap_or(last);
    }
    if last < wanted { burn_up_to(wanted) } else { Ok(last) }
}

/// The PID that was given out last, where the kernel tells.
pub fn last_pid() -> Option<i32> {
    fs::read_to_string(NS_LAST_PID).ok()?.trim().parse().ok()
}

fn burn_up_to(wanted: i32) -> io::Result<i32> {
    let mut refused = 0;
    let mut last = 0;
    loop {
        match burn_one() {
            pid if pid >= wanted => return Ok(pid),
            pid if pid > last => (refused, last) = (0, pid),
            pid if pid > 0 => {
                let reason = format!("PIDs end at {last} here (kernel.pid_max), below {wanted}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
            }
            // The limit counts threads that have ended until the kernel has buried them.
            error if -error == libc::EAGAIN && refused < MAX_REFUSALS => {
                refused += 1;
                std::thread::yield_now();
            }
            error => return Err(io::Error::from_raw_os_error(-error)),
        }
    }
}

/// Uses up one PID by a thread that ends at once; returns it, or a negative error. Not waiting for its end is what makes this
/// fast: [`PER_MS`], against 30 by vfork and 20 by processes.
fn burn_one() -> i32 {
    let flags = libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND;
    let result: i64;
    // SAFETY: the thread's only instructions end it. It touches neither the stack that it shares with its maker nor any other
    // memory, and no signal can make it do so, for init holds them all. The C library never learns of it.
    unsafe {
        std::arch::asm!(
            "syscall", "test rax, rax", "jnz 2f", "xor edi, edi", "mov eax, {exit}", "syscall", "ud2", "2:",
            exit = const libc::SYS_exit,
            inlateout("rax") libc::SYS_clone => result, inlateout("rdi") i64::from(flags) => _,
            in("rsi") 0, in("rdx") 0, in("r10") 0, in("r8") 0, lateout("rcx") _, lateout("r11") _,
        );
    }
    result as i32
}
