//! The end of a checkpoint whose service does not run on.

use std::time::{Duration, Instant};

use super::dump::{Dump, DumpError, Verdict};
use super::handover::{self, Offer};
use super::stop::Stopped;
use super::{CheckpointError, Target};
use crate::control::protocol::Event;
use crate::image::{self, Manifest, NotCommitted, Vault};
use crate::worker::report::Reporter;
use crate::worker::{Common, Fate};

/// A service that stands still for the time being.
pub struct Held<'a> {
    /// The CRIU that holds it.
    pub dump: &'a mut Dump,
    /// What becomes of it should that die.
    pub stopped: Stopped,
}

impl Held<'_> {
    fn run_on(self) -> Result<(), DumpError> {
        self.stopped.go_on();
        self.dump.release(Verdict::Run)
    }

    /// Where CRIU has died, init does it.
    fn end(self, reporter: &Reporter) {
        if let Err(error) = self.dump.release(Verdict::Kill) {
            reporter.warn(error.to_string());
        }
    }
}

/// Commits a generation whose service does not run on, and ends the service once that is certain: at once, or when another
/// container has taken it. Returns the generation's number. After an error the service runs on here, and nowhere else.
pub fn give_away(
    common: &Common,
    target: &Target,
    reporter: &Reporter,
    vault: &Vault,
    manifest: &mut Manifest,
    started: Instant,
    held: Held,
) -> Result<u64, CheckpointError> {
    let proposal = match image::propose(vault, manifest, target.lease, started) {
        Ok(proposal) => proposal,
        Err(error) => {
            held.run_on()?;
            return Err(error.into());
        }
    };
    let generation = proposal.number;
    reporter.send(&Event::Committing { generation });
    let (time, failure) = match (proposal.commit(), target.fate) {
        (Ok(lease), Fate::Handover { timeout_ms }) => {
            reporter.send(&Event::Committed { lease });
            let time = Duration::from_millis(timeout_ms);
            (time, CheckpointError::NotTaken { generation, time })
        }
        (Ok(lease), _) => {
            reporter.send(&Event::Committed { lease });
            held.end(reporter);
            image::mark_committed(vault, generation);
            return Ok(generation);
        }
        (Err(NotCommitted { error, may_count: false }), _) => {
            held.run_on()?;
            return Err(error.into());
        }
        // Nobody can say whether others see it. Whoever takes it back first is sure of it.
        (Err(NotCommitted { error, .. }), _) => (Duration::ZERO, CheckpointError::Withdrawn { generation, error }),
    };
    let offer = Offer { vault, generation, withdrawal: handover::withdrawal(common, &target.lease) };
    let taken_by = offer.settle(time, reporter);
    let taken = taken_by.is_some();
    reporter.send(&Event::Settled { taken_by });
    if taken {
        held.end(reporter);
    } else if let Err(error) = held.run_on() {
        // It runs all the same: a CRIU that does not answer is dead by now, and nothing is pending any more.
        reporter.warn(error.to_string());
    }
    if taken || matches!(failure, CheckpointError::NotTaken { .. }) {
        image::mark_committed(vault, generation);
    }
    if taken { Ok(generation) } else { Err(failure) }
}
