//! The one place in the vici client that reads a clock.

use std::time::{Duration, Instant};

/// When a call must have returned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Option<Instant>,
    given: Duration,
}

impl Deadline {
    #[expect(clippy::disallowed_methods, reason = "a deadline over blocking calls reads time")]
    fn now() -> Instant {
        Instant::now()
    }

    /// A deadline after this time; one too far to be expressed never comes.
    pub(super) fn after(given: Duration) -> Self {
        Self { at: Self::now().checked_add(given), given }
    }

    /// What is left, or `None` when it has passed. Never zero.
    pub(super) fn left(&self) -> Option<Duration> {
        let left = match self.at {
            Some(at) => at.saturating_duration_since(Self::now()),
            None => self.given,
        };
        (!left.is_zero()).then_some(left)
    }

    /// The same time once more.
    pub(super) fn again(self) -> Self {
        Self::after(self.given)
    }

    /// The time that was given in the beginning.
    pub(super) fn given(&self) -> Duration {
        self.given
    }
}
