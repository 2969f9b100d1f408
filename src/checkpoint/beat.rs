//! While a checkpoint is under way init looks after nothing else, so its worker says that the container is alive: others that wait for
//! the application to be free must not take a long checkpoint for a death.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use crate::image::{Holder, Lease, Vault};
use crate::store;

/// Says so again and again, until it is dropped.
pub struct Beating {
    /// The thread ends when this does.
    _stop: Option<Sender<()>>,
}

impl Beating {
    /// Begins, where there is an interval. One look that fails is made up for by the next.
    pub fn start(vault: &Vault, lease: Lease, instance: &str, interval: Option<Duration>) -> Self {
        let Some(interval) = interval else { return Self { _stop: None } };
        let (sender, receiver) = mpsc::channel();
        let (vault, instance) = (vault.clone(), instance.to_owned());
        let beat = move || {
            while receiver.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let _ = Holder::beat(&vault, &lease, &instance);
            }
        };
        // Without the thread whoever waits may come too early, and then head decides as ever.
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
    }
}
