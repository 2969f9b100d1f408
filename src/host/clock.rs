//! The clocks that a service sees: CLOCK_MONOTONIC and CLOCK_BOOTTIME count from a host's start, so another host's are elsewhere. A time
//! namespace (time_namespaces(7)) lets them go on. Must never let them be set back unnoticed.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    path::Path,
    process::Command,
    time::Duration,
};

use caps::{CapSet, Capability};
use nix::time::{ClockId, clock_gettime};

use crate::image::Clocks;
use crate::proc;
use crate::sys::namespace;

const BILLION: i128 = 1_000_000_000;

/// In whose time a CRIU lives, and so what it restores: it shares all namespaces with the service.
#[derive(Debug)]
pub enum Time {
    /// This container's.
    Ours,
    /// That of a service which was restored here.
    Of(File),
    /// One that goes on where another was left, where such can be made.
    Continued(Clocks),
}

impl Time {
    /// The time that the process `pid` lives in.
    ///
    /// # Errors
    /// Where it cannot be looked up.
    pub fn of(pid: i32) -> io::Result<Time> {
        let (ours, theirs) = (Path::new("/proc/self/ns/time"), proc::path(pid, "ns/time"));
        // Kernels before 5.6 have none.
        match (fs::read_link(ours), fs::read_link(&theirs)) {
            (Ok(ours), Ok(there)) if ours != there => Ok(Time::Of(File::open(theirs)?)),
            (Ok(_), Err(error)) => Err(error),
            _ => Ok(Time::Ours),
        }
    }

    /// Has what `command` starts live there.
    pub fn apply(self, command: &mut Command) {
        match self {
            Time::Ours => {}
            Time::Of(namespace) => namespace::start_in_time(command, namespace.into()),
            // Where it is certain to be refused it is not even tried: a seccomp filter may kill who does.
            Time::Continued(clocks) if may_make_namespaces() => {
                if let Some(offsets) = offsets_that_continue(&clocks) {
                    namespace::start_in_new_time(command, offsets);
                }
            }
            Time::Continued(_) => {}
        }
    }
}

/// SYS_ADMIN to make and enter one, SYS_TIME to set its offsets (time_namespaces(7)).
fn may_make_namespaces() -> bool {
    let needed = [Capability::CAP_SYS_ADMIN, Capability::CAP_SYS_TIME];
    needed.into_iter().all(|capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false))
}

/// The clocks that the process `pid` sees now.
///
/// # Errors
/// Where they cannot be looked up.
pub fn seen_by(pid: i32) -> io::Result<Clocks> {
    let seen = here()?.shifted(offsets(&pid.to_string())?, offsets("self")?);
    Ok(Clocks { monotonic_ns: seen.monotonic as u64, boottime_ns: seen.boottime as u64 })
}

/// By how many milliseconds the process `pid` sees its clocks ahead of what they were (negative: behind), of the two the one that is
/// worse off; 0 where they go on.
///
/// # Errors
/// Where they cannot be looked up.
pub fn jump(pid: i32, before: &Clocks) -> io::Result<i64> {
    if offsets(&pid.to_string())? != offsets("self")? {
        return Ok(0);
    }
    let now = seen_by(pid)?;
    let ahead = |now: u64, before: u64| ((i128::from(now) - i128::from(before)) / 1_000_000) as i64;
    Ok(worse(ahead(now.monotonic_ns, before.monotonic_ns), ahead(now.boottime_ns, before.boottime_ns)))
}

/// Back is worse than ahead.
fn worse(one: i64, other: i64) -> i64 {
    let (low, high) = (one.min(other), one.max(other));
    if low < 0 { low } else { high }
}

/// More than a host's clock gains while a container moves, in milliseconds.
const TOLERANCE: u64 = 1000;

/// What a user must know of a jump by so many milliseconds, of a service that was away for `away_ms`. None where the clocks went on as
/// they do for a process that was stopped meanwhile.
pub fn warning(jump: &io::Result<i64>, away_ms: u64) -> Option<String> {
    let ms = match jump {
        Ok(ms) => *ms,
        Err(error) => {
            return Some(format!("whether the service's clocks were set back or ahead is not known: {error}"));
        }
    };
    let time = humantime::format_duration(Duration::from_millis(ms.unsigned_abs()));
    let clocks = "the service has no time namespace (--isolate auto makes one where the container permits it), so its CLOCK_MONOTONIC or \
                  CLOCK_BOOTTIME jumps";
    if ms < 0 {
        return Some(format!(
            "{clocks} back by {time}, which programs do not expect: what waits by it waits for as much longer, and differences of times \
             can be negative. See docs/isolation.md"
        ));
    }
    let more = ms.unsigned_abs() > away_ms.saturating_add(TOLERANCE);
    more.then(|| format!("{clocks} ahead by {time}: what waits by it has waited long enough. See docs/isolation.md"))
}

/// Both clocks, or what is added to them, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pair {
    monotonic: i128,
    boottime: i128,
}

impl Pair {
    /// With other offsets to the host's clocks.
    fn shifted(self, to: Pair, from: Pair) -> Pair {
        Pair {
            monotonic: self.monotonic + to.monotonic - from.monotonic,
            boottime: self.boottime + to.boottime - from.boottime,
        }
    }

    /// As `timens_offsets` is written: whole seconds, and the nanoseconds above them.
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

/// What the time namespace of a process adds to the host's clocks; nothing where the kernel has none.
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

/// What to write to `timens_offsets` so that both clocks go on.
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
        let clocks = Clocks { monotonic_ns: u64::MAX, boottime_ns: 5 };
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

    #[test]
    fn only_what_nobody_expects_is_warned_of() {
        let said = |jump_ms| warning(&Ok(jump_ms), 5000);
        insta::assert_snapshot!(said(-7_200_000).unwrap(), @"the service has no time namespace (--isolate auto makes one where the container permits it), so its CLOCK_MONOTONIC or CLOCK_BOOTTIME jumps back by 2h, which programs do not expect: what waits by it waits for as much longer, and differences of times can be negative. See docs/isolation.md");
        insta::assert_snapshot!(said(7_200_000).unwrap(), @"the service has no time namespace (--isolate auto makes one where the container permits it), so its CLOCK_MONOTONIC or CLOCK_BOOTTIME jumps ahead by 2h: what waits by it has waited long enough. See docs/isolation.md");
        assert_eq!([warning(&Ok(0), 0), said(5500)], [None, None]);
        let error = io::Error::from_raw_os_error(libc::EACCES);
        insta::assert_snapshot!(warning(&Err(error), 0).unwrap(), @"whether the service's clocks were set back or ahead is not known: Permission denied (os error 13)");
    }
}
