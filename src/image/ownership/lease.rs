//! What a container holds of its application. Exactly one container may write head: who may, and in the place of what, is
//! decided here alone.
//!
//! Each container has a random name as a writer, and takes an epoch above the one that it found. So its own puts whose
//! replies were lost, also those of a worker that was killed, are told from those of a container that has taken over.

use serde::{Deserialize, Serialize};

use crate::image::error::{ImageError, Result};
use crate::image::hex::Hex;

/// What head says, and what a container holds: who has the application, since which epoch, at which generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// The newest generation that the holder restored or committed; 0 for none.
    pub generation: u64,
    /// Counts up with each container that takes over; 0 for a holder that does not know who had it before.
    pub epoch: u64,
    /// Names the container.
    pub writer: Hex<8>,
}

impl Lease {
    /// For a container that found nothing to restore: holds as long as nobody commits.
    pub fn fresh() -> Self {
        Self { generation: 0, epoch: 1, writer: Hex::random() }
    }

    /// For a container that could not find out who has the application, and takes it over with its first checkpoint.
    pub fn unknown() -> Self {
        Self { generation: 0, epoch: 0, writer: Hex::random() }
    }

    /// For a container that takes over from `head`. It counts, claimed or not, until another one claims or commits.
    pub fn after(head: &Self) -> Self {
        Self { generation: head.generation, epoch: head.epoch + 1, writer: Hex::random() }
    }

    /// Whether it is held by nobody: head before anything was committed or claimed.
    pub fn is_nobodys(&self) -> bool {
        self.writer == Hex::default()
    }

    /// What head is to say in the place of `head` when this container commits `generation`.
    pub(crate) fn next(&self, head: &Lease, generation: u64, url: &str) -> Result<Lease> {
        let url = url.to_owned();
        let ours = head.is_of(self) && head.generation >= self.generation;
        let as_we_found_it = head.generation == self.generation && head.epoch + 1 == self.epoch;
        if self.epoch == 0 {
            let epoch = if head.writer == self.writer { head.epoch } else { head.epoch + 1 };
            Ok(Lease { generation, epoch, writer: self.writer })
        } else if head.generation == 0 && head.is_nobodys() {
            // Nobody has committed or claimed anything, so nobody can be replaced: the first one decides.
            Ok(Lease { generation, epoch: head.epoch + 1, writer: self.writer })
        } else if ours || as_we_found_it {
            Ok(Lease { generation, ..*self })
        } else if head.generation < self.generation {
            Err(ImageError::OldHead { url, found: head.generation, known: self.generation })
        } else {
            Err(ImageError::Replaced { url, generation: head.generation })
        }
    }

    /// Whether it was written by the holder of `other`.
    pub(crate) fn is_of(&self, other: &Lease) -> bool {
        (self.epoch, self.writer) == (other.epoch, other.writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Hex<8> = Hex([1; 8]);
    const THEM: Hex<8> = Hex([2; 8]);

    fn lease(generation: u64, epoch: u64, writer: Hex<8>) -> Lease {
        Lease { generation, epoch, writer }
    }

    fn next(head: Lease) -> Result<Lease> {
        lease(5, 3, US).next(&head, 6, "file:/s")
    }

    #[test]
    fn a_lease_holds_while_head_is_ours_or_as_we_found_it() {
        for head in [lease(5, 3, US), lease(5, 2, THEM), lease(6, 3, US), lease(5, 2, US)] {
            assert_eq!(next(head).unwrap(), lease(6, 3, US), "{head:?}");
        }
    }

    #[test]
    fn it_ends_when_another_claims_or_commits() {
        for head in [lease(5, 3, THEM), lease(5, 4, THEM), lease(6, 2, THEM), lease(6, 4, US), lease(5, 1, THEM)] {
            assert!(matches!(next(head), Err(ImageError::Replaced { .. })), "{head:?}");
        }
        for head in [lease(4, 3, US), lease(4, 1, THEM)] {
            assert!(matches!(next(head), Err(ImageError::OldHead { known: 5, .. })), "{head:?}");
        }
    }

    #[test]
    fn who_knew_nobody_takes_over_from_anybody_once() {
        let us = lease(0, 0, US);
        let taken = us.next(&lease(5, 3, THEM), 6, "").unwrap();
        assert_eq!(taken, lease(6, 4, US));
        // The reply to that was lost.
        assert_eq!(us.next(&taken, 6, "").unwrap(), taken);
        assert!(matches!(taken.next(&lease(6, 5, THEM), 7, ""), Err(ImageError::Replaced { .. })));
    }

    #[test]
    fn an_empty_store_is_anybodys() {
        for lease in [Lease::fresh(), lease(5, 3, US)] {
            let head = Lease::default();
            assert_eq!(lease.next(&head, 1, "").unwrap(), Lease { generation: 1, epoch: 1, writer: lease.writer });
        }
    }
}
