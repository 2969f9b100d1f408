//! Announces an offer before the service stands still, so that standbys poll more often. If the announcement
//! fails, the handover only takes longer.

use crate::image::{self, Lease, Vault};

/// An announcement. Dropping it calls it off.
pub struct Announced {
    vault: Vault,
    /// None if it is not to be called off.
    lease: Option<Lease>,
}

/// Announces that the service is about to be offered.
pub fn announce(vault: &Vault, lease: Lease) -> Announced {
    let _ = image::announce(vault, &lease, true);
    Announced { vault: vault.clone(), lease: Some(lease) }
}

impl Announced {
    /// The store that it is in.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Keeps it, since a commit has replaced it in head.
    pub fn disarm(mut self) {
        self.lease = None;
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let _ = self.lease.map(|lease| image::announce(&self.vault, &lease, false));
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
