//! What is counted of one direction of one session.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;

/// Packets behind the highest one of which it is known whether they came.
const REMEMBERED: u64 = 1 << 16;
/// Gaps that are listed one by one, at most.
const MAX_GAPS: usize = 256;

/// Counts of one direction. All times in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Packets sent.
    pub sent: u64,
    /// Packets that arrived, each counted once.
    pub received: u64,
    /// Sent and not arrived (yet).
    pub lost: u64,
    /// Arrived again.
    pub duplicated: u64,
    /// Arrived after one with a higher number.
    pub reordered: u64,
    /// Longest time between two arrivals since the phase began.
    pub longest_gap_us: u64,
    /// Longest time from sending to arrival since the phase began.
    pub longest_delay_us: u64,
}

impl Counts {
    /// Adds another direction's or session's; takes the longest of both times.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.longest_gap_us = self.longest_gap_us.max(other.longest_gap_us);
        self.longest_delay_us = self.longest_delay_us.max(other.longest_delay_us);
    }
}

/// A time without arrivals that was longer than usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// When it ended, since the fleet began.
    pub at_us: u64,
    /// How long it was.
    pub length_us: u64,
}

/// One direction of one session.
#[derive(Default)]
pub(crate) struct Tally {
    counts: Counts,
    seen: Seen,
    last: Option<Duration>,
    gaps: Vec<Gap>,
}

impl Tally {
    /// The number of the next packet; the first is 1.
    pub(crate) fn next(&mut self) -> u64 {
        self.counts.sent += 1;
        self.counts.sent
    }

    /// A packet arrived. `usual` is the time between two of them.
    pub(crate) fn arrived(&mut self, number: u64, sent: Duration, now: Duration, usual: Duration) {
        match self.seen.note(number) {
            Arrival::Newest => self.counts.received += 1,
            Arrival::Late => {
                self.counts.received += 1;
                self.counts.reordered += 1;
            }
            Arrival::Again => {
                self.counts.duplicated += 1;
                return;
            }
        }
        if let Some(last) = self.last.replace(now) {
            let gap = micros(now.saturating_sub(last));
            self.counts.longest_gap_us = self.counts.longest_gap_us.max(gap);
            if gap > 2 * micros(usual) && self.gaps.len() < MAX_GAPS {
                self.gaps.push(Gap { at_us: micros(now), length_us: gap });
            }
        }
        let delay = micros(now.saturating_sub(sent));
        self.counts.longest_delay_us = self.counts.longest_delay_us.max(delay);
    }

    /// Forgets the longest times, so that the next phase has its own. The gap
    /// that is open now counts from now.
    pub(crate) fn begin_phase(&mut self, now: Duration) {
        self.counts.longest_gap_us = 0;
        self.counts.longest_delay_us = 0;
        self.last = self.last.map(|_| now);
    }

    /// Nothing is sent from now on, so nothing arriving is no gap.
    pub(crate) fn rest(&mut self) {
        self.last = None;
    }

    pub(crate) fn all_in(&self) -> bool {
        self.counts.received >= self.counts.sent
    }

    pub(crate) fn counts(&self) -> Counts {
        let lost = self.counts.sent.saturating_sub(self.counts.received);
        Counts { lost, ..self.counts.clone() }
    }

    pub(crate) fn gaps(&self) -> &[Gap] {
        &self.gaps
    }
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    Newest,
    Late,
    Again,
}

/// Which numbers came: all up to `whole`, and above it those in `words`.
#[derive(Default)]
struct Seen {
    /// A multiple of 64; everything below is counted already.
    base: u64,
    words: VecDeque<u64>,
    highest: u64,
}

impl Seen {
    fn note(&mut self, number: u64) -> Arrival {
        if number > self.highest.saturating_add(REMEMBERED) || number < self.base {
            // Nobody sends that far ahead, and nobody remembers that far back.
            return Arrival::Again;
        }
        let place = number - self.base;
        let (word, bit) = ((place / 64) as usize, 1u64 << (place % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let Some(word) = self.words.get_mut(word) else { return Arrival::Again };
        if *word & bit != 0 {
            return Arrival::Again;
        }
        *word |= bit;
        self.tidy();
        if number > self.highest {
            self.highest = number;
            Arrival::Newest
        } else {
            Arrival::Late
        }
    }

    /// Drops full words in front, and those that are too old to matter.
    fn tidy(&mut self) {
        // Number 0 is never sent.
        let full = |word: u64, base: u64| word | u64::from(base == 0) == u64::MAX;
        while let Some(first) = self.words.front()
            && (full(*first, self.base) || self.words.len() as u64 * 64 > 2 * REMEMBERED)
        {
            self.words.pop_front();
            self.base += 64;
        }
    }
}

#[cfg(test)]
mod tests;
