//! The one place that reads clocks for what talks to the kernel.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in time after which nothing is waited for any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    #[expect(clippy::disallowed_methods, reason = "a wait for the kernel has to end")]
    fn now() -> Instant {
        Instant::now()
    }

    /// So long from now.
    pub(crate) fn after(wait: Duration) -> Self {
        Self(Self::now() + wait.min(Duration::from_secs(3600)))
    }

    /// Time that is left; zero once it has passed.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Self::now())
    }
}

/// Seconds since 1970, as the kernel stamps SAs.
#[expect(clippy::disallowed_methods, reason = "the kernel stamps SAs with wall-clock time")]
pub(crate) fn wall_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
