//! Work handed to a thread of its own. The driver adds and never waits; it takes
//! no new inputs while much is waiting, and that bounds what can gather here.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// A heap of work in whatever order `Q` keeps it.
#[derive(Default)]
pub(super) struct Work<Q> {
    state: Mutex<State<Q>>,
    arrived: Condvar,
}

#[derive(Default)]
struct State<Q> {
    queue: Q,
    closed: bool,
}

/// What a thread gets when it asks for work.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken<R> {
    /// Work.
    Some(R),
    /// None within the time given.
    Idle,
    /// None, and none will come.
    Closed,
}

impl<Q> Work<Q> {
    /// With what is kept already.
    pub(super) fn new(queue: Q) -> Self {
        Self { state: Mutex::new(State { queue, closed: false }), arrived: Condvar::new() }
    }

    /// Adds work and wakes the thread.
    pub(super) fn add(&self, add: impl FnOnce(&mut Q)) {
        add(&mut self.lock().queue);
        self.arrived.notify_one();
    }

    /// Nothing more will be added; what is there is still done.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }

    /// Whether [`Work::close`] was called.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// What `take` finds, as soon as it finds anything.
    pub(super) fn take<R>(
        &self,
        patience: Duration,
        mut take: impl FnMut(&mut Q) -> Option<R>,
    ) -> Taken<R> {
        let mut found = None;
        let waited = self.arrived.wait_timeout_while(self.lock(), patience, |state| {
            found = take(&mut state.queue);
            found.is_none() && !state.closed
        });
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match found {
            Some(found) => Taken::Some(found),
            None if state.closed => Taken::Closed,
            None => Taken::Idle,
        }
    }

    /// Waits, but not beyond the close. `false` once it is closed.
    pub(super) fn rest(&self, time: Duration) -> bool {
        let waited = self.arrived.wait_timeout_while(self.lock(), time, |state| !state.closed);
        !waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    // A panic elsewhere leaves the queue as whole as any other moment does.
    fn lock(&self) -> MutexGuard<'_, State<Q>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_taken_even_after_the_close() {
        let work = Work::<Vec<u8>>::default();
        assert_eq!(work.take(Duration::ZERO, Vec::pop), Taken::Idle);
        work.add(|queue| queue.push(7));
        work.close();
        assert_eq!(work.take(Duration::from_secs(9), Vec::pop), Taken::Some(7));
        assert_eq!(work.take(Duration::from_secs(9), Vec::pop), Taken::Closed);
    }

    #[test]
    fn a_thread_that_waits_is_woken() {
        let work = Work::<Vec<u8>>::default();
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| work.take(Duration::from_secs(60), Vec::pop));
            work.add(|queue| queue.push(1));
            assert_eq!(taken.join().unwrap(), Taken::Some(1));
        });
    }
}
