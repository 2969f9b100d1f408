//! Buffers that go round between threads.

use crossbeam_channel::{Receiver, Sender, bounded};

/// The taking end of a fixed number of buffers. A new one is made only while all others are in use, so that the memory taken is
/// what is needed at once.
pub(crate) struct Buffers {
    /// Buffers that were given back.
    pub back: Receiver<Vec<u8>>,
    /// How many may still be made.
    left: usize,
}

impl Buffers {
    /// At most `count`, and the end where they are given back.
    pub(crate) fn new(count: usize) -> (Self, Sender<Vec<u8>>) {
        let (give, back) = bounded(count);
        (Self { back, left: count }, give)
    }

    /// A free buffer; an empty one is new. None where all are in use.
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
