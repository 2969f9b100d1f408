//! Reads what this container has for a restore: its CPU, limits, addresses and privileges.
//!
//! An unknown limit is None, and refuses nothing.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::process::parent_id;

use super::{inet, volumes};
use crate::host::clock;
use crate::host::cpu::{RegisterArea, cpu_features};
use crate::host::pid_counting::Round;
use crate::host::{cgroup, memory};
use crate::image::{Opened, SystemV};
use crate::privileges::{Abilities, Ability, Answer, RestorePlan};
use crate::proc::limits::Limits;
use crate::proc::sysvipc;
use crate::sys::memory::page_size;
use crate::sys::pids;

/// What this container has. None is unknown or unlimited, and refuses nothing.
#[derive(Debug, Clone, Default)]
pub struct Means {
    /// The name that Rust uses.
    pub arch: String,
    pub features: Vec<String>,
    pub registers: Option<RegisterArea>,
    /// Its clocks.
    pub clock: Option<clock::Means>,
    /// Bytes of a page.
    pub page_size: Option<u64>,
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
    /// All hard limits; none where a process may raise them.
    pub limits: Limits,
    /// Processes and threads that may still be created.
    pub processes: Option<u64>,
    /// RLIMIT_NPROC. All limits of a process here are hard ones: a restore raises its soft limits to them.
    pub user_processes: Option<u64>,
    /// RLIMIT_NOFILE.
    pub descriptors: Option<u64>,
    /// RLIMIT_MEMLOCK.
    pub locked: Option<u64>,
    /// RLIMIT_AS.
    pub address_space: Option<u64>,
    /// RLIMIT_DATA.
    pub data: Option<u64>,
    /// RLIMIT_FSIZE.
    pub file_size: Option<u64>,
    /// RLIMIT_SIGPENDING.
    pub signals: Option<u64>,
    /// vm.max_map_count.
    pub mappings: Option<u64>,
    /// Bytes that the kernel still promises, where it promises no more than it has (vm.overcommit_memory=2).
    pub commit: Option<u64>,
    pub inotify_instances: Option<u64>,
    pub inotify_watches: Option<u64>,
    pub epoll_watches: Option<u64>,
    /// Bytes that a System V message queue may hold; None if that is no limit.
    pub queue: Option<u64>,
    /// The first port that this user may bind.
    pub first_port: Option<u32>,
    /// Addresses of this network namespace; None if any may be bound.
    pub addresses: Option<BTreeSet<IpAddr>>,
    /// Addresses and TCP ports on which somebody listens already.
    pub taken: BTreeSet<(IpAddr, u32)>,
    /// System V objects of this IPC namespace.
    pub objects: Vec<SystemV>,
    /// Tells why a file cannot be opened.
    pub refusal: Option<fn(&Opened) -> Option<String>>,
}

impl Means {
    /// For a restore in this container.
    pub fn with(abilities: &Abilities, clock: Option<clock::Means>) -> Self {
        // A restore gets fresh PIDs first where that is quick.
        let again = RestorePlan::of(abilities).can_go_back() || Round::is_quick_below(parent_id());
        let used = if again { None } else { pids::newest() };
        let fresh = Self::fresh(abilities, clock, std::process::id() as i32);
        let processes = tasks().iter().map(|(limit, taken)| limit.saturating_sub(*taken)).min();
        let commit = fresh.commit.map(|limit| limit.saturating_sub(memory::meminfo("Committed_AS").unwrap_or(0)));
        let objects = sysvipc::names().into_iter().map(SystemV::from).collect();
        Self { used, processes, commit, taken: inet::listening("self"), objects, ..fresh }
    }

    /// For a restore in a fresh container like the one of `init`: ignores the PIDs, processes, memory and ports in use.
    /// The limits are those of `init`. An exec may have others.
    pub fn fresh(abilities: &Abilities, clock: Option<clock::Means>, init: i32) -> Self {
        let limits = Limits::read(init);
        Self {
            arch: std::env::consts::ARCH.to_owned(),
            features: cpu_features(),
            registers: RegisterArea::here(),
            clock,
            page_size: Some(page_size()),
            uid: abilities.facts.uid,
            bounding: abilities.facts.bounding.clone(),
            lacks: lacks(abilities),
            pid_max: pids::end(),
            used: None,
            memory: memory::limit_with_swap(),
            host_memory: memory::meminfo("MemAvailable")
                .zip(memory::meminfo("SwapFree"))
                .map(|(memory, swap)| memory + swap),
            processes: tasks().iter().map(|(limit, _)| *limit).min(),
            user_processes: of_user(abilities, limits.hard("Max processes")),
            // CRIU raises its own limit as far as it may.
            descriptors: match abilities.facts.effective.contains("SYS_RESOURCE") {
                true => number("/proc/sys/fs/nr_open"),
                false => limits.hard("Max open files"),
            },
            locked: unless(abilities, &["IPC_LOCK"], limits.hard("Max locked memory")),
            address_space: limits.hard("Max address space"),
            data: limits.hard("Max data size"),
            file_size: limits.hard("Max file size"),
            signals: limits.hard("Max pending signals"),
            limits: unless(abilities, &["SYS_RESOURCE"], Some(limits)).unwrap_or_default(),
            mappings: number("/proc/sys/vm/max_map_count"),
            commit: promised(),
            inotify_instances: number("/proc/sys/fs/inotify/max_user_instances"),
            inotify_watches: number("/proc/sys/fs/inotify/max_user_watches"),
            epoll_watches: number("/proc/sys/fs/epoll/max_user_watches"),
            queue: unless(abilities, &["SYS_RESOURCE"], number("/proc/sys/kernel/msgmnb")),
            first_port: unless(
                abilities,
                &["NET_BIND_SERVICE"],
                number("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
            ),
            addresses: inet::addresses(),
            taken: BTreeSet::new(),
            objects: Vec::new(),
            refusal: Some(volumes::refusal),
        }
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

/// The limit, if none of the capabilities that exempt from it is effective.
fn unless<T>(abilities: &Abilities, exempt: &[&str], limit: Option<T>) -> Option<T> {
    limit.filter(|_| !exempt.iter().any(|capability| abilities.facts.has(capability)))
}

/// The limit of a user's processes, which root does not have (getrlimit(2)).
fn of_user(abilities: &Abilities, limit: Option<u64>) -> Option<u64> {
    unless(abilities, &["SYS_RESOURCE", "SYS_ADMIN"], limit).filter(|_| abilities.facts.uid != 0)
}

/// All that the host promises, in mode 2 of overcommit (proc_sys_vm(5)).
fn promised() -> Option<u64> {
    const NEVER: u8 = 2;
    number("/proc/sys/vm/overcommit_memory").filter(|mode: &u8| *mode == NEVER)?;
    memory::meminfo("CommitLimit")
}

/// The limit of each level of the pids controller, and how many processes and threads it has.
fn tasks() -> Vec<(u64, u64)> {
    let levels = cgroup::visible("pids");
    let limited = |cgroup: &cgroup::Cgroup| Some((cgroup.number("pids.max")?, cgroup.number("pids.current")?));
    levels.iter().filter_map(limited).collect()
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
        let here = Means::with(&Abilities::probe(), None);
        assert!(here.host_memory.is_some_and(|bytes| bytes > 0) && here.pid_max.is_some_and(|max| max > 300));
        assert!(!here.features.is_empty() && here.lacks.is_empty());
    }
}
