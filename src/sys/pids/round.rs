//! Goes once round the PIDs, so that numbers that were used here can be had again.
//!
//! Ends with the counter below all numbers that were used before, or with an error; never passes the end by more than a
//! few numbers.

use std::io;

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::{Counter, Kernel, cores, end, millis_up_to, newest, use_up_one};
use crate::sys::process::{self, Fork};

/// PIDs that two processes use up between two looks at the counter.
const CHUNK: i32 = 512;
/// PIDs before the end that one process uses up alone. The other one may be late by a chunk.
const ALONE: i32 = 4 * CHUNK;
/// After the end, the kernel gives out numbers from here on (RESERVED_PIDS in kernel/pid.c).
const LOWEST: i32 = 300;

/// Uses up all PIDs up to the end, on two cores. The next process gets one of the lowest. Only for a process
/// with one thread, because nothing can be opened meanwhile.
///
/// # Errors
/// If the limit of processes allows no thread, or if /proc does not show the counter.
pub fn go_round() -> io::Result<()> {
    let hidden = || io::Error::new(io::ErrorKind::Unsupported, "/proc/loadavg does not show this container's PIDs");
    let end = end().ok_or_else(hidden)?;
    let last = use_up_one(&mut Kernel, 0, 0)?;
    // lxcfs replaces /proc/loadavg.
    if newest() != Some(last) {
        return Err(hidden());
    }
    let second = if cores() > 1 { Some(process::fork()?) } else { None };
    if let Some(Fork::Child) = second {
        process::on_parent_death(libc::SIGKILL);
    }
    let near = advance(&mut Kernel, last, end - ALONE);
    match second {
        Some(Fork::Child) => process::exit_now(u8::from(near.is_err())),
        Some(Fork::Parent(child)) => _ = waitpid(Pid::from_raw(child), None)?,
        None => (),
    }
    finish(&mut Kernel, near?, end)
}

/// Forecast in milliseconds: how long [`go_round`] takes here. None if the end of the PIDs cannot be read.
pub fn millis_round() -> Option<u64> {
    let left = end()?.saturating_sub(newest()?);
    Some(millis_up_to(left))
}

/// Uses up PIDs until `near` is reached, or until others have gone past the end. Returns the newest.
fn advance(counter: &mut impl Counter, mut last: i32, near: i32) -> io::Result<i32> {
    while last < near {
        if !counter.skip(CHUNK.min(near - last)) {
            use_up_one(counter, 0, 0)?;
        }
        match counter.newest() {
            Some(newest) if newest >= last => last = newest,
            newest => return Ok(newest.unwrap_or(LOWEST)),
        }
    }
    Ok(last)
}

/// Uses up the rest one by one, unless the counter is past the end already.
fn finish(counter: &mut impl Counter, from: i32, end: i32) -> io::Result<()> {
    let mut last = from;
    while last >= from && from >= end - ALONE {
        last = use_up_one(counter, 0, 0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sys::pids::tests::{Fake, fake};

    fn go(counter: &mut Fake) -> io::Result<()> {
        let (last, end) = (counter.last, counter.max);
        let near = advance(counter, last, end - ALONE)?;
        finish(counter, near, end)
    }

    proptest! {
        #[test]
        fn the_counter_begins_anew_and_goes_no_further(
            last in 300..40_000,
            taken in proptest::collection::btree_set(290..40_000, 0..40),
            skips in 0..50_000,
        ) {
            let mut counter = Fake { last, taken, skips, max: 40_000, ..fake() };
            go(&mut counter).unwrap();
            prop_assert!((LOWEST..LOWEST + 50).contains(&counter.last), "{}", counter.last);
        }
    }

    #[test]
    fn who_is_late_stops_where_the_other_has_gone_past_the_end() {
        let mut counter = Fake { last: 310, max: 40_000, ..fake() };
        assert_eq!(advance(&mut counter, 20_000, 40_000 - ALONE).unwrap(), 310 + CHUNK);
        finish(&mut counter, 310 + CHUNK, 40_000).unwrap();
        assert_eq!(counter.last, 310 + CHUNK);
    }
}
