//! The progress of a restore.

use std::time::{Duration, Instant};

use crate::control::protocol::{Event, Phase};
use crate::image::{Body, Manifest};
use crate::job::reporter::Reporter;

/// Shortest time between two reports.
const INTERVAL: Duration = Duration::from_millis(200);

/// Counts bytes of memory and files.
pub(crate) struct Meter<'a> {
    reporter: Option<&'a Reporter>,
    bytes: u64,
    total: u64,
    /// Bytes of the total that need not be read.
    ahead: u64,
    reported: Instant,
}

impl<'a> Meter<'a> {
    /// Reports the total at once.
    pub(super) fn start(reporter: &'a Reporter, manifest: &Manifest) -> Self {
        let images = manifest.images.iter().filter_map(|image| image.body.as_ref());
        let total = images.map(Body::size).sum::<u64>() + bytes_of_files(manifest);
        let meter = Self { reporter: Some(reporter), bytes: 0, total, ahead: 0, reported: Instant::now() };
        meter.report();
        meter
    }

    /// A meter without reports.
    pub(crate) fn noop() -> Self {
        Self { reporter: None, bytes: 0, total: 0, ahead: 0, reported: Instant::now() }
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.reported.elapsed() >= INTERVAL {
            self.report();
            self.reported = Instant::now();
        }
    }

    /// Counts bytes that this container has already.
    pub(super) fn leave_out(&mut self, ahead: u64) {
        self.ahead = ahead;
        self.add(ahead);
    }

    pub(super) fn ahead(&self) -> u64 {
        self.ahead
    }

    /// Bytes of the whole generation.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    fn report(&self) {
        if let Some(reporter) = self.reporter {
            reporter.send(&Event::Progress { phase: Phase::Restore, bytes: self.bytes, total: self.total });
        }
    }
}

pub(super) fn bytes_of_files(manifest: &Manifest) -> u64 {
    manifest.files.iter().filter_map(|file| file.body.as_ref()).map(Body::size).sum()
}
