//! Lets whoever waits for the service look more often, before it stands still. Where that cannot be told, it only takes longer.

use std::thread;
use std::time::Duration;

use crate::image::{self, Lease, Vault};
use crate::job::Fate;

/// How long a handover waits, while the service runs, for another container to notice that: a little more than a standby's usual
/// time between two looks.
const NOTICE: Duration = Duration::from_millis(1100);

/// What was announced. Dropped, it is called off.
pub struct Announced<'a> {
    vault: &'a Vault,
    lease: Lease,
}

/// Says that the service is about to be offered, if it is.
pub fn announce<'a>(vault: &'a Vault, lease: Lease, fate: Fate) -> Option<Announced<'a>> {
    if fate == Fate::Run {
        return None;
    }
    if image::announce(vault, &lease, true).is_ok() && fate != Fate::End {
        thread::sleep(NOTICE);
    }
    Some(Announced { vault, lease })
}

impl Announced<'_> {
    /// Head names what was announced, and says nothing of it any more.
    pub fn came_true(self) {
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
        assert!(announce(&vault, lease, Fate::Run).is_none() && !moving());
        let announced = announce(&vault, lease, Fate::End).unwrap();
        assert!(moving());
        drop(announced);
        assert!(!moving());
        announce(&vault, lease, Fate::End).unwrap().came_true();
        assert!(moving());
    }
}
