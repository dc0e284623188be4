//! Lines of the log that others can bring about as often as they like.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Lines that are said at once.
const BURST: u32 = 20;
/// After that, one in this time.
const PACE: Duration = Duration::from_millis(500);

/// Bounds the lines about one thing, so that nobody fills a disk by being
/// refused, and counts those that are left out.
pub(crate) struct Seldom(Mutex<State>);

struct State {
    left: u32,
    counted: Instant,
    unsaid: u64,
}

impl Default for Seldom {
    fn default() -> Self {
        Self(Mutex::new(State { left: BURST, counted: Instant::now(), unsaid: 0 }))
    }
}

impl Seldom {
    /// Whether to say it now: how many were not said since the last time.
    pub(crate) fn say(&self) -> Option<u64> {
        self.say_at(Instant::now())
    }

    fn say_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while state.left < BURST && now.duration_since(state.counted) >= PACE {
            state.left += 1;
            state.counted += PACE;
        }
        if state.left == BURST {
            state.counted = now;
        }
        if state.left == 0 {
            state.unsaid += 1;
            return None;
        }
        state.left -= 1;
        Some(std::mem::take(&mut state.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_said_now_and_then_with_the_number_left_out() {
        let seldom = Seldom::default();
        let begun = Instant::now();
        let flood = |at| (0..1000).filter_map(|_| seldom.say_at(at)).count();
        assert_eq!(flood(begun), BURST as usize);
        assert_eq!(seldom.say_at(begun + PACE), Some(980));
        assert_eq!(seldom.say_at(begun + PACE), None);
        assert_eq!(flood(begun + PACE * 1000), BURST as usize);
    }
}
