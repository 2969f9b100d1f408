//! A queue between threads that can be closed. It has no bound of its own: what goes round in it is limited in number.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A queue between threads.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self::from_iter([])
    }

    pub(crate) fn from_iter(items: impl IntoIterator<Item = T>) -> Self {
        let state = State { items: items.into_iter().collect(), closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item, unless the queue is closed.
    pub(crate) fn push(&self, item: T) {
        let mut state = self.lock();
        if !state.closed {
            state.items.push_back(item);
            self.changed.notify_one();
        }
    }

    /// Adds an item that is to be taken first, so that what is warm in the caches is used again.
    pub(crate) fn push_first(&self, item: T) {
        let mut state = self.lock();
        if !state.closed {
            state.items.push_front(item);
            self.changed.notify_one();
        }
    }

    /// Waits for an item; none comes after the queue was closed and is empty.
    pub(crate) fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            match state.items.pop_front() {
                None if !state.closed => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                item => return item,
            }
        }
    }

    /// Lets what is in the queue be taken, and nothing after that be waited for.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Closes the queue and drops what is in it.
    pub(crate) fn abort(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.items.clear();
        drop(state);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn closing_lets_the_rest_be_taken() {
        let queue = Queue::from_iter([1, 2]);
        queue.close();
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some(1), Some(2), None]);
    }

    #[test]
    fn aborting_wakes_who_waits() {
        let queue = Queue::<u8>::new();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.pop());
            queue.abort();
            assert_eq!(waiting.join().unwrap(), None);
        });
    }
}
