//! What becomes of a packet that comes to the model of a kernel.

use std::net::IpAddr;

use protocol_spec::{
    context::{Direction, ReplayWindow},
    id::Name,
};

use super::ground::{Ground, Way};

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// For this end user, in clear.
    Inner(IpAddr),
    /// From an end user: inbound SPI and number.
    Esp(u32, u64),
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It left, or came in.
    Passed,
    /// It waits.
    Held,
    /// To another gateway.
    Diverted(Name),
    Dropped,
}

impl Ground {
    /// What becomes of a packet.
    pub(crate) fn take(&mut self, packet: Packet) -> Fate {
        let own = self.steered.values_mut().find(|steered| match packet {
            Packet::Inner(to) => steered.flow.inner.iter().any(|prefix| prefix.address == to),
            Packet::Esp(spi, _) => steered.flow.children.iter().any(|child| child.0 == spi),
        });
        if let Some(steered) = own {
            match &steered.data {
                Way::Kernel => {}
                Way::Queue => {
                    steered.queue.push(packet);
                    return Fate::Held;
                }
                Way::To(gateway) => return Fate::Diverted(gateway.clone()),
            }
        }
        match packet {
            Packet::Inner(to) => self.seal(to),
            Packet::Esp(spi, number) => self.open(spi, number),
        }
    }

    fn seal(&mut self, to: IpAddr) -> Fate {
        let policies = self.policies.iter().filter(|policy| {
            policy.policy.direction == Direction::Out
                && policy.policy.destination.prefix.address == to
        });
        let Some(template) = policies
            .min_by_key(|policy| policy.policy.priority)
            .and_then(|policy| policy.templates.first().copied())
        else {
            return Fate::Dropped;
        };
        let newest = self.sas.iter_mut().rfind(|sa| {
            sa.reqid == template.reqid
                && sa.source == template.source
                && sa.id.destination == template.destination
        });
        let Some(sa) = newest else { return Fate::Dropped };
        sa.counters.sequence += 1;
        sa.counters.packets += 1;
        let (spi, number) = (sa.id.spi, sa.counters.sequence);
        // What stands at the outer interface.
        let guarded = self.steered.values().any(|steered| {
            let own = steered.flow.children.iter().any(|(_, outbound)| *outbound == spi);
            let over = steered.ends.iter().any(|(of, end)| *of == spi && number >= *end);
            own && steered.blocked || over
        });
        if guarded {
            return Fate::Dropped;
        }
        self.sent.push((spi, number));
        Fate::Passed
    }

    fn open(&mut self, spi: u32, number: u64) -> Fate {
        let Some(sa) = self.sas.iter_mut().find(|sa| sa.id.spi == spi) else {
            return Fate::Dropped;
        };
        if !accept(&mut sa.counters.window, number) {
            return Fate::Dropped;
        }
        sa.counters.packets += 1;
        self.delivered.push((spi, number));
        Fate::Passed
    }
}

/// Whether a window takes a number (RFC 4303 section 3.4.3).
fn accept(window: &mut ReplayWindow, number: u64) -> bool {
    let size = u64::from(window.size);
    let word = |back: u64| ((back / 32) as usize, 1u32 << (back % 32));
    if number > window.highest {
        let ahead = number - window.highest;
        let seen: Vec<u64> = (0..size)
            .filter(|back| window.bitmap[word(*back).0] & word(*back).1 != 0)
            .map(|back| back + ahead)
            .filter(|back| *back < size)
            .collect();
        window.bitmap.fill(0);
        window.highest = number;
        for back in seen.into_iter().chain((size > 0).then_some(0)) {
            window.bitmap[word(back).0] |= word(back).1;
        }
        return true;
    }
    let back = window.highest - number;
    if back >= size {
        return size == 0;
    }
    let (at, bit) = word(back);
    let fresh = window.bitmap[at] & bit == 0;
    window.bitmap[at] |= bit;
    fresh
}
