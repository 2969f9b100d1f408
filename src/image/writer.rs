//! Writes many bodies at once, fed by one thread, into packs.

use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Result;
use super::body::Body;
use super::encoder::Pipeline;
use super::feeder::{Draft, Feeder};
use super::manifest::PackInfo;
use super::vault::Vault;

/// Writes the bodies of one generation into packs.
pub struct ImageWriter {
    feeder: Arc<Mutex<Feeder>>,
}

/// Names a body of an [`ImageWriter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BodyId(usize);

/// Takes the bytes of one body. Dropped unfinished, the body is lost and nothing else.
pub struct BodyWriter {
    feeder: Arc<Mutex<Feeder>>,
    id: BodyId,
}

/// What an [`ImageWriter`] wrote.
pub struct Written {
    bodies: Vec<Body>,
    /// For [`Manifest::packs`](super::Manifest::packs).
    pub packs: Vec<PackInfo>,
    /// Bytes taken in, zero pages included.
    pub bytes: u64,
    /// Bytes of packs written.
    pub stored: u64,
}

impl Written {
    /// Takes a body out; it can be taken once.
    pub fn take(&mut self, id: BodyId) -> Body {
        std::mem::take(&mut self.bodies[id.0])
    }
}

impl ImageWriter {
    /// Starts all threads: one for each of `threads` to encode, and some to upload. They hold at most `memory` bytes,
    /// but never less than some 40 MiB are needed.
    pub fn new(vault: &Vault, memory: u64, threads: usize) -> Result<Self> {
        let held_max = usize::try_from(memory / 16).unwrap_or(usize::MAX);
        let pipeline = Pipeline::start(vault.clone(), memory - memory / 16, threads)?;
        Ok(Self { feeder: Arc::new(Mutex::new(Feeder::new(pipeline, held_max)?)) })
    }

    /// Begins a body. Any number can be open at once.
    pub fn begin(&self) -> BodyWriter {
        let id = BodyId(lock(&self.feeder).begin());
        BodyWriter { feeder: self.feeder.clone(), id }
    }

    /// Waits until everything is in the store, and says where.
    pub fn finish(self) -> Result<Written> {
        let mut feeder = lock(&self.feeder);
        let (bodies, placed) = feeder.finish()?;
        let bytes = bodies.iter().map(Draft::size).sum();
        let stored = placed.packs.iter().map(|pack| pack.size).sum();
        let bodies = bodies.into_iter().map(|draft| draft.into_body(&placed)).collect::<Result<_>>()?;
        Ok(Written { bodies, packs: placed.packs, bytes, stored })
    }
}

impl BodyWriter {
    /// Does one read(2), straight into the buffer that is encoded from. Returns the bytes read; 0 is the end.
    ///
    /// Waits where the memory is used up. An error of another thread, such as a failed upload, is returned here; so is
    /// [`ImageError::Source`] with `WouldBlock` where the source has nothing yet.
    pub fn fill_from(&mut self, source: &mut impl Read) -> Result<usize> {
        lock(&self.feeder).fill(self.id.0, source)
    }

    /// Appends all of `data`.
    pub fn write_all(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            self.fill_from(&mut data)?;
        }
        Ok(())
    }

    /// Ends the body.
    pub fn finish(self) -> Result<BodyId> {
        lock(&self.feeder).end(self.id.0)?;
        Ok(self.id)
    }
}

fn lock(feeder: &Mutex<Feeder>) -> MutexGuard<'_, Feeder> {
    feeder.lock().unwrap_or_else(PoisonError::into_inner)
}
