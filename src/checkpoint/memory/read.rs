//! Reads the listed pages of processes into bodies.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::changes::{Round, Stored, Unchanged};
use super::listed::Listed;
use crate::checkpoint::dump_error::DumpError;
use crate::checkpoint::meter::Meter;
use crate::image::{BodyId, BodyWriter, ImageError, ImageWriter};
use crate::proc::memory::Memory;
use crate::proc::ranges::Ranges;

/// The next pages of a process.
struct Source<'a> {
    memory: &'a Memory,
    at: u64,
    end: u64,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(0);
        }
        let read = self.memory.read(self.at, &mut buffer[..length])?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Reads all listed memory: of each process from its copy, if it has one. What is unchanged since the `round` is not read,
/// if that generation is the base of `writer`. Returns the images, and how many bytes were read.
pub fn read(
    listed: &[Listed],
    copies: &BTreeMap<i32, i32>,
    before: Option<(&Round, &Unchanged)>,
    writer: &ImageWriter,
    meter: &Meter,
) -> Result<(BTreeMap<String, BodyId>, u64), DumpError> {
    let before = before.filter(|(round, _)| writer.base().are_of(round.generation));
    let (mut images, mut bytes) = (BTreeMap::new(), 0);
    for one in listed {
        let source = copies.get(&one.pid).copied().unwrap_or(one.pid);
        let memory = Memory::of(source).map_err(|error| unreadable(one.pid, error))?;
        let known = before.and_then(|(round, unchanged)| Some((round.stored(one.pid), unchanged.of(one.pid)?)));
        let mut body = Reader { pid: one.pid, memory, writer, meter, body: writer.begin(), bytes: 0 };
        let mut known = known.as_ref().map(|(stored, unchanged)| Known { stored, unchanged });
        body.read(one, known.as_mut())?;
        bytes += body.bytes;
        images.insert(one.image.clone(), body.body.finish()?);
    }
    Ok((images, bytes))
}

/// What need not be read of a process.
struct Known<'a> {
    /// From the present address on.
    stored: &'a [Stored],
    unchanged: &'a Ranges,
}

impl Known<'_> {
    /// Whether the pages from `at` on are stored, as what, and where that ends, at `end` at the latest.
    fn next(&mut self, at: u64, end: u64) -> (Option<Stored>, u64) {
        let passed = self.stored.iter().take_while(|stored| stored.end <= at).count();
        self.stored = &self.stored[passed..];
        let (is_unchanged, end) = self.unchanged.stretch(at, end);
        match self.stored.first() {
            Some(stored) if stored.start > at => (None, end.min(stored.start)),
            Some(stored) if is_unchanged => (Some(stored.part(at, end.min(stored.end))), end.min(stored.end)),
            _ => (None, end),
        }
    }
}

struct Reader<'a> {
    pid: i32,
    memory: Memory,
    writer: &'a ImageWriter,
    meter: &'a Meter<'a>,
    body: BodyWriter,
    bytes: u64,
}

impl Reader<'_> {
    fn read(&mut self, listed: &Listed, mut known: Option<&mut Known>) -> Result<(), DumpError> {
        for run in &listed.runs {
            if let Some(data) = &run.data {
                self.body.write_all(data)?;
                continue;
            }
            let mut at = run.start;
            while at < run.end {
                let (stored, end) = known.as_mut().map_or((None, run.end), |known| known.next(at, run.end));
                match stored {
                    Some(stored) if self.reuse(&stored)? => {}
                    _ => self.read_pages(at, end)?,
                }
                at = end;
            }
        }
        Ok(())
    }

    fn reuse(&mut self, stored: &Stored) -> Result<bool, DumpError> {
        match stored.slice {
            Some(slice) => Ok(self.body.reuse(self.writer.base(), slice)?),
            None => Ok(self.body.skip(stored.end - stored.start).map(|()| true)?),
        }
    }

    fn read_pages(&mut self, at: u64, end: u64) -> Result<(), DumpError> {
        let mut source = Source { memory: &self.memory, at, end };
        loop {
            match self.body.fill_from(&mut source) {
                Ok(0) => break,
                Ok(read) => self.meter.add(read),
                Err(ImageError::Source(error)) => return Err(unreadable(self.pid, error)),
                Err(error) => return Err(error.into()),
            }
        }
        self.bytes += end - at;
        Ok(())
    }
}

fn unreadable(pid: i32, error: io::Error) -> DumpError {
    DumpError::Unreadable { pid, error }
}
