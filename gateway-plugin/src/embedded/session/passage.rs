//! Packets that pass a session: numbers, windows, limits.

use std::{net::SocketAddr, ops::Range, time::Duration};

use protocol_spec::{
    KeyMaterial,
    context::{ChildSa, Lifetime},
};

use super::{
    super::{
        esp::{self, Cipher, HEADER, NEXT_IPV4, NEXT_IPV6, NEXT_NONE},
        packet::{self, Flow},
        window::{self, Verdict},
    },
    Body, last_number,
};
use crate::holder::random;

/// Why a packet does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    Replayed,
    TooOld,
    Forged,
    Malformed,
    Policy,
    Expired,
    NoRemote,
    /// No number is left; `first` if nobody was told yet.
    Exhausted {
        first: bool,
    },
}

/// A packet that was opened.
pub(crate) struct Opened {
    /// Where the inner packet stands in the datagram; `None` for a dummy.
    pub(crate) inner: Option<Range<usize>>,
    /// The end user showed a new address.
    pub(crate) roamed: bool,
}

impl Body {
    /// Seals the inner packet of `flow.length` octets that stands at
    /// `datagram[HEADER..]` and returns the length of the datagram.
    pub(crate) fn seal(
        &mut self,
        now: Duration,
        flow: &Flow,
        datagram: &mut [u8],
    ) -> Result<(SocketAddr, usize), Dropped> {
        // The newest Child SA that fits: it replaces those before it.
        let newest = self.context.children.iter().rposition(|c| packet::may_leave(c, flow));
        let i = newest.ok_or(Dropped::Policy)?;
        self.seal_in(i, now, flow.next_header(), datagram, flow.length)
    }

    /// Seals a dummy packet, which shows the end user where we are.
    pub(crate) fn seal_dummy(
        &mut self,
        now: Duration,
        datagram: &mut [u8],
    ) -> Result<(SocketAddr, usize), Dropped> {
        let newest = self.context.children.len().checked_sub(1).ok_or(Dropped::Policy)?;
        self.seal_in(newest, now, NEXT_NONE, datagram, 0)
    }

    fn seal_in(
        &mut self,
        i: usize,
        now: Duration,
        next_header: u8,
        datagram: &mut [u8],
        payload: usize,
    ) -> Result<(SocketAddr, usize), Dropped> {
        let remote = self.remote.ok_or(Dropped::NoRemote)?;
        let (Some(child), Some(lane)) = (self.context.children.get_mut(i), self.lanes.get_mut(i))
        else {
            return Err(Dropped::Policy);
        };
        if expired(&child.lifetime, now.saturating_sub(self.since)) {
            return Err(Dropped::Expired);
        }
        //= spec CXTP-6.6-2
        let number = child.outbound.sequence.saturating_add(1);
        if number >= lane.end || number > last_number(child.esn) {
            let first = !std::mem::replace(&mut lane.exhausted, true);
            return Err(Dropped::Exhausted { first });
        }
        let cipher = ready(&mut lane.outbound, &child.outbound.keys.encryption)?;
        // Counted before it is used: no failure can lead to a second use.
        child.outbound.sequence = number;
        let total = cipher
            .seal(child.outbound.spi, number, child.esn, next_header, datagram, payload)
            .map_err(|_| Dropped::Malformed)?;
        let used = &mut child.lifetime.used;
        used.packets.1 += 1;
        used.octets.1 += payload as u64;
        self.note_use(i, now, payload);
        Ok((remote, total))
    }

    /// Opens an ESP packet from the end user in place.
    pub(crate) fn open(
        &mut self,
        now: Duration,
        datagram: &mut [u8],
        from: SocketAddr,
    ) -> Result<Opened, Dropped> {
        let (spi, low) = esp::peek(datagram).ok_or(Dropped::Malformed)?;
        let i = self.spis().position(|own| own == spi).ok_or(Dropped::Malformed)?;
        let (Some(child), Some(lane)) = (self.context.children.get_mut(i), self.lanes.get_mut(i))
        else {
            return Err(Dropped::Malformed);
        };
        if expired(&child.lifetime, now.saturating_sub(self.since)) {
            return Err(Dropped::Expired);
        }
        let seen = &mut child.inbound.window;
        let number = window::infer(seen, child.esn, low).ok_or(Dropped::TooOld)?;
        match window::check(seen, number) {
            Verdict::Fresh => {}
            Verdict::Replayed => return Err(Dropped::Replayed),
            Verdict::TooOld => return Err(Dropped::TooOld),
        }
        let cipher = ready(&mut lane.inbound, &child.inbound.keys.encryption)?;
        let (payload, next_header) =
            cipher.open(number, child.esn, datagram).map_err(|error| match error {
                esp::EspError::Forged => Dropped::Forged,
                _ => Dropped::Malformed,
            })?;
        let newest = number > seen.highest;
        window::accept(seen, number);
        let used = &mut child.lifetime.used;
        used.packets.0 += 1;
        used.octets.0 += payload.len() as u64;
        let inner = match next_header {
            NEXT_NONE => None,
            NEXT_IPV4 | NEXT_IPV6 => {
                let flow = datagram.get(payload.clone()).and_then(Flow::parse);
                let flow = flow.filter(|flow| flow.next_header() == next_header);
                let flow = flow.ok_or(Dropped::Malformed)?;
                if !packet::may_enter(child, &flow) {
                    return Err(Dropped::Policy);
                }
                Some(HEADER..HEADER + flow.length)
            }
            _ => return Err(Dropped::Malformed),
        };
        self.note_use(i, now, payload.len());
        // Only the newest authenticated packet says where the end user is.
        let roamed = newest && self.remote != Some(from);
        if roamed {
            self.remote = Some(from);
            if let Some(ike) = &mut self.context.ike {
                ike.remote = from;
            }
            for child in &mut self.context.children {
                if let Some(encapsulation) = &mut child.encapsulation {
                    encapsulation.remote_port = from.port();
                }
            }
            self.changed();
        }
        Ok(Opened { inner, roamed })
    }

    /// Counts a packet of a Child SA for the load, and its first one for good.
    fn note_use(&mut self, i: usize, now: Duration, octets: usize) {
        let unused = |child: &ChildSa| child.lifetime.used.since_first_use.is_none();
        if self.context.children.get(i).is_some_and(unused) {
            self.age(now);
            if let Some(child) = self.context.children.get_mut(i) {
                child.lifetime.used.since_first_use = Some(Duration::ZERO);
            }
        }
        self.meter.add(now, octets, &mut self.context.load);
    }
}

fn ready<'a>(slot: &'a mut Option<Box<Cipher>>, keys: &KeyMaterial) -> Result<&'a Cipher, Dropped> {
    if slot.is_none() {
        let iv_mask = random::octets().map(u64::from_ne_bytes).ok_or(Dropped::Malformed)?;
        let cipher = Cipher::new(keys, iv_mask).map_err(|_| Dropped::Malformed)?;
        *slot = Some(Box::new(cipher));
    }
    slot.as_deref().ok_or(Dropped::Malformed)
}

/// Whether a hard limit is reached. `passed` is not in the ages yet.
fn expired(lifetime: &Lifetime, passed: Duration) -> bool {
    let (used, hard) = (&lifetime.used, &lifetime.hard);
    let above = |limit: Option<u64>, used: (u64, u64)| {
        limit.is_some_and(|limit| used.0 >= limit || used.1 >= limit)
    };
    above(hard.octets, used.octets)
        || above(hard.packets, used.packets)
        || hard.age.is_some_and(|limit| used.age + passed >= limit)
        || matches!((hard.since_first_use, used.since_first_use),
            (Some(limit), Some(since)) if since + passed >= limit)
}
