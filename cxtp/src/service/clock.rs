//! The one place of the service that reads clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::engine::Moment;

/// The daemon's clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Begins to count.
    #[expect(clippy::disallowed_methods, reason = "the driver is who reads the clock")]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Now, for the engine.
    pub fn moment(&self) -> Moment {
        Moment { monotonic: self.start.elapsed(), unix: unix_time().as_secs() }
    }

    /// When a deadline of the engine is, for a timer.
    pub fn instant(&self, deadline: Duration) -> Instant {
        self.start + deadline
    }
}

/// Since 1970-01-01 UTC; zero on a clock that stands before it.
#[expect(clippy::disallowed_methods, reason = "the driver is who reads the clock")]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
