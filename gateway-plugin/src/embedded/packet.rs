//! Inner packets: what a policy looks at, and whether it matches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use protocol_spec::context::{ChildSa, Direction, Policy, Prefix, Selector};

use super::esp::{NEXT_IPV4, NEXT_IPV6};

/// Addresses, protocol and ports of an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// The first header after the IP header.
    protocol: u8,
    /// Zero where the packet shows none, as a later fragment.
    ports: (u16, u16),
    /// Octets of the packet; what follows is padding for secrecy of its length.
    pub(crate) length: usize,
}

impl Flow {
    /// Reads an IP packet of either version.
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    fn parse_v4(packet: &[u8]) -> Option<Self> {
        let header = packet.first_chunk::<20>()?;
        let words = usize::from(header[0] & 0xf) * 4;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if words < 20 || length < words || length > packet.len() {
            return None;
        }
        let octets =
            |i: usize| Ipv4Addr::new(header[i], header[i + 1], header[i + 2], header[i + 3]);
        let first_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
        let ports =
            if first_fragment { ports(header[9], packet.get(words..length)?) } else { (0, 0) };
        Some(Self {
            source: octets(12).into(),
            destination: octets(16).into(),
            protocol: header[9],
            ports,
            length,
        })
    }

    fn parse_v6(packet: &[u8]) -> Option<Self> {
        let header = packet.first_chunk::<40>()?;
        let length = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
        if length > packet.len() {
            return None;
        }
        let octets = |at: usize| -> Option<Ipv6Addr> {
            Some(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?))
        };
        Some(Self {
            source: octets(8)?.into(),
            destination: octets(24)?.into(),
            protocol: header[6],
            ports: ports(header[6], packet.get(40..length)?),
            length,
        })
    }

    /// What ESP says in its next header of such a packet.
    pub(crate) fn next_header(&self) -> u8 {
        if self.source.is_ipv4() { NEXT_IPV4 } else { NEXT_IPV6 }
    }

    fn matches(&self, policy: &Policy) -> bool {
        (policy.protocol == 0 || policy.protocol == self.protocol)
            && selects(&policy.source, self.source, self.ports.0)
            && selects(&policy.destination, self.destination, self.ports.1)
    }
}

/// Source and destination port of TCP, UDP, DCCP, SCTP, UDP-Lite.
fn ports(protocol: u8, payload: &[u8]) -> (u16, u16) {
    match (protocol, payload) {
        (6 | 17 | 33 | 132 | 136, [a, b, c, d, ..]) => {
            (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))
        }
        _ => (0, 0),
    }
}

fn selects(selector: &Selector, address: IpAddr, port: u16) -> bool {
    contains(&selector.prefix, address) && (selector.ports.0..=selector.ports.1).contains(&port)
}

/// Whether an address lies in a prefix.
pub(crate) fn contains(prefix: &Prefix, address: IpAddr) -> bool {
    prefix.address.is_ipv4() == address.is_ipv4()
        && masked(prefix.address, prefix.bits) == masked(address, prefix.bits)
}

/// An address with all but its first bits set to zero.
pub(crate) fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(bits.into())).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(bits.into())).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

/// Whether a Child SA may carry this packet to the end user.
pub(crate) fn may_leave(child: &ChildSa, flow: &Flow) -> bool {
    child.policies.iter().any(|p| p.direction == Direction::Out && flow.matches(p))
}

/// Whether a Child SA may have carried this packet from the end user
/// (RFC 4301 section 5.2 step 4: the SA's selectors are checked after opening).
pub(crate) fn may_enter(child: &ChildSa, flow: &Flow) -> bool {
    child.policies.iter().any(|p| p.direction != Direction::Out && flow.matches(p))
}

#[cfg(test)]
mod tests;
