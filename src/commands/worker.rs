//! `freeze worker`: does one job for init, such as a checkpoint or a restore. Only init starts it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::protocol::Event;
use crate::criu::tracer::{self, Tracer};
use crate::job::reporter::Reporter;
use crate::job::{Failure, Job, TRACER_FD};
use crate::sys::stderr::{say, say_panics};
use crate::sys::{fd, process};
use crate::{checkpoint, exit, fail_points, restore};

/// A descriptor of init's, which closes on exec.
fn inherited(number: i32) -> Option<OwnedFd> {
    let fd = process::inherited(number).ok()?;
    fd::keep_from_exec(fd.as_fd()).ok()?;
    Some(fd)
}

/// The tracers' ends of the channels that init made for a restore.
fn channels() -> Option<[OwnedFd; tracer::COUNT]> {
    Some([inherited(TRACER_FD)?, inherited(TRACER_FD + 1)?])
}

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
        Job::Checkpoint {
            common,
            root,
            service,
            tracer,
            lease,
            after_commit,
            hold_ms,
            within_ms,
            pace,
            files,
            ephemeral_store,
            clock_ahead_s,
        } => {
            let tracer = tracer.and_then(|pid| Some(Tracer { pid, channel: Arc::new(inherited(TRACER_FD)?) }));
            let (hold, standbys) = (hold_ms.map(Duration::from_millis), checkpoint::Standbys::default());
            let target = checkpoint::Target {
                root,
                service,
                tracer,
                lease,
                after_commit,
                hold,
                until: within_ms.map(|ms| Instant::now() + Duration::from_millis(ms)),
                standbys,
                asked: None,
                pace,
                files,
                ephemeral_store,
                clock_ahead_s,
            };
            checkpoint::run(&common, &target, &reporter).map(Event::Checkpointed)
        }
        Job::Settle { common, generation, remaining_ms, lease } => {
            Ok(checkpoint::settle(&common, generation, Duration::from_millis(remaining_ms), &lease, &reporter))
        }
        Job::Restore { common, choice, failure, volume_changed, clock, standby, files, tracers } => {
            let policy = restore::Policy {
                choice,
                failure,
                volume_changed,
                clock,
                standby,
                files,
                tracers: if tracers { channels() } else { None },
                exclusive: common.exclusive_ms.map(Duration::from_millis),
            };
            restore::run(&common, &policy, &reporter)
        }
        Job::Heartbeat { common, lease } => restore::heartbeat(&common, &lease),
    };
    let failed = result.is_err();
    reporter.finish(&result.unwrap_or_else(|Failure { message, log, phase }| Event::Failed { message, log, phase }));
    if failed { exit::FAILED } else { exit::OK }
}
