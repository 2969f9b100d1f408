//! Where the time of a checkpoint, a restore or a move went, as a Chrome trace: JSON that Perfetto opens.
//!
//! All times are of one clock, that of the process that records. What another process tells counts from when it tells
//! it. Spans of one track never overlap.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::protocol::{Event, Phase, Report};

/// A row of the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Track {
    /// The steps of a move.
    Move = 1,
    /// The phases of a checkpoint.
    Checkpoint,
    /// When the service stands still.
    Service,
    /// The phases of a restore.
    Restore,
}

const TRACKS: [(Track, &str); 4] = [
    (Track::Move, "move"),
    (Track::Checkpoint, "checkpoint"),
    (Track::Service, "service"),
    (Track::Restore, "restore"),
];

/// What ends a file, so that more can be put in before it.
const END: &[u8] = b"\n]\n";

/// A span, its times since the trace began.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Its row.
    pub track: Track,
    /// Its name.
    pub name: String,
    /// Its beginning.
    pub from: Duration,
    /// Its end.
    pub until: Duration,
    /// What else is known of it.
    pub figures: Value,
}

/// A trace under way.
#[derive(Debug)]
pub struct Trace {
    begun: Instant,
    /// Since 1970.
    at: Duration,
    done: Vec<Span>,
    /// At most one of each track. The end is not known yet.
    open: Vec<Span>,
    /// When the last dump began.
    frozen: Option<Duration>,
}

impl Default for Trace {
    fn default() -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { begun: Instant::now(), at, done: Vec::new(), open: Vec::new(), frozen: None }
    }
}

impl Trace {
    /// A span begins. The one before it in the track ends.
    pub fn begin(&mut self, track: Track, name: &str) {
        self.end(track);
        let now = self.begun.elapsed();
        self.open.push(Span { track, name: name.to_owned(), from: now, until: now, figures: json!({}) });
    }

    /// The span that is open in the track ends.
    pub fn end(&mut self, track: Track) {
        let now = self.begun.elapsed();
        self.done.extend(self.open.extract_if(.., |span| span.track == track).map(|span| Span { until: now, ..span }));
    }

    /// Takes in what a checkpoint or a restore tells.
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Progress { phase, bytes, .. } => self.progress(*phase, *bytes),
            Event::Checkpointed(report) => self.checkpointed(report),
            Event::Restored { .. } => self.end(Track::Restore),
            Event::Failed { .. } => [Track::Checkpoint, Track::Restore].into_iter().for_each(|track| self.end(track)),
            _ => {}
        }
    }

    fn progress(&mut self, phase: Phase, bytes: u64) {
        let track = if matches!(phase, Phase::Check | Phase::Restore) { Track::Restore } else { Track::Checkpoint };
        let name = json!(phase).as_str().unwrap_or_default().to_owned();
        if !self.open.iter().any(|span| span.track == track && span.name == name) {
            self.begin(track, &name);
            if phase == Phase::Dump {
                self.frozen = Some(self.begun.elapsed());
            }
        }
        let open = self.open.iter_mut().find(|span| span.track == track);
        open.into_iter().for_each(|span| span.figures = json!({ "bytes": bytes }));
    }

    /// The service has stood still since the dump began, for as long as the report says.
    fn checkpointed(&mut self, report: &Report) {
        self.end(Track::Checkpoint);
        if let Some(from) = self.frozen.take() {
            let until = from + Duration::from_millis(report.frozen_ms);
            let figures = json!(report);
            self.add(Span { track: Track::Service, name: "frozen".to_owned(), from, until, figures });
        }
    }

    /// The restore that ended when the service stood still no more, as another container tells afterwards.
    pub fn restored(&mut self, took: Duration) {
        if let Some(frozen) = self.done.iter().rfind(|span| span.track == Track::Service) {
            let (from, until) = (frozen.until.saturating_sub(took), frozen.until);
            let figures = json!({});
            self.add(Span { track: Track::Restore, name: "restore".to_owned(), from, until, figures });
        }
    }

    /// A span whose times are known.
    pub fn add(&mut self, span: Span) {
        self.done.push(span);
    }

    /// The spans of a track that have ended, in order.
    pub fn spans(&self, track: Track) -> impl Iterator<Item = &Span> {
        self.done.iter().filter(move |span| span.track == track)
    }

    /// All that has ended, one event a line.
    fn lines(&self) -> String {
        let name = |(track, name): (Track, &str)| json!({ "ph": "M", "pid": 1, "tid": track as u32, "name": "thread_name", "args": { "name": name } });
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let event = |span: &Span| {
            json!({
                "ph": "X", "pid": 1, "tid": span.track as u32, "name": span.name, "args": span.figures,
                "ts": micros(self.at + span.from), "dur": micros(span.until.saturating_sub(span.from)),
            })
        };
        let used = TRACKS.into_iter().filter(|(track, _)| self.spans(*track).next().is_some());
        let events: Vec<String> =
            used.map(name).chain(self.done.iter().map(event)).map(|event| event.to_string()).collect();
        events.join(",\n")
    }
}

/// Why there is no trace.
pub fn unwritten(path: &Path, error: &io::Error) -> String {
    format!("the trace {} cannot be written ({error})", path.display())
}

/// A file for traces, a JSON array of events.
#[derive(Debug)]
pub struct TraceFile(File);

impl TraceFile {
    /// An empty one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = Self::open(path)?;
        file.0.set_len(0)?;
        Ok(file)
    }

    /// One that may have traces already.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(path)?;
        Ok(Self(file))
    }

    /// Adds a trace. A file that does not end as one of ours is begun anew.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, trace: &Trace) -> io::Result<()> {
        let lines = trace.lines();
        if lines.is_empty() {
            return Ok(());
        }
        let file = &mut self.0;
        let length = file.metadata()?.len();
        let mut end = Vec::new();
        let before_end = length.saturating_sub(END.len() as u64);
        file.seek(SeekFrom::Start(before_end))?;
        Read::by_ref(file).take(END.len() as u64).read_to_end(&mut end)?;
        let (from, begin) = if end == END { (before_end, ",\n") } else { (0, "[\n") };
        file.set_len(from)?;
        file.seek(SeekFrom::Start(from))?;
        file.write_all(&[begin.as_bytes(), lines.as_bytes(), END].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(phase: Phase, bytes: u64) -> Event {
        Event::Progress { phase, bytes, total: 0 }
    }

    fn of_a_checkpoint() -> (Trace, Report) {
        let mut trace = Trace::default();
        for (phase, bytes) in [(Phase::Preflight, 0), (Phase::Dump, 0), (Phase::Dump, 7), (Phase::Commit, 9)] {
            trace.note(&progress(phase, bytes));
        }
        let report =
            Report { generation: 3, bytes: 9, stored: 5, new: 9, shared: 0, frozen_ms: 40, total_ms: 90, ended: true };
        trace.note(&Event::Checkpointed(report));
        (trace, report)
    }

    fn events(path: &Path) -> Vec<Value> {
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn a_phase_ends_where_the_next_begins() {
        let (trace, _) = of_a_checkpoint();
        let phases: Vec<&Span> = trace.spans(Track::Checkpoint).collect();
        assert_eq!(phases.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["preflight", "dump", "commit"]);
        assert_eq!(phases[1].figures, json!({ "bytes": 7 }));
        assert!(phases.windows(2).all(|pair| pair[0].until <= pair[1].from), "{phases:?}");
    }

    #[test]
    fn the_service_is_frozen_from_the_dump_on_as_long_as_the_report_says() {
        let (mut trace, report) = of_a_checkpoint();
        trace.restored(Duration::from_millis(15));
        let dump = trace.spans(Track::Checkpoint).find(|span| span.name == "dump").unwrap();
        let frozen = trace.spans(Track::Service).next().unwrap();
        assert!(frozen.from >= dump.from && frozen.from <= dump.until);
        assert_eq!(frozen.until - frozen.from, Duration::from_millis(report.frozen_ms));
        let restore = trace.spans(Track::Restore).next().unwrap();
        assert_eq!((restore.until, restore.until - restore.from), (frozen.until, Duration::from_millis(15)));
    }

    #[test]
    fn without_a_dump_nothing_is_frozen() {
        let mut trace = Trace::default();
        trace.note(&progress(Phase::Check, 0));
        trace.note(&Event::Failed { message: "no".into(), log: None, phase: None });
        trace.restored(Duration::from_millis(15));
        assert_eq!(trace.done.len(), 1);
    }

    #[test]
    fn a_file_is_an_array_of_events_also_after_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        std::fs::write(&path, "something else that is longer than any end").unwrap();
        TraceFile::open(&path).unwrap().add(&of_a_checkpoint().0).unwrap();
        let first = events(&path);
        assert!(first.iter().all(|event| event["pid"] == 1), "{first:?}");
        assert_eq!(first.iter().filter(|event| event["ph"] == "X").count(), 4);
        let frozen = first.iter().find(|event| event["name"] == "frozen").unwrap();
        assert_eq!((&frozen["dur"], &frozen["args"]["generation"]), (&json!(40_000), &json!(3)));
        TraceFile::open(&path).unwrap().add(&of_a_checkpoint().0).unwrap();
        TraceFile::open(&path).unwrap().add(&Trace::default()).unwrap();
        assert_eq!(events(&path).len(), 2 * first.len());
        TraceFile::create(&path).unwrap().add(&of_a_checkpoint().0).unwrap();
        assert_eq!(events(&path).len(), first.len());
    }
}
