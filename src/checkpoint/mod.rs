//! The checkpoint worker: preflight, dump, files, commit, and only then the end of the service.
//!
//! Whatever fails before the commit must leave the service running: nothing here may kill it, only CRIU does, when told
//! after the commit.

mod describe;
mod dump;
mod preflight;
mod tree_of_service;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::control::protocol::{Event, Phase, Report};
use crate::criu::{command, stats};
use crate::files::capture::{self, CaptureError, Captured};
use crate::files::used::{self, Rules};
use crate::image::{self, BodyId, Figures, File, Image, ImageError, ImageWriter, Lease, Manifest, Vault, Written};
use crate::store::{self, Fencing, StoreError};
use crate::worker::report::Reporter;
use crate::worker::work::Work;
use crate::worker::{self, Common, Failure, Fate};
use dump::{Dump, DumpError, Verdict};
use preflight::Refusal;
use tree_of_service::{NotWhole, Tree};

/// Why a checkpoint failed.
#[derive(Debug, thiserror::Error)]
enum CheckpointError {
    /// Found before anything was frozen.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// Found before anything was frozen.
    #[error(transparent)]
    NotWhole(#[from] NotWhole),
    /// CRIU.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// The service's files.
    #[error(transparent)]
    Files(#[from] CaptureError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The runtime folder.
    #[error("the folder {path} cannot be used ({error}); set FREEZE_RUNTIME_DIR to a writable one")]
    RuntimeDir {
        /// The folder.
        path: PathBuf,
        /// The system's word for it.
        error: io::Error,
    },
    /// /proc.
    #[error("the service's files cannot be looked up ({0}); freeze needs /proc mounted")]
    Proc(io::Error),
}

/// What a checkpoint is of.
#[derive(Debug, Clone)]
pub struct Target {
    /// Root of the tree to dump.
    pub root: i32,
    /// The service's first process.
    pub service: i32,
    /// What this container holds of the application.
    pub lease: Lease,
    /// What becomes of the service after the commit.
    pub fate: Fate,
    /// Files and folders to capture beside those that are open.
    pub include: Vec<PathBuf>,
}

/// Takes one checkpoint.
pub fn run(common: &Common, target: &Target, reporter: &Reporter) -> Result<Report, Failure> {
    let work = Work::new(&common.runtime_dir, command::DUMP_LOG)
        .map_err(|error| CheckpointError::RuntimeDir { path: common.runtime_dir.clone(), error });
    let work = work.map_err(|error| Failure { message: error.to_string(), log: None, phase: None })?;
    take(common, target, reporter, &work).map_err(|error| Failure {
        message: error.to_string(),
        log: work.kept_log(),
        phase: None,
    })
}

/// Finds out what became of a generation that was offered. See [`Job::Settle`](crate::worker::Job::Settle).
pub fn settle(
    _common: &Common,
    _generation: u64,
    _remaining: Duration,
    _lease: &Lease,
    _reporter: &Reporter,
) -> Result<Event, Failure> {
    todo!("handover")
}

fn take(common: &Common, target: &Target, reporter: &Reporter, work: &Work) -> Result<Report, CheckpointError> {
    let started = Instant::now();
    prefer_for_the_oom_killer();
    reporter.progress(Phase::Preflight);
    let tree = Tree::of_service(target.root, target.service)?;
    preflight::check(&tree)?;
    let rules = Rules::of_this_container(describe::our_folders(common)).map_err(CheckpointError::Proc)?;
    let host = describe::host().map_err(CheckpointError::Proc)?;
    let store = store::open(&common.store)?;
    if store.prepare()? == Fencing::Ignored {
        reporter.warn(unfenced(store.url()));
    }
    let vault = Vault::create(store, &common.keys)?;
    target.lease.check(&vault)?;
    let writer = ImageWriter::new(&vault, common.memory, worker::cores())?;

    reporter.progress(Phase::Dump);
    let mut dump = Dump::start(target.root, work.path())?;
    let images = dump.collect(&writer)?;

    reporter.progress(Phase::Files);
    // Processes may have come and gone between the preflight and the freeze.
    let tree = Tree::of_service(target.root, target.service)?;
    let paths = used::paths(tree.processes(), &target.include, &rules).map_err(CheckpointError::Proc)?;
    let files = capture::capture(&paths, &writer)?;
    let mut manifest = describe::service(host, &tree, target.root, target.service).map_err(CheckpointError::Proc)?;
    if target.fate == Fate::Run {
        dump.release(Verdict::Run)?;
    }

    reporter.progress(Phase::Commit);
    let written = writer.finish()?;
    let frozen_ms = millis(dump.frozen());
    let (bytes, stored) = (written.bytes, written.stored);
    let figures = Figures { bytes, stored, frozen_ms, new: written.new, shared: written.shared };
    fill(&mut manifest, images, files, written, figures);
    let lease = image::commit(&vault, &mut manifest, target.lease, started)?;
    reporter.send(&Event::Committed { lease });
    if target.fate != Fate::Run {
        dump.release(Verdict::Kill)?;
    }
    image::mark_committed(&vault, lease.generation);
    Ok(Report {
        generation: lease.generation,
        bytes: figures.bytes,
        stored: figures.stored,
        new: figures.new,
        shared: figures.shared,
        frozen_ms: stats::frozen_ms(work.path()).unwrap_or(frozen_ms),
        total_ms: millis(started.elapsed()),
        ended: target.fate != Fate::Run,
    })
}

fn unfenced(url: &str) -> String {
    format!(
        "the server of {url} ignores the conditions of a put, so two containers that use this store can overwrite each \
         other's checkpoints unnoticed. Let one run at a time, or use a server that knows If-None-Match and If-Match"
    )
}

/// Puts what was written into the manifest.
fn fill(
    manifest: &mut Manifest,
    images: BTreeMap<String, BodyId>,
    files: Vec<Captured>,
    mut written: Written,
    figures: Figures,
) {
    manifest.images = images.into_iter().map(|(name, id)| Image { name, body: Some(written.take(id)) }).collect();
    let with_body = |(file, id): Captured| File { body: id.map(|id| written.take(id)), ..file };
    manifest.files = files.into_iter().map(with_body).collect();
    manifest.packs = written.packs;
    manifest.chunks = written.chunks;
    manifest.figures = Some(figures);
}

/// Where the container's memory runs out because of the checkpoint, the checkpoint has to go and not the service. Raising
/// it needs no privilege (proc_pid_oom_score_adj(5)); CRIU inherits it.
fn prefer_for_the_oom_killer() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
