//! Segments: which sessions of a charon become active or passive together.

use std::net::{IpAddr, Ipv4Addr};

/// Most segments that a charon can have.
pub const MAX_SEGMENTS: u16 = 16;

/// How a charon spreads its clients over segments: `ha.segment_count` of its
/// configuration, which must be the same here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    count: u16,
}

impl Segments {
    /// `count` segments; charon takes at most [`MAX_SEGMENTS`] of them, and at
    /// least one.
    pub fn new(count: u16) -> Self {
        Self { count: count.clamp(1, MAX_SEGMENTS) }
    }

    /// How many there are.
    pub fn count(self) -> u16 {
        self.count
    }

    /// The segment of a client with this outer address, from 1. charon hashes only
    /// IPv4 addresses: all IPv6 clients are in the segment of `0.0.0.0`.
    pub fn of(self, client: IpAddr) -> u16 {
        let address = match client {
            IpAddr::V4(address) => u32::from(address),
            IpAddr::V6(_) => 0,
        };
        let share = (u64::from(jhash(address)) * u64::from(self.count)) >> 32;
        // Below `count` by the shift, so it always fits.
        u16::try_from(share).unwrap_or(0) + 1
    }

    /// An address that no client can have and that lies in this segment, or `None`
    /// for a segment that there is not. From 127/8: what charon might send there
    /// (a NAT keepalive when an SA becomes active) reaches nobody.
    pub fn address_in(self, segment: u16) -> Option<IpAddr> {
        (1..=u16::MAX)
            .map(|low| IpAddr::V4(Ipv4Addr::from(0x7F01_0000 | u32::from(low))))
            .find(|address| self.of(*address) == segment)
    }

    /// The segment in which staged sessions are parked: always the last, and never
    /// toggled, whichever the gate is at the time.
    pub fn parking(self) -> u16 {
        self.count
    }

    /// The segment through which single sessions are activated, chosen so that as
    /// few clients as possible are touched: those in `clients`. `None` with a
    /// single segment, where nothing can be parked outside the gate.
    pub fn gate(self, clients: impl IntoIterator<Item = IpAddr>) -> Option<Gate> {
        let mut used = [0_u32; MAX_SEGMENTS as usize + 1];
        for client in clients {
            if let Some(used) = used.get_mut(usize::from(self.of(client))) {
                *used = used.saturating_add(1);
            }
        }
        let uses = |segment: &u16| used.get(usize::from(*segment)).copied().unwrap_or(u32::MAX);
        let segment = (1..self.parking()).min_by_key(uses)?;
        let (gate, park) = (self.address_in(segment)?, self.address_in(self.parking())?);
        Some(Gate { segment, gate, park })
    }
}

/// How exactly one passive IKE SA of a charon is made active.
///
/// charon activates all passive SAs of a segment at once, and knows a session's
/// segment by the client's address alone. So a staged session is parked under an
/// address of a segment that is never toggled; to activate it, its address is set
/// to [`Gate::gate`], the gate segment is taken and dropped, and its true address
/// is set again. Clients whose true address lies in the gate segment are passive
/// for less than a millisecond: a request of theirs in that moment is dropped and
/// comes again. strongSwan 6 also destroys half-open IKE SAs of that segment, so
/// choose one without any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The segment that is toggled.
    pub segment: u16,
    /// An address in it.
    pub gate: IpAddr,
    /// An address in [`Segments::parking`].
    pub park: IpAddr,
}

/// The hash of one word that CLUSTERIP used and that charon still uses (Bob
/// Jenkins' `lookup3` with the start values of Linux 4.1 and later).
fn jhash(word: u32) -> u32 {
    const START: u32 = 0xDEAD_BEEF + (1 << 2);
    let (mut a, mut b, mut c) = (START.wrapping_add(word), START, START);
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}
