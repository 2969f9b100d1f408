//! Whether this container could restore a generation, what it lacks, and how long a restore would take.
//! Changes nothing.

use std::fmt::Display;
use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::criu::command;
use crate::demands::Means;
use crate::host::clock::{self, Policy};
use crate::image::{Body, Clocks, Demands, Fetcher, Figures, ImageError, Manifest, Piece, Result, Vault};
use crate::job;
use crate::privileges::{Abilities, Pids, RestorePlan};
use crate::restore;
use crate::sys::pids;

/// Bounds of the measurement of the store's speed: bytes, and time.
const SAMPLE: u64 = 16 << 20;
const SAMPLE_TIME: Duration = Duration::from_secs(3);
/// Milliseconds that CRIU itself takes, for a service of a few processes.
const CRIU_MS: u64 = 100;
const MEMORY: u64 = 64 << 20;
/// PID of the container's init.
const INIT: i32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    pub generation: u64,
    /// Whether `missing` is empty.
    pub fits: bool,
    /// One sentence for each obstacle.
    pub missing: Vec<String>,
    /// One sentence for each file on a volume that has changed since. A restore is refused unless
    /// `--volume-changed` permits it; a new checkpoint would have the files as they are.
    #[serde(default)]
    pub changed: Vec<String>,
    /// Sentences about facts that are no obstacle.
    pub remarks: Vec<String>,
    pub time: Time,
}

/// Whether this container suits a service that has no generation yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suited {
    /// Whether `missing` is empty.
    pub fits: bool,
    /// One sentence for each obstacle.
    pub missing: Vec<String>,
    /// Sentences about facts that are no obstacle.
    #[serde(default)]
    pub remarks: Vec<String>,
}

/// How a restore would be made here, beyond what this process's privileges tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restorer {
    /// Its `--clock`.
    pub clock: Policy,
    /// It is in a user namespace, where it can make time namespaces.
    pub isolated: bool,
}

/// How long a restore is predicted to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// The newest PID here and the highest ID of the service, if PIDs are counted up.
    pub count: Option<(i32, i32)>,
    /// Milliseconds to count up.
    pub pids_ms: u64,
    /// Bytes to fetch.
    pub bytes: u64,
    /// Bytes read to measure `rate`.
    pub sampled: u64,
    /// Bytes a second, if any were read.
    pub rate: Option<u64>,
    /// Milliseconds to fetch `bytes`.
    pub bytes_ms: u64,
    /// The sum, plus [`CRIU_MS`].
    pub total_ms: u64,
}

/// Judges a generation; `None` stands for the newest.
///
/// # Errors
/// If the store or the generation cannot be read.
pub fn candidate(
    vault: &Vault,
    generation: Option<u64>,
    abilities: &Abilities,
    restorer: Restorer,
) -> Result<Candidate> {
    let manifest = Manifest::load(vault, generation)?.ok_or_else(|| match generation {
        Some(generation) => ImageError::NoGeneration { url: vault.url().to_owned(), generation },
        None => ImageError::NoHead { url: vault.url().to_owned() },
    })?;
    let here = means(abilities, restorer);
    let mut remarks = Vec::new();
    if is_executed() {
        let used =
            pids::newest().map(|used| format!("; this container has used PIDs up to {used}")).unwrap_or_default();
        remarks.push(format!("the answer is for a fresh container like this one{used}"));
    }
    remarks.extend(restore::short_host(&manifest, &here));
    remarks.extend(restore::lowered(&manifest, &here));
    remarks.extend(clocks(manifest.clocks, &here));
    remarks.extend(older_kernel(&manifest.kernel, &abilities.facts.kernel));
    let plan = RestorePlan::of(abilities);
    let mut missing: Vec<String> = restore::missing(&manifest, &here).iter().map(ToString::to_string).collect();
    missing.extend(command::look_for(plan.criu).err().map(|error| error.to_string()));
    let highest = manifest.highest_id().unwrap_or(0);
    let count = (plan.pids == Pids::CountedUp).then_some((here.used.unwrap_or(1), highest));
    let sample = sample(vault, &manifest)?;
    let time = time(count, bytes(&manifest), sample);
    let changed = or_missing(restore::changed(&manifest), &mut missing);
    Ok(Candidate { generation: manifest.generation, fits: missing.is_empty(), missing, changed, remarks, time })
}

/// What was found on volumes. A container that cannot look refuses the restore.
fn or_missing(looked: std::result::Result<Vec<String>, impl Display>, missing: &mut Vec<String>) -> Vec<String> {
    looked.unwrap_or_else(|error| {
        missing.push(error.to_string());
        Vec::new()
    })
}

/// Judges a service by what it asks.
pub fn suited(demands: &Demands, abilities: &Abilities, restorer: Restorer) -> Suited {
    let here = means(abilities, restorer);
    let mut missing: Vec<String> = demands.missing(&here).iter().map(ToString::to_string).collect();
    missing.extend(command::look_for(RestorePlan::of(abilities).criu).err().map(|error| error.to_string()));
    Suited { fits: missing.is_empty(), missing, remarks: clocks(demands.clocks, &here).into_iter().collect() }
}

fn means(abilities: &Abilities, restorer: Restorer) -> Means {
    let clock = clock::Means::here(restorer.clock).ok();
    let time_namespace = |clock: &clock::Means| clock.time_namespace || restorer.isolated;
    let clock = clock.map(|clock| clock::Means { time_namespace: time_namespace(&clock), ..clock });
    if is_executed() { Means::fresh(abilities, clock, INIT) } else { Means::with(abilities, clock) }
}

/// What becomes of the service's clocks.
fn clocks(before: Option<Clocks>, here: &Means) -> Option<String> {
    here.clock?.forecast(&before?)
}

/// An exec in a running container: not this container will restore, but a fresh one like it.
fn is_executed() -> bool {
    std::process::id() != 1
}

/// Bytes that are not zero pages.
fn bytes(manifest: &Manifest) -> u64 {
    let Figures { new, shared, .. } = manifest.figures.unwrap_or_default();
    new + shared
}

fn time(count: Option<(i32, i32)>, bytes: u64, (sampled, took): (u64, Duration)) -> Time {
    let pids_ms = count.map_or(0, |(used, highest)| pids::millis_up_to(highest - used));
    let micros = took.as_micros().max(1);
    let rate = (sampled > 0).then(|| u64::try_from(u128::from(sampled) * 1_000_000 / micros).unwrap_or(u64::MAX));
    let bytes_ms = rate.map_or(0, |rate| bytes.saturating_mul(1000) / rate.max(1));
    Time { count, pids_ms, bytes, sampled, rate, bytes_ms, total_ms: pids_ms + bytes_ms + CRIU_MS }
}

/// Reads a part of the generation's memory as a restore would. Returns the bytes and the time taken.
fn sample(vault: &Vault, manifest: &Manifest) -> Result<(u64, Duration)> {
    let mut fetcher = Fetcher::new(vault, manifest, MEMORY, job::cores())?;
    let (begun, mut read) = (Instant::now(), 0);
    for body in manifest.images.iter().filter_map(|image| image.body.as_ref()).filter(|body| body.inline().is_empty()) {
        let enough = read_some(&mut fetcher, body, &mut read, begun)?;
        if enough {
            break;
        }
    }
    Ok((read, begun.elapsed()))
}

fn read_some(fetcher: &mut Fetcher, body: &Body, read: &mut u64, begun: Instant) -> Result<bool> {
    let result = fetcher.for_each(body, |piece| {
        if let Piece::Data(data) = piece {
            *read += data.len() as u64;
        }
        let enough = *read >= SAMPLE || begun.elapsed() >= SAMPLE_TIME;
        if enough { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    });
    match result {
        Err(ImageError::Sink(_)) => Ok(true),
        result => result.map(|()| false),
    }
}

/// Kernels stay backward compatible, so only an older one may lack a feature.
fn older_kernel(theirs: &str, ours: &str) -> Option<String> {
    let version = |text: &str| {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
        Some((numbers.next()??, numbers.next()??))
    };
    let (then, now) = version(theirs).zip(version(ours))?;
    (now < then).then(|| format!("the kernel here ({ours}) is older than the kernel at the checkpoint ({theirs}), so features that the service used may be missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_of_pids_and_bytes() {
        let time = time(Some((60, 30_060)), 300 << 20, (10 << 20, Duration::from_millis(100)));
        assert_eq!((time.pids_ms, time.rate, time.bytes_ms), (pids::millis_up_to(30_000), Some(100 << 20), 3000));
        assert_eq!(time.total_ms, time.pids_ms + 3000 + CRIU_MS);
    }

    #[test]
    fn what_is_not_there_takes_no_time() {
        let time = time(None, 0, (0, Duration::ZERO));
        assert_eq!((time.pids_ms, time.rate, time.total_ms), (0, None, CRIU_MS));
        assert_eq!(super::time(Some((70, 60)), 0, (0, Duration::ZERO)).pids_ms, 0);
    }

    #[test]
    fn who_cannot_look_at_volumes_cannot_restore() {
        let mut missing = Vec::new();
        assert_eq!(or_missing(Ok::<_, io::Error>(vec!["/data/db has changed".into()]), &mut missing).len(), 1);
        assert_eq!(missing, [] as [&str; 0]);
        assert_eq!(or_missing(Err("mount /proc"), &mut missing), [] as [&str; 0]);
        assert_eq!(missing, ["mount /proc"]);
    }

    #[test]
    fn clocks_are_judged_as_its_init_would() {
        // This thread can make no time namespace.
        let _ = caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_TIME);
        let clocks = Some(Clocks { monotonic_ns: u64::MAX, ..Clocks::default() });
        let suited = |restorer| {
            let demands = Demands { arch: std::env::consts::ARCH.to_owned(), clocks, ..Demands::default() };
            let uid = nix::unistd::geteuid().as_raw();
            suited(&Demands { uid, ..demands }, &Abilities::probe(), restorer)
        };
        let goes_back = |found: &Suited| found.missing.iter().any(|missing| missing.contains("would go back by"));
        let refuse = Restorer { clock: Policy::Refuse, isolated: false };
        let isolated = suited(Restorer { isolated: true, ..refuse });
        assert!(!goes_back(&isolated) && isolated.remarks[0].contains("continue, in a time namespace"));
        assert!(goes_back(&suited(refuse)));
        let permitted = suited(Restorer { clock: Policy::Host, ..refuse });
        assert!(!goes_back(&permitted) && permitted.remarks[0].contains("jump back by"));
    }

    #[test]
    fn only_an_older_kernel_is_worth_a_word() {
        assert_eq!(older_kernel("5.10.0-8-amd64", "6.1.0"), None);
        assert_eq!(older_kernel("6.1.0", "6.1.7"), None);
        assert_eq!(older_kernel("rubbish", "6.1.7"), None);
        insta::assert_snapshot!(older_kernel("6.10.1", "6.9.3-cloud").unwrap(), @"the kernel here (6.9.3-cloud) is older than the kernel at the checkpoint (6.10.1), so features that the service used may be missing");
    }
}
