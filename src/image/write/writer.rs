//! Writes many bodies at once into packs. One thread feeds them.

use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::base::{self, Base, BaseChunks};
use super::feeder::Feeder;
use super::pipeline::Pipeline;
use crate::image::crypto::vault::Vault;
use crate::image::error::Result;
use crate::image::format::body::{Body, Slice};
use crate::image::format::chunk_table::ChunkTable;
use crate::image::format::pack::PackInfo;
use crate::sys;

/// Writes the bodies of one generation into packs.
pub struct ImageWriter {
    feeder: Arc<Mutex<Feeder>>,
    base: BaseChunks,
}

/// ID of a body of an [`ImageWriter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BodyId(usize);

/// Writes one body. Dropped before [`finish`](Self::finish), it loses only this body.
pub struct BodyWriter {
    feeder: Arc<Mutex<Feeder>>,
    id: BodyId,
}

/// Result of an [`ImageWriter`].
pub struct Written {
    bodies: Vec<Body>,
    /// For [`Manifest::chunks`](crate::image::format::manifest::Manifest::chunks).
    pub chunks: ChunkTable,
    /// For [`Manifest::packs`](crate::image::format::manifest::Manifest::packs): new packs, and those of
    /// earlier generations that are reused.
    pub packs: Vec<PackInfo>,
    /// Bytes taken in, including zero pages.
    pub bytes: u64,
    /// Of `bytes`: raw bytes that were stored anew.
    pub new: u64,
    /// Of `bytes`: bytes that an earlier generation or another body had already stored. The rest is zero.
    pub shared: u64,
    /// Bytes of new packs.
    pub stored: u64,
}

impl Written {
    /// Takes a body out. A second call returns an empty body.
    pub fn take(&mut self, id: BodyId) -> Body {
        std::mem::take(&mut self.bodies[id.0])
    }
}

impl ImageWriter {
    /// Reads the base and starts all threads: up to `threads` encoders, and the uploads.
    ///
    /// Takes at most [`most`](Self::most) of `memory`. An eighth is left to the store's client and the process.
    pub fn new(vault: &Vault, memory: u64, threads: usize) -> Result<Self> {
        Self::within(vault, memory, threads, |_| true)
    }

    /// The same. Takes more than the least only while `room` says that the bytes are left.
    pub fn within(vault: &Vault, memory: u64, threads: usize, room: fn(u64) -> bool) -> Result<Self> {
        sys::memory::share_one_heap();
        let Base { index, packs, chunks: base } = base::load(vault, memory / 4)?;
        let pipeline = Pipeline::start(vault, index, packs, memory - memory / 4 - memory / 8, threads, room)?;
        Ok(Self { feeder: Arc::new(Mutex::new(Feeder::new(pipeline)?)), base })
    }

    /// The chunks of the generation that this one is based on.
    pub fn base(&self) -> &BaseChunks {
        &self.base
    }

    /// Bytes that a writer takes at most with so much memory: not less than the pipeline's least.
    pub fn most(memory: u64) -> u64 {
        memory / 4 + memory / 8 + Pipeline::LEAST.max(memory - memory / 4 - memory / 8)
    }

    /// Starts a body. Any number can be open at once.
    pub fn begin(&self) -> BodyWriter {
        let id = BodyId(lock(&self.feeder).begin());
        BodyWriter { feeder: self.feeder.clone(), id }
    }

    /// From now on nobody waits for what is written, and it is compressed as well as the first.
    pub fn take_time(&self) {
        lock(&self.feeder).take_time();
    }

    /// Waits until everything is stored.
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
    /// Does one read(2), directly into the buffer of the encoders. Returns the bytes read; 0 at the end.
    ///
    /// Blocks while the memory is used up. Returns an error of another thread, such as a failed upload.
    /// Returns [`ImageError::Source`](crate::image::error::ImageError::Source) with `WouldBlock` if the
    /// source has nothing yet.
    pub fn fill_from(&mut self, source: &mut impl Read) -> Result<usize> {
        lock(&self.feeder).fill(self.id.0, source)
    }

    /// Appends zeros that need not be read. The body has whole pages so far.
    pub fn skip(&mut self, length: u64) -> Result<()> {
        lock(&self.feeder).skip(self.id.0, length)
    }

    /// Appends a slice of the manifest of `base`, the base of this body's writer. The body has whole pages so far.
    /// Returns whether the slice is still stored; if not, its pages must be read.
    pub fn reuse(&mut self, base: &BaseChunks, slice: Slice) -> Result<bool> {
        let Some(slice) = base.slice(slice) else { return Ok(false) };
        lock(&self.feeder).reuse(self.id.0, slice).map(|()| true)
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
