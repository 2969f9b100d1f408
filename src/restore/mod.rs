//! The restore worker: manifest, checks, files, CRIU, and a look at what came back.
//!
//! Without privileges PIDs only go up, so all threads start before CRIU does and nothing here forks after that. On any
//! failure nothing of the service may run.

mod check;
mod serve;
mod stdio;
mod verify;

pub use check::cpu_features;
pub use stdio::record as record_stdio;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use crate::control::protocol::{Event, Phase, RestoreReport};
use crate::criu::command::{self, NotStarted};
use crate::criu::{log, stream};
use crate::files::put_back::{self, PutBackError};
use crate::image::{Body, Fetcher, ImageError, Lease, Manifest, Vault};
use crate::store::{self, Store, StoreError};
use crate::worker::report::Reporter;
use crate::worker::work::Work;
use crate::worker::{Choice, Common, Failure, OnFailure, Standby};
use check::Unfit;
use serve::ServeError;

/// Why a restore failed.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// This container cannot take it.
    #[error(transparent)]
    Unfit(#[from] Unfit),
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
}

/// Which generation to restore, when, and what to do where that fails.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Which one.
    pub choice: Choice,
    /// What to do where that cannot be restored.
    pub failure: OnFailure,
    /// How to wait for one.
    pub standby: Standby,
    /// Let only one container have the application, which looks so often.
    pub exclusive: Option<Duration>,
}

/// Looks whether this container still has the application. See [`Job::Hold`](crate::worker::Job::Hold).
pub fn hold(_common: &Common, _lease: &Lease) -> Result<Event, Failure> {
    todo!("exclusive")
}

/// Restores the newest generation. The answer is the last event for init.
pub fn run(common: &Common, _policy: &Policy, reporter: &Reporter) -> Result<Event, Failure> {
    let nothing_kept = |error: RestoreError| Failure { message: error.to_string(), log: None, phase: None };
    reporter.progress(Phase::Check);
    let store = store::open(&common.store).map_err(|error| nothing_kept(error.into()))?;
    let loaded = newest(store, common).map_err(|error| nothing_kept(error.into()))?;
    let Some((vault, lease, manifest)) = loaded else {
        return Ok(Event::NothingToRestore { lease: Lease::fresh() });
    };
    let in_generation = |message: String| format!("generation {} cannot be restored: {message}", manifest.generation);
    let work = Work::new(&common.runtime_dir, command::RESTORE_LOG)
        .map_err(|error| nothing_kept(RestoreError::RuntimeDir { path: common.runtime_dir.clone(), error }))?;
    let fetched = Fetcher::new(&vault, &manifest, common.memory, crate::worker::cores()).map_err(RestoreError::from);
    fetched.and_then(|fetcher| bring_back(&manifest, fetcher, &work, reporter)).map_err(|error| Failure {
        message: in_generation(error.to_string()),
        log: work.kept_log(),
        phase: None,
    })?;
    reporter.send(&Event::Restored {
        root: manifest.root_pid,
        service: manifest.service_pid,
        lease,
        restore: RestoreReport::default(),
    });
    // Not before: where the restore fails, whoever had the application keeps it.
    Ok(match lease.claim(&vault) {
        Ok(()) => Event::Claimed,
        Err(error) => Event::Warning { message: unclaimed(&error, lease.generation) },
    })
}

fn newest(store: Arc<dyn Store>, common: &Common) -> Result<Option<(Vault, Lease, Manifest)>, ImageError> {
    let Some(vault) = Vault::open(store, &common.keys)? else { return Ok(None) };
    let Some(lease) = Lease::for_newest(&vault)? else { return Ok(None) };
    Ok(Manifest::load(&vault, Some(lease.generation))?.map(|manifest| (vault, lease, manifest)))
}

fn unclaimed(error: &ImageError, generation: u64) -> String {
    match error {
        ImageError::Replaced { .. } => format!("this container's checkpoints will be refused: {error}"),
        error => format!(
            "the service runs, but the store could not be told ({error}). Another container that restores generation \
             {generation} too will not be noticed before the next checkpoint"
        ),
    }
}

fn bring_back(manifest: &Manifest, mut fetcher: Fetcher, work: &Work, reporter: &Reporter) -> Result<(), RestoreError> {
    check::check(manifest)?;
    put_back::put_back(&manifest.files, &mut fetcher)?;
    reporter.progress(Phase::Restore);
    reporter.send(&Event::Restoring { root: manifest.root_pid });
    let status = run_criu(manifest, &mut fetcher, work)?;
    if !status.success() {
        return Err(RestoreError::Criu(log::cause(&work.path().join(command::RESTORE_LOG))));
    }
    for difference in verify::differences(manifest) {
        reporter.warn(format!("after the restore {difference}; the next checkpoint may be refused"));
    }
    Ok(())
}

fn run_criu(manifest: &Manifest, fetcher: &mut Fetcher, work: &Work) -> Result<ExitStatus, RestoreError> {
    let runtime_dir = |error| RestoreError::RuntimeDir { path: work.path().to_owned(), error };
    let listener = stream::listen(work.path(), stream::SERVE_SOCKET).map_err(runtime_dir)?;
    let stdio = stdio::Stdio::join(&manifest.stdio).map_err(runtime_dir)?;
    let images: BTreeMap<&str, &Body> =
        manifest.images.iter().filter_map(|image| Some((image.name.as_str(), image.body.as_ref()?))).collect();
    let mut child = command::spawn(&command::restore(work.path(), stdio.inherit()), &stdio.descriptors())?;
    let served = serve::serve(&mut child, &listener, &images, fetcher);
    if served.is_err() {
        // CRIU ends the half-made tasks when its images stop; it must not outlive the answer.
        let _ = child.kill();
        let _ = child.wait();
    }
    Ok(served?)
}

/// Writes a new generation id into the runtime folder.
pub fn renew_generation_id(_runtime_dir: &std::path::Path) {}
