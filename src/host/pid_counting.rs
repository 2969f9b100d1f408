//! Predicts how long a restore counts PIDs: at the restore, and at a checkpoint for a later one. Changes
//! nothing.

use crate::sys::pids;

/// The log line if counting up to `highest`, the service's highest PID or TID, takes 100 ms or more.
pub(crate) fn before_restore(highest: i32) -> Option<String> {
    let millis = Some(pids::millis_up_to(highest)).filter(|&millis| millis >= 100)?;
    Some(format!("counting PIDs up to {highest}, the service's highest PID, takes about {}", seconds(millis)))
}

/// The warning if a restore in a container like this one counts for a second or more.
pub fn at_checkpoint(highest: i32) -> Option<String> {
    let millis = Some(pids::millis_up_to(highest)).filter(|&millis| millis >= 1000)?;
    Some(format!(
        "a restore that cannot choose PIDs counts up to PID {highest}, which takes about {}; let freeze choose PIDs \
         (add the capability CHECKPOINT_RESTORE and a seccomp profile that allows clone3), or restart the service, \
         which then has lower PIDs",
        seconds(millis)
    ))
}

fn seconds(millis: u64) -> String {
    format!("{}.{} s", millis / 1000, millis % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_one_digit_after_the_point() {
        assert_eq!(["0.0 s", "0.9 s", "12.3 s"], [99, 999, 12_345].map(seconds));
    }
}
