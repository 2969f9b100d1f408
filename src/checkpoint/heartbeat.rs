//! The container's heartbeat during a checkpoint, when init sends none. Without it, other containers would
//! take a long checkpoint for a death.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use crate::image::{Holder, Lease, Vault};
use crate::store;

/// Sends heartbeats until it is dropped.
pub struct Beating {
    /// The end of this channel ends the thread.
    _stop: Option<Sender<()>>,
}

impl Beating {
    /// Starts at once, if there is an `interval`. The next heartbeat makes up for a failed one.
    pub fn start(vault: &Vault, lease: Lease, instance: &str, interval: Option<Duration>) -> Self {
        let Some(interval) = interval else { return Self { _stop: None } };
        let (sender, receiver) = mpsc::channel();
        let (vault, instance) = (vault.clone(), instance.to_owned());
        let beat = move || {
            loop {
                // A container that has lost the lease is silent.
                let _ = lease.check(&vault).and_then(|()| Holder::beat(&vault, &lease, &instance));
                if receiver.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
        };
        // Without the thread a waiting container may claim too early; then head decides as usual.
        let _ = thread::Builder::new().name("beat".into()).stack_size(store::STACK).spawn(beat);
        Self { _stop: Some(sender) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::test_vault;
    use std::time::Instant;

    #[test]
    fn it_beats_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let beating = Beating::start(&vault, Lease::fresh(), "a", Some(Duration::from_millis(1)));
        let begun = Instant::now();
        let next = |last: Option<Holder>| loop {
            let holder = Holder::look(&vault).unwrap();
            if holder.is_some() && holder != last {
                return holder;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "no beat");
        };
        next(next(None));
        drop(beating);
        drop(Beating::start(&vault, Lease::fresh(), "a", None));
        // The first heartbeat is immediate, however long the interval.
        let last = Holder::look(&vault).unwrap();
        let _beating = Beating::start(&vault, Lease::fresh(), "b", Some(Duration::from_secs(3600)));
        while next(last.clone()).unwrap().party.instance != "b" {}
    }

    #[test]
    fn who_was_replaced_is_silent() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let lease = Lease::fresh();
        lease.claim(&vault).unwrap();
        let heir = Lease::after(&lease);
        heir.claim(&vault).unwrap();
        let beating = Beating::start(&vault, lease, "a", Some(Duration::from_millis(1)));
        let _heir = Beating::start(&vault, heir, "b", Some(Duration::from_millis(1)));
        let mut seen = 0;
        let mut last = None;
        while seen < 20 {
            let holder = Holder::look(&vault).unwrap();
            assert!(holder.as_ref().is_none_or(|holder| holder.party.instance == "b"), "{holder:?}");
            seen += usize::from(holder != last);
            last = holder;
        }
        drop(beating);
    }
}
