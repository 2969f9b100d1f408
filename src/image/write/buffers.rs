//! A bounded pool of buffers, shared by threads.

use crossbeam_channel::{Receiver, Sender, bounded};

/// Whether that number of bytes may be allocated.
pub(crate) type Room = fn(u64) -> bool;

/// The taking end of the pool. Allocates a buffer only if all others are in use, so memory follows demand.
pub(crate) struct Buffers {
    /// Returned buffers.
    pub back: Receiver<Vec<u8>>,
    /// Buffers that may still be allocated.
    left: usize,
    /// Of these, those that need no room.
    free: usize,
    /// Bytes of a buffer.
    size: usize,
    room: Room,
}

impl Buffers {
    /// A pool of at most `count` buffers of `size` bytes, and the end that returns them. Allocates more than `least` only
    /// while there is room.
    pub(crate) fn new(least: usize, count: usize, size: usize, room: Room) -> (Self, Sender<Vec<u8>>) {
        let (give, back) = bounded(count);
        (Self { back, left: count, free: least, size, room }, give)
    }

    /// A free buffer; a new one is empty. None if all are in use.
    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        self.back.try_recv().ok().or_else(|| {
            let may = self.free > 0 || (self.left > 0 && (self.room)(self.size as u64));
            self.left = self.left.checked_sub(1).filter(|_| may)?;
            self.free = self.free.saturating_sub(1);
            Some(Vec::new())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_used_before_anything_new_is_made() {
        let (mut buffers, give) = Buffers::new(0, 2, 1, |_| true);
        assert_eq!(buffers.take(), Some(vec![]));
        for byte in 1..4 {
            give.send(vec![byte]).unwrap();
            assert_eq!(buffers.take(), Some(vec![byte]));
        }
        assert_eq!([buffers.take(), buffers.take()], [Some(vec![]), None]);
    }

    #[test]
    fn without_room_there_are_no_more_than_the_least() {
        let (mut buffers, give) = Buffers::new(1, 3, 7, |bytes| bytes != 7);
        assert_eq!([buffers.take(), buffers.take()], [Some(vec![]), None]);
        give.send(vec![5]).unwrap();
        assert_eq!(buffers.take(), Some(vec![5]));
    }
}
