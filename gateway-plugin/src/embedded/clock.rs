//! The one place in the embedded gateway and its end users that reads a clock.

use std::time::{Duration, Instant};

/// Time since a start, shared by all threads of a gateway or a fleet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the driver of the embedded world reads time")]
    fn instant() -> Instant {
        Instant::now()
    }

    /// Starts at zero.
    pub(crate) fn start() -> Self {
        Self { start: Self::instant() }
    }

    /// Time since the start.
    pub(crate) fn now(&self) -> Duration {
        Self::instant().duration_since(self.start)
    }
}
