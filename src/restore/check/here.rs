//! What this container has that a restore needs.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::resource::{Resource, getrlimit};

use crate::host::cpu::{RegisterArea, cpu_features};
use crate::privileges::{Abilities, Ability, Answer, RestorePlan};
use crate::sys::pids;

/// What this container has. None is unknown or unlimited, and refuses nothing.
#[derive(Debug, Clone, Default)]
pub struct Here {
    /// The name that Rust uses.
    pub arch: String,
    pub features: Vec<String>,
    pub registers: Option<RegisterArea>,
    /// Effective user.
    pub uid: u32,
    /// Bounding set, without `CAP_`.
    pub bounding: BTreeSet<String>,
    /// Missing abilities that every restore needs, with the reasons.
    pub lacks: Vec<(&'static str, String)>,
    /// PIDs stay below this number (proc_sys_kernel(5)).
    pub pid_max: Option<i32>,
    /// The newest PID; None if used PIDs can be had again.
    pub used: Option<i32>,
    /// Memory limit of the container in bytes, swap included.
    pub memory: Option<u64>,
    /// Bytes of memory left on the host, swap included.
    pub host_memory: Option<u64>,
    /// Processes and threads that may still be created.
    pub processes: Option<u64>,
    /// Hard limit of open files.
    pub descriptors: Option<u64>,
    /// Bytes that a System V message queue may hold; None if that is no limit.
    pub queue: Option<u64>,
}

impl Here {
    /// For a restore in this container.
    pub fn with(abilities: &Abilities) -> Self {
        let used = if RestorePlan::of(abilities).can_go_back() { None } else { pids::newest() };
        Self { used, ..Self::fresh(abilities) }.without(taken_processes())
    }

    /// For a restore in a fresh container like this one: ignores the PIDs and processes in use.
    pub fn fresh(abilities: &Abilities) -> Self {
        Self {
            arch: std::env::consts::ARCH.to_owned(),
            features: cpu_features(),
            registers: RegisterArea::here(),
            uid: abilities.facts.uid,
            bounding: abilities.facts.bounding.clone(),
            lacks: lacks(abilities),
            pid_max: pid_max(),
            used: None,
            memory: memory_limit(),
            host_memory: meminfo("MemAvailable").zip(meminfo("SwapFree")).map(|(memory, swap)| memory + swap),
            processes: PIDS.iter().find_map(|folder| number(&format!("{folder}/pids.max"))),
            descriptors: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard),
            queue: queue_limit(abilities),
        }
    }

    fn without(self, taken: u64) -> Self {
        Self { processes: self.processes.map(|limit| limit.saturating_sub(taken)), ..self }
    }
}

/// Missing abilities that every restore needs. Yama at 1 and processes that /proc hides matter to a dump
/// only.
fn lacks(abilities: &Abilities) -> Vec<(&'static str, String)> {
    let missing = |ability: Ability| match abilities.answers.get(&ability) {
        Some(Answer::No(reason)) => Some((ability.name(), reason.clone())),
        _ => None,
    };
    let proc = match &abilities.proc {
        proc if !proc.mounted => Some(("/proc", "it is not mounted".to_owned())),
        proc if proc.lacks_sys() => Some(("/proc/sys", proc.hides.join(","))),
        _ => None,
    };
    [missing(Ability::Ptrace), missing(Ability::MemoryMap), proc].into_iter().flatten().collect()
}

/// PIDs stay below this number (proc_sys_kernel(5)).
pub fn pid_max() -> Option<i32> {
    number("/proc/sys/kernel/pid_max")
}

/// The limit of the memory controller of cgroup v2 or v1, with usable swap. None for "max".
fn memory_limit() -> Option<u64> {
    if let Some(limit) = number::<u64>("/sys/fs/cgroup/memory.max") {
        let swap = number("/sys/fs/cgroup/memory.swap.max").unwrap_or(u64::MAX);
        return Some(limit.saturating_add(swap.min(meminfo("SwapFree").unwrap_or(0))));
    }
    let limit: u64 = number("/sys/fs/cgroup/memory/memory.limit_in_bytes")?;
    let both = number("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").unwrap_or(u64::MAX);
    Some(limit.saturating_add(meminfo("SwapFree").unwrap_or(0)).min(both))
}

/// A process with SYS_RESOURCE may set any size (msgctl(2)).
fn queue_limit(abilities: &Abilities) -> Option<u64> {
    if abilities.facts.effective.contains("SYS_RESOURCE") { None } else { number("/proc/sys/kernel/msgmnb") }
}

/// A line of /proc/meminfo, in bytes.
fn meminfo(name: &str) -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Folders of the pids controller of cgroup v2 and v1.
const PIDS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/pids"];

fn taken_processes() -> u64 {
    PIDS.iter().find_map(|folder| number(&format!("{folder}/pids.current"))).unwrap_or(0)
}

fn number<T: std::str::FromStr>(path: &str) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_proc_and_the_kernels_help_nothing_is_restored() {
        let lacks = lacks(&Abilities::with(&[]));
        let refused = |name| (name, "EPERM".to_owned());
        assert_eq!(lacks, [refused("ptrace"), refused("PR_SET_MM_MAP"), ("/proc", "it is not mounted".to_owned())]);
    }

    #[test]
    fn this_machine_can_be_asked() {
        let here = Here::with(&Abilities::probe());
        assert!(here.host_memory.is_some_and(|bytes| bytes > 0) && here.pid_max.is_some_and(|max| max > 300));
        assert!(!here.features.is_empty() && here.lacks.is_empty());
    }
}
