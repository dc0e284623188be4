//! Datagrams that are not ESP: what gateways relay to each other and what they
//! announce to the inner network.
//!
//! A relayed packet keeps the address of its first sender, so that the target
//! learns where the end user is and not where its neighbour is:
//!
//! ```text
//! | 'R' | kind 1 | hops 1 | family 1 | source address 16 | source port 2 | zero 2 | packet |
//! ```
//!
//! An announcement says which inner addresses are now behind the gateway that
//! sends it, and since which ownership:
//!
//! ```text
//! | 0xa1 | count 1 | count x ( epoch 8 | family 1 | bits 1 | address 16 ) |
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use protocol_spec::{context::Prefix, id::SessionEpoch};

/// Octets of the relay header; every receive buffer leaves them free in front
/// of a packet, so that nothing is copied to relay it.
pub(crate) const RELAY: usize = 24;
/// A packet that was relayed more often runs in a circle.
pub(crate) const MAX_HOPS: u8 = 8;
/// Most entries of one announcement.
pub(crate) const MAX_ANNOUNCED: usize = 40;

/// First octet of an announcement; no IP packet begins with it.
const ANNOUNCEMENT: u8 = 0xa1;
const ENTRY: usize = 26;

/// What was diverted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// ESP, unopened.
    Outer,
    /// An IP packet for an end user.
    Inner,
}

/// Where a relayed packet has been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RelayHeader {
    pub(crate) kind: Kind,
    pub(crate) hops: u8,
    /// Who sent it first.
    pub(crate) source: SocketAddr,
}

impl RelayHeader {
    pub(crate) fn write(&self, octets: &mut [u8; RELAY]) {
        let (family, address) = split(self.source.ip());
        let kind = match self.kind {
            Kind::Outer => 1,
            Kind::Inner => 2,
        };
        octets[..4].copy_from_slice(&[b'R', kind, self.hops, family]);
        octets[4..20].copy_from_slice(&address);
        octets[20..22].copy_from_slice(&self.source.port().to_be_bytes());
        octets[22..].fill(0);
    }

    pub(crate) fn read(octets: &[u8; RELAY]) -> Option<Self> {
        let [b'R', kind, hops, family, rest @ ..] = octets else { return None };
        let kind = match kind {
            1 => Kind::Outer,
            2 => Kind::Inner,
            _ => return None,
        };
        let source = SocketAddr::new(
            join(*family, rest.first_chunk()?)?,
            u16::from_be_bytes([rest[16], rest[17]]),
        );
        Some(Self { kind, hops: *hops, source })
    }
}

/// One inner address or prefix and the ownership of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) epoch: SessionEpoch,
    pub(crate) prefix: Prefix,
}

/// Writes at most [`MAX_ANNOUNCED`] entries.
pub(crate) fn announcement(entries: &[Announced]) -> Vec<u8> {
    let entries = &entries[..entries.len().min(MAX_ANNOUNCED)];
    let mut octets = Vec::with_capacity(2 + ENTRY * entries.len());
    octets.extend([ANNOUNCEMENT, entries.len() as u8]);
    for entry in entries {
        let (family, address) = split(entry.prefix.address);
        octets.extend(entry.epoch.0.to_be_bytes());
        octets.extend([family, entry.prefix.bits]);
        octets.extend(address);
    }
    octets
}

/// Reads an announcement; `None` for anything else.
pub(crate) fn read_announcement(octets: &[u8]) -> Option<Vec<Announced>> {
    let [ANNOUNCEMENT, count, entries @ ..] = octets else { return None };
    if entries.len() != ENTRY * usize::from(*count) {
        return None;
    }
    entries
        .chunks_exact(ENTRY)
        .map(|entry| {
            let (epoch, rest) = entry.split_first_chunk()?;
            let [family, bits, address @ ..] = rest else { return None };
            Some(Announced {
                epoch: SessionEpoch(u64::from_be_bytes(*epoch)),
                prefix: Prefix { address: join(*family, address.first_chunk()?)?, bits: *bits },
            })
        })
        .collect()
}

fn split(address: IpAddr) -> (u8, [u8; 16]) {
    match address {
        IpAddr::V4(address) => (4, address.to_ipv6_mapped().octets()),
        IpAddr::V6(address) => (6, address.octets()),
    }
}

fn join(family: u8, octets: &[u8; 16]) -> Option<IpAddr> {
    match family {
        4 => Ipv6Addr::from(*octets).to_ipv4_mapped().map(|a: Ipv4Addr| a.into()),
        6 => Some(Ipv6Addr::from(*octets).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
