//! The container's heartbeat during a checkpoint, when init sends none. Without it, other containers would
//! take a long checkpoint for a death.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use crate::image::{Heartbeat, Lease, Vault};
use crate::store;

/// Sends heartbeats until it is dropped.
pub struct Heartbeats {
    /// The end of this channel ends the thread.
    _stop: Option<Sender<()>>,
}

impl Heartbeats {
    /// Starts at once, if there is an `interval`. The next heartbeat makes up for a failed one.
    pub fn start(vault: &Vault, lease: Lease, instance: &str, interval: Option<Duration>) -> Self {
        let Some(interval) = interval else { return Self { _stop: None } };
        let (sender, receiver) = mpsc::channel();
        let (vault, instance) = (vault.clone(), instance.to_owned());
        let send = move || {
            loop {
                // A container that has lost the lease is silent.
                let _ = lease.check(&vault).and_then(|()| Heartbeat::send(&vault, &lease, &instance));
                if receiver.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
        };
        // Without the thread a waiting container may claim too early; then head decides as usual.
        let _ = thread::Builder::new().name("heartbeat".into()).stack_size(store::STACK).spawn(send);
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
        let heartbeats = Heartbeats::start(&vault, Lease::fresh(), "a", Some(Duration::from_millis(1)));
        let begun = Instant::now();
        let next = |last: Option<Heartbeat>| loop {
            let heartbeat = Heartbeat::read(&vault).unwrap();
            if heartbeat.is_some() && heartbeat != last {
                return heartbeat;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "no heartbeat");
        };
        next(next(None));
        drop(heartbeats);
        drop(Heartbeats::start(&vault, Lease::fresh(), "a", None));
        // The first heartbeat is immediate, however long the interval.
        let last = Heartbeat::read(&vault).unwrap();
        let _beating = Heartbeats::start(&vault, Lease::fresh(), "b", Some(Duration::from_secs(3600)));
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
        let heartbeats = Heartbeats::start(&vault, lease, "a", Some(Duration::from_millis(1)));
        let _heir = Heartbeats::start(&vault, heir, "b", Some(Duration::from_millis(1)));
        let mut seen = 0;
        let mut last = None;
        while seen < 20 {
            let heartbeat = Heartbeat::read(&vault).unwrap();
            assert!(heartbeat.as_ref().is_none_or(|heartbeat| heartbeat.party.instance == "b"), "{heartbeat:?}");
            seen += usize::from(heartbeat != last);
            last = heartbeat;
        }
        drop(heartbeats);
    }
}
