//! The lease of an application, as plain data. Decides which container may write head, and in which state of
//! head: never more than one.
//!
//! Each container has a random writer name and takes an epoch above the one that it found. So it recognises
//! its own puts, also those with a lost reply or from a killed worker, and those of a container that has
//! taken over.

use serde::{Deserialize, Serialize};

use crate::image::error::{ImageError, Result};
use crate::image::hex::Hex;

/// The state of head, and a container's claim to it: owner, epoch and generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// Newest generation that the owner restored or committed; 0 for none.
    pub generation: u64,
    /// Increases with each takeover; 0 for a container that does not know the state of head.
    pub epoch: u64,
    /// Random name of the owner; zeros for none.
    pub writer: Hex<8>,
}

impl Lease {
    /// For a container that found nothing to restore. Valid until another container claims or commits.
    pub fn fresh() -> Self {
        Self { generation: 0, epoch: 1, writer: Hex::random() }
    }

    /// For a container that could not read head. It takes over with its first checkpoint.
    pub fn unknown() -> Self {
        Self { generation: 0, epoch: 0, writer: Hex::random() }
    }

    /// For a container that takes over from `head`. Valid, claimed or not, until another container claims or
    /// commits.
    pub fn after(head: &Self) -> Self {
        Self { generation: head.generation, epoch: head.epoch + 1, writer: Hex::random() }
    }

    /// Whether it has no owner: head before the first commit or claim.
    pub fn is_unclaimed(&self) -> bool {
        self.writer == Hex::default()
    }

    /// The state that replaces `head` when the owner of this lease commits `generation`. Fails if the lease
    /// is lost or head is an old one; the error names `url`.
    pub(crate) fn next(&self, head: &Lease, generation: u64, url: &str) -> Result<Lease> {
        let url = url.to_owned();
        let ours = head.is_of(self) && head.generation >= self.generation;
        let as_we_found_it = head.generation == self.generation && head.epoch + 1 == self.epoch;
        if self.epoch == 0 {
            let epoch = if head.writer == self.writer { head.epoch } else { head.epoch + 1 };
            Ok(Lease { generation, epoch, writer: self.writer })
        } else if head.generation == 0 && head.is_unclaimed() {
            // Head has no owner to take over from: the first writer wins.
            Ok(Lease { generation, epoch: head.epoch + 1, writer: self.writer })
        } else if ours || as_we_found_it {
            Ok(Lease { generation, ..*self })
        } else if head.generation < self.generation {
            Err(ImageError::OldHead { url, found: head.generation, known: self.generation })
        } else {
            Err(ImageError::Replaced { url, generation: head.generation })
        }
    }

    /// Whether both have the same owner and epoch.
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
        // The reply to that put was lost.
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
