//! The one place where this crate reads the clock: its drivers measure real time.

use std::time::{Duration, Instant};

/// This instant.
#[expect(clippy::disallowed_methods, reason = "drivers of real processes measure real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// A moment in time that a wait must not outlive.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment that is `span` away.
    pub fn after(span: Duration) -> Self {
        Self(now() + span)
    }

    /// What is left; zero once it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(now())
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        self.left().is_zero()
    }
}
