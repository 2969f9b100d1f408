//! What this container allows, found out by asking the kernel, never configured. Must have no effect on the service.

use caps::{CapSet, Capability};

use crate::sys::probe;

/// Whether a restore may give processes the PIDs that it wants: clone3(set_tid), which needs CHECKPOINT_RESTORE (Linux 5.9) or SYS_ADMIN
/// (5.5), and a seccomp profile that lets clone3 through. Otherwise PIDs can only be counted up to.
pub fn can_choose_pids() -> bool {
    let held = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    (held(Capability::CAP_CHECKPOINT_RESTORE) || held(Capability::CAP_SYS_ADMIN)) && probe::clone3_is_allowed()
}
