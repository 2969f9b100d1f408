//! What this container has, as far as a restore needs it.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::resource::{Resource, getrlimit};

use super::cpu_features;
use crate::privileges::{Abilities, Ability, Answer, RestorePlan};
use crate::sys::pids;

/// What this container has. None: it is not told, and nothing is refused for it.
#[derive(Debug, Clone, Default)]
pub struct Here {
    /// As Rust names it.
    pub arch: String,
    /// Features of its CPU.
    pub features: Vec<String>,
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
    /// Bytes that may still be taken.
    pub memory: Option<u64>,
    /// Processes and threads that may still be made.
    pub processes: Option<u64>,
    /// Hard limit of open files.
    pub descriptors: Option<u64>,
}

impl Here {
    /// Looks.
    pub fn look() -> Self {
        Self::with(&Abilities::probe())
    }

    /// Looks for all that is no ability.
    pub fn with(abilities: &Abilities) -> Self {
        Self {
            arch: std::env::consts::ARCH.to_owned(),
            features: cpu_features(),
            uid: abilities.facts.uid,
            bounding: abilities.facts.bounding.clone(),
            lacks: lacks(abilities),
            pid_max: pid_max(),
            used: if RestorePlan::of(abilities).can_go_back() { None } else { pids::newest() },
            memory: free_memory(),
            processes: free_processes(),
            descriptors: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard),
        }
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

/// Bytes that this container may still take, as far as it is told.
fn free_memory() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let available: u64 =
        info.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse().ok())?;
    let limit = number("/sys/fs/cgroup/memory.max").or_else(|| number("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    Some(limit.map_or(available << 10, |limit: u64| limit.min(available << 10)))
}

/// By the pids controller, of cgroup v2 or v1; "max" is no number.
fn free_processes() -> Option<u64> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/pids"].iter().find_map(|folder| {
        let limit: u64 = number(&format!("{folder}/pids.max"))?;
        Some(limit.saturating_sub(number(&format!("{folder}/pids.current"))?))
    })
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
        let here = Here::look();
        assert!(here.memory.is_some_and(|bytes| bytes > 0) && here.pid_max.is_some_and(|max| max > 300));
        assert!(!here.features.is_empty() && here.lacks.is_empty());
    }
}
