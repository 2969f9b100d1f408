//! `--exclusive`: the container claims the lease before anything of the service runs, then checks the lease
//! and writes a heartbeat at each interval.

use crate::control::protocol::Event;
use crate::image::{Heartbeat, ImageError, Lease, Result, Vault};
use crate::job::{Common, Failure};
use crate::store;

/// Claims the application by [`Lease::claim`] and writes the first heartbeat. Nothing of the service may run
/// before.
pub fn claim(vault: &Vault, lease: &Lease, instance: &str) -> Result<()> {
    lease.claim(vault)?;
    // Without a heartbeat standbys only wait longer, and the next interval writes one.
    let _ = Heartbeat::send(vault, lease, instance);
    Ok(())
}

/// Checks the lease and writes the heartbeat, for [`Job::Heartbeat`](crate::job::Job::Heartbeat). An error says that
/// the store gave no valid answer, not that another container has the application.
pub fn heartbeat(common: &Common, lease: &Lease) -> Result<Event, Failure> {
    let failed = |error: ImageError| Failure {
        message: format!("cannot renew this container's lease: {error}"),
        log: None,
        phase: None,
    };
    let store = store::open(&common.store).map_err(|error| failed(error.into()))?;
    let Some(vault) = Vault::open(store, &common.keys).map_err(failed)? else {
        return Err(failed(ImageError::NoHead { url: common.store.url.clone() }));
    };
    match lease.check(&vault).and_then(|()| Heartbeat::send(&vault, lease, &common.instance)) {
        Ok(()) => Ok(Event::StillOwner),
        Err(error @ ImageError::Replaced { .. }) => Ok(Event::Lost { message: error.to_string() }),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{KeyFiles, glance};
    use crate::store::{Location, PutMode};
    use std::path::Path;

    fn common(folder: &Path) -> Common {
        Common {
            store: Location::at(&format!("file:{}/store", folder.display())),
            keys: KeyFiles::default(),
            runtime_dir: folder.to_owned(),
            memory: 64 << 20,
            instance: "a".into(),
            exclusive_ms: None,
            trace: None,
        }
    }

    #[test]
    fn it_holds_until_another_one_claims_and_then_says_nothing_more() {
        let folder = tempfile::tempdir().unwrap();
        let common = common(folder.path());
        let vault = Vault::create(store::open(&common.store).unwrap(), &common.keys).unwrap();
        let lease = Lease::fresh();
        claim(&vault, &lease, "a").unwrap();
        let first = Heartbeat::read(&vault).unwrap();
        assert_eq!(heartbeat(&common, &lease), Ok(Event::StillOwner));
        assert_ne!(Heartbeat::read(&vault).unwrap(), first);

        let other = Lease::after(&glance(&vault).unwrap().unwrap().0);
        claim(&vault, &other, "b").unwrap();
        assert!(matches!(heartbeat(&common, &lease), Ok(Event::Lost { .. })));
        assert_eq!(Heartbeat::read(&vault).unwrap().unwrap().party.instance, "b");
    }

    #[test]
    fn a_store_that_does_not_answer_takes_nothing_away() {
        let folder = tempfile::tempdir().unwrap();
        let common = common(folder.path());
        assert!(heartbeat(&common, &Lease::fresh()).is_err());
        let vault = Vault::create(store::open(&common.store).unwrap(), &common.keys).unwrap();
        vault.store().put("head", "damaged".into(), PutMode::Overwrite).unwrap();
        assert!(heartbeat(&common, &Lease::fresh()).is_err());
        assert_eq!(Heartbeat::read(&vault).unwrap(), None);
    }
}
