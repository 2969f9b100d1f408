//! Checks whether this container can restore a generation, before any page is fetched. A failed check is one
//! sentence.
//!
//! Every restore runs the checks, and so does `freeze doctor --for`. They are cheap and change nothing.

mod files;
mod limits;

pub use limits::lowered;

use std::collections::BTreeSet;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use crate::demands::{self, Means, Unfit};
use crate::image::Manifest;

/// Why the restore cannot work here. Nothing was started or changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct NotFit(Vec<Unfit>);

impl fmt::Display for NotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => Ok(()),
            [only] => only.fmt(f),
            [first, more @ ..] => {
                write!(f, "{first} (and {} more: `freeze doctor --for GENERATION` lists them)", more.len())
            }
        }
    }
}

/// How long a port may take to become free, and the pause between two looks: in a pod, the former container's
/// processes may not have ended yet.
const PORT_LIMIT: Duration = Duration::from_secs(5);
const PORT_PAUSE: Duration = Duration::from_millis(50);

/// Runs all checks. Returns warnings about risks that do not refuse the restore.
pub fn check(manifest: &Manifest, means: impl Fn() -> Means) -> Result<Vec<String>, NotFit> {
    let begun = Instant::now();
    loop {
        let here = means();
        let missing = missing(manifest, &here);
        let only_ports = missing.iter().all(|unfit| matches!(unfit, Unfit::PortTaken { .. }));
        match missing.is_empty() {
            true => return Ok(short_host(manifest, &here).into_iter().chain(lowered(manifest, &here)).collect()),
            false if only_ports && begun.elapsed() < PORT_LIMIT => thread::sleep(PORT_PAUSE),
            false => return Err(NotFit(missing)),
        }
    }
}

/// Why a restore here would fail once the generation's service has ended elsewhere, and has freed its ports.
pub fn foretell(manifest: &Manifest, here: Means) -> Option<String> {
    let missing = missing(manifest, &Means { taken: BTreeSet::new(), ..here });
    (!missing.is_empty()).then(|| NotFit(missing).to_string())
}

/// A warning if the host has less memory left than the service needs. No error, as that changes at any
/// moment.
pub fn short_host(manifest: &Manifest, here: &Means) -> Option<String> {
    let (needed, left) = (demands::of(manifest).memory, here.host_memory?);
    let mib = |bytes: u64| bytes >> 20;
    (left < needed).then(|| {
        format!(
            "the service needs {} MiB of memory, but the host has {} MiB left, swap included: the host may kill processes for lack of memory",
            mib(needed),
            mib(left)
        )
    })
}

/// Everything that a container lacks for a generation, the hopeless first.
pub fn missing(manifest: &Manifest, here: &Means) -> Vec<Unfit> {
    let mut missing = demands::of(manifest).missing(here);
    missing.extend(files::executables(manifest));
    missing.extend(files::unwritable(manifest));
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    use crate::image::{Body, Bound, CriuImage, Demands};
    use crate::privileges::Abilities;

    #[test]
    fn the_first_is_said_and_the_others_are_counted() {
        let user = || Unfit::User { theirs: 1000, ours: 1001 };
        insta::assert_snapshot!(NotFit(vec![user()]), @"the service ran as uid 1000, but this container runs as uid 1001; start the container as the same user");
        insta::assert_snapshot!(NotFit(vec![user(), user(), user()]), @"the service ran as uid 1000, but this container runs as uid 1001; start the container as the same user (and 2 more: `freeze doctor --for GENERATION` lists them)");
    }

    #[test]
    fn an_empty_generation_of_this_machine_fits() {
        let (arch, uid) = (std::env::consts::ARCH.to_owned(), nix::unistd::geteuid().as_raw());
        let here = Means::with(&Abilities::probe(), None);
        assert_eq!(check(&Manifest { arch, uid, ..Manifest::default() }, || here.clone()), Ok(vec![]));
    }

    #[test]
    fn a_port_that_becomes_free_is_waited_for() {
        let bound = vec![Bound { address: vec![0; 4], port: 80, datagrams: false }];
        let demands = Some(Demands { bound, ..Demands::default() });
        let manifest = Manifest { demands, ..Manifest::default() };
        let looks = Cell::new(0);
        let means = || {
            looks.set(looks.get() + 1);
            Means {
                taken: if looks.get() < 3 { [([0, 0, 0, 0].into(), 80)].into() } else { [].into() },
                ..Means::default()
            }
        };
        assert_eq!((check(&manifest, means), looks.get()), (Ok(vec![]), 3));
    }

    #[test]
    fn a_host_that_is_short_of_memory_is_no_reason_to_refuse() {
        let pages = CriuImage { name: "pages-1.img".into(), body: Some(Body::from_inline(vec![1; 3 << 20])) };
        let manifest = Manifest { images: vec![pages], ..Manifest::default() };
        let here = |left| Means { host_memory: Some(left), ..Means::default() };
        assert_eq!(check(&manifest, || here(3 << 20)), Ok(vec![]));
        insta::assert_snapshot!(check(&manifest, || here(1 << 20)).unwrap().join("\n"), @"the service needs 3 MiB of memory, but the host has 1 MiB left, swap included: the host may kill processes for lack of memory");
    }
}
