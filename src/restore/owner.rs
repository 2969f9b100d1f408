//! Which container has the application according to the store, and whether this one must wait. Never writes.

use super::Policy;
use super::look::Newest;
use crate::image::{self, Heartbeat, Lease, Outcome, Result, Vault, Whereabouts};
use crate::job::Common;

/// Which instance has the newest generation.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    /// None: it is offered, and no container has taken it.
    Nobody,
    /// This instance.
    Known(String),
    /// This instance, unless another one has claimed the application since.
    Likely(String),
    /// The manifest cannot be read, for this reason, and there is no heartbeat.
    Unknown(String),
}

/// Why this container must wait before it restores or starts anything. None if it may act on what it found
/// before this call. `found` is the newest generation that it found then (0: none); other containers may have
/// written since.
pub fn reason_to_wait(vault: Option<&Vault>, found: u64, common: &Common, policy: &Policy) -> Result<Option<String>> {
    let (us, url, always) = (&*common.instance, &*common.store.url, policy.standby.always);
    let nothing_yet = || always.then(|| format!("{url} holds no generation yet"));
    let Some(vault) = vault else { return Ok(nothing_yet()) };
    let moved = match image::whereabouts(vault, us)? {
        Whereabouts::Away(generation) => Some(generation),
        Whereabouts::Here(_) | Whereabouts::Unknown => None,
    };
    if !always && policy.exclusive.is_none() && moved.is_none() {
        return Ok(None);
    }
    let Some(head) = Lease::of_head(vault)? else { return Ok(nothing_yet()) };
    let Some(newest) = Newest::load(vault, &head)? else {
        let heartbeat = heartbeat_of(vault, &head)?;
        let is_anothers = !head.is_unclaimed() && heartbeat.as_deref() != Some(us);
        let name = heartbeat.as_deref().unwrap_or("another container");
        let claimed = policy.exclusive.filter(|_| is_anothers).map(|_| format!("{name} holds the lease of {url}"));
        return Ok(claimed.or_else(nothing_yet));
    };
    let generation = newest.generation;
    Ok(match (owner(vault, &head, newest)?, moved) {
        (Owner::Nobody, _) if generation == found => None,
        // `found` is older and must not run beside the container that offers this one. Waiting takes this one
        // at once.
        (Owner::Nobody, _) => Some(format!("generation {generation} of {url} has just been committed")),
        (Owner::Known(name), _) if name == us => None,
        (Owner::Likely(name), _) if name == us && policy.exclusive.is_none() => None,
        // An attempt with this generation has failed before. The next one fails too, or falls back to earlier
        // generations if the user allows that.
        (Owner::Unknown(_), Some(moved)) if moved == generation && policy.exclusive.is_none() => None,
        (Owner::Unknown(damage), _) => Some(format!(
            "{damage}. So it is unknown whether this generation was handed over, or whether its service still runs elsewhere"
        )),
        (_, Some(moved)) => Some(format!(
            "the service of {us} moved to another container with generation {moved} of {url}, or was never here; if \
             no container runs it any more, start one with another name (--instance), or with --restore"
        )),
        (Owner::Known(name), None) => Some(format!("{name} holds the lease of {url}, at generation {generation}")),
        (Owner::Likely(name), None) => Some(format!(
            "the newest generation {generation} of {url} is from {name}, and it is unknown whether that container or \
             another one runs the application now"
        )),
    })
}

/// The instance whose heartbeat belongs to `head`.
fn heartbeat_of(vault: &Vault, head: &Lease) -> Result<Option<String>> {
    Ok(Heartbeat::read(vault)?.filter(|heartbeat| heartbeat.is_of(head)).map(|heartbeat| heartbeat.party.instance))
}

fn owner(vault: &Vault, head: &Lease, newest: Newest) -> Result<Owner> {
    if newest.offered().is_some() {
        return Ok(Owner::Nobody);
    }
    let heartbeat = heartbeat_of(vault, head)?;
    let (last, first) = match (newest.outcome, newest.manifest) {
        (Some(Outcome::Taken { by, from }), _) => (by, Some(from)),
        (Some(Outcome::Withdrawn { by }), _) => (by, None),
        (None, manifest) => {
            let unclaimed = || manifest.map_or_else(Owner::Unknown, |manifest| Owner::Likely(manifest.instance));
            return Ok(heartbeat.map_or_else(unclaimed, Owner::Known));
        }
    };
    // It has claimed head, or head is as it was when the generation was offered.
    let is_last = head.writer == last.writer || (heartbeat.is_some() && heartbeat == first);
    Ok(match heartbeat {
        _ if is_last => Owner::Known(last.instance),
        Some(instance) => Owner::Known(instance),
        None => Owner::Likely(last.instance),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Hex, KeyFiles, Manifest, Party, commit, decide, mark_lost};
    use crate::restore::wait::tests::{common, policy};
    use crate::store::{self, Location};
    use std::time::{Duration, Instant};

    struct Fixture {
        _folder: tempfile::TempDir,
        common: Common,
        vault: Vault,
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let common = common(folder.path(), "us");
        let location = Location::at(&common.store.url);
        let vault = Vault::create(store::open(&location).unwrap(), &KeyFiles::default()).unwrap();
        Fixture { _folder: folder, common, vault }
    }

    impl Fixture {
        fn commit(&self, lease: Lease, instance: &str, offered: bool) -> Lease {
            let mut manifest = Manifest { instance: instance.into(), offered, ..Manifest::default() };
            commit(&self.vault, &mut manifest, lease, Instant::now()).unwrap()
        }

        fn take(&self, generation: u64, from: &str, by: &str, writer: Hex<8>) {
            let by = Party { instance: by.into(), writer };
            decide(&self.vault, generation, &Outcome::Taken { by, from: from.into() }).unwrap();
        }

        /// Whether it must wait: by default, as a standby, with `--exclusive`.
        fn waits(&self) -> [bool; 3] {
            [(false, None), (true, None), (false, Some(Duration::from_secs(1)))].map(|(always, exclusive)| {
                let policy = policy(&self.common, always, exclusive);
                let head = Lease::of_head(&self.vault).unwrap().unwrap_or_default();
                reason_to_wait(Some(&self.vault), head.generation, &self.common, &policy).unwrap().is_some()
            })
        }
    }

    #[test]
    fn an_empty_store_is_waited_for_by_a_standby_alone() {
        let fixture = fixture();
        assert_eq!(fixture.waits(), [false, true, false]);
        for always in [false, true] {
            let policy = policy(&fixture.common, always, None);
            assert_eq!(reason_to_wait(None, 0, &fixture.common, &policy).unwrap().is_some(), always);
        }
        let lease = Lease::fresh();
        lease.claim(&fixture.vault).unwrap();
        assert_eq!(fixture.waits(), [false, true, true]);
        Heartbeat::send(&fixture.vault, &lease, "us").unwrap();
        assert_eq!(fixture.waits(), [false, true, false]);
    }

    #[test]
    fn what_is_offered_is_nobodys() {
        let fixture = fixture();
        let lease = fixture.commit(Lease::fresh(), "them", true);
        Heartbeat::send(&fixture.vault, &lease, "them").unwrap();
        assert_eq!(fixture.waits(), [false, false, false]);
        // Taken by them, but not claimed yet.
        fixture.take(1, "them", "others", Hex([5; 8]));
        assert_eq!(fixture.waits(), [false, true, true]);
    }

    #[test]
    fn what_runs_elsewhere_is_waited_for_unless_the_last_one_wins() {
        let fixture = fixture();
        let lease = fixture.commit(Lease::fresh(), "them", false);
        assert_eq!(fixture.waits(), [false, true, true]);
        // Committed by us, but nothing tells which container has claimed it since.
        let lease = fixture.commit(lease, "us", false);
        assert_eq!(fixture.waits(), [false, false, true]);
        Heartbeat::send(&fixture.vault, &lease, "us").unwrap();
        assert_eq!(fixture.waits(), [false, false, false]);
        Heartbeat::send(&fixture.vault, &lease, "them").unwrap();
        assert_eq!(fixture.waits(), [false, true, true]);
    }

    #[test]
    fn who_took_it_goes_on_after_a_crash_claimed_or_not() {
        let fixture = fixture();
        let lease = fixture.commit(Lease::fresh(), "them", true);
        Heartbeat::send(&fixture.vault, &lease, "them").unwrap();
        let ours = Lease::after(&lease);
        fixture.take(1, "them", "us", ours.writer);
        assert_eq!(fixture.waits(), [false, false, false]);
        ours.claim(&fixture.vault).unwrap();
        assert_eq!(fixture.waits(), [false, false, false]);
    }

    #[test]
    fn a_service_that_moved_away_is_not_restored_again_unless_it_came_back() {
        let fixture = fixture();
        let lease = fixture.commit(Lease::fresh(), "us", true);
        fixture.take(1, "us", "them", Hex([5; 8]));
        assert_eq!(fixture.waits(), [true, true, true]);
        // They checkpointed it since.
        let lease = fixture.commit(lease, "them", false);
        assert_eq!(fixture.waits(), [true, true, true]);
        // We took over all the same.
        fixture.commit(lease, "us", false);
        assert_eq!(fixture.waits(), [false, false, true]);
    }

    #[test]
    fn who_failed_with_what_was_offered_takes_it_while_it_is_and_waits_once_it_is_not() {
        let fixture = fixture();
        let lease = fixture.commit(Lease::fresh(), "them", true);
        mark_lost(&fixture.vault, 1, "us").unwrap();
        assert_eq!(fixture.waits(), [false, false, false]);
        let by = Party { instance: "them".into(), writer: lease.writer };
        decide(&fixture.vault, 1, &Outcome::Withdrawn { by }).unwrap();
        assert_eq!(fixture.waits(), [true, true, true]);
        // A container of that name, or of a new one, does not wait for it.
        for name in ["them", "new"] {
            let common = Common { instance: name.into(), ..fixture.common.clone() };
            let policy = policy(&common, false, None);
            assert_eq!(reason_to_wait(Some(&fixture.vault), 1, &common, &policy).unwrap(), None, "{name}");
        }
    }

    #[test]
    fn what_is_offered_only_now_is_not_overtaken_by_what_was_found_before() {
        let fixture = fixture();
        let lease = fixture.commit(Lease::fresh(), "them", false);
        mark_lost(&fixture.vault, 1, "us").unwrap();
        fixture.commit(lease, "them", true);
        let policy = policy(&fixture.common, false, None);
        let wait = |found| reason_to_wait(Some(&fixture.vault), found, &fixture.common, &policy).unwrap().is_some();
        assert_eq!([wait(1), wait(2)], [true, false]);
    }

    #[test]
    fn what_cannot_be_read_stops_nobody_and_is_waited_for_unless_it_was_tried() {
        let fixture = fixture();
        let lease = fixture.commit(Lease::fresh(), "them", false);
        let key = crate::image::manifest_key(1);
        fixture.vault.store().put(&key, "damaged".into(), crate::store::PutMode::Overwrite).unwrap();
        assert_eq!(fixture.waits(), [false, true, true]);
        Heartbeat::send(&fixture.vault, &lease, "us").unwrap();
        assert_eq!(fixture.waits(), [false, false, false]);
        Heartbeat::send(&fixture.vault, &Lease::fresh(), "us").unwrap();
        mark_lost(&fixture.vault, 1, "us").unwrap();
        assert_eq!(fixture.waits(), [false, false, true]);
    }

    #[test]
    fn who_came_too_late_waits() {
        let fixture = fixture();
        fixture.commit(Lease::fresh(), "them", true);
        fixture.take(1, "them", "others", Hex([5; 8]));
        assert_eq!(fixture.waits(), [false, true, true]);
        mark_lost(&fixture.vault, 1, "us").unwrap();
        assert_eq!(fixture.waits(), [true, true, true]);
    }
}
