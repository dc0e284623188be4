//! Counting the packets of one way of one flow.

use std::time::Duration;

/// What was received.
#[derive(Debug)]
pub(super) struct Count {
    /// Between two packets, as they are to be sent.
    interval: Duration,
    /// Which numbers were seen.
    here: Vec<bool>,
    seen: u64,
    duplicated: u64,
    reordered: u64,
    last: Option<Arrived>,
    gap: Duration,
    held: Duration,
    delay: Duration,
}

/// A packet that came.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    number: u64,
    sent: Duration,
    at: Duration,
}

impl Count {
    /// Nothing yet of what is to be sent in this interval.
    pub(super) fn new(interval: Duration) -> Self {
        let (gap, held, delay) = Default::default();
        let (here, last) = (Vec::new(), None);
        Self { interval, here, seen: 0, duplicated: 0, reordered: 0, last, gap, held, delay }
    }

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
            let gap = at.saturating_sub(last.at);
            self.gap = self.gap.max(gap);
            // What the sender fell behind its own pace between the two.
            let between = u32::try_from(number.saturating_sub(last.number)).unwrap_or(u32::MAX);
            let pace = self.interval.saturating_mul(between);
            let silence = sent.saturating_sub(last.sent).saturating_sub(pace);
            self.held = self.held.max(gap.saturating_sub(silence));
        }
        self.last = Some(Arrived { number, sent, at });
    }

    /// The longest gap since the last call of [`Count::take_gap`], less what the sender
    /// itself was silent in it.
    pub(super) fn held(&self) -> Duration {
        self.held
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
        self.held = Duration::ZERO;
        std::mem::take(&mut self.gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_counts_once() {
        let mut count = Count::new(Duration::from_millis(1));
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
    #[test]
    fn a_gap_in_which_nothing_was_sent_was_held_up_by_nobody() {
        let ms = Duration::from_millis;
        let mut count = Count::new(ms(1));
        // Sent, came: the sender stands still for 30 ms and then catches up.
        for (number, sent, at) in [(0, 0, 1), (1, 1, 2), (2, 32, 33), (3, 32, 33), (4, 33, 34)] {
            count.packet(number, ms(sent), ms(at));
        }
        assert_eq!((count.gap, count.held()), (ms(31), ms(1)));
        assert_eq!(count.take_gap(), ms(31));
        // Held up on the way, or lost there: that counts whole.
        count.packet(5, ms(34), ms(60));
        assert_eq!(count.held(), ms(26));
        count.packet(25, ms(54), ms(90));
        assert_eq!(count.held(), ms(30));
    }
}
