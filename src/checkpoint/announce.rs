//! Announces an offer before the service stands still, so that standbys poll more often. If the announcement
//! fails, the handover only takes longer.

use crate::image::{self, Lease, Vault};

/// An announcement. Dropping it withdraws it.
pub struct Announced<'a> {
    vault: &'a Vault,
    lease: Lease,
}

/// Announces that the service is about to be offered.
pub fn announce(vault: &Vault, lease: Lease) -> Announced<'_> {
    let _ = image::announce(vault, &lease, true);
    Announced { vault, lease }
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
        let announced = announce(&vault, lease);
        assert!(moving());
        drop(announced);
        assert!(!moving());
        announce(&vault, lease).disarm();
        assert!(moving());
    }
}
