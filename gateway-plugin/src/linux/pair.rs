//! The two SAs of a Child SA in the kernel, and what their numbers become on the
//! way from one gateway to another.

use protocol_spec::{
    context::{ChildSa, LifetimeUsed, ReplayWindow},
    status::{Refusal, Status},
    transfer::{ChildFinals, Finals, GrantedRange, SaRef},
};

use crate::xfrm::{Counters, SaId};

/// The SAs of a Child SA by their names in this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// Its name in the protocol.
    pub(crate) sa: SaRef,
    /// From the end user to us.
    pub(crate) inbound: SaId,
    /// From us to the end user.
    pub(crate) outbound: SaId,
    /// What ties policies to them.
    pub(crate) reqid: u32,
    /// Packets in the inbound window, as this kernel has it.
    pub(crate) window: u32,
    /// The same of the outbound SA, where it means nothing.
    pub(crate) outbound_window: u32,
}

impl Pair {
    /// Numbers before the first packet: the outbound ones stand below the granted
    /// range, so that its base is the first that is used.
    pub(crate) fn staged(
        &self,
        child: &ChildSa,
        grants: &[GrantedRange],
    ) -> Result<[(SaId, Counters); 2], Refusal> {
        let used = &child.lifetime.used;
        self.numbers(&child.inbound.window, used, self.base(grants)?)
    }

    /// The same with the last numbers of the source.
    pub(crate) fn active(
        &self,
        finals: &Finals,
        grants: &[GrantedRange],
    ) -> Result<[(SaId, Counters); 2], Refusal> {
        let base = self.base(grants)?;
        let last = finals.children.iter().find(|child| child.sa == self.sa).ok_or_else(|| {
            let detail = format!("the last numbers of {} are missing", self.inbound);
            Refusal::new(Status::GenerationChanged, detail)
        })?;
        if last.sequence >= base {
            let detail = format!(
                "the source used {} of {}, which is inside the granted range from {base}",
                last.sequence, self.outbound
            );
            return Err(Refusal::new(Status::NoSequenceRoom, detail));
        }
        self.numbers(&last.window, &last.used, base)
    }

    fn base(&self, grants: &[GrantedRange]) -> Result<u64, Refusal> {
        let grant = grants.iter().find(|grant| grant.sa == self.sa).filter(|grant| grant.base > 0);
        grant.map(|grant| grant.base).ok_or_else(|| {
            Refusal::new(
                Status::BadContext,
                format!("no numbers were granted for {}", self.outbound),
            )
        })
    }

    fn numbers(
        &self,
        window: &ReplayWindow,
        used: &LifetimeUsed,
        base: u64,
    ) -> Result<[(SaId, Counters); 2], Refusal> {
        let counters = |sequence, window, octets, packets| Counters {
            sequence,
            window,
            octets,
            packets,
            age: used.age,
            since_first_use: used.since_first_use,
        };
        let idle = || empty(self.outbound_window);
        Ok([
            (
                self.inbound,
                counters(0, resized(window, self.window), used.octets.0, used.packets.0),
            ),
            (self.outbound, counters(base - 1, idle(), used.octets.1, used.packets.1)),
        ])
    }

    /// The last numbers at a source.
    pub(crate) fn finals(&self, inbound: &Counters, outbound: &Counters) -> ChildFinals {
        ChildFinals {
            sa: self.sa,
            sequence: outbound.sequence,
            window: inbound.window.clone(),
            used: used(inbound, outbound),
        }
    }
}

/// What a Child SA has used of its lifetime.
pub(crate) fn used(inbound: &Counters, outbound: &Counters) -> LifetimeUsed {
    LifetimeUsed {
        octets: (inbound.octets, outbound.octets),
        packets: (inbound.packets, outbound.packets),
        age: inbound.age.max(outbound.age),
        since_first_use: inbound.since_first_use.max(outbound.since_first_use),
    }
}

fn empty(size: u32) -> ReplayWindow {
    ReplayWindow { size, highest: 0, bitmap: vec![0; size.div_ceil(32) as usize] }
}

/// What an SA shall have that may have been used since it was staged: nothing that it
/// sent or received is forgotten.
pub(crate) fn at_least(wanted: Counters, now: &Counters) -> Counters {
    Counters {
        sequence: wanted.sequence.max(now.sequence),
        window: united(&wanted.window, &now.window),
        octets: wanted.octets.max(now.octets),
        packets: wanted.packets.max(now.packets),
        age: wanted.age.max(now.age),
        since_first_use: wanted.since_first_use.max(now.since_first_use),
    }
}

/// What either of two windows of one size has received.
pub(crate) fn united(one: &ReplayWindow, other: &ReplayWindow) -> ReplayWindow {
    let (newer, older) = if one.highest >= other.highest { (one, other) } else { (other, one) };
    let mut both = newer.clone();
    let gap = newer.highest - older.highest;
    for back in 0..u64::from(older.size) {
        let seen =
            older.bitmap.get((back / 32) as usize).is_some_and(|word| word >> (back % 32) & 1 == 1);
        let at = back.saturating_add(gap);
        if seen
            && at < u64::from(both.size)
            && let Some(word) = both.bitmap.get_mut((at / 32) as usize)
        {
            *word |= 1 << (at % 32);
        }
    }
    both
}

/// A window as another gateway has it. What lies left of a narrower window is too
/// old there; what the narrower one never knew counts as received in a wider one.
pub(crate) fn resized(window: &ReplayWindow, size: u32) -> ReplayWindow {
    let mut other = ReplayWindow { highest: window.highest, ..empty(size) };
    for back in 0..size {
        let known = back < window.size;
        let seen = known
            && window
                .bitmap
                .get((back / 32) as usize)
                .is_some_and(|word| word >> (back % 32) & 1 == 1);
        // Numbers start at 1: below that there is nothing to receive.
        let exists = u64::from(back) < window.highest;
        if (seen || !known)
            && exists
            && let Some(word) = other.bitmap.get_mut((back / 32) as usize)
        {
            *word |= 1 << (back % 32);
        }
    }
    other
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(size: u32, highest: u64, seen: &[u32]) -> ReplayWindow {
        let mut window = ReplayWindow { highest, ..empty(size) };
        seen.iter().for_each(|back| window.bitmap[(back / 32) as usize] |= 1 << (back % 32));
        window
    }

    #[test]
    fn what_an_sa_used_since_it_was_staged_is_not_forgotten() {
        let counters = |sequence, window, octets| Counters {
            sequence,
            window,
            octets,
            packets: octets / 100,
            age: std::time::Duration::ZERO,
            since_first_use: None,
        };
        let finals = counters(0, window(64, 1000, &[0, 1, 10, 40]), 5000);
        // Nothing came since: what the source said.
        let staged = counters(0, window(64, 990, &[0, 30]), 4000);
        assert_eq!(at_least(finals.clone(), &staged), finals);
        // Numbers 1005 and 999 came, and that of 962, which the source did not know.
        let used = counters(7, window(64, 1005, &[0, 5, 6, 43]), 6000);
        let whole = counters(7, window(64, 1005, &[0, 5, 6, 15, 43, 45]), 6000);
        assert_eq!(at_least(finals, &used), whole);
    }

    #[test]
    fn a_narrower_window_keeps_its_part() {
        let wide = window(128, 1000, &[0, 3, 31, 32, 100]);
        assert_eq!(resized(&wide, 32), window(32, 1000, &[0, 3, 31]));
        assert_eq!(resized(&wide, 128), wide);
    }

    #[test]
    fn what_a_narrow_window_never_knew_counts_as_received() {
        let narrow = window(32, 1000, &[0, 5]);
        let wide = resized(&narrow, 64);
        let expected: Vec<u32> = [0, 5].into_iter().chain(32..64).collect();
        assert_eq!(wide, window(64, 1000, &expected));
        // Near the beginning there are no older numbers.
        assert_eq!(resized(&window(32, 3, &[0]), 64), window(64, 3, &[0]));
    }

    #[test]
    fn without_a_check_there_is_nothing_to_carry() {
        assert_eq!(
            resized(&window(32, 9, &[0]), 0),
            ReplayWindow { size: 0, highest: 9, bitmap: vec![] }
        );
    }
}
