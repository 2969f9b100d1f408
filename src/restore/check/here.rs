//! What this container has, as far as a restore needs it.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::resource::{Resource, getrlimit};

use crate::host::cpu::{cpu_features, saved_registers};
use crate::image::SavedRegisters;
use crate::privileges::{Abilities, Ability, Answer, RestorePlan};
use crate::sys::pids;

/// What this container has. None: it is not told, and nothing is refused for it.
#[derive(Debug, Clone, Default)]
pub struct Here {
    /// As Rust names it.
    pub arch: String,
    /// Features of its CPU.
    pub features: Vec<String>,
    /// How registers are saved.
    pub saved_registers: Option<SavedRegisters>,
    /// Effective user.
    pub uid: u32,
    /// Capabilities of the bounding set.
    pub bounding: BTreeSet<String>,
    /// What nothing works without and is missing, and why.
    pub lacks: Vec<(&'static str, String)>,
    /// The number that PIDs stay below (proc_sys_kernel(5)).
    pub pid_max: Option<i32>,
    /// The newest PID, where PIDs only go up.
    pub used: Option<i32>,
    /// Bytes that the container may take at most, swapped out or not.
    pub memory: Option<u64>,
    /// Bytes that the host has left, swap included.
    pub host_memory: Option<u64>,
    /// Processes and threads that may still be made.
    pub processes: Option<u64>,
    /// Hard limit of open files.
    pub descriptors: Option<u64>,
}

impl Here {
    /// Looks for all that is no ability, in the container that is to restore.
    pub fn with(abilities: &Abilities) -> Self {
        let used = if RestorePlan::of(abilities).can_go_back() { None } else { pids::newest() };
        Self { used, ..Self::fresh(abilities) }.without(taken_processes())
    }

    /// As above, for a fresh container like this one: what runs here is left out.
    pub fn fresh(abilities: &Abilities) -> Self {
        Self {
            arch: std::env::consts::ARCH.to_owned(),
            features: cpu_features(),
            saved_registers: saved_registers(),
            uid: abilities.facts.uid,
            bounding: abilities.facts.bounding.clone(),
            lacks: lacks(abilities),
            pid_max: pid_max(),
            used: None,
            memory: memory_limit(),
            host_memory: meminfo("MemAvailable").zip(meminfo("SwapFree")).map(|(memory, swap)| memory + swap),
            processes: PIDS.iter().find_map(|folder| number(&format!("{folder}/pids.max"))),
            descriptors: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard),
        }
    }

    fn without(self, taken: u64) -> Self {
        Self { processes: self.processes.map(|limit| limit.saturating_sub(taken)), ..self }
    }
}

/// What nothing can be restored without. Yama, and processes that /proc hides, matter to a dump alone.
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

/// The number that PIDs stay below (proc_sys_kernel(5)).
pub fn pid_max() -> Option<i32> {
    number("/proc/sys/kernel/pid_max")
}

/// By the memory controller of cgroup v2 or v1; "max" is no number.
fn memory_limit() -> Option<u64> {
    if let Some(limit) = number::<u64>("/sys/fs/cgroup/memory.max") {
        let swap = number("/sys/fs/cgroup/memory.swap.max").unwrap_or(u64::MAX);
        return Some(limit.saturating_add(swap.min(meminfo("SwapFree").unwrap_or(0))));
    }
    let limit: u64 = number("/sys/fs/cgroup/memory/memory.limit_in_bytes")?;
    let both = number("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").unwrap_or(u64::MAX);
    Some(limit.saturating_add(meminfo("SwapFree").unwrap_or(0)).min(both))
}

/// A line of /proc/meminfo, in bytes.
fn meminfo(name: &str) -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Where the pids controller of cgroup v2 and v1 is.
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
