//! What charon said a moment ago: a batch asks the same for each of its sessions.

use std::time::Duration;

use crate::holder::clock::Clock;

/// An answer that holds for some time.
pub(super) struct Recent<T> {
    clock: Clock,
    holds: Duration,
    answer: Option<(Duration, T)>,
}

impl<T> Recent<T> {
    /// None yet.
    pub(super) fn new(holds: Duration) -> Self {
        Self { clock: Clock::start(), holds, answer: None }
    }

    /// The answer, unless it is too old.
    pub(super) fn get(&self) -> Option<&T> {
        let now = self.clock.now();
        let (at, answer) = self.answer.as_ref()?;
        (now.saturating_sub(*at) < self.holds).then_some(answer)
    }

    /// The last answer however old it is, which somebody may know to hold still.
    pub(super) fn take_last(&mut self) -> Option<T> {
        self.answer.take().map(|(_, answer)| answer)
    }

    /// None any more.
    pub(super) fn clear(&mut self) {
        self.answer = None;
    }

    /// Keeps a new one.
    pub(super) fn put(&mut self, answer: T) -> &T {
        &self.answer.insert((self.clock.now(), answer)).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_for_its_time_only() {
        let mut recent = Recent::new(Duration::from_secs(3600));
        assert_eq!(recent.get(), None);
        assert_eq!(*recent.put(1), 1);
        assert_eq!(recent.get(), Some(&1));
        let mut never = Recent::new(Duration::ZERO);
        never.put(1);
        assert_eq!(never.get(), None);
        assert_eq!((never.take_last(), never.take_last()), (Some(1), None));
    }
}
