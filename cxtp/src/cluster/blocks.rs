//! Outbound sequence numbers are leased in blocks: an owner uses none before every
//! standby of the session has written down that it may.
//!
//! A takeover begins at the end of the last block that the standby granted, so no
//! number is used twice (I2), exactly and not by a guessed distance. The kernel
//! drops what would leave with a number at or above [`Blocks::limit`].

use std::collections::BTreeMap;

use protocol_spec::id::Name;

/// The owner's side, for one outbound SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Numbers in a block.
    size: u64,
    /// One above the highest number that may have been used.
    used: u64,
    /// What each standby has granted: the end of its last block.
    granted: BTreeMap<Name, u64>,
    /// The end that all standbys are to grant now.
    wanted: u64,
}

impl Blocks {
    /// An SA of which numbers below `used` may have been used, without a standby.
    pub fn new(used: u64, size: u64) -> Self {
        Self { size: size.max(2), used, granted: BTreeMap::new(), wanted: used }
    }

    /// This gateway is to stand by. It counts once it has granted its first block:
    /// until then it must not take the session over, and does not hinder it.
    #[must_use = "the end that it is to grant"]
    pub fn join(&mut self) -> u64 {
        // With room for what is used while it is asked.
        let limit = self.limit().unwrap_or(self.used.saturating_add(self.size));
        self.wanted = self.wanted.max(limit);
        self.wanted
    }

    /// A standby has granted all numbers below `end`. Before its first grant counts,
    /// the kernel must know the new [`Blocks::limit`]; `false` if that comes too late
    /// and it has to be asked for more: numbers from `end` on may be used already.
    #[must_use]
    pub fn granted(&mut self, standby: &Name, end: u64) -> bool {
        if let Some(before) = self.granted.get_mut(standby) {
            *before = end.max(*before);
            return true;
        }
        // It holds replicas from here on: nothing above its end may ever leave.
        if end < self.used {
            return false;
        }
        self.granted.insert(standby.clone(), end);
        true
    }

    /// A gateway stands by no more, and has forgotten the session or can never take
    /// it over.
    pub fn leave(&mut self, standby: &Name) {
        self.granted.remove(standby);
    }

    /// All numbers below `used` may have been used. The end that all standbys are to
    /// grant next, if it is time to ask: half of the last block is used.
    pub fn used(&mut self, used: u64) -> Option<u64> {
        self.used = self.used.max(used);
        let limit = self.limit()?;
        let half_used = limit.saturating_sub(self.used) <= self.size / 2;
        if !half_used || self.wanted > limit {
            return None;
        }
        self.wanted = limit.saturating_add(self.size);
        Some(self.wanted)
    }

    /// What a standby has not granted yet of what it was asked for: to ask again.
    pub fn missing(&self, standby: &Name) -> Option<u64> {
        let granted = self.granted.get(standby).copied();
        granted.is_none_or(|end| end < self.wanted).then_some(self.wanted)
    }

    /// Numbers at or above it must not leave; `None` without a standby.
    pub fn limit(&self) -> Option<u64> {
        self.granted.values().min().copied()
    }

    /// How many numbers are left.
    pub fn left(&self) -> Option<u64> {
        self.limit().map(|limit| limit.saturating_sub(self.used))
    }
}

#[cfg(test)]
mod tests;
