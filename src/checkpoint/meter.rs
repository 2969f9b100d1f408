//! Progress of a checkpoint. Must not slow down the copying that it counts.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::control::protocol::{Event, Phase};
use crate::job::reporter::Reporter;

/// Least time between two reports of one phase.
const INTERVAL: Duration = Duration::from_millis(200);

/// Counts bytes and reports them.
pub struct Meter<'a> {
    report: Box<dyn Fn(&Event) + 'a>,
    phase: Cell<Option<Phase>>,
    bytes: Cell<u64>,
    reported: Cell<Instant>,
}

impl<'a> Meter<'a> {
    pub fn new(reporter: &'a Reporter) -> Self {
        Self::to(|event| reporter.send(event))
    }

    /// Discards reports.
    pub fn noop() -> Self {
        Self::to(|_| {})
    }

    fn to(report: impl Fn(&Event) + 'a) -> Self {
        Self {
            report: Box::new(report),
            phase: Cell::new(None),
            bytes: Cell::new(0),
            reported: Cell::new(Instant::now()),
        }
    }

    /// The phase that began last.
    pub fn phase(&self) -> Option<Phase> {
        self.phase.get()
    }

    pub fn begin(&self, phase: Phase) {
        self.phase.set(Some(phase));
        self.report();
    }

    pub fn add(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        if self.reported.get().elapsed() >= INTERVAL {
            self.report();
        }
    }

    fn report(&self) {
        self.reported.set(Instant::now());
        if let Some(phase) = self.phase.get() {
            (self.report)(&Event::Progress { phase, bytes: self.bytes.get(), total: 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_step_is_told_at_once_and_bytes_not_too_often() {
        let told = RefCell::new(Vec::new());
        let meter = Meter::to(|event| told.borrow_mut().push(event.clone()));
        meter.begin(Phase::Dump);
        meter.reported.set(Instant::now() + INTERVAL);
        meter.add(5);
        assert_eq!(told.borrow().len(), 1);
        meter.reported.set(Instant::now() - INTERVAL);
        meter.add(2);
        meter.begin(Phase::Files);
        let event = |phase, bytes| Event::Progress { phase, bytes, total: 0 };
        let expected = [event(Phase::Dump, 0), event(Phase::Dump, 7), event(Phase::Files, 7)];
        assert_eq!(*told.borrow(), expected);
        assert_eq!(meter.phase(), Some(Phase::Files));
    }
}
