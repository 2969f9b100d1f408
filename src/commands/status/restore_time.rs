//! Predicts how long a restore would take now: the time to count up to the service's PIDs, plus the duration
//! of the last restore or checkpoint.

use std::collections::BTreeMap;

use crate::control::protocol::Status;
use crate::privileges::RestorePlan;
use crate::proc::tree::{self, Process};
use crate::sys::pids;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoreTime {
    /// Milliseconds to count up to `highest`; 0 if PIDs can be chosen.
    pub pids_ms: u64,
    /// Highest PID or TID of the service.
    pub highest: i32,
    /// Milliseconds of the last restore here, else of the last checkpoint.
    pub rest_ms: u64,
}

impl RestoreTime {
    /// For a restore that chooses PIDs. `None` if there is no service, or no restore or checkpoint to go by.
    pub fn without_counting(status: &Status) -> Option<Self> {
        let rest_ms = rest_ms(status).filter(|_| status.service > 0)?;
        Some(Self { pids_ms: 0, highest: 0, rest_ms })
    }

    pub fn total_ms(self) -> u64 {
        self.pids_ms.saturating_add(self.rest_ms)
    }
}

/// `None` if there is no service, or no restore or checkpoint to go by.
pub fn of(status: &Status, init: i32) -> Option<RestoreTime> {
    let highest = highest(&tree::all().ok()?, init, status.service)?;
    let pids_ms = if RestorePlan::here().can_go_back() { 0 } else { pids::millis_up_to(highest) };
    Some(RestoreTime { pids_ms, highest, rest_ms: rest_ms(status)? })
}

fn rest_ms(status: &Status) -> Option<u64> {
    let restore = status.restore.as_ref().map(|restore| restore.total_ms);
    restore.or(status.checkpoint.as_ref().map(|checkpoint| checkpoint.report.total_ms))
}

/// Highest PID or TID of the service and of its orphans, which hang below the subreaper.
fn highest(all: &BTreeMap<i32, Process>, init: i32, service: i32) -> Option<i32> {
    tree::highest(&tree::below(all, tree::root(all, init, service)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processes(list: &[(i32, i32, &[i32])]) -> BTreeMap<i32, Process> {
        let process =
            |pid, ppid, threads: &[i32]| Process { pid, ppid, threads: threads.to_vec(), ..Process::default() };
        list.iter().map(|(pid, ppid, threads)| (*pid, process(*pid, *ppid, threads))).collect()
    }

    #[test]
    fn the_highest_number_may_be_a_thread_of_an_orphan() {
        let all = processes(&[
            (1, 0, &[1]),
            (1000, 1, &[1000]),
            (1001, 1000, &[1001]),
            (1007, 1000, &[1007, 4321]),
            // Started by an exec from outside.
            (5000, 0, &[5000]),
        ]);
        assert_eq!(highest(&all, 1, 1001), Some(4321));
        assert_eq!(highest(&all, 1, 77), None);
    }

    #[test]
    fn without_the_holder_the_service_is_the_root() {
        let all = processes(&[(1, 0, &[1]), (1001, 1, &[1001]), (1002, 1001, &[1002]), (1500, 1, &[1500])]);
        assert_eq!(highest(&all, 1, 1001), Some(1002));
    }

    #[test]
    fn a_restore_is_judged_by_the_last_restore_before_the_last_checkpoint() {
        let mut status = super::super::example();
        assert_eq!(rest_ms(&status), Some(250));
        assert_eq!(RestoreTime::without_counting(&status).map(RestoreTime::total_ms), Some(250));
        status.restore = None;
        assert_eq!(rest_ms(&status), Some(90));
        status.checkpoint = None;
        assert_eq!(rest_ms(&status), None);
    }
}
