//! A bounded pool of buffers, shared by threads.

use crossbeam_channel::{Receiver, Sender, bounded};

/// The taking end of the pool. Allocates a buffer only if all others are in use, so memory follows demand.
pub(crate) struct Buffers {
    /// Returned buffers.
    pub back: Receiver<Vec<u8>>,
    /// Buffers that may still be allocated.
    left: usize,
}

impl Buffers {
    /// A pool of at most `count` buffers, and the end that returns them.
    pub(crate) fn new(count: usize) -> (Self, Sender<Vec<u8>>) {
        let (give, back) = bounded(count);
        (Self { back, left: count }, give)
    }

    /// A free buffer; a new one is empty. None if all are in use.
    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        self.back.try_recv().ok().or_else(|| {
            self.left = self.left.checked_sub(1)?;
            Some(Vec::new())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_used_before_anything_new_is_made() {
        let (mut buffers, give) = Buffers::new(2);
        assert_eq!(buffers.take(), Some(vec![]));
        for byte in 1..4 {
            give.send(vec![byte]).unwrap();
            assert_eq!(buffers.take(), Some(vec![byte]));
        }
        assert_eq!([buffers.take(), buffers.take()], [Some(vec![]), None]);
    }
}
