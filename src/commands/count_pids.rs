//! `freeze count-pids`: uses up all PIDs, for a restore that needs the lowest ones again.

use nix::libc;

use crate::exit;
use crate::sys::stderr::say;
use crate::sys::{pids, process};

/// Counts. Ends with the worker that waits for it.
pub fn main() -> u8 {
    process::on_parent_death(libc::SIGKILL);
    match pids::go_round() {
        Ok(()) => exit::OK,
        Err(error) => {
            say(&error.to_string());
            exit::FAILED
        }
    }
}
