//! Who this process is and how it is confined: /proc/self/status and the like, read once.

use std::collections::BTreeSet;
use std::fs;

use caps::{CapSet, Capability};
use serde::Serialize;

use crate::proc::status::Status;
use crate::sys::probe;

/// The process's identity and confinement. The service's is the same, as freeze starts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Facts {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Capabilities that are in effect, without `CAP_`.
    pub effective: BTreeSet<String>,
    /// Capabilities that a program could get by its file.
    pub bounding: BTreeSet<String>,
    /// Whether programs can get privileges by their files at all (PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: bool,
    /// 0 none, 1 strict, 2 filter (proc_pid_status(5)).
    pub seccomp_mode: u32,
    /// Their number; nothing before Linux 5.9.
    pub seccomp_filters: Option<u32>,
    /// kernel.yama.ptrace_scope, where there is a Yama.
    pub yama: Option<u32>,
    /// Release of the kernel.
    pub kernel: String,
    /// Whether a criu with file capabilities lies beside this program.
    pub criu_with_capabilities: bool,
}

impl Facts {
    /// Reads them.
    pub fn read() -> Self {
        let status = Status::read("self").unwrap_or_default();
        let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
        let beside = std::env::current_exe().map(|path| path.with_file_name(crate::criu::command::WITH_CAPABILITIES));
        Self {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            effective: held(CapSet::Effective),
            bounding: held(CapSet::Bounding),
            no_new_privs: status.no_new_privs == Some(1),
            seccomp_mode: status.seccomp.unwrap_or(0),
            seccomp_filters: status.seccomp_filters,
            yama: yama.and_then(|text| text.trim().parse().ok()),
            kernel: nix::sys::utsname::uname().map_or_else(|_| String::new(), |u| u.release().to_string_lossy().into()),
            criu_with_capabilities: beside.is_ok_and(|path| probe::has_file_capabilities(&path)),
        }
    }

    /// Whether a capability, named without `CAP_`, is in effect.
    pub fn has(&self, capability: &str) -> bool {
        self.effective.contains(capability)
    }
}

fn held(set: CapSet) -> BTreeSet<String> {
    let all = caps::all().into_iter().filter(|capability| caps::has_cap(None, set, *capability).unwrap_or(false));
    all.map(name).collect()
}

fn name(capability: Capability) -> String {
    let name = capability.to_string();
    name.strip_prefix("CAP_").map_or(name.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_described() {
        let facts = Facts::read();
        assert_eq!(facts.uid, nix::unistd::geteuid().as_raw());
        assert!(!facts.kernel.is_empty() && facts.effective.is_subset(&facts.bounding));
        assert_eq!(name(Capability::CAP_CHECKPOINT_RESTORE), "CHECKPOINT_RESTORE");
    }
}
