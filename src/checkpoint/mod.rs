//! The checkpoint worker: preflight, dump, files, commit, and only then the end of the service.
//!
//! Never kills the service: only CRIU does, when ordered after the commit. Every failure before the commit
//! leaves the service running. Once an offered generation may count, the service stays stopped unless the
//! generation is withdrawn.

mod announce;
mod describe;
mod dump;
mod dump_error;
mod ending;
mod fence;
mod handover;
mod heartbeat;
mod meter;
pub(crate) mod outlook;
pub mod pid_order;
pub(crate) mod preflight;
mod receive;
mod room;
mod standbys;
mod tree_of_service;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::control::protocol::{Event, Phase, Report, millis};
use crate::criu::command::{self, DumpOptions, SystemV};
use crate::criu::running::Place;
use crate::criu::stats;
use crate::criu::tracer::Tracer;
use crate::exit;
use crate::fail_points::{Point, reach};
use crate::files::ahead::Ahead;
use crate::files::capture::{self, CaptureError, Captured};
use crate::files::complete::{self, Incomplete};
use crate::files::ephemeral::Ephemeral;
use crate::files::identity::Identities;
use crate::files::selection::{Scope, Selection};
use crate::files::survey::Survey;
use crate::files::used::{self, LookupError, Rules, Used};
use crate::files::user::User;
use crate::files::volume_changes;
use crate::files::written_back;
use crate::host::memory::Headroom;
use crate::host::pid_counting;
use crate::image::{
    self, BodyId, CriuImage, Demands, Figures, File, ImageError, ImageWriter, Lease, Manifest, Standby, Vault, Written,
};
use crate::job::reporter::Reporter;
use crate::job::work_folder::Work;
use crate::job::{self, AfterCommit, Common, Failure};
use crate::privileges::{Abilities, DumpPlan, RestorePlan};
use crate::proc::tree;
use crate::store::{self, Fencing, Location, StoreError};
pub(crate) use dump::{Dump, Verdict};
pub(crate) use dump_error::DumpError;
use ending::DumpGate;
use fence::{Stopped, StoppedByUser};
use handover::{Complaints, Offer};
use heartbeat::Heartbeats;
pub(crate) use meter::Meter;
use pid_order::Disorder;
use preflight::Refusal;
pub(crate) use room::Victim;
use room::{TooLittle, Watch};
pub(crate) use standbys::Standbys;
use tree_of_service::{NotWhole, Tree};

#[derive(Debug, thiserror::Error)]
enum CheckpointError {
    #[error(transparent)]
    Refusal(#[from] Refusal),
    #[error(transparent)]
    NotWhole(#[from] NotWhole),
    #[error(transparent)]
    Disorder(#[from] Disorder),
    #[error(transparent)]
    TooLittle(#[from] TooLittle),
    #[error(transparent)]
    Dump(#[from] DumpError),
    #[error(transparent)]
    Files(#[from] CaptureError),
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("the folder {path} cannot be used ({error}); set FREEZE_RUNTIME_DIR to a writable folder")]
    RuntimeDir { path: PathBuf, error: io::Error },
    #[error(
        "the server of {0} ignores conditional writes, so a handover is refused: two containers could take the same \
         generation. Use a server that supports If-None-Match and If-Match, or checkpoint without --handover"
    )]
    NotFenced(String),
    #[error(
        "the store {url} is {place} and is deleted with the container, so a checkpoint that ends the service is \
         refused. Mount a volume there, or use a bucket (--store). To save this service, checkpoint with \
         --leave-running and take the generation out with `freeze copy`. If this same container will be started again, \
         FREEZE_EPHEMERAL_STORE=1 allows the checkpoint"
    )]
    Ephemeral { url: String, place: Ephemeral },
    /// Without the fence a fault could run the service twice.
    #[error(
        "freeze cannot stop process {0}, so a fault during this checkpoint could leave the service running twice; run all processes of the service as one user"
    )]
    NotStopped(String),
    /// The commit was in doubt, and no container has taken the generation.
    #[error(
        "{error}. No container has taken generation {generation}, so freeze has withdrawn it, and the service keeps running"
    )]
    Withdrawn {
        generation: u64,
        /// Cause of the doubt.
        error: ImageError,
    },
    #[error("no container took generation {generation} within {}, so the service keeps running", humantime::format_duration(*.time))]
    NotTaken { generation: u64, time: Duration },
    /// Every standby that answers.
    #[error("{}", standbys::unfit(.0))]
    Unfit(Vec<Standby>),
    #[error(
        "the standby {standby} could not restore generation {generation}, so freeze has withdrawn it, and the service keeps \
         running here. The log of the standby says why"
    )]
    NotRestored { generation: u64, standby: String },
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

impl CheckpointError {
    /// Whether CRIU's log has more. Of other failures it has the consequence alone: that CRIU had to give up.
    fn is_of_criu(&self) -> bool {
        matches!(self, Self::Dump(DumpError::Refused(_) | DumpError::Broken { .. }))
    }
}

/// The service to checkpoint, and how.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// PID of the subreaper, the root of the tree.
    pub root: i32,
    /// PID of the service's first process.
    pub service: i32,
    /// Where CRIU runs, if not beside the service.
    pub tracer: Option<Tracer>,
    pub lease: Lease,
    pub after_commit: AfterCommit,
    /// How long a service that would be stopped is held for a standby that is ready. None to stop it in any case.
    pub hold: Option<Duration>,
    /// The standbys whose failure ends the hold.
    pub standbys: Standbys,
    /// Which files are captured beside those that the service uses.
    pub files: Selection,
    /// Lets the service end into a store that vanishes with the container.
    pub ephemeral_store: bool,
    /// Seconds by which the service's clocks are ahead of the kernel's, if they go on in user space.
    pub clock_ahead_s: Option<u64>,
}

pub(crate) fn run(common: &Common, target: &Target, reporter: &Reporter) -> Result<Report, Failure> {
    let runs_on = target.after_commit == AfterCommit::Resume;
    attempt(common, target, reporter, runs_on)?.map_or_else(
        |given_up| {
            reporter.warn(format!("{given_up}, so freeze takes the checkpoint again, while the service stands still"));
            // Without copies none are given up.
            attempt(common, target, reporter, false)?.map_err(|error| failure(&error, None, None))
        },
        Ok,
    )
}

/// The inner error: copies were given up, and the service runs on.
fn attempt(
    common: &Common,
    target: &Target,
    reporter: &Reporter,
    copies: bool,
) -> Result<Result<Report, DumpError>, Failure> {
    let work = Work::new(&common.runtime_dir, command::DUMP_LOG).map_err(|error| {
        failure(&CheckpointError::RuntimeDir { path: common.runtime_dir.clone(), error }, None, None)
    })?;
    let meter = Meter::new(reporter);
    match take(common, target, reporter, &meter, &work, copies) {
        Err(CheckpointError::Dump(given_up @ DumpError::CopiesGivenUp)) => Ok(Err(given_up)),
        Err(error) => {
            let log = if error.is_of_criu() { work.kept_log() } else { None };
            Err(failure(&error, log, meter.phase()))
        }
        Ok(report) => Ok(Ok(report)),
    }
}

fn failure(error: &dyn std::error::Error, log: Option<PathBuf>, phase: Option<Phase>) -> Failure {
    Failure { message: error.to_string(), log, phase }
}

/// Finds out who has a generation that may have been offered. See [`Job::Settle`](crate::job::Job::Settle).
pub(crate) fn settle(
    common: &Common,
    generation: u64,
    remaining: Duration,
    lease: &Lease,
    reporter: &Reporter,
) -> Event {
    reach(Point::SettleBegun);
    let begun = Instant::now();
    let mut complaints = Complaints::new(generation, reporter);
    let vault = complaints.until_done(|| Vault::create(store::open(&common.store)?, &common.keys));
    let (withdrawal, standbys) = (handover::withdrawal(common, lease), Standbys::default());
    let offer = Offer { vault: &vault, generation, withdrawal, standbys: &standbys };
    let taken_by = offer.settle(remaining.saturating_sub(begun.elapsed()), reporter);
    reach(Point::SettleDecided);
    Event::Settled { taken_by }
}

fn take(
    common: &Common,
    target: &Target,
    reporter: &Reporter,
    meter: &Meter,
    work: &Work,
    copies: bool,
) -> Result<Report, CheckpointError> {
    let started = Instant::now();
    reach(Point::CheckpointBegun);
    prefer_for_the_oom_killer();
    meter.begin(Phase::Preflight);
    let abilities = Abilities::probe();
    let read = || Tree::of_service(target.root, target.service).map_err(CheckpointError::from);
    let mut seen = check(&read, &abilities)?;
    match &seen.disorder {
        Some(disorder) => reporter.warn(disorder.to_string()),
        None if RestorePlan::of(&abilities).can_go_back() => {}
        None => tree::highest(seen.tree.processes())
            .and_then(pid_counting::at_checkpoint)
            .into_iter()
            .for_each(|message| reporter.warn(message)),
    }
    if let Some(uid) = User::ours().does_not_reach(seen.tree.processes()) {
        reporter.warn(unreached(uid));
    }
    for path in target.files.named.include.iter().filter(|path| !path.exists()) {
        // The file may come later, but a misspelt path must not go unnoticed.
        reporter.warn(format!("--include {}: there is no such file at the moment", path.display()));
    }
    let ours = describe::our_folders(common, work.path());
    let rules = Rules::of_this_container(parent_id() as i32, ours, target.files.clone())
        .map_err(LookupError::Proc)?
        .with_names(&common.runtime_dir);
    if rules.scope() == Scope::Changed && rules.may_miss_deletions() {
        reporter.warn(
            "the names of the image's files were not all listed when the container started, so some of what the service \
             has deleted may be there again after a restore"
                .into(),
        );
    }
    used::check_included(&rules)?;
    let survey = survey(&rules, target.files.limit)?;
    let host = describe::host().map_err(LookupError::Proc)?;
    let store = store::open(&common.store)?;
    let fencing = store.prepare()?;
    check_lasting(&common.store, target)?;
    match (fencing, target.after_commit) {
        (Fencing::Enforced, _) => {}
        (Fencing::Ignored, AfterCommit::HandOver { .. }) => {
            return Err(CheckpointError::NotFenced(store.url().to_owned()));
        }
        (Fencing::Ignored, _) => reporter.warn(unfenced(store.url())),
    }
    let vault = Vault::create(store, &common.keys)?;
    target.lease.check(&vault)?;
    let interval = common.exclusive_ms.map(Duration::from_millis);
    let _heartbeats = Heartbeats::start(&vault, target.lease, &common.instance, interval);
    let memory = room::fit(common.memory, seen.tree.processes(), Headroom::now())?;
    let watch = watch(reporter);
    let writer = ImageWriter::within(&vault, memory, job::cores(), room::is_left)?;
    let written = used::written(seen.tree.processes()).map_err(LookupError::Proc)?;
    let identities = Identities::read(&common.runtime_dir, &used::mapped(seen.tree.processes(), &rules), &written);
    let ahead = match &survey {
        Some(survey) => {
            let written = used::written(read()?.processes()).map_err(LookupError::Proc)?;
            Ahead::read(&survey.changed, &written, &writer)?
        }
        None => Ahead::default(),
    };
    if !ahead.is_empty() || identities.are_new() {
        // Reading may have taken minutes.
        seen = check(&read, &abilities)?;
    }
    let runs_on = target.after_commit == AfterCommit::Resume;
    if runs_on {
        let used = Used::by(seen.tree.processes(), &seen.watched)?;
        written_back::save(volume_changes::mapped(&used, &rules))
            .unwrap_or_else(|unsaved| reporter.warn(unsaved.to_string()));
    }
    let service = || standbys::describe(&host, &seen, target, &rules, &identities, survey.as_ref());
    let (announced, target) = standbys::announce(&vault, target, common, fencing, reporter, service)?;
    let target = &target;
    reach(Point::CheckpointChecked);

    meter.begin(Phase::Dump);
    let by_user = StoppedByUser::of(&seen.tree);
    let place = target.tracer.as_ref().map_or(Place::Here, Place::In);
    let criu = DumpPlan::of(&abilities).criu;
    let objects = SystemV::of(image::container_id(&vault, &common.instance));
    let victim = watch.victim().clone();
    let options = DumpOptions { watched: &seen.watched, objects: Some(&objects), copies };
    let mut dump = Dump::start(criu, place, target.root, work.path(), &options, victim)?;
    let mut images = dump.collect(&writer, meter)?;
    reach(Point::CheckpointHeld);

    meter.begin(Phase::Files);
    // Processes may have come and gone between preflight and freeze.
    let tree = Tree::of_service(target.root, target.service)?;
    preflight::check_frozen(tree.processes(), &abilities)?;
    let used = Used::by(tree.processes(), &seen.watched)?;
    let survey = survey.map(|survey| survey.again(&rules)).transpose()?.unwrap_or_default();
    let paths = used::paths(&used, survey.changed.keys(), &rules)?;
    let files = capture::capture(&paths, &used, &|path, meta| ahead.content(path, meta), &writer)?;
    complete::check(&dump.named()?, &files, &used, &rules, tree.processes())?;
    let mapped = describe::executables(&tree, &rules, &identities);
    let mut manifest =
        describe::service(host, &tree, target.root, target.service, mapped).map_err(LookupError::Proc)?;
    manifest.clocks = manifest.clocks.map(|kernel| dump.clocks(target.root, kernel)).transpose()?;
    manifest.demands = Some(seen.demands.but_free(dump.files()));
    manifest.folder_links = used.folder_links(&rules);
    if runs_on {
        written_back::begin(volume_changes::mapped(&used, &rules))
            .unwrap_or_else(|unsaved| reporter.warn(unsaved.to_string()));
    }
    manifest.volume_files = volume_changes::record(&used, &rules);
    if rules.scope() == Scope::Changed {
        manifest.deleted = rules.deleted().into_iter().map(|path| path.into_os_string().into_vec()).collect();
    }
    reach(Point::CheckpointFiles);
    if copies {
        meter.begin(Phase::Dump);
        images.extend(read_copies(&mut dump, (&watch, memory), &writer, meter, reporter)?);
    } else if runs_on {
        dump.release(Verdict::Run)?;
    }
    if runs_on {
        reach(Point::CheckpointReleased);
    }

    meter.begin(Phase::Commit);
    let written = writer.finish()?;
    drop(watch);
    reach(Point::CheckpointPacked);
    let frozen_ms = millis(dump.frozen());
    let (bytes, stored) = (written.bytes, written.stored);
    let figures = Figures { bytes, stored, frozen_ms, new: written.new, shared: written.shared };
    fill(&mut manifest, images, files, written, figures);
    manifest.instance.clone_from(&common.instance);
    // Without fencing two containers could take the generation, so it is not offered.
    manifest.offered = !runs_on && fencing == Fencing::Enforced;
    let generation = if runs_on {
        let lease = image::commit(&vault, &mut manifest, target.lease, started)?;
        reporter.send(&Event::Committed { lease });
        reach(Point::CheckpointCommitted);
        image::mark_committed(&vault, lease.generation);
        lease.generation
    } else {
        let stopped = Stopped::stop(&tree).map_err(CheckpointError::NotStopped)?;
        // If CRIU has died, the service has run on, and the generation would lose that work.
        if let Err(error) = dump.check() {
            stopped.go_on();
            by_user.stop_again();
            return Err(error.into());
        }
        reach(Point::CheckpointStopped);
        let gate = DumpGate { dump: &mut dump, stopped, by_user: &by_user };
        ending::give_away(common, target, reporter, &vault, &mut manifest, started, gate)?
    };
    if let Some(announced) = announced {
        announced.disarm();
    }
    Ok(Report {
        generation,
        bytes: figures.bytes,
        stored: figures.stored,
        new: figures.new,
        shared: figures.shared,
        frozen_ms: stats::frozen_ms(work.path()).unwrap_or(frozen_ms),
        total_ms: millis(started.elapsed()),
        ended: !runs_on,
    })
}

/// Lets the service run on, and takes its memory from copies of its processes where that can be.
fn read_copies(
    dump: &mut Dump,
    (watch, memory): (&Watch, u64),
    writer: &ImageWriter,
    meter: &Meter,
    reporter: &Reporter,
) -> Result<BTreeMap<String, BodyId>, CheckpointError> {
    if !room::is_left_for_reading() {
        return Err(DumpError::ShortOfMemory.into());
    }
    let there_is_room = room::is_left_for_copies(memory);
    watch.copies(there_is_room);
    let read = dump.run_on(there_is_room, writer, meter, |prevented| {
        match prevented {
            Some(error) => reporter.warn(not_copied(there_is_room, &error)),
            None => writer.take_time(),
        }
        reach(Point::CheckpointCopied);
    });
    watch.copies(false);
    Ok(read?)
}

fn not_copied(there_is_room: bool, error: &io::Error) -> String {
    let why = match there_is_room {
        true => format!("a process of the service could not be copied ({error})"),
        false => "the container has too little memory left to copy the service's processes".into(),
    };
    format!("{why}, so the service stood still while its memory was read")
}

/// Ends this worker when the memory is nearly gone. That harms nothing before the commit.
fn watch(reporter: &Reporter) -> Watch {
    let last_word = reporter.last_word();
    Watch::start(move || {
        last_word.say(&Event::Failed { message: DumpError::ShortOfMemory.to_string(), log: None, phase: None });
        std::process::exit(exit::FAILED.into())
    })
}

/// What the preflight has seen.
struct Seen {
    tree: Tree,
    /// Files that only the preflight finds.
    watched: Vec<PathBuf>,
    demands: Demands,
    /// What is wrong with the order of the PIDs, if the processes can be restored in spite of it.
    disorder: Option<Disorder>,
}

/// Refuses what cannot be carried.
fn check(read: &impl Fn() -> Result<Tree, CheckpointError>, abilities: &Abilities) -> Result<Seen, CheckpointError> {
    let (tree, watched, demands) = preflight::check(read, parent_id() as i32, abilities)?;
    match pid_order::check(tree.processes()) {
        Err(disorder) if disorder.is_final() || !RestorePlan::of(abilities).can_go_back() => Err(disorder.into()),
        ordered => Ok(Seen { tree, watched, demands, disorder: ordered.err() }),
    }
}

/// Looks at what was changed in the container, if that travels.
fn survey(rules: &Rules, limit: u64) -> Result<Option<Survey>, LookupError> {
    if rules.scope() == Scope::Open {
        return Ok(None);
    }
    let survey = Survey::look(rules)?;
    survey.check(limit)?;
    Ok(Some(survey))
}

/// Refuses to end the service if the store vanishes with the container.
fn check_lasting(store: &Location, target: &Target) -> Result<(), CheckpointError> {
    if target.after_commit == AfterCommit::Resume || target.ephemeral_store {
        return Ok(());
    }
    let Ok(folder) = store.folder() else { return Ok(()) };
    match Ephemeral::of(&folder).map_err(LookupError::Proc)? {
        Some(place) => Err(CheckpointError::Ephemeral { url: store.url.clone(), place }),
        None => Ok(()),
    }
}

fn unreached(uid: u32) -> String {
    format!(
        "the service has a process of uid {uid}, and freeze may not read that user's files, so those that were changed \
         may stay behind; run the service as one user, or add the capability DAC_OVERRIDE"
    )
}

fn unfenced(url: &str) -> String {
    format!(
        "the server of {url} ignores conditional writes, so two containers that use this store can overwrite each \
         other's checkpoints unnoticed. Run one container at a time, or use a server that supports If-None-Match and \
         If-Match"
    )
}

fn fill(
    manifest: &mut Manifest,
    images: BTreeMap<String, BodyId>,
    files: Vec<Captured>,
    mut written: Written,
    figures: Figures,
) {
    manifest.images = images.into_iter().map(|(name, id)| CriuImage { name, body: Some(written.take(id)) }).collect();
    let with_body = |(file, id): Captured| File { body: id.map(|id| written.take(id)), ..file };
    manifest.files = files.into_iter().map(with_body).collect();
    manifest.packs = written.packs;
    manifest.chunks = written.chunks;
    manifest.figures = Some(figures);
    manifest.demands = manifest.demands.take().map(|seen| seen.with(manifest));
}

/// Makes the OOM killer choose the checkpoint and not the service. Raising the score needs no privilege
/// (proc_pid_oom_score_adj(5)); CRIU inherits it.
fn prefer_for_the_oom_killer() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}
