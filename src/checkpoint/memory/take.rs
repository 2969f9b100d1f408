//! Takes the private memory of a service that CRIU holds: while it stands still, or from copies beside the running service.

use std::collections::BTreeMap;
use std::{io, thread};

use super::changes::{Doubts, Family, Round, Unchanged};
use super::listed::Listed;
use super::read;
use crate::checkpoint::dump::Dump;
use crate::checkpoint::dump_error::DumpError;
use crate::checkpoint::meter::Meter;
use crate::checkpoint::room::{self, Watch};
use crate::checkpoint::tree_of_service::Tree;
use crate::control::protocol::Phase;
use crate::fail_points::{Point, reach};
use crate::image::{BodyId, ImageWriter, Manifest};
use crate::job::reporter::Reporter;
use crate::job::work_folder::Work;
use crate::store;

/// The root of the tree and the service: no third process shares their memory.
const ALONE: usize = 2;

/// What a round leaves to the next one: a CRIU that has the copies. They end with it.
#[derive(Debug)]
pub struct Kept {
    dump: Dump,
    pub round: Round,
    /// Ends the copies if memory runs short.
    watch: Watch,
    /// CRIU's folder.
    _work: Work,
}

impl Kept {
    pub fn new(dump: Dump, round: Round, watch: Watch, work: Work) -> Self {
        // The log of the next one is of more use.
        work.drop_log();
        Self { dump, round, watch, _work: work }
    }

    /// Whether the copies have ended with their CRIU.
    pub fn has_ended(&mut self) -> bool {
        self.dump.has_ended()
    }

    /// From now on another watch may end the copies.
    pub fn hand_to(&mut self, watch: &Watch) {
        self.dump.watch(watch.victim().clone());
        watch.copies(true);
        self.watch = Watch::none();
    }
}

/// Memory that is taken.
#[derive(Debug, Default)]
pub struct Pages {
    pub images: BTreeMap<String, BodyId>,
    /// Bytes that were read.
    pub bytes: u64,
    /// Of a service that runs on beside copies.
    pub draft: Option<Draft>,
}

/// A round that is not committed.
#[derive(Debug)]
pub struct Draft {
    listed: Vec<Listed>,
    copies: BTreeMap<i32, i32>,
    doubts: Doubts,
    first: Family,
}

impl Draft {
    /// The round of the committed `manifest`.
    pub fn committed(self, manifest: &Manifest) -> Round {
        let body = |name: &str| manifest.images.iter().find(|image| image.name == name)?.body.clone();
        Round::new(manifest.generation, self.listed, &self.copies, self.doubts, body, self.first)
    }
}

pub struct Take<'a> {
    pub dump: &'a mut Dump,
    pub tree: &'a Tree,
    pub writer: &'a ImageWriter,
    pub meter: &'a Meter<'a>,
    pub reporter: &'a Reporter,
    pub watch: &'a Watch,
    /// Bytes that the writer may take.
    pub memory: u64,
}

impl Take<'_> {
    /// Takes the memory while the service stands still.
    pub fn frozen(mut self, before: Option<&mut Kept>) -> Result<Pages, DumpError> {
        let taken = self.read_frozen(before.as_deref().map(|kept| &kept.round));
        before.into_iter().for_each(|kept| kept.dump.let_copies_end());
        taken
    }

    /// Lets the service run, and takes its memory from copies where they can be made: then the draft is of a round, if
    /// another one may follow (`is_round`). A round without copies is given up: it would only let the service stand still.
    pub fn running(mut self, before: Option<&mut Kept>, is_round: bool) -> Result<Pages, DumpError> {
        let unchanged =
            before.as_deref().map(|kept| Unchanged::since(&kept.round, self.tree.processes())).unwrap_or_default();
        let known = before.as_deref().map(|kept| (&kept.round, &unchanged));
        let (mut images, mut listed, mut doubts) = (BTreeMap::new(), Vec::new(), None);
        if is_round && self.tree.processes().len() > ALONE {
            images = self.dump.list(self.writer, self.meter)?;
            listed = self.dump.listed();
            doubts = Some(Doubts::of(&listed, &unchanged));
        }
        let copies = match self.copy()? {
            Ok(copies) => copies,
            Err(why) if is_round => return Err(DumpError::NotCopied(why)),
            Err(why) => {
                self.reporter.warn(stood_still(&why));
                return self.read_frozen(known.map(|(round, _)| round));
            }
        };
        self.writer.take_time();
        self.meter.begin(Phase::Read);
        reach(Point::CheckpointCopied);
        images.extend(self.dump.rest(self.writer, self.meter)?);
        listed.extend(self.dump.listed());
        let read = read::read(&listed, &copies, known, self.writer, self.meter);
        let first = known.map_or_else(|| Round::family(self.tree.processes()), |(round, _)| round.first().clone());
        before.into_iter().for_each(|kept| kept.dump.let_copies_end());
        let (more, bytes) = read.map_err(|error| self.dump.or_given_up(error))?;
        images.extend(more);
        let doubts = doubts.unwrap_or_else(|| Doubts::none(&listed));
        Ok(Pages { images, bytes, draft: Some(Draft { listed, copies, doubts, first }) })
    }

    /// Lets the service run, and has CRIU read its memory, from copies where they can be made.
    pub fn by_criu(self) -> Result<Pages, DumpError> {
        if !room::is_left_for_reading() {
            return Err(DumpError::ShortOfMemory);
        }
        let there_is_room = room::is_left_for_copies(self.memory);
        self.watch.copies(there_is_room);
        let images = self.dump.run_on(there_is_room, self.writer, self.meter, |prevented| {
            match prevented {
                Some(error) => self.reporter.warn(stood_still(&not_copied(Some(&error).filter(|_| there_is_room)))),
                None => self.writer.take_time(),
            }
            self.meter.begin(Phase::Read);
            reach(Point::CheckpointCopied);
        });
        self.watch.copies(false);
        Ok(Pages { images: images?, ..Pages::default() })
    }

    /// Copies of the processes, or why there are none.
    fn copy(&mut self) -> Result<Result<BTreeMap<i32, i32>, String>, DumpError> {
        if !room::is_left_for_copies(self.memory) {
            return Ok(Err(not_copied(None)));
        }
        self.watch.copies(true);
        let copied = self.dump.copy(self.writer, self.meter)?;
        Ok(copied.map_err(|error| {
            self.watch.copies(false);
            not_copied(Some(&error))
        }))
    }

    fn read_frozen(&mut self, before: Option<&Round>) -> Result<Pages, DumpError> {
        if !room::is_left_for_reading() {
            return Err(DumpError::ShortOfMemory);
        }
        // CRIU and this process look at all pages, each for its own end. At the same time, as the service stands still.
        let (listed, unchanged) = thread::scope(|scope| {
            let processes = self.tree.processes();
            let since = move || before.map(|round| Unchanged::since(round, processes)).unwrap_or_default();
            let thread =
                thread::Builder::new().name("changes".into()).stack_size(store::STACK).spawn_scoped(scope, since);
            let listed = self.dump.list(self.writer, self.meter);
            (listed, thread.map_or_else(|_| since(), |thread| thread.join().unwrap_or_default()))
        });
        let (mut images, listed) = (listed?, self.dump.listed());
        let known = before.map(|round| (round, &unchanged));
        let read = read::read(&listed, &BTreeMap::new(), known, self.writer, self.meter);
        let (more, bytes) = read.map_err(|error| self.dump.check_held().err().unwrap_or(error))?;
        images.extend(more);
        // What was read of tasks that run is of no one moment.
        self.dump.check_held()?;
        Ok(Pages { images, bytes, draft: None })
    }
}

/// Why there are no copies: there is no room, or an error.
fn not_copied(error: Option<&io::Error>) -> String {
    match error {
        Some(error) => format!("a process of the service could not be copied ({error})"),
        None => "the container has too little memory left to copy the service's processes".into(),
    }
}

fn stood_still(why: &str) -> String {
    format!("{why}, so the service stood still while its memory was read")
}
