//! The identity and confinement of this process, from /proc/self/status and similar files.

use std::collections::BTreeSet;
use std::fs;

use caps::{CapSet, Capability};
use serde::Serialize;

use crate::fail_points;
use crate::proc::status::Status;
use crate::sys::probe;

/// The identity and confinement of this process, which the service inherits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Facts {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Effective capabilities, without `CAP_`.
    pub effective: BTreeSet<String>,
    /// Bounding set, without `CAP_`.
    pub bounding: BTreeSet<String>,
    /// PR_SET_NO_NEW_PRIVS: programs gain no privileges from their files.
    pub no_new_privs: bool,
    /// 0 none, 1 strict, 2 filter (proc_pid_status(5)).
    pub seccomp_mode: u32,
    /// None before Linux 5.9.
    pub seccomp_filters: Option<u32>,
    /// kernel.yama.ptrace_scope; None without Yama.
    pub yama: Option<u32>,
    /// Kernel release.
    pub kernel: String,
    /// A criu with file capabilities is installed beside this program.
    pub criu_with_capabilities: bool,
}

impl Facts {
    pub fn read() -> Self {
        let status = Status::read("self").unwrap_or_default();
        let beside = std::env::current_exe().map(|path| path.with_file_name(crate::criu::command::WITH_CAPABILITIES));
        Self {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            effective: held(CapSet::Effective),
            bounding: held(CapSet::Bounding),
            no_new_privs: status.no_new_privs == Some(1),
            seccomp_mode: status.seccomp.unwrap_or(0),
            seccomp_filters: status.seccomp_filters,
            yama: yama(),
            kernel: nix::sys::utsname::uname().map_or_else(|_| String::new(), |u| u.release().to_string_lossy().into()),
            criu_with_capabilities: beside.is_ok_and(|path| probe::has_file_capabilities(&path)),
        }
    }

    /// Whether `capability`, without `CAP_`, is effective.
    pub fn has(&self, capability: &str) -> bool {
        self.effective.contains(capability)
    }
}

fn yama() -> Option<u32> {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
    fail_points::yama().or_else(|| scope?.trim().parse().ok())
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
