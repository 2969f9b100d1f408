//! `--trace FILE` of a command. A trace that cannot be written changes nothing of what the command does.

use std::cell::{RefCell, RefMut};
use std::path::{Path, PathBuf};

use super::say;
use crate::control::trace::{Trace, TraceFile, unwritten};

/// Records, and writes if there is a file.
pub(super) struct Recorder {
    trace: RefCell<Trace>,
    file: Option<(PathBuf, RefCell<TraceFile>)>,
}

impl Recorder {
    /// Says it and returns `None` if the file cannot be written.
    pub fn new(path: Option<&Path>) -> Option<Self> {
        let open = |path: &Path| {
            let file = TraceFile::create(path).inspect_err(|error| say(&unwritten(path, error))).ok()?;
            Some((path.to_owned(), RefCell::new(file)))
        };
        let file = match path {
            Some(path) => Some(open(path)?),
            None => None,
        };
        Some(Self { trace: RefCell::default(), file })
    }

    pub fn trace(&self) -> RefMut<'_, Trace> {
        self.trace.borrow_mut()
    }

    pub fn write(&self) {
        if let Some((path, file)) = &self.file
            && let Err(error) = file.borrow_mut().add(&self.trace())
        {
            say(&unwritten(path, &error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::trace::Track;

    #[test]
    fn a_file_is_written_if_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        let recorder = Recorder::new(Some(&path)).unwrap();
        recorder.trace().begin(Track::Move, "looking");
        recorder.trace().end(Track::Move);
        recorder.write();
        assert!(std::fs::read_to_string(&path).unwrap().contains("looking"));
        assert!(Recorder::new(None).is_some());
        assert!(Recorder::new(Some(folder.path())).is_none());
    }
}
