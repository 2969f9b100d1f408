//! `freeze worker`: does one job for init, such as a checkpoint or a restore. Only init starts it.

use std::time::Duration;

use crate::control::protocol::Event;
use crate::job::reporter::Reporter;
use crate::job::{Failure, Job};
use crate::sys::stderr::{say, say_panics};
use crate::{checkpoint, exit, fail_points, restore};

/// Reads one job, does it, and sends its last event.
pub fn main() -> u8 {
    say_panics();
    fail_points::arm();
    let (reporter, job) = match Reporter::receive_job() {
        Ok(received) => received,
        Err(error) => {
            say(&format!("only init starts workers, as part of `freeze run` ({error})"));
            return exit::FATAL;
        }
    };
    let result = match job {
        Job::Checkpoint { common, root, service, lease, after_commit, hold_ms, files, ephemeral_store } => {
            let (hold, standbys) = (hold_ms.map(Duration::from_millis), checkpoint::Standbys::default());
            let target =
                checkpoint::Target { root, service, lease, after_commit, hold, standbys, files, ephemeral_store };
            checkpoint::run(&common, &target, &reporter).map(Event::Checkpointed)
        }
        Job::Settle { common, generation, remaining_ms, lease } => {
            Ok(checkpoint::settle(&common, generation, Duration::from_millis(remaining_ms), &lease, &reporter))
        }
        Job::Restore { common, choice, failure, volume_changed, standby, files } => {
            let policy = restore::Policy {
                choice,
                failure,
                volume_changed,
                standby,
                files,
                exclusive: common.exclusive_ms.map(Duration::from_millis),
            };
            restore::run(&common, &policy, &reporter)
        }
        Job::Heartbeat { common, lease } => restore::heartbeat(&common, &lease),
    };
    let failed = result.is_err();
    reporter.send(&result.unwrap_or_else(|Failure { message, log, phase }| Event::Failed { message, log, phase }));
    if failed { exit::FAILED } else { exit::OK }
}
