//! Why a restore failed, and whether another attempt can help.

use std::io;
use std::path::PathBuf;

use super::check::NotFit;
use super::look::is_of_one_generation;
use super::serve::ServeError;
use crate::criu::command::NotStarted;
use crate::criu::log::Cause;
use crate::demands::Unfit;
use crate::files::put_back::PutBackError;
use crate::image::ImageError;
use crate::store::StoreError;

/// Why a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Unfit(#[from] NotFit),
    #[error(transparent)]
    Files(#[from] PutBackError),
    #[error(transparent)]
    NotStarted(#[from] NotStarted),
    #[error("the folder {path} cannot be used ({error}); set FREEZE_RUNTIME_DIR to a writable folder")]
    RuntimeDir { path: PathBuf, error: io::Error },
    #[error(
        "this container's mounts cannot be read ({0}), so freeze cannot tell whether a volume has changed since the checkpoint; mount /proc"
    )]
    Volumes(io::Error),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("{0}")]
    Clock(Unfit),
    /// The cause according to CRIU's log.
    #[error("{0}")]
    Criu(Cause),
    /// The store did not answer which container may run the service.
    #[error(
        "the store does not say whether another container has taken it ({0}), so nothing of the service was run here. \
         Find out why the store does not answer, and start this container again"
    )]
    Undecided(ImageError),
    /// CRIU failed after the gate was opened.
    #[error(
        "{0}. The service may have run for a moment before freeze ended it; start this container again to restore it from the checkpoint"
    )]
    AfterLettingGo(Cause),
}

/// Which attempt can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hope {
    /// One with the same generation, later.
    Again,
    /// One with the same generation and fresh PIDs.
    FreshPids,
    /// One with another generation, or with this one after the store was repaired.
    OtherBytes,
    /// One with another generation: this container cannot restore this one.
    OtherGeneration,
    /// None in this container.
    None,
    /// None; and the service may have run, so the command must not be started either.
    HasRun,
}

impl RestoreError {
    /// Whether CRIU's log has more. Of other failures it has the consequence alone: that CRIU had to give up.
    pub(super) fn is_of_criu(&self) -> bool {
        matches!(self, Self::Criu(_) | Self::AfterLettingGo(_) | Self::Serve(ServeError::Broken(_)))
    }

    /// Whether the service's clocks would go back here.
    pub(super) fn is_of_clocks(&self) -> bool {
        match self {
            Self::Clock(_) => true,
            Self::Criu(cause) => cause.clocks_would_go_back,
            _ => false,
        }
    }

    pub(super) fn hope(&self) -> Hope {
        let of_image = |error| if is_of_one_generation(error) { Hope::OtherBytes } else { Hope::Again };
        match self {
            Self::Image(error) | Self::Files(PutBackError::Image(error)) | Self::Serve(ServeError::Image(error)) => {
                of_image(error)
            }
            Self::Criu(cause) if cause.numbers_were_taken => Hope::FreshPids,
            Self::Criu(cause) if cause.clocks_would_go_back => Hope::OtherGeneration,
            Self::Store(_) | Self::Files(_) | Self::Serve(_) | Self::Criu(_) => Hope::Again,
            Self::Unfit(_) | Self::Clock(_) => Hope::OtherGeneration,
            Self::NotStarted(_) | Self::RuntimeDir { .. } | Self::Volumes(_) | Self::Undecided(_) => Hope::None,
            Self::AfterLettingGo(_) => Hope::HasRun,
        }
    }
}
