//! One checkpoint as init sees it: what the worker has said so far, and what follows from it once the worker is gone.
//!
//! The commit decides. Before it, whatever happens, the service runs on; after it the service ends (unless it is to run on)
//! and the client is told of a success, whatever becomes of the worker.

use std::time::Instant;

use crate::{
    control::{
        protocol::{Event, Phase, Report},
        server::{ClientId, failed},
    },
    image::Lease,
};

/// A checkpoint under way.
#[derive(Debug)]
pub struct Checkpoint {
    /// Who asked for it.
    pub client: ClientId,
    leave_running: bool,
    /// The service was stopped by its user before, and is to stay so.
    pub was_stopped: bool,
    began: Instant,
    /// The commit has begun.
    committing: bool,
    committed: Option<Lease>,
    result: Option<Event>,
}

impl Checkpoint {
    /// A checkpoint that begins now.
    pub fn new(client: ClientId, leave_running: bool, was_stopped: bool) -> Checkpoint {
        Checkpoint {
            client,
            leave_running,
            was_stopped,
            began: Instant::now(),
            committing: false,
            committed: None,
            result: None,
        }
    }

    /// Takes an event of the worker; returns the one to pass on to the client at once.
    pub fn take(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::Progress { phase, .. } => {
                self.committing |= phase == Phase::Commit;
                return Some(event);
            }
            Event::Warning { .. } => return Some(event),
            Event::Committed { lease } => self.committed = Some(lease),
            Event::Checkpointed(_) | Event::Failed { .. } => self.result = Some(event),
            _ => {}
        }
        None
    }

    /// Whether the worker has nothing left to do.
    pub fn has_result(&self) -> bool {
        self.result.is_some()
    }

    /// What the container holds since the commit, where there was one.
    pub fn committed(&self) -> Option<Lease> {
        self.committed
    }

    /// Whether the service is to end, as its checkpoint is committed.
    pub fn ends_service(&self) -> bool {
        self.committed.is_some() && !self.leave_running
    }

    /// The answer, once the worker is gone. `reason` says why, if it left no result.
    pub fn answer(self, reason: &str) -> Event {
        match (self.committed, self.result) {
            (Some(_), Some(result @ Event::Checkpointed(_))) => result,
            // The worker died after the commit, and took its figures with it.
            (Some(lease), _) => Event::Checkpointed(Report {
                generation: lease.generation,
                bytes: 0,
                stored: 0,
                new: 0,
                shared: 0,
                frozen_ms: 0,
                total_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
                ended: !self.leave_running,
            }),
            (None, Some(result @ Event::Failed { .. })) => result,
            (None, _) if self.committing => failed(format!(
                "the checkpoint's worker {reason} while it committed; `freeze list` tells whether it did, and the service runs on"
            )),
            (None, _) => {
                failed(format!("the checkpoint's worker {reason}; nothing was committed and the service runs on"))
            }
        }
    }
}
