//! How hard chunks are compressed: as hard as the store is slow.
//!
//! A service stands still while its memory is stored, so the slower side decides. Uploads that wait for a pack say that
//! the processor is slower: then chunks take less effort, down to none. Packs that wait for an upload say that the store
//! is slower: then chunks take more. While the service runs there is no hurry, and chunks take no less than the first.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Levels of zstd, from the least effort to the most. None stores chunks as they are.
const LEVELS: [Option<i32>; 6] = [None, Some(-20), Some(-5), Some(-1), Some(1), Some(3)];
/// The first pack's.
const FIRST: usize = 4;

/// Shared by encoders, which ask for the level, and by what fills and uploads packs.
#[derive(Debug)]
pub(crate) struct Effort {
    level: AtomicUsize,
    least: AtomicUsize,
    /// How many uploads there are, and how many of them have a pack.
    uploads: usize,
    busy: AtomicUsize,
}

impl Effort {
    pub(crate) fn new(uploads: usize) -> Self {
        Self { level: AtomicUsize::new(FIRST), least: AtomicUsize::new(0), uploads, busy: AtomicUsize::new(0) }
    }

    /// The level of zstd for the next chunk. None stores it as it is.
    pub(crate) fn level(&self) -> Option<i32> {
        LEVELS[self.level.load(Ordering::Relaxed)]
    }

    /// From now on nobody waits for what is written.
    pub(crate) fn take_time(&self) {
        self.least.store(FIRST, Ordering::Relaxed);
        self.level.fetch_max(FIRST, Ordering::Relaxed);
    }

    /// Runs an upload.
    pub(crate) fn during<T>(&self, upload: impl FnOnce() -> T) -> T {
        self.busy.fetch_add(1, Ordering::Relaxed);
        let done = upload();
        self.busy.fetch_sub(1, Ordering::Relaxed);
        done
    }

    /// A pack is full, while `queued` others wait for an upload. Only the packer calls this, under its lock.
    pub(crate) fn weigh(&self, queued: usize) {
        let level = self.level.load(Ordering::Relaxed);
        let busy = self.busy.load(Ordering::Relaxed);
        let next = match queued {
            0 if busy == 0 => level.saturating_sub(1).max(self.least.load(Ordering::Relaxed)),
            0 => level,
            _ if busy == self.uploads => (level + 1).min(LEVELS.len() - 1),
            _ => level,
        };
        self.level.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_waits_for_packs_gets_them_as_they_are() {
        let effort = Effort::new(2);
        let levels = std::iter::repeat_with(|| {
            effort.weigh(0);
            effort.level()
        });
        assert_eq!(levels.take(5).collect::<Vec<_>>(), [Some(-1), Some(-5), Some(-20), None, None]);
    }

    #[test]
    fn a_store_that_lets_packs_wait_gets_smaller_ones() {
        let effort = Effort::new(1);
        for expected in [3, 3] {
            effort.during(|| effort.weigh(1));
            assert_eq!(effort.level(), Some(expected));
        }
    }

    #[test]
    fn without_hurry_chunks_take_no_less_than_the_first() {
        let effort = Effort::new(2);
        effort.weigh(0);
        effort.take_time();
        assert_eq!(effort.level(), LEVELS[FIRST]);
        effort.weigh(0);
        assert_eq!(effort.level(), LEVELS[FIRST]);
    }

    #[test]
    fn a_store_that_keeps_up_changes_nothing() {
        let effort = Effort::new(2);
        effort.during(|| effort.weigh(0));
        effort.during(|| effort.weigh(1));
        assert_eq!(effort.level(), LEVELS[FIRST]);
    }
}
