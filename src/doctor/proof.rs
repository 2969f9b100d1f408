//! The proof: checkpoints a small process tree into a scratch store and restores it from there, by the same
//! code and criu as a service.
//!
//! Where PIDs cannot be chosen the kernel's counter only goes up, and has passed the PIDs of the dumped tree.
//! The CRIU images are therefore renumbered before the restore, as if a fresh container had counted less far.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::renumber::{self, Shift};
use super::scratch::{self, NoFolder};
use super::subject::{self, Role};
use super::watchdog::{Watchdog, Why};
use crate::checkpoint::{self, Dump, DumpError, Verdict, Victim};
use crate::control::protocol::millis;
use crate::criu::command::{self, DumpOptions};
use crate::criu::running::Place;
use crate::criu::stream;
use crate::image::{self, CriuImage, FetchThreads, Fetcher, ImageError, ImageWriter, KeyFiles, Lease, Manifest, Vault};
use crate::job;
use crate::job::work_folder::Work;
use crate::privileges::{Abilities, DumpPlan, RestorePlan};
use crate::proc::tree;
use crate::restore::{self, OfContainer, RestoreError, RestoreGate};
use crate::store::{self, Location, StoreError};
use crate::sys::{pids, process};

/// Time limit of the whole proof.
const LIMIT: Duration = Duration::from_secs(60);
/// Name of the tree's socket in the scratch folder.
const SOCKET: &str = "socket";
/// Memory for page data, in bytes.
const MEMORY: u64 = 64 << 20;
/// PIDs left free between the container's counter and the tree: for our threads, criu, and a busy service
/// beside us.
const ROOM: u32 = 300;
/// PIDs left free between the tree's IDs once other processes have taken some of them: for the processes that
/// a busy service starts meanwhile.
const APART: u32 = 100;
/// Bytes of the longest socket path below the scratch folder: a work folder with up to seven random
/// characters, and the longest name.
const LONGEST: usize = "/work-1234567/".len() + stream::CAPTURE_SOCKET.len();
/// Bytes of the longest path of a socket: unix(7) gives it 108, its NUL included.
const MOST: usize = 107;
/// More PIDs than an attempt moves up and uses.
const SPAN: i32 = 2000;
/// Attempts at the restore, while other processes keep taking its PIDs.
const TRIES: u32 = 8;

/// A proof that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proven {
    pub processes: usize,
    /// Threads besides the first of each process.
    pub threads: usize,
    /// Milliseconds until the checkpoint was committed and the tree killed.
    pub checkpoint_ms: u64,
    /// Bytes of memory and CRIU images in the checkpoint.
    pub bytes: u64,
    /// Milliseconds until the tree ran again, all attempts included.
    pub restore_ms: u64,
    /// How far the lowest ID was moved up for the restore; 0 if the IDs stayed.
    pub shifted: u32,
    /// PIDs of this container used up meanwhile, by any process.
    pub pids: u64,
}

#[cfg(test)]
impl Proven {
    pub const EXAMPLE: Self =
        Self { processes: 4, threads: 3, checkpoint_ms: 90, bytes: 3 << 20, restore_ms: 60, shifted: 321, pids: 328 };
}

#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error(transparent)]
    NoFolder(#[from] NoFolder),
    #[error(
        "the path of the folder {0} is too long for a socket, which allows {MOST} bytes: set --runtime-dir to a folder with a shorter path"
    )]
    LongPath(PathBuf),
    #[error(
        "{what} failed ({error}), for a reason that has nothing to do with checkpoints: check the container's memory and PIDs limits"
    )]
    System { what: &'static str, error: io::Error },
    /// The tree is not as expected before the dump.
    #[error("the proof's processes do not work here: {0}")]
    Subject(String),
    #[error("{0}")]
    Dump(#[from] DumpError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "CRIU's image of the process tree has an unexpected form: freeze and the criu beside it must be of the same version"
    )]
    Malformed,
    #[error("{0}")]
    Restore(#[from] RestoreError),
    #[error(
        "other processes start here so fast that they took the proof's PIDs at each attempt; a restore happens before \
         the service runs, so try the proof in a fresh container (docker run --entrypoint /opt/freeze/freeze IMAGE \
         doctor)"
    )]
    Busy,
    #[error(
        "this container has used PIDs up to {used}, and they end at {max}: try the proof in a fresh container (docker run --entrypoint /opt/freeze/freeze IMAGE doctor)"
    )]
    PidsExhausted { used: i32, max: i32 },
    #[error("the restored processes differ from the checkpointed ones: {0}")]
    NotVerified(String),
    #[error("the proof exceeded its time limit of {} s", LIMIT.as_secs())]
    TooLong,
    #[error("signal {0} ended the proof")]
    Interrupted(i32),
}

impl ProofError {
    /// Whether the error has nothing to do with checkpoints.
    pub fn proves_nothing(&self) -> bool {
        match self {
            Self::NoFolder(_) | Self::LongPath(_) | Self::System { .. } | Self::Busy | Self::PidsExhausted { .. } => {
                true
            }
            Self::TooLong | Self::Interrupted(_) => true,
            Self::Subject(_) | Self::Dump(_) | Self::Image(_) | Self::Store(_) => false,
            Self::Malformed | Self::Restore(_) | Self::NotVerified(_) => false,
        }
    }
}

/// Carries out the proof in a scratch folder below `runtime_dir`, else in the first usable default folder.
/// Removes its processes and files before it returns.
pub fn prove(abilities: &Abilities, runtime_dir: Option<&Path>) -> Result<Proven, ProofError> {
    // Orphans of the tree become our children, so the watchdog finds and kills them.
    process::adopt_orphans();
    // CRIU would have to dump every descriptor that the tree inherits.
    process::close_all_on_exec(3);
    // Dropped after the folder, so that no signal interrupts its removal.
    let watchdog = Watchdog::start(LIMIT).map_err(system("starting a thread"))?;
    let folder = scratch::make(runtime_dir)?;
    if folder.path().as_os_str().len() + LONGEST > MOST {
        return Err(ProofError::LongPath(folder.path().to_owned()));
    }
    let proven = Proof { folder: folder.path(), abilities, watchdog: &watchdog }.carry_out();
    watchdog.end_all();
    match (proven, watchdog.ended()) {
        (Err(_), Some(Why::Time)) => Err(ProofError::TooLong),
        (Err(_), Some(Why::Signal(signal))) => Err(ProofError::Interrupted(signal)),
        (proven, _) => proven,
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> ProofError {
    move |error| ProofError::System { what, error }
}

struct Proof<'a> {
    folder: &'a Path,
    abilities: &'a Abilities,
    watchdog: &'a Watchdog,
}

impl Proof<'_> {
    fn carry_out(&self) -> Result<Proven, ProofError> {
        let pids_before = pids::newest();
        let root = self.start_tree()?;
        self.ask("before").map_err(ProofError::Subject)?;
        let all = tree::all().map_err(system("reading /proc"))?;
        let processes = tree::below(&all, root);
        let threads = processes.iter().map(|process| process.threads.len() - 1).sum();
        let location = Location::at(&format!("file:{}", self.folder.join("store").display()));
        let store = store::open(&location)?;
        store.prepare()?;
        let vault = Vault::create(store, &KeyFiles::default())?;

        let begun = Instant::now();
        let bytes = self.checkpoint(root, &vault)?;
        let checkpoint_ms = millis(begun.elapsed());
        self.watchdog.end_all();

        let begun = Instant::now();
        let shifted = self.restore(&vault)?;
        let restore_ms = millis(begun.elapsed());
        self.ask("after").map_err(ProofError::NotVerified)?;
        let pids = pids::newest().zip(pids_before).map_or(0, |(now, before)| i64::from(now) - i64::from(before));
        let pids = u64::try_from(pids).unwrap_or_default();
        Ok(Proven { processes: processes.len(), threads, checkpoint_ms, bytes, restore_ms, shifted, pids })
    }

    /// Returns the PID of the tree's first process.
    fn start_tree(&self) -> Result<i32, ProofError> {
        let start = || {
            let listener = std::os::unix::net::UnixListener::bind(self.socket())?;
            let stdin = Stdio::from(std::os::fd::OwnedFd::from(listener));
            subject::command(Role::Root, self.folder)?.stdin(stdin).spawn()
        };
        Ok(start().map_err(system("starting a process"))?.id() as i32)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join(SOCKET)
    }

    fn ask(&self, question: &str) -> Result<(), String> {
        match subject::ask(&self.socket(), question, LIMIT) {
            Ok(answer) if answer == subject::WELL => Ok(()),
            Ok(answer) if answer.is_empty() => Err("it has ended".to_owned()),
            Ok(answer) => Err(answer),
            Err(error) => Err(format!("it does not answer ({error})")),
        }
    }

    /// Dumps and ends the tree. Returns the bytes dumped.
    fn checkpoint(&self, root: i32, vault: &Vault) -> Result<u64, ProofError> {
        let begun = Instant::now();
        let work = self.work(command::DUMP_LOG)?;
        let writer = ImageWriter::new(vault, MEMORY, job::cores())?;
        let criu = DumpPlan::of(self.abilities).criu;
        let mut dump = Dump::start(criu, Place::Here, root, work.path(), &DumpOptions::default(), Victim::default())?;
        let images = dump.collect(&writer, &checkpoint::Meter::noop())?;
        let mut written = writer.finish()?;
        let image = |(name, id)| CriuImage { name, body: Some(written.take(id)) };
        let mut manifest =
            Manifest { root_pid: root, images: images.into_iter().map(image).collect(), ..Manifest::default() };
        let bytes = written.bytes;
        (manifest.packs, manifest.chunks) = (written.packs, written.chunks);
        image::commit(vault, &mut manifest, Lease::fresh(), begun)?;
        dump.release(Verdict::Kill)?;
        Ok(bytes)
    }

    /// Restores the tree, under the same IDs if possible. Returns how far the lowest was moved up.
    fn restore(&self, vault: &Vault) -> Result<u32, ProofError> {
        let manifest = Manifest::load(vault, None)?.ok_or(ProofError::Malformed)?;
        let threads = std::sync::Arc::new(FetchThreads::start(&**vault.store(), job::cores())?);
        for attempt in 1.. {
            let shift = self.shift(manifest.root_pid, attempt)?;
            let shifted = renumber::shifted(&manifest, shift).map_err(|_| ProofError::Malformed)?;
            let mut fetcher = Fetcher::on(&threads, vault, &shifted, MEMORY);
            let work = self.work(command::RESTORE_LOG)?;
            let us = std::process::id() as i32;
            let criu = RestorePlan::of(self.abilities).criu;
            let gate = RestoreGate::restore(
                criu,
                &shifted,
                &mut fetcher,
                &work,
                &mut restore::Meter::noop(),
                us,
                OfContainer::default(),
            );
            match gate.and_then(RestoreGate::let_go) {
                Err(RestoreError::Criu(cause)) if cause.numbers_were_taken => {
                    if attempt == TRIES || self.watchdog.ended().is_some() {
                        return Err(ProofError::Busy);
                    }
                }
                result => return result.map(|()| shift.up).map_err(ProofError::from),
            }
        }
        Err(ProofError::Malformed)
    }

    /// Moves the tree above the container's PID counter. From the second attempt on, leaves gaps between its
    /// IDs for processes that others start.
    fn shift(&self, root: i32, attempt: u32) -> Result<Shift, ProofError> {
        if RestorePlan::of(self.abilities).can_go_back() {
            return Ok(Shift { up: 0, apart: 0 });
        }
        let used = pids::newest().unwrap_or(root);
        // Past pid_max the counter wraps around, and the PIDs of a service beside us would no longer be
        // ascending.
        if let Some(max) = pids::end()
            && used.saturating_add(SPAN) >= max
        {
            return Err(ProofError::PidsExhausted { used, max });
        }
        Ok(Shift { up: u32::try_from(used - root).unwrap_or(0) + ROOM, apart: if attempt == 1 { 0 } else { APART } })
    }

    fn work(&self, log: &str) -> Result<Work, ProofError> {
        Work::new(self.folder, log).map_err(system("making a folder"))
    }
}
