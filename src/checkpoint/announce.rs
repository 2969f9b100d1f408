//! Announces an offer before the service stands still, so that standbys poll more often. If the announcement
//! fails, the handover only takes longer.

use std::thread;
use std::time::Duration;

use crate::image::{self, Lease, Vault};
use crate::job::AfterCommit;

/// How long a handover lets the service run on after the announcement, so that a standby notices it: slightly
/// more than the default interval of its polls.
const NOTICE: Duration = Duration::from_millis(1100);

/// An announcement. Dropping it withdraws it.
pub struct Announced<'a> {
    vault: &'a Vault,
    lease: Lease,
}

/// Announces that the service is about to be offered, unless it runs on.
pub fn announce<'a>(vault: &'a Vault, lease: Lease, after_commit: AfterCommit) -> Option<Announced<'a>> {
    if after_commit == AfterCommit::Resume {
        return None;
    }
    if image::announce(vault, &lease, true).is_ok() && after_commit != AfterCommit::Stop {
        thread::sleep(NOTICE);
    }
    Some(Announced { vault, lease })
}

impl Announced<'_> {
    /// Keeps it, since the commit has replaced it in head.
    pub fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        let _ = image::announce(self.vault, &self.lease, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{glance, test_vault};

    #[test]
    fn what_does_not_come_true_is_called_off() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let lease = Lease::fresh();
        lease.claim(&vault).unwrap();
        let moving = || glance(&vault).unwrap().unwrap().1;
        assert!(announce(&vault, lease, AfterCommit::Resume).is_none() && !moving());
        let announced = announce(&vault, lease, AfterCommit::Stop).unwrap();
        assert!(moving());
        drop(announced);
        assert!(!moving());
        announce(&vault, lease, AfterCommit::Stop).unwrap().disarm();
        assert!(moving());
    }
}
