//! Writes many bodies at once, fed by one thread, into packs.

use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::base::recall;
use super::feeder::Feeder;
use super::pipeline::Pipeline;
use crate::image::crypto::vault::Vault;
use crate::image::error::Result;
use crate::image::format::body::Body;
use crate::image::format::chunk_table::ChunkTable;
use crate::image::format::pack::PackInfo;
use crate::sys;

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
    /// For [`Manifest::chunks`](crate::image::format::manifest::Manifest::chunks).
    pub chunks: ChunkTable,
    /// For [`Manifest::packs`](crate::image::format::manifest::Manifest::packs): new ones, and those of earlier generations that are used again.
    pub packs: Vec<PackInfo>,
    /// Bytes taken in, zero pages included.
    pub bytes: u64,
    /// Of them, bytes that were stored anew; as they are, not as they are encoded.
    pub new: u64,
    /// Of them, bytes that were stored already, by an earlier generation or another body. All others are zero.
    pub shared: u64,
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
    /// Finds out what the newest generation has stored already, and starts all threads: one for each of `threads` to
    /// encode, and some to upload. All that makes at most `memory` bytes, but never less than some 40 MiB are needed. An
    /// eighth of it is for the store's client and the process itself.
    pub fn new(vault: &Vault, memory: u64, threads: usize) -> Result<Self> {
        sys::memory::share_one_heap();
        let (known, packs) = recall(vault, memory / 4)?;
        let pipeline = Pipeline::start(vault, known, packs, memory - memory / 4 - memory / 8, threads)?;
        Ok(Self { feeder: Arc::new(Mutex::new(Feeder::new(pipeline)?)) })
    }

    /// Begins a body. Any number can be open at once.
    pub fn begin(&self) -> BodyWriter {
        let id = BodyId(lock(&self.feeder).begin());
        BodyWriter { feeder: self.feeder.clone(), id }
    }

    /// Waits until everything is in the store, and says where.
    pub fn finish(self) -> Result<Written> {
        let (bytes, placed) = lock(&self.feeder).finish()?;
        Ok(Written {
            bodies: placed.bodies,
            chunks: placed.chunks,
            packs: placed.packs,
            bytes,
            new: placed.new,
            shared: placed.shared,
            stored: placed.stored,
        })
    }
}

impl BodyWriter {
    /// Does one read(2), straight into the buffer that is encoded from. Returns the bytes read; 0 is the end.
    ///
    /// Waits where the memory is used up. An error of another thread, such as a failed upload, is returned here; so is
    /// [`ImageError::Source`](crate::image::error::ImageError::Source) with `WouldBlock` where the source has nothing yet.
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
