//! Advances the kernel's PID counter, which only goes up: the next process gets the next free number.
//!
//! `clone3(set_tid)` does not help here: it leaves the counter where it was, so the service's next children
//! would get numbers among init's own. The counter never passes the wanted number, and no process, thread or
//! changed limit stays behind. docs/explanation/pids.md has the measurements.

mod round;

use std::{fs, io};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use round::{go_round, millis_round};

/// Limit of refused threads in a row. Each refusal yields to threads that are ending.
const MAX_REFUSALS: u32 = 100_000;
/// PIDs that a restore uses up in a millisecond on each of two cores (docs/explanation/pids.md); for forecasts only.
const PER_MS: u64 = 90;
/// More PIDs than a container has in use when init starts.
const FEW: i32 = 64;
/// The counter. Writing it needs CHECKPOINT_RESTORE (proc_sys_kernel(5)).
pub const NS_LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";
const SHARED: libc::c_int =
    libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_SYSVSEM;

/// Advances the counter so that the next process gets `first`, or the next free number if `first` is taken or
/// passed. Returns the PID that was used last.
///
/// Writes `ns_last_pid` if that is allowed (CAP_CHECKPOINT_RESTORE and a writable /proc/sys), else uses the
/// numbers up. Only for a process with one thread, because nothing can be opened meanwhile.
///
/// # Errors
/// If the limit of processes allows no thread, or if PIDs end below `first`.
pub fn advance_to(first: i32) -> io::Result<i32> {
    let wanted = first - 1;
    if newest().is_some_and(|last| last < wanted) && fs::write(NS_LAST_PID, wanted.to_string()).is_ok() {
        return Ok(newest().unwrap_or(wanted));
    }
    use_up(&mut Kernel, wanted)
}

/// The newest PID in this PID namespace: the last field of /proc/loadavg (proc_loadavg(5)).
pub fn newest() -> Option<i32> {
    fs::read_to_string("/proc/loadavg").ok()?.split_ascii_whitespace().last()?.parse().ok()
}

/// PIDs stay below this number (proc_sys_kernel(5)).
pub fn end() -> Option<i32> {
    fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()
}

/// Forecast in milliseconds: how long a restore counts from the first number up to `highest` here, if it can
/// neither choose PIDs nor write `ns_last_pid`.
pub fn millis_up_to(highest: i32) -> u64 {
    u64::try_from(highest).unwrap_or(0) / (PER_MS * cores())
}

/// Cores that count.
fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2)) as u64
}

/// The PID counter.
trait Counter {
    /// The newest PID, or an arbitrary number if /proc is masked.
    fn newest(&self) -> Option<i32>;
    /// Uses up `count` free PIDs in the fastest way. Returns false if the kernel refuses.
    fn skip(&mut self, count: i32) -> bool;
    /// Uses up one PID. Returns it, or a negative error.
    fn next(&mut self) -> i32;
}

fn use_up(counter: &mut impl Counter, wanted: i32) -> io::Result<i32> {
    let mut last = use_up_one(counter, 0, wanted)?;
    // lxcfs replaces /proc/loadavg, so it is trusted only if it shows the PID just used.
    if counter.newest() == Some(last) {
        while last < wanted && counter.skip(stride(wanted - last)) {
            match counter.newest() {
                Some(newest) if newest > last => last = newest,
                _ => break,
            }
        }
    }
    while last < wanted {
        last = use_up_one(counter, last, wanted)?;
    }
    Ok(last)
}

/// How many PIDs to use up before the counter is read again. Taken PIDs advance it further than that.
fn stride(left: i32) -> i32 {
    if left > FEW { left / 2 } else { 1 }
}

fn use_up_one(counter: &mut impl Counter, last: i32, wanted: i32) -> io::Result<i32> {
    for _ in 0..MAX_REFUSALS {
        match counter.next() {
            pid if pid > last => return Ok(pid),
            // Ended threads count against the limit until the kernel has released them.
            error if -error == libc::EAGAIN => std::thread::yield_now(),
            error if error < 0 => return Err(io::Error::from_raw_os_error(-error)),
            _ => {
                let reason = format!("PIDs end below {wanted} here (kernel.pid_max)");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
            }
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

struct Kernel;

impl Counter for Kernel {
    fn newest(&self) -> Option<i32> {
        newest()
    }

    /// Uses clones that fail: the kernel takes the PID, and then has no descriptor for CLONE_PIDFD (EMFILE).
    /// Linux 6.9 knows this flag for threads, Linux 5.2 for processes.
    fn skip(&mut self, count: i32) -> bool {
        let Ok(_without) = NoDescriptors::begin() else { return false };
        let refused = |flags| clone_and_end(flags | SHARED | libc::CLONE_PIDFD) == -libc::EMFILE;
        match [libc::CLONE_THREAD, 0].into_iter().find(|&flags| refused(flags)) {
            Some(flags) => (1..count).all(|_| refused(flags)),
            None => false,
        }
    }

    /// Starts a thread that ends at once.
    fn next(&mut self) -> i32 {
        clone_and_end(SHARED | libc::CLONE_THREAD)
    }
}

/// Keeps this process from opening anything while it lives: the soft RLIMIT_NOFILE is 0. Open descriptors
/// stay open.
struct NoDescriptors {
    soft: u64,
    hard: u64,
}

impl NoDescriptors {
    fn begin() -> nix::Result<Self> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, 0, hard)?;
        Ok(Self { soft, hard })
    }
}

impl Drop for NoDescriptors {
    fn drop(&mut self) {
        // The old soft limit is allowed again, because the hard limit has not changed.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, self.soft, self.hard);
    }
}

/// clone(2) of a thread or process that ends at once. Returns its PID, or a negative error. Its exit is not
/// awaited.
fn clone_and_end(flags: libc::c_int) -> i32 {
    let result: i64;
    // SAFETY: the child's only instructions end it. It touches no memory, not even the stack that it shares
    // with its creator, and no signal handler runs, because init has blocked all signals. The C library never
    // learns of it. A pidfd has no address to be written to, so none can stay; that error comes after the PID
    // was taken, too.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "syscall", "test rax, rax", "jnz 2f", "xor edi, edi", "mov eax, {exit}", "syscall", "ud2", "2:",
            exit = const libc::SYS_exit,
            inlateout("rax") libc::SYS_clone => result, inlateout("rdi") i64::from(flags) => _,
            in("rsi") 0, in("rdx") 0, in("r10") 0, in("r8") 0, lateout("rcx") _, lateout("r11") _,
        );
    }
    // SAFETY: as above. The child has 0 in x0, its exit status.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!(
            "svc 0", "cbnz x0, 2f", "mov x8, {exit}", "svc 0", "udf 0", "2:",
            exit = const libc::SYS_exit,
            in("x8") libc::SYS_clone, inlateout("x0") i64::from(flags) => result,
            in("x1") 0, in("x2") 0, in("x3") 0, in("x4") 0,
        );
    }
    result as i32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A kernel with some PIDs in use.
    #[derive(Debug, Clone, Default)]
    pub(super) struct Fake {
        pub(super) last: i32,
        pub(super) taken: BTreeSet<i32>,
        /// The error of /proc/loadavg; None if it cannot be read.
        pub(super) off: Option<i32>,
        /// How many PIDs can be skipped before the kernel refuses.
        pub(super) skips: i32,
        pub(super) max: i32,
        pub(super) nexts: u32,
    }

    impl Fake {
        fn go_on(&mut self) -> i32 {
            let last = self.last;
            let free = (last + 1..self.max).chain(300..=last).find(|pid| !self.taken.contains(pid));
            self.last = free.unwrap();
            self.last
        }
    }

    impl Counter for Fake {
        fn newest(&self) -> Option<i32> {
            self.off.map(|off| self.last + off)
        }

        fn skip(&mut self, count: i32) -> bool {
            let can = count.min(self.skips);
            self.skips -= can;
            (0..can).for_each(|_| _ = self.go_on());
            can == count
        }

        fn next(&mut self) -> i32 {
            self.nexts += 1;
            self.go_on()
        }
    }

    pub(super) fn fake() -> Fake {
        Fake { last: 7, off: Some(0), skips: i32::MAX, max: 1 << 22, ..Fake::default() }
    }

    #[test]
    fn threads_are_made_only_where_nothing_else_is_known_to_work() {
        let mut counter = fake();
        assert_eq!(use_up(&mut counter, 300_000).unwrap(), 300_000);
        assert_eq!(counter.nexts, 1);
        let mut counter = Fake { off: Some(3), ..fake() };
        assert_eq!(use_up(&mut counter, 1000).unwrap(), 1000);
        assert_eq!(counter.nexts, 1000 - 7);
    }

    #[test]
    fn pids_that_end_before_are_an_error() {
        let error = use_up(&mut Fake { max: 32_768, ..fake() }, 40_000).unwrap_err();
        insta::assert_snapshot!(error, @"PIDs end below 40000 here (kernel.pid_max)");
    }

    proptest! {
        #[test]
        fn the_wanted_number_is_reached_and_not_passed(
            // Fewer than the stride leaves in reserve.
            taken in proptest::collection::btree_set(8..1200, 0..12),
            off in proptest::option::of(-1..2),
            skips in 0..1500,
            wanted in 100..1000,
        ) {
            let mut counter = Fake { taken: taken.clone(), off, skips, ..fake() };
            let last = use_up(&mut counter, wanted).unwrap();
            let least = (wanted..).find(|pid| !taken.contains(pid)).unwrap();
            prop_assert_eq!(last, least);
        }
    }

    #[test]
    fn this_kernel_tells_its_newest_pid() {
        let child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id() as i32;
        child.wait_with_output().unwrap();
        assert!(newest().is_some_and(|newest| newest >= pid || newest < pid / 2));
    }
}
