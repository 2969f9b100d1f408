//! One checkpoint, from the preflight to the commit.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::parent_id;
use std::time::{Duration, Instant};

use super::announce::{self, Announced};
use super::dump::{Dump, Verdict};
use super::dump_error::DumpError;
use super::ending::{self, DumpGate};
use super::fence::{Stopped, StoppedByUser};
use super::heartbeat::Heartbeats;
use super::memory::{self, Kept, Take};
use super::meter::Meter;
use super::room::{self, Watch};
use super::tree_of_service::Tree;
use super::{CheckpointError, Target, describe, preflight, seen, standbys};
use crate::control::protocol::{Event, Phase, Report, millis};
use crate::criu::command::{DumpOptions, Reader, SystemV};
use crate::criu::running::Place;
use crate::criu::stats;
use crate::exit;
use crate::fail_points::{Point, reach};
use crate::files::ahead::Ahead;
use crate::files::capture::{self, Captured};
use crate::files::complete;
use crate::files::identity::Identities;
use crate::files::selection::Scope;
use crate::files::used::{self, LookupError, Rules, Used};
use crate::files::volume_changes;
use crate::files::written_back;
use crate::host::memory::Headroom;
use crate::image::{self, BodyId, CriuImage, Figures, File, ImageWriter, Manifest, Vault, Written};
use crate::job::reporter::Reporter;
use crate::job::work_folder::Work;
use crate::job::{self, AfterCommit, Common};
use crate::privileges::{Abilities, DumpPlan};
use crate::proc::memory::Memory;
use crate::proc::tree::Process;
use crate::store::{self, Fencing};

/// A checkpoint that is to be taken.
pub struct Turn<'a> {
    pub common: &'a Common,
    pub target: &'a Target,
    pub reporter: &'a Reporter,
    pub meter: &'a Meter<'a>,
    pub work: Work,
    /// Whether processes may be copied.
    pub copies: bool,
    pub part: Part,
}

/// Of what a checkpoint is a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It stands alone.
    Alone,
    /// The first round of a move: the service runs on.
    First,
    /// A further round.
    Further,
    /// The last one, after which the service runs elsewhere.
    Last,
}

impl Part {
    pub fn is_round(self) -> bool {
        matches!(self, Self::First | Self::Further)
    }
}

/// A committed checkpoint.
pub struct Taken {
    pub report: Report,
    /// The standbys are asked by then, so that it may be a handover.
    pub target: Target,
    /// Of a round: the copies.
    pub kept: Option<Kept>,
    /// Bytes of private memory that were read: the rest is known to be stored.
    pub read: u64,
    pub begun: Instant,
    /// The service began to stand still.
    pub frozen: Instant,
    /// Of a round: that another follows.
    pub announced: Option<Announced>,
}

/// Takes a checkpoint. `before` is what the round before has left. Of a round, gives what becomes [`Kept`].
pub fn take(turn: Turn, mut before: Option<Kept>) -> Result<Taken, CheckpointError> {
    let Turn { common, target, reporter, meter, work, copies, part } = turn;
    let started = Instant::now();
    reach(Point::CheckpointBegun);
    prefer_for_the_oom_killer();
    meter.begin(Phase::Preflight);
    let abilities = Abilities::probe();
    // Their PIDs may be other processes' by now.
    if before.as_mut().is_some_and(Kept::has_ended) {
        before = None;
    }
    let left_out: Vec<i32> = before.iter().flat_map(|kept| kept.round.copies()).collect();
    let read = || Tree::of_service(target.root, target.service, &left_out).map_err(CheckpointError::from);
    let mut seen = seen::check(&read, &abilities)?;
    let ours = describe::our_folders(common, work.path());
    let rules = Rules::of_this_container(parent_id() as i32, ours, target.files.clone())
        .map_err(LookupError::Proc)?
        .with_names(&common.runtime_dir);
    let is_first = matches!(part, Part::Alone | Part::First);
    if is_first {
        seen.warn(target, &abilities, reporter);
        warn_of_deletions(&rules, reporter);
    }
    used::check_included(&rules)?;
    let survey = seen::survey(&rules, target.files.limit)?;
    let host = describe::host().map_err(LookupError::Proc)?;
    let store = store::open(&common.store)?;
    let fencing = store.prepare()?;
    if is_first {
        seen::check_lasting(&common.store, target)?;
        seen::check_fencing(&*store, fencing, target, reporter)?;
    }
    let vault = Vault::create(store, &common.keys)?;
    target.lease.check(&vault)?;
    let interval = common.exclusive_ms.map(Duration::from_millis);
    let _heartbeats = Heartbeats::start(&vault, target.lease, &common.instance, interval);
    let memory = room::fit(common.memory, seen.tree.processes(), Headroom::now())?;
    let watch = watch(reporter);
    before.iter_mut().for_each(|kept| kept.hand_to(&watch));
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
        seen = seen::check(&read, &abilities)?;
    }
    let runs_on = part.is_round() || target.after_commit == AfterCommit::Resume;
    if runs_on {
        let used = Used::by(seen.tree.processes(), &seen.watched)?;
        written_back::save(volume_changes::mapped(&used, &rules))
            .unwrap_or_else(|unsaved| reporter.warn(unsaved.to_string()));
    }
    let (announced, target) = if is_first {
        let service = || standbys::describe(&host, &seen, target, &rules, &identities, survey.as_ref());
        standbys::announce(&vault, target, common, fencing, reporter, service)?
    } else {
        (Some(announce::announce(&vault, target.lease)), target.clone())
    };
    let target = &target;
    reach(Point::CheckpointChecked);

    meter.begin(Phase::Dump);
    let by_user = StoppedByUser::of(&seen.tree);
    let place = target.tracer.as_ref().map_or(Place::Here, Place::In);
    let criu = DumpPlan::of(&abilities).criu;
    let objects = SystemV::of(image::container_id(&vault, &common.instance));
    let victim = watch.victim().clone();
    let reader = match place {
        Place::Here if is_readable(seen.tree.processes()) => Reader::Freeze,
        _ if runs_on && copies => Reader::CriuFromCopies,
        _ => Reader::Criu,
    };
    let options = DumpOptions { watched: &seen.watched, objects: Some(&objects), reader, left_out: &left_out };
    let frozen = Instant::now();
    let mut dump = Dump::start(criu, place, target.root, work.path(), &options, victim)?;
    let mut images = dump.collect(&writer, meter)?;
    reach(Point::CheckpointHeld);

    meter.begin(Phase::Files);
    // Processes may have come and gone between preflight and freeze.
    let tree = read()?;
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
    meter.begin(Phase::Dump);
    let taking = Take { dump: &mut dump, tree: &tree, writer: &writer, meter, reporter, watch: &watch, memory };
    let taken = match reader {
        Reader::Freeze if runs_on && copies => taking.running(before.as_mut(), part.is_round())?,
        Reader::Freeze => taking.frozen(before.as_mut())?,
        Reader::CriuFromCopies => taking.by_criu()?,
        Reader::Criu => memory::Pages::default(),
    };
    images.extend(taken.images);
    match (&taken.draft, reader) {
        (Some(_), _) if !part.is_round() => dump.end_copies()?,
        (Some(_), _) | (None, Reader::CriuFromCopies) => {}
        (None, _) if runs_on => dump.release(Verdict::Run)?,
        _ => {}
    }
    if runs_on {
        reach(Point::CheckpointReleased);
    }

    meter.begin(Phase::Commit);
    let written = writer.finish()?;
    let watch = part.is_round().then_some(watch);
    reach(Point::CheckpointPacked);
    let frozen_ms = millis(dump.frozen());
    let (bytes, stored) = (written.bytes, written.stored);
    let figures = Figures { bytes, stored, frozen_ms, new: written.new, shared: written.shared };
    fill(&mut manifest, images, files, written, figures);
    manifest.instance.clone_from(&common.instance);
    // Without fencing two containers could take the generation, so it is not offered.
    manifest.offered = !runs_on && fencing == Fencing::Enforced;
    let mut next = target.clone();
    let generation = if runs_on {
        let lease = image::commit(&vault, &mut manifest, target.lease, started)?;
        next.lease = lease;
        reporter.send(&if part.is_round() { Event::Saved { lease } } else { Event::Committed { lease } });
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
    announced.into_iter().for_each(Announced::disarm);
    let report = Report {
        generation,
        bytes: figures.bytes,
        stored: figures.stored,
        new: figures.new,
        shared: figures.shared,
        frozen_ms: stats::frozen_ms(work.path()).unwrap_or(frozen_ms),
        total_ms: millis(started.elapsed()),
        ended: !runs_on,
    };
    let announced = part.is_round().then(|| announce::announce(&vault, next.lease));
    let kept = match (taken.draft, watch) {
        (Some(draft), Some(watch)) => Some(Kept::new(dump, draft.committed(&manifest), watch, work)),
        _ => None,
    };
    Ok(Taken { report, target: next, kept, read: taken.bytes, begun: started, frozen, announced })
}

/// Whether this process may read the memory of the service: of others CRIU does.
fn is_readable(processes: &[Process]) -> bool {
    let is_refused =
        |process: &Process| Memory::of(process.pid).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    !processes.iter().any(is_refused)
}

fn warn_of_deletions(rules: &Rules, reporter: &Reporter) {
    if rules.scope() == Scope::Changed && rules.may_miss_deletions() {
        reporter.warn(
            "the names of the image's files were not all listed when the container started, so some of what the service \
             has deleted may be there again after a restore"
                .into(),
        );
    }
}

/// Ends this worker when the memory is nearly gone. That harms nothing before the commit.
fn watch(reporter: &Reporter) -> Watch {
    let last_word = reporter.last_word();
    Watch::start(move || {
        last_word.say(&Event::Failed { message: DumpError::ShortOfMemory.to_string(), log: None, phase: None });
        std::process::exit(exit::FAILED.into())
    })
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
