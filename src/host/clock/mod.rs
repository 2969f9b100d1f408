//! The clocks that a service sees. CLOCK_MONOTONIC and CLOCK_BOOTTIME count from the host's boot, so they
//! jump when a service moves to another host. A time namespace (time_namespaces(7)) lets them continue.
//!
//! A recorded clock never goes back without a word: [`plan`] decides what becomes of it.

mod plan;
mod words;

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    path::Path,
};

use caps::{CapSet, Capability};
use nix::time::{ClockId, clock_gettime};

use crate::image::Clocks;
use crate::proc;
use crate::sys::namespace::{self, TimeSpace};

pub use plan::{Means, Plan, Policy, TOLERANCE};
pub use words::{Said, rough, said};

const BILLION: i128 = 1_000_000_000;

/// The time namespace of a CRIU process. The service gets the same one, as it shares all namespaces with
/// CRIU.
#[derive(Debug)]
pub enum Time {
    /// This container's.
    Ours,
    /// The namespace of a service that was restored here.
    Of(File),
    /// A new one in which these clocks continue. This container's where it cannot be created.
    Continued(Clocks),
}

impl Time {
    pub fn of(pid: i32) -> io::Result<Time> {
        let (ours, theirs) = (Path::new("/proc/self/ns/time"), proc::path(pid, "ns/time"));
        // Linux before 5.6 has no time namespaces.
        match (fs::read_link(ours), fs::read_link(&theirs)) {
            (Ok(ours), Ok(there)) if ours != there => Ok(Time::Of(File::open(theirs)?)),
            (Ok(_), Err(error)) => Err(error),
            _ => Ok(Time::Ours),
        }
    }

    /// The namespace in which a program is to start.
    pub fn space(self) -> TimeSpace {
        match self {
            Time::Ours => TimeSpace::Ours,
            Time::Of(namespace) => TimeSpace::Existing(namespace.into()),
            Time::Continued(clocks) => offsets_that_continue(&clocks).map_or(TimeSpace::Ours, TimeSpace::New),
        }
    }
}

/// Whether this process may make a time namespace. SYS_ADMIN is needed to create and enter one, SYS_TIME to set
/// its offsets (time_namespaces(7)).
fn may_make_namespaces() -> bool {
    let needed = [Capability::CAP_SYS_ADMIN, Capability::CAP_SYS_TIME];
    // Without the capabilities the kernel is not even asked: a seccomp filter may kill the process that asks.
    needed.into_iter().all(|capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false))
        && namespace::may_make_time()
}

/// Whether clocks can continue in user space here: criu knows the instructions of one architecture
/// (criu/README.md, 0081).
pub const fn can_hide() -> bool {
    cfg!(target_arch = "x86_64")
}

impl Means {
    /// Of this process.
    pub fn here(policy: Policy) -> io::Result<Self> {
        let time_namespace = may_make_namespaces();
        Ok(Self { now: here()?.clocks(), time_namespace, user_space: can_hide(), policy })
    }
}

/// The clocks that the process `pid` sees now by the kernel.
pub fn seen_by(pid: i32) -> io::Result<Clocks> {
    Ok(here()?.shifted(offsets(&pid.to_string())?, offsets("self")?).clocks())
}

/// Milliseconds by which the clocks of the process `pid` are ahead of `before` (negative: behind), of the
/// worse one. 0 if its time namespace has offsets of its own, because the clocks then continue.
pub fn jump(pid: i32, before: &Clocks) -> io::Result<i64> {
    if offsets(&pid.to_string())? != offsets("self")? {
        return Ok(0);
    }
    Ok(ahead(&seen_by(pid)?, before))
}

fn ahead(now: &Clocks, before: &Clocks) -> i64 {
    let ahead = |now: u64, before: u64| ((i128::from(now) - i128::from(before)) / 1_000_000) as i64;
    worse(ahead(now.monotonic_ns, before.monotonic_ns), ahead(now.boottime_ns, before.boottime_ns))
}

/// Behind is worse than ahead.
fn worse(one: i64, other: i64) -> i64 {
    let (low, high) = (one.min(other), one.max(other));
    if low < 0 { low } else { high }
}

/// Both clocks, or their offsets, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pair {
    monotonic: i128,
    boottime: i128,
}

impl Pair {
    fn clocks(self) -> Clocks {
        Clocks { monotonic_ns: self.monotonic as u64, boottime_ns: self.boottime as u64, in_user_space: false }
    }

    /// Converts from a namespace with the offsets `from` to one with the offsets `to`.
    fn shifted(self, to: Pair, from: Pair) -> Pair {
        Pair {
            monotonic: self.monotonic + to.monotonic - from.monotonic,
            boottime: self.boottime + to.boottime - from.boottime,
        }
    }

    /// The format of `timens_offsets`: whole seconds, then the nanoseconds above them.
    fn text(self) -> String {
        let line = |name, time: i128| format!("{name} {} {}\n", time.div_euclid(BILLION), time.rem_euclid(BILLION));
        line("monotonic", self.monotonic) + &line("boottime", self.boottime)
    }
}

/// This process's clocks.
fn here() -> io::Result<Pair> {
    let read =
        |clock| clock_gettime(clock).map(|time| i128::from(time.tv_sec()) * BILLION + i128::from(time.tv_nsec()));
    Ok(Pair { monotonic: read(ClockId::CLOCK_MONOTONIC)?, boottime: read(ClockId::CLOCK_BOOTTIME)? })
}

/// What the time namespace of a process adds to the host's clocks; zero if the kernel has no time namespaces.
fn offsets(pid: &str) -> io::Result<Pair> {
    match fs::read_to_string(format!("/proc/{pid}/timens_offsets")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Pair::default()),
        text => Ok(parse(&text?)),
    }
}

fn parse(text: &str) -> Pair {
    let time = |name| {
        let mut words = text.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace();
        Some(words.next()?.parse::<i128>().ok()? * BILLION + words.next()?.parse::<i128>().ok()?)
    };
    Pair { monotonic: time("monotonic").unwrap_or_default(), boottime: time("boottime").unwrap_or_default() }
}

/// The content of `timens_offsets` with which both clocks continue.
fn offsets_that_continue(clocks: &Clocks) -> Option<CString> {
    let (here, ours) = (here().ok()?, offsets("self").ok()?);
    let wanted = Pair { monotonic: clocks.monotonic_ns.into(), boottime: clocks.boottime_ns.into() };
    CString::new(wanted.shifted(ours, here).text()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_and_written_as_the_kernel_does() {
        let text = "monotonic         -3 250000000\nboottime            7         0\n";
        let pair = Pair { monotonic: -2_750_000_000, boottime: 7_000_000_000 };
        assert_eq!(parse(text), pair);
        assert_eq!(parse(&pair.text()), pair);
        assert_eq!(parse(""), Pair::default());
    }

    #[test]
    fn offsets_continue_from_where_the_clocks_were() {
        let clocks = Clocks { monotonic_ns: u64::MAX, boottime_ns: 5, ..Clocks::default() };
        let text = offsets_that_continue(&clocks).unwrap().into_string().unwrap();
        let then = here().unwrap().shifted(parse(&text), offsets("self").unwrap());
        assert!((u64::MAX.into()..(1 << 64) + BILLION * 60).contains(&then.monotonic), "{text}");
        assert!((5..BILLION * 60).contains(&then.boottime), "{text}");
    }

    #[test]
    fn a_process_in_the_same_time_has_jumped_by_the_difference() {
        let us = std::process::id() as i32;
        let now = seen_by(us).unwrap();
        let hours = |clocks: &Clocks, hours: i64| Clocks {
            monotonic_ns: clocks.monotonic_ns.wrapping_add_signed(hours * 3_600_000_000_000),
            ..*clocks
        };
        for (before, jumped) in [(hours(&now, 100), -100), (now, 0)] {
            assert_eq!((jump(us, &before).unwrap() + 60_000).div_euclid(3_600_000), jumped);
        }
        assert!(matches!(Time::of(us).unwrap(), Time::Ours));
    }

    #[test]
    fn one_clock_that_goes_back_is_worse_than_both_ahead() {
        assert_eq!([worse(5, -1), worse(-9, -2), worse(3, 7), worse(0, 0)], [-1, -9, 7, 0]);
    }
}
