//! What is to happen when time passes, in the order of time.

use std::{collections::BTreeSet, time::Duration};

use protocol_spec::id::{Name, RequestId, SessionEpoch, SessionId};

/// Whose deadline it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    /// A session: its transfer, or its tombstone.
    Session(SessionId),
    /// What the gateway holds staged and would not discard.
    Discard(SessionId, SessionEpoch),
    /// A preflight that this gateway asked for.
    Preflight(RequestId),
    /// An order that this gateway gave to a target, or one's next part.
    Order(RequestId),
    /// Sessions that this gateway asked for.
    Pull(RequestId),
    /// The memory of a used order or token.
    Used(Name, RequestId),
}

/// All deadlines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Deadlines(BTreeSet<(Duration, Timer)>);

impl Deadlines {
    /// Sets one.
    pub(super) fn add(&mut self, at: Duration, timer: Timer) {
        self.0.insert((at, timer));
    }

    /// Takes one back.
    pub(super) fn remove(&mut self, at: Duration, timer: Timer) {
        self.0.remove(&(at, timer));
    }

    /// Moves a session's deadline, which `slot` holds.
    pub(super) fn set(&mut self, slot: &mut Option<Duration>, id: SessionId, at: Option<Duration>) {
        if *slot == at {
            return;
        }
        if let Some(old) = slot.take() {
            self.remove(old, Timer::Session(id));
        }
        if let Some(new) = at {
            self.add(new, Timer::Session(id));
        }
        *slot = at;
    }

    /// The next one.
    pub(super) fn next(&self) -> Option<Duration> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes the next one out if its time has come.
    pub(super) fn pop(&mut self, now: Duration) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }
}
