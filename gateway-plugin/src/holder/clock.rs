//! The one place in the gateways' processes and their end users that reads a clock.

use std::time::{Duration, Instant};

/// Time since a start, shared by all threads of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the driver of a gateway reads time")]
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
