//! Signals by number, 1 to 64: the usual libraries' types know neither the real-time signals nor 32 and 33.
//!
//! Init catches no signal. It blocks all of them and reads them from a signalfd: no handler runs, no signal
//! is lost while init is busy, and a fault of init itself still kills it, because the kernel unblocks the
//! signals that it generates.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

/// A signal's number, 1 to 64.
pub type Signal = i32;

/// The highest signal number of Linux.
pub const MAX: Signal = 64;

/// A set of signals in the kernel's format: bit N-1 is signal N.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Set(u64);

impl Set {
    pub const ALL: Set = Set(u64::MAX);

    /// Adds a signal. Ignores an invalid number.
    pub fn insert(&mut self, signal: Signal) {
        self.0 |= bit(signal);
    }

    /// Removes a signal. Returns whether it was in the set.
    pub fn remove(&mut self, signal: Signal) -> bool {
        let was = self.contains(signal);
        self.0 &= !bit(signal);
        was
    }

    pub fn contains(self, signal: Signal) -> bool {
        self.0 & bit(signal) != 0
    }

    /// Empties the set. Returns its signals in ascending order.
    pub fn drain(&mut self) -> impl Iterator<Item = Signal> + use<> {
        let all = mem::take(self);
        (1..=MAX).filter(move |signal| all.contains(*signal))
    }
}

impl FromIterator<Signal> for Set {
    fn from_iter<I: IntoIterator<Item = Signal>>(signals: I) -> Self {
        let mut set = Set::default();
        signals.into_iter().for_each(|signal| set.insert(signal));
        set
    }
}

fn bit(signal: Signal) -> u64 {
    if (1..=MAX).contains(&signal) { 1 << (signal - 1) } else { 0 }
}

/// Whether all signals are blocked and [`LAUNCHER_MASK`] has the mask from before.
static BLOCKED: AtomicBool = AtomicBool::new(false);
/// Whether [`LAUNCHER_IGNORED`] is set.
static NOTED: AtomicBool = AtomicBool::new(false);
/// The signal mask inherited from the launcher, to be passed on to the service.
static LAUNCHER_MASK: AtomicU64 = AtomicU64::new(0);
/// The signals that the launcher ignored, of those whose disposition this process changes: SIGPIPE (by Rust's
/// runtime) and SIGCHLD (by init).
static LAUNCHER_IGNORED: AtomicU64 = AtomicU64::new(0);

/// The executable's entry point (set by build.rs). The kernel drops a signal to PID 1 that is neither handled
/// nor blocked, so `freeze run` blocks all signals in its first instructions, before the C library starts.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn freeze_start() -> ! {
    // The stack is argc, argv[0], argv[1], …; rdx (x0) is the C library's. `run` and its NUL are one word of
    // four bytes.
    #[cfg(target_arch = "x86_64")]
    std::arch::naked_asm!(
        "cmp qword ptr [rsp], 2",
        "jb 2f",
        "mov rax, [rsp + 16]",
        "cmp dword ptr [rax], {run}",
        "jne 2f",
        "mov r12, rdx",
        "mov eax, {sigprocmask}",
        "mov edi, {set}",
        "lea rsi, [rip + {all}]",
        "lea rdx, [rip + {before}]",
        "mov r10d, 8",
        "syscall",
        "mov byte ptr [rip + {blocked}], 1",
        "mov rdx, r12",
        "2:",
        "jmp _start",
        run = const u32::from_le_bytes(*b"run\0"),
        sigprocmask = const libc::SYS_rt_sigprocmask,
        set = const libc::SIG_SETMASK,
        all = sym ALL_SIGNALS,
        before = sym LAUNCHER_MASK,
        blocked = sym BLOCKED,
    );
    #[cfg(target_arch = "aarch64")]
    std::arch::naked_asm!(
        "ldr x9, [sp]",
        "cmp x9, 2",
        "b.lo 2f",
        "ldr x9, [sp, 16]",
        "ldr w9, [x9]",
        "mov w10, {run_low}",
        "movk w10, {run_high}, lsl 16",
        "cmp w9, w10",
        "b.ne 2f",
        "mov x12, x0",
        "mov x8, {sigprocmask}",
        "mov x0, {set}",
        "adrp x1, {all}",
        "add x1, x1, :lo12:{all}",
        "adrp x2, {before}",
        "add x2, x2, :lo12:{before}",
        "mov x3, 8",
        "svc 0",
        "mov w9, 1",
        "adrp x10, {blocked}",
        "strb w9, [x10, :lo12:{blocked}]",
        "mov x0, x12",
        "2:",
        "b _start",
        run_low = const u16::from_le_bytes(*b"ru"),
        run_high = const u16::from_le_bytes(*b"n\0"),
        sigprocmask = const libc::SYS_rt_sigprocmask,
        set = const libc::SIG_SETMASK,
        all = sym ALL_SIGNALS,
        before = sym LAUNCHER_MASK,
        blocked = sym BLOCKED,
    );
}

static ALL_SIGNALS: u64 = u64::MAX;

/// The C library calls this before Rust's runtime, which ignores SIGPIPE.
#[used]
#[unsafe(link_section = ".preinit_array")]
static FIRST: extern "C" fn(i32, *const *const libc::c_char) = first;

extern "C" fn first(argc: i32, argv: *const *const libc::c_char) {
    // SAFETY: the C library passes main's arguments: argc strings that end in NUL.
    let run = argc > 1 && unsafe { libc::strcmp(*argv.add(1), c"run".as_ptr()) } == 0;
    if run {
        hold();
    }
}

/// Blocks every signal for good and saves the launcher's settings. Only the first call has an effect.
pub fn hold() {
    if !BLOCKED.swap(true, Relaxed) {
        LAUNCHER_MASK.store(set_mask(Set::ALL).0, Relaxed);
    }
    if !NOTED.swap(true, Relaxed) {
        let ignored: Set = [libc::SIGPIPE, libc::SIGCHLD].into_iter().filter(|signal| is_ignored(*signal)).collect();
        LAUNCHER_IGNORED.store(ignored.0, Relaxed);
    }
}

/// Unblocks every signal, in a program that inherits the mask of one that blocks them and takes no notice of what is
/// pending. The two that it and its own programs depend on have their effect, even if the launcher ignored them.
pub fn unblock() {
    while take_pending(Set::ALL).is_some() {}
    default_sigchld();
    set_disposition(libc::SIGTERM, libc::SIG_DFL);
    set_mask(Set::default());
}

/// Restores the launcher's mask and dispositions in a process that is about to execute the service or a
/// worker.
pub fn release() {
    let ignored = Set(LAUNCHER_IGNORED.load(Relaxed));
    for signal in [libc::SIGPIPE, libc::SIGCHLD] {
        set_disposition(signal, if ignored.contains(signal) { libc::SIG_IGN } else { libc::SIG_DFL });
    }
    set_mask(Set(LAUNCHER_MASK.load(Relaxed)));
}

/// Keeps ended children as zombies until they are reaped, even if the launcher ignored SIGCHLD.
pub fn default_sigchld() {
    set_disposition(libc::SIGCHLD, libc::SIG_DFL);
}

/// Lets a write beyond the limit of file size (RLIMIT_FSIZE) fail with EFBIG, in place of ending this process and the
/// programs that it executes.
pub fn ignore_sigxfsz() {
    set_disposition(libc::SIGXFSZ, libc::SIG_IGN);
}

/// Sets this thread's mask and returns the previous one. The C library's own call would leave out 32 and 33.
fn set_mask(set: Set) -> Set {
    let mut before = Set::default();
    // SAFETY: both pointers are to a kernel signal set of 8 bytes; with these arguments the call cannot fail.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &set.0, &mut before.0, mem::size_of::<u64>()) };
    before
}

/// Whether this process ignores a signal, as after nohup(1).
pub fn is_ignored(signal: Signal) -> bool {
    // SAFETY: an all-zero sigaction is valid, and the call only fills it.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

fn set_disposition(signal: Signal, disposition: libc::sighandler_t) {
    // SAFETY: the callers pass only SIG_DFL and SIG_IGN, so no handler is installed.
    unsafe { libc::signal(signal, disposition) };
}

/// Takes one pending signal of `set`, without waiting.
pub fn take_pending(set: Set) -> Option<Signal> {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a kernel signal set of 8 bytes, no siginfo, and a valid time.
    let signal = unsafe {
        let none: *mut libc::siginfo_t = std::ptr::null_mut();
        libc::syscall(libc::SYS_rt_sigtimedwait, &set.0, none, &now, mem::size_of::<u64>())
    };
    Signal::try_from(signal).ok().filter(|signal| *signal > 0)
}

pub fn pending() -> Set {
    let mut set = Set::default();
    // SAFETY: points to a kernel signal set of 8 bytes.
    unsafe { libc::syscall(libc::SYS_rt_sigpending, &mut set.0, mem::size_of::<u64>()) };
    set
}

/// Every signal sent to this process, as a non-blocking descriptor. The signals must be blocked.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    pub fn new() -> io::Result<SignalFd> {
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: a kernel signal set of 8 bytes.
        let fd = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &Set::ALL.0, mem::size_of::<u64>(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it, and nothing else has it.
        Ok(SignalFd(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// To be polled for input.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The next pending signal. Skips this process's own SIGPIPE, sent when a reader has gone: it is ignored,
    /// but queued because it is also blocked.
    pub fn next_signal(&self) -> Option<Signal> {
        loop {
            let mut info = mem::MaybeUninit::<libc::signalfd_siginfo>::uninit();
            let size = mem::size_of::<libc::signalfd_siginfo>();
            // SAFETY: the buffer holds exactly one record, and the kernel writes only whole records.
            let read = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
            if read != size as isize {
                return None;
            }
            // SAFETY: a whole record was written.
            let info = unsafe { info.assume_init() };
            let signal = info.ssi_signo as Signal;
            if signal != libc::SIGPIPE || info.ssi_pid != std::process::id() {
                return Some(signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_the_first_and_the_last_signal() {
        let mut set: Set = [64, 1, 34].into_iter().collect();
        assert!(set.contains(64) && set.contains(1) && !set.contains(2));
        assert_eq!(set.drain().collect::<Vec<_>>(), [1, 34, 64]);
        assert_eq!(set, Set::default());
    }

    #[test]
    fn what_is_no_signal_is_in_no_set() {
        let set: Set = [0, -1, 65, 1000].into_iter().collect();
        assert_eq!(set, Set::default());
        assert!(!Set::ALL.contains(0));
    }
}
