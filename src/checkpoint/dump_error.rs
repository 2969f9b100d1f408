//! Why a dump failed. The service runs on in all cases.

use std::io;

use crate::criu::command::NotStarted;
use crate::criu::log::Cause;
use crate::image::ImageError;

#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error(transparent)]
    NotStarted(#[from] NotStarted),
    #[error("the service could not be dumped: {0}")]
    Refused(Cause),
    #[error(
        "the container's memory was nearly used up during the checkpoint, so freeze gave it up; raise the memory limit, or try again when the service uses less"
    )]
    ShortOfMemory,
    #[error(
        "the dump failed while {doing} ({error}); try again, and check the container's memory limit if it fails again"
    )]
    Broken { doing: &'static str, error: io::Error },
    #[error(
        "the memory of process {pid} cannot be read ({error}), so the checkpoint is given up; try again, and check the container's memory limit if it fails again"
    )]
    Unreadable { pid: i32, error: io::Error },
    #[error(
        "CRIU's list of the service's files cannot be read, so freeze cannot tell whether all of them are captured; try again, and report it if it fails again"
    )]
    Unknown,
    #[error("CRIU's image of the clocks cannot be read; try again, and report it if it fails again")]
    UnknownClocks,
    /// The service runs on, and can be checkpointed without copies.
    #[error("the container's memory was nearly used up while copies of the service's processes were read")]
    CopiesGivenUp,
    /// The same.
    #[error("{0}")]
    NotCopied(String),
    #[error(transparent)]
    Image(#[from] ImageError),
}
