//! When the container began: what is older is the image's.

use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use super::mounts::Mounts;
use crate::proc::stat::Stat;

/// When the container of this `init` began, by the clock of file times.
pub(super) fn container_start(mounts: &Mounts, init: i32) -> io::Result<SystemTime> {
    let born = mounts.root_is_overlay().then(|| fs::metadata("/")?.created()).transpose().ok().flatten();
    beginning(born, init)
}

/// When the container began: at the birth of an overlay's root folder, or at the start of init if that is
/// earlier. A restarted container keeps its root folder. PID 1 is no measure: containers that share a PID
/// namespace may have an older one.
fn beginning(root_born: Option<SystemTime>, init: i32) -> io::Result<SystemTime> {
    let started = start_of(init)?;
    Ok(root_born.map_or(started, |born| born.min(started)))
}

/// When a process started, by the clock of file times, to 10 ms.
fn start_of(pid: i32) -> io::Result<SystemTime> {
    let ticks = Stat::read(pid)?.start;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100) as u64;
    let uptime = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
    let age = uptime.saturating_sub(Duration::from_millis(ticks.saturating_mul(1000) / per_second));
    Ok(SystemTime::now() - age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_begins_with_its_own_init_and_its_own_root() {
        let us = std::process::id() as i32;
        let started = start_of(us).unwrap();
        let apart =
            |one: SystemTime, other: SystemTime| one.duration_since(other).unwrap_or_else(|error| error.duration());
        let second = Duration::from_secs(1);
        assert!(apart(beginning(None, us).unwrap(), started) < second);
        assert_eq!(beginning(Some(started - second), us).unwrap(), started - second);
        let here = container_start(&Mounts::read().unwrap(), us).unwrap();
        assert!(apart(here, started) < second || Mounts::read().unwrap().root_is_overlay());
    }

    #[test]
    fn a_process_starts_when_it_is_started() {
        let before = SystemTime::now() - Duration::from_millis(20);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let start = start_of(child.id() as i32).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(before <= start && start <= SystemTime::now());
    }
}
