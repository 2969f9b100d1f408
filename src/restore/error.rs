//! Why a restore failed, and whether it may do better another time.

use std::io;
use std::path::PathBuf;

use super::check::NotFit;
use super::look::is_of_one_generation;
use super::serve::ServeError;
use crate::criu::command::NotStarted;
use crate::files::put_back::PutBackError;
use crate::image::ImageError;
use crate::store::StoreError;

/// Why a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// This container cannot take it.
    #[error(transparent)]
    Unfit(#[from] NotFit),
    /// The service's files.
    #[error(transparent)]
    Files(#[from] PutBackError),
    /// No criu.
    #[error(transparent)]
    NotStarted(#[from] NotStarted),
    /// The runtime folder.
    #[error("the folder {path} cannot be used ({error}); set FREEZE_RUNTIME_DIR to a writable one")]
    RuntimeDir {
        /// The folder.
        path: PathBuf,
        /// The system's word for it.
        error: io::Error,
    },
    /// While serving images.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// CRIU gave up; its own words, explained.
    #[error("{0}")]
    Criu(String),
    /// The store did not say who may let the service run.
    #[error(
        "it could not be found out whether another container has taken it ({0}), so nothing of it was run here. Find out why the \
         store does not answer, and start this container again"
    )]
    Undecided(ImageError),
    /// CRIU failed when it had been told to let the tasks run.
    #[error(
        "{0}. It may have run for a moment before it was ended; start this container again to restore it as it was checkpointed"
    )]
    AfterLettingGo(String),
}

/// What another attempt may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hope {
    /// The same generation may work another time.
    Again,
    /// Only other bytes in the store would help, or another generation.
    OtherBytes,
    /// This container cannot take this generation.
    OtherGeneration,
    /// Nothing that is done here helps.
    None,
    /// As `None`; and the service has run, so that the command must not be started beside what it did.
    HasRun,
}

impl RestoreError {
    pub(super) fn hope(&self) -> Hope {
        let of_image = |error| if is_of_one_generation(error) { Hope::OtherBytes } else { Hope::Again };
        match self {
            Self::Image(error) | Self::Files(PutBackError::Image(error)) | Self::Serve(ServeError::Image(error)) => {
                of_image(error)
            }
            Self::Store(_) | Self::Files(_) | Self::Serve(_) | Self::Criu(_) => Hope::Again,
            Self::Unfit(_) => Hope::OtherGeneration,
            Self::NotStarted(_) | Self::RuntimeDir { .. } | Self::Undecided(_) => Hope::None,
            Self::AfterLettingGo(_) => Hope::HasRun,
        }
    }
}
