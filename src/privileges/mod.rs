//! What this container allows, found out by asking the kernel, never configured. Must have no effect on the service.

use caps::{CapSet, Capability};

use crate::sys::probe;

/// Whether a restore may give processes the PIDs that it wants: clone3(set_tid), which needs CHECKPOINT_RESTORE (Linux 5.9) or SYS_ADMIN
/// (5.5), and a seccomp profile that lets clone3 through. Otherwise PIDs can only be counted up to.
pub fn can_choose_pids() -> bool {
    (held(Capability::CAP_CHECKPOINT_RESTORE) || held(Capability::CAP_SYS_ADMIN)) && probe::clone3_is_allowed()
}

/// Whether processes can be traced that are no descendants: CAP_SYS_PTRACE, where Yama is at 1 or 2.
pub fn can_trace_everyone() -> bool {
    held(Capability::CAP_SYS_PTRACE)
}

fn held(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}
