//! Every ability that matters to a checkpoint or restore, what it gives, and whether this container has it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::{Answer, Facts, Proc, namespaces};
use crate::sys::{namespace, pids, probe};

/// Something that a container may allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // See `name` and `gives`.
pub enum Ability {
    Ptrace,
    Attach,
    TraceOthers,
    Clone3,
    SetTid,
    LastPid,
    MemoryMap,
    ExeLink,
    MapFiles,
    Kcmp,
    ProcessVmReadv,
    Vmsplice,
    Userfaultfd,
    DropBounding,
    FileCapabilities,
    Memfd,
    Pidfd,
    Unshare,
    UserNamespace,
    PidNamespace,
    TimeNamespace,
    UnmaskedProc,
    WholeProc,
}

impl Ability {
    /// The most important first.
    pub const ALL: [Self; 23] = [
        Self::Ptrace,
        Self::Attach,
        Self::WholeProc,
        Self::MemoryMap,
        Self::Memfd,
        Self::SetTid,
        Self::Clone3,
        Self::LastPid,
        Self::ExeLink,
        Self::MapFiles,
        Self::TraceOthers,
        Self::TimeNamespace,
        Self::PidNamespace,
        Self::UserNamespace,
        Self::Unshare,
        Self::UnmaskedProc,
        Self::FileCapabilities,
        Self::DropBounding,
        Self::Kcmp,
        Self::ProcessVmReadv,
        Self::Vmsplice,
        Self::Userfaultfd,
        Self::Pidfd,
    ];

    /// The name that the kernel and runtimes use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ptrace => "ptrace",
            Self::Attach => "ptrace of non-children",
            Self::TraceOthers => "CAP_SYS_PTRACE",
            Self::Clone3 => "clone3",
            Self::SetTid => "clone3 with set_tid",
            Self::LastPid => "ns_last_pid",
            Self::MemoryMap => "PR_SET_MM_MAP",
            Self::ExeLink => "exe link",
            Self::MapFiles => "/proc/PID/map_files",
            Self::Kcmp => "kcmp",
            Self::ProcessVmReadv => "process_vm_readv",
            Self::Vmsplice => "vmsplice",
            Self::Userfaultfd => "userfaultfd",
            Self::DropBounding => "CAP_SETPCAP",
            Self::FileCapabilities => "criu with file capabilities",
            Self::Memfd => "executable memfd",
            Self::Pidfd => "pidfd_open",
            Self::Unshare => "unshare",
            Self::UserNamespace => "user namespace",
            Self::PidNamespace => "PID namespace",
            Self::TimeNamespace => "time namespace",
            Self::UnmaskedProc => "unmasked /proc",
            Self::WholeProc => "a whole /proc",
        }
    }

    /// What it is good for, and what happens without it.
    pub fn gives(self) -> &'static str {
        match self {
            Self::Ptrace => "stop and inspect processes; without it, no checkpoint or restore is possible",
            Self::Attach => "stop a service from beside it; without it, a tracer does (ptrace_scope 1), or nothing",
            Self::TraceOthers => "services whose processes run as several users, or are not dumpable",
            Self::Clone3 => "needed for set_tid; without it, freeze creates processes with clone",
            Self::SetTid => "choose PIDs and TIDs: at once, in any order, even in a container that has used them",
            Self::LastPid => "choose PIDs, a little slower; without it and set_tid, a restore counts PIDs up",
            Self::MemoryMap => "set a process's memory map; without it, no checkpoint or restore is possible",
            Self::ExeLink => "/proc/PID/exe of a restored process is its program; without it, criu",
            Self::MapFiles => "open deleted files that are mapped; without it, they come back as memory files",
            Self::Kcmp => "compare shared files and memory; without it, freeze uses slower tests",
            Self::ProcessVmReadv => "read memory; without it, the processes write it themselves",
            Self::Vmsplice => "pass memory on without a copy; without it, memory is copied",
            Self::Userfaultfd => "nothing today: a restore loads all memory before the service runs",
            Self::DropBounding => "restore the service's bounding set; without it, the container's applies",
            Self::FileCapabilities => "criu gets the capabilities that are left in the container's bounding set",
            Self::Memfd => "start the service's subreaper; without it, no service can start",
            Self::Pidfd => "wait for processes without polling",
            Self::Unshare => "needed for a user namespace",
            Self::UserNamespace => "--isolate auto; without it, the option has no effect",
            Self::PidNamespace => "with --isolate auto: chosen PIDs, and the original /proc/PID/exe",
            Self::TimeNamespace => {
                "CLOCK_MONOTONIC and CLOCK_BOOTTIME continue; without it, they jump to the new host's"
            }
            Self::UnmaskedProc => "needed for a PID namespace",
            Self::WholeProc => "find the service's processes; without it, no checkpoint is possible",
        }
    }
}

/// Abilities that are probed by creating a namespace.
const NAMESPACES: [Ability; 3] = [Ability::UserNamespace, Ability::PidNamespace, Ability::TimeNamespace];

/// What this container allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Abilities {
    pub facts: Facts,
    pub proc: Proc,
    /// The answer for each ability that was probed.
    pub answers: BTreeMap<Ability, Answer>,
}

impl Abilities {
    /// Probes all but namespaces: about 30 system calls, no new process, no change.
    pub fn probe() -> Self {
        Self::ask(|ability| !NAMESPACES.contains(&ability))
    }

    /// Also probes namespaces, in short-lived children. Only for a single-threaded process.
    pub fn with_namespaces() -> Self {
        Self::ask(|_| true)
    }

    fn ask(which: impl Fn(Ability) -> bool) -> Self {
        let (facts, proc) = (Facts::read(), Proc::read());
        let asked = Ability::ALL.into_iter().filter(|ability| which(*ability));
        let answers = asked.map(|ability| (ability, ask(ability, &facts, &proc))).collect();
        Self { facts, proc, answers }
    }

    pub fn has(&self, ability: Ability) -> bool {
        self.answers.get(&ability).is_some_and(Answer::is_yes)
    }

    /// A container with exactly these abilities.
    #[cfg(test)]
    pub fn with(abilities: &[Ability]) -> Self {
        let answer = |ability| (ability, Answer::when(abilities.contains(&ability), "EPERM"));
        Self { facts: Facts::default(), proc: Proc::default(), answers: Ability::ALL.into_iter().map(answer).collect() }
    }
}

fn ask(ability: Ability, facts: &Facts, proc: &Proc) -> Answer {
    match ability {
        Ability::Ptrace => probe::ptrace().into(),
        Ability::Attach => attach(facts),
        Ability::TraceOthers => Answer::when(facts.has("SYS_PTRACE"), "the capability is missing"),
        Ability::Clone3 => probe::clone3().into(),
        Ability::SetTid => probe::set_tid().into(),
        Ability::LastPid => last_pid(facts),
        Ability::MemoryMap => probe::memory_map().into(),
        Ability::ExeLink => Answer::when(restores(facts), "needs CHECKPOINT_RESTORE"),
        Ability::MapFiles => map_files(),
        Ability::Kcmp => probe::kcmp().into(),
        Ability::ProcessVmReadv => probe::process_vm_readv().into(),
        Ability::Vmsplice => probe::vmsplice().into(),
        Ability::Userfaultfd => probe::userfaultfd().into(),
        Ability::DropBounding => probe::drop_from_bounding_set().into(),
        Ability::FileCapabilities => file_capabilities(facts),
        Ability::Memfd => probe::memfd().into(),
        Ability::Pidfd => probe::pidfd().into(),
        Ability::Unshare => probe::unshare().into(),
        Ability::UserNamespace => namespaces::user().into(),
        Ability::PidNamespace => namespaces::processes().into(),
        Ability::TimeNamespace => namespaces::time().into(),
        Ability::UnmaskedProc => {
            Answer::when(proc.masked.is_empty(), &format!("mounts that cover it: {}", proc.masked.len()))
        }
        Ability::WholeProc => proc.hidden(facts).map_or(Answer::Yes, |reason| Answer::No(reason.to_owned())),
    }
}

/// CHECKPOINT_RESTORE is sufficient since Linux 5.9; before that it took SYS_ADMIN.
fn restores(facts: &Facts) -> bool {
    facts.has("CHECKPOINT_RESTORE") || facts.has("SYS_ADMIN")
}

/// Beside the service CRIU is not its ancestor: with Yama at 1 or 2 it needs SYS_PTRACE, and at 3 no process may
/// attach. With Yama at 1 a restore needs nothing, as CRIU traces its own descendants, and a dump runs in a
/// tracer.
fn attach(facts: &Facts) -> Answer {
    match (facts.yama.unwrap_or(0), facts.has("SYS_PTRACE")) {
        (0, _) | (1 | 2, true) => Answer::Yes,
        (scope, _) => Answer::No(format!("kernel.yama.ptrace_scope is {scope}")),
    }
}

fn last_pid(facts: &Facts) -> Answer {
    match fs::OpenOptions::new().write(true).open(pids::NS_LAST_PID) {
        Err(error) => Err(error).into(),
        Ok(_) if restores(facts) => {
            Answer::when(namespace::owns_pids(), "needs CHECKPOINT_RESTORE over the PID namespace")
        }
        Ok(_) => Answer::No("needs CHECKPOINT_RESTORE".to_owned()),
    }
}

/// Following a link of map_files takes CHECKPOINT_RESTORE in the initial user namespace (fs/proc/base.c,
/// proc_map_files_get_link).
fn map_files() -> Answer {
    let first = fs::read_dir("/proc/self/map_files").and_then(|mut entries| entries.next().transpose());
    match first {
        Ok(Some(entry)) => fs::metadata(entry.path()).map(drop).into(),
        Ok(None) => Answer::No("nothing is mapped".to_owned()),
        Err(error) => Err(error).into(),
    }
}

/// A file whose capabilities exceed the bounding set cannot be executed (capabilities(7)). With no_new_privs
/// they are ignored.
fn file_capabilities(facts: &Facts) -> Answer {
    let missing: Vec<&str> = ["CHECKPOINT_RESTORE", "SYS_PTRACE", "SETPCAP"]
        .into_iter()
        .filter(|name| !facts.bounding.contains(*name))
        .collect();
    if !facts.criu_with_capabilities {
        return Answer::No(format!(
            "no {} with capabilities is beside freeze",
            crate::criu::command::WITH_CAPABILITIES
        ));
    }
    match missing.as_slice() {
        [] => Answer::when(!facts.no_new_privs && honours_files(), "no_new_privs, or a file system mounted nosuid"),
        _ => Answer::No(format!("not in the bounding set: {}", missing.join(", "))),
    }
}

/// Whether the file system of this program is mounted without nosuid.
fn honours_files() -> bool {
    let exe = std::env::current_exe().unwrap_or_default();
    let folder = exe.parent().unwrap_or(Path::new("/"));
    nix::sys::statvfs::statvfs(folder).is_ok_and(|found| !found.flags().contains(nix::sys::statvfs::FsFlags::ST_NOSUID))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ability_has_an_answer_and_a_line() {
        let abilities = Abilities::probe();
        assert_eq!(abilities.answers.len() + NAMESPACES.len(), Ability::ALL.len());
        let names: std::collections::BTreeSet<_> = Ability::ALL.into_iter().map(Ability::name).collect();
        assert_eq!(names.len(), Ability::ALL.len());
        assert!(Ability::ALL.into_iter().all(|ability| !ability.gives().is_empty()));
    }

    #[test]
    fn yama_is_overcome_by_the_capability_up_to_2() {
        let facts = |yama, capability: &[&str]| Facts {
            yama: Some(yama),
            effective: capability.iter().map(ToString::to_string).collect(),
            ..Facts::default()
        };
        assert!(attach(&facts(0, &[])).is_yes() && attach(&facts(2, &["SYS_PTRACE"])).is_yes());
        for refused in [facts(1, &[]), facts(3, &["SYS_PTRACE"])] {
            assert_eq!(attach(&refused), Answer::No(format!("kernel.yama.ptrace_scope is {}", refused.yama.unwrap())));
        }
    }

    #[test]
    fn file_capabilities_need_file_set_and_leave() {
        let all = ["CHECKPOINT_RESTORE", "SYS_PTRACE", "SETPCAP", "CHOWN"].map(str::to_owned);
        let good = Facts { criu_with_capabilities: true, bounding: all.into(), ..Facts::default() };
        assert_eq!(file_capabilities(&good).is_yes(), honours_files());
        for bad in [
            Facts { no_new_privs: true, ..good.clone() },
            Facts { criu_with_capabilities: false, ..good.clone() },
            Facts { bounding: ["SETPCAP".to_owned()].into(), ..good },
        ] {
            assert!(!file_capabilities(&bad).is_yes());
        }
    }
}
