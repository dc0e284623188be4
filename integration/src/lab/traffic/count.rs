//! Counting the packets of one way of one flow.

use std::time::Duration;

/// What was received.
#[derive(Debug, Default)]
pub(super) struct Count {
    /// Which numbers were seen.
    here: Vec<bool>,
    seen: u64,
    duplicated: u64,
    reordered: u64,
    last: Option<Duration>,
    gap: Duration,
    delay: Duration,
}

impl Count {
    /// A packet with this number was sent and came at these times.
    pub(super) fn packet(&mut self, number: u64, sent: Duration, at: Duration) {
        let Ok(place) = usize::try_from(number) else { return };
        if place >= self.here.len() {
            self.here.resize(place + 1, false);
        } else if self.here[place] {
            self.duplicated += 1;
            return;
        } else {
            self.reordered += 1;
        }
        self.here[place] = true;
        self.seen += 1;
        self.delay = self.delay.max(at.saturating_sub(sent));
        if let Some(last) = self.last {
            self.gap = self.gap.max(at.saturating_sub(last));
        }
        self.last = Some(at);
    }

    /// Different numbers that were seen.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    pub(super) fn duplicated(&self) -> u64 {
        self.duplicated
    }

    pub(super) fn reordered(&self) -> u64 {
        self.reordered
    }

    /// The longest that a packet was on its way since the last call.
    pub(super) fn take_delay(&mut self) -> Duration {
        std::mem::take(&mut self.delay)
    }

    /// The longest time between two packets since the last call.
    pub(super) fn take_gap(&mut self) -> Duration {
        std::mem::take(&mut self.gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_counts_once() {
        let mut count = Count::default();
        for (number, at) in [(0, 1), (1, 2), (3, 9), (2, 10), (2, 11), (6, 12)] {
            let at = Duration::from_millis(at);
            count.packet(number, at - Duration::from_micros(number), at);
        }
        assert_eq!((count.seen(), count.duplicated(), count.reordered()), (5, 1, 1));
        assert_eq!(count.take_gap(), Duration::from_millis(7));
        assert_eq!(count.take_delay(), Duration::from_micros(6));
        count.packet(7, Duration::from_millis(14), Duration::from_millis(14));
        assert_eq!(count.take_delay(), Duration::ZERO);
        assert_eq!(count.take_gap(), Duration::from_millis(2));
    }
}
