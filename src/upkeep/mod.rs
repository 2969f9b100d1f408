//! Maintenance of a store: the work behind `inspect`, `verify`, `prune`, `extract` and `copy`, one file a
//! verb.
//!
//! Needs neither init nor a container, and never prints; [`commands`](crate::commands) does.

mod condemned;
pub mod copy;
pub mod extract;
pub(crate) mod inspect;
mod open_files;
mod policy;
pub mod prune;
pub mod verify;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{io, thread};

pub use policy::Keep;

use crate::image::ImageError;
use crate::store::StoreError;

/// Why maintenance of a store failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what variants and fields are.
pub enum UpkeepError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(
        "{0}. Nothing was deleted, because the packs of generation {1} are unknown; `freeze verify` lists all damage"
    )]
    Unreadable(Box<ImageError>, u64),
    #[error("{url} holds no generation. Check --store; `freeze checkpoint` creates the first one")]
    Empty { url: String },
    /// The destination folder of `extract` is in use.
    #[error("{} is not an empty folder. Name a folder that is empty or does not exist", .0.display())]
    NotEmpty(PathBuf),
    #[error("cannot write {} ({error}). Free space or choose another folder; the extracted files are incomplete", path.display())]
    Write { path: PathBuf, error: io::Error },
    /// A captured file would be written through a symbolic link, outside of the destination folder.
    #[error(
        "generation {generation} has {} below the symbolic link {}, which freeze never writes. Nothing was extracted; find out who made this checkpoint", path.display(), link.display()
    )]
    BelowLink { generation: u64, path: PathBuf, link: PathBuf },
    /// The destination belongs to another application, or its history has diverged.
    #[error(
        "generation {generation} of {destination} and of {source_url} are different checkpoints. Nothing was copied; give the copy its own store"
    )]
    OtherHistory { generation: u64, source_url: String, destination: String },
    #[error(
        "generation {generation} cannot be copied, because {destination} is already at generation {newest} and would restore the older one from then on. Copy it to a store of its own"
    )]
    Older { generation: u64, newest: u64, destination: String },
    #[error(
        "{destination} has no generation yet, but a manifest of generation {generation} that is less than {minutes} minutes old: another copy or a checkpoint may be in progress. Nothing was committed; wait for it, or for {minutes} minutes, and run the copy again"
    )]
    InTheWay { destination: String, generation: u64, minutes: u64 },
    /// Another writer put a manifest of this number right before the commit.
    #[error(
        "generation {generation} was copied, but became generation {became} of {destination}, because another writer uses it. This copy can be restored, but later ones cannot follow it: give the copy its own store"
    )]
    OtherNumber { generation: u64, became: u64, destination: String },
}

impl From<StoreError> for UpkeepError {
    fn from(error: StoreError) -> Self {
        Self::Image(error.into())
    }
}

/// Receives progress. Several threads call it.
pub trait Progress: Sync {
    /// A part of the work begins, with `total` bytes or objects to do.
    fn begin(&self, part: Part, total: u64);
    /// `amount` more bytes or objects are done.
    fn add(&self, amount: u64);
    /// The part is done.
    fn end(&self);
}

/// A part of the work that takes long enough to report progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Part {
    ReadingPacks,
    Extracting,
    Copying { generation: u64 },
    Deleting,
}

/// Discards progress.
pub struct Quiet;

impl Progress for Quiet {
    fn begin(&self, _: Part, _: u64) {}
    fn add(&self, _: u64) {}
    fn end(&self) {}
}

/// Threads that read whole objects. Each holds about 8 MiB.
const WHOLE_OBJECTS: usize = 8;

/// Runs `work` for every item on up to `threads` threads. Results are in the order of the items.
fn parallel<T: Sync, R: Send>(items: &[T], threads: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return done };
            done.push((index, work(item)));
        }
    };
    let mut done: Vec<(usize, R)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.min(items.len())).map(|_| scope.spawn(worker)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once_and_in_order() {
        let items: Vec<u32> = (0..100).collect();
        for threads in [1, 3, 200] {
            assert_eq!(parallel(&items, threads, |item| item * 2), (0..100).map(|item| item * 2).collect::<Vec<_>>());
        }
        assert!(parallel(&[0u8; 0], 4, |_| ()).is_empty());
    }
}
