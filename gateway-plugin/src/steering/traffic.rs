//! What of a session's traffic steering must know, and the elements that stand
//! for it in the kernel.

use std::net::{IpAddr, SocketAddr};

use protocol_spec::{
    context::Prefix,
    id::{Name, SessionId},
};

use super::{
    SteeringError,
    route::Reach,
    set::{Element, Purpose, Set, bounds, octets},
};

/// How to tell a session's packets from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Prefixes behind the end user.
    pub inner: Vec<Prefix>,
    /// Child SAs: inbound and outbound SPI, as numbers whose octets stand in the
    /// packet in network order.
    pub children: Vec<(u32, u32)>,
    /// SPIs of the IKE SA, initiator's and responder's.
    pub ike: Option<(u64, u64)>,
    /// Our address and port outside.
    pub local: SocketAddr,
    /// The end user's address and port outside.
    pub remote: SocketAddr,
    /// Whether ESP comes in UDP, so that the port is part of what the client is.
    pub udp_encapsulated: bool,
}

/// Another gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its name.
    pub name: Name,
    /// Its address on the inner network.
    pub inner: IpAddr,
    /// Its inner address of the other IP version, where it has one: IPv6 traffic
    /// cannot be routed to an IPv4 address.
    pub inner_also: Option<IpAddr>,
    /// Its own address outside, never a shared one.
    pub outer: IpAddr,
}

/// What stands in the kernel for a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Inner prefixes that never leave in clear.
    pub inner: Vec<Prefix>,
    /// ESP and inner packets wait.
    pub holds_data: bool,
    /// IKE packets wait.
    pub holds_ike: bool,
    /// Outer packets are relayed to another gateway.
    pub relays: bool,
    /// Inner packets are routed to another gateway.
    pub diverts: bool,
    /// Nothing leaves under its SAs.
    pub blocks: bool,
    /// Mode `Shared`: its client's packets are taken here.
    pub owns_client: bool,
}

/// Policies by which inner packets that a route sends out on the inner interface
/// pass in clear although an outbound policy matches them. Permanent while the
/// session is known, so that the route alone switches between encrypting and
/// passing. Both calls are safe to repeat.
pub trait Bypass: Send {
    /// Installs an outbound policy without template for each destination prefix,
    /// any source, on interface `interface`, before all others.
    ///
    /// # Errors
    /// A text that says what the kernel refused.
    fn allow(&mut self, session: SessionId, inner: &[Prefix], interface: u32)
    -> Result<(), String>;

    /// Removes them.
    ///
    /// # Errors
    /// As [`Bypass::allow`].
    fn revoke(
        &mut self,
        session: SessionId,
        inner: &[Prefix],
        interface: u32,
    ) -> Result<(), String>;

    /// Installs, behind all others, an outbound policy for each destination prefix
    /// that drops what would leave on these interfaces: a guard that stands when
    /// somebody takes our rules away. Safe to repeat.
    ///
    /// # Errors
    /// As [`Bypass::allow`].
    fn guard(&mut self, _inner: &[Prefix], _outer: &[u32]) -> Result<(), String> {
        Ok(())
    }

    /// Removes them.
    ///
    /// # Errors
    /// As [`Bypass::allow`].
    fn unguard(&mut self, _inner: &[Prefix], _outer: &[u32]) -> Result<(), String> {
        Ok(())
    }
}

/// For a host without outbound policies.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBypass;

impl Bypass for NoBypass {
    fn allow(&mut self, _: SessionId, _: &[Prefix], _: u32) -> Result<(), String> {
        Ok(())
    }

    fn revoke(&mut self, _: SessionId, _: &[Prefix], _: u32) -> Result<(), String> {
        Ok(())
    }
}

impl Traffic {
    /// Refuses what would catch other sessions' packets.
    pub(super) fn check(&self) -> Result<(), SteeringError> {
        let refuse = |why: String| Err(SteeringError::Traffic(why));
        for (at, prefix) in self.inner.iter().enumerate() {
            let widest = if prefix.address.is_ipv4() { 32 } else { 128 };
            if prefix.bits == 0 || prefix.bits > widest {
                return refuse(format!(
                    "inner prefix {}/{} would catch all traffic: name the end user's own prefix",
                    prefix.address, prefix.bits
                ));
            }
            if contains(*prefix, self.remote.ip()) {
                return refuse(format!(
                    "inner prefix {}/{} holds the end user's outer address {}: its clear and its \
                     protected packets cannot be told apart",
                    prefix.address,
                    prefix.bits,
                    self.remote.ip()
                ));
            }
            if self.inner.iter().skip(at + 1).any(|other| overlap(*prefix, *other)) {
                return refuse(format!(
                    "inner prefix {}/{} overlaps another one of the session",
                    prefix.address, prefix.bits
                ));
            }
        }
        if self.local.is_ipv4() != self.remote.is_ipv4() {
            return refuse(format!("{} and {} differ in IP version", self.local, self.remote));
        }
        Ok(())
    }

    pub(super) fn guard(&self) -> Vec<Element> {
        self.intervals(Set::Guard4, Set::Guard6)
    }

    pub(super) fn hold_inner(&self) -> Vec<Element> {
        self.intervals(Set::HoldInner4, Set::HoldInner6)
    }

    /// Of inner packets, those that another gateway sends here.
    pub(super) fn hold_inner_from(&self, mac: [u8; 6]) -> Vec<Element> {
        self.inner.iter().map(|prefix| Element::from(*prefix, mac)).collect()
    }

    pub(super) fn hold_esp(&self) -> Vec<Element> {
        self.inbound().map(|spi| Element::of(Set::HoldSpi, spi)).collect()
    }

    pub(super) fn hold_ike(&self) -> Vec<Element> {
        self.ike_spi().map(|spi| Element::of(Set::HoldIke, spi)).into_iter().collect()
    }

    pub(super) fn block_data(&self) -> Vec<Element> {
        let esp = self.children.iter().map(|(_, outbound)| {
            let spi = outbound.to_be_bytes();
            Element::with_address(Set::Block4, Set::Block6, self.remote.ip(), &spi)
        });
        esp.collect()
    }

    pub(super) fn block_ike(&self) -> Vec<Element> {
        let ike = self.ike_spi().map(|spi| {
            Element::with_address(Set::BlockIke4, Set::BlockIke6, self.remote.ip(), &spi)
        });
        ike.into_iter().collect()
    }

    /// Numbers at or above each end, by outbound SPI: those within half of the 32
    /// bits that a packet shows.
    pub(super) fn limit(&self, ends: &[(u32, u64)]) -> Vec<Element> {
        let number = |(spi, end): &(u32, u64)| {
            let (spi, first) = (spi.to_be_bytes(), *end as u32);
            let last = first.wrapping_add(u32::MAX >> 1);
            let of = |first, last| Element::numbers(self.remote.ip(), spi, first, last);
            if first <= last {
                vec![of(first, last)]
            } else {
                vec![of(first, u32::MAX), of(0, last)]
            }
        };
        ends.iter().flat_map(number).collect()
    }

    /// Those of these limits whose SPIs are still in use, at the address that the end
    /// user has now.
    pub(super) fn limits_kept<'a>(
        &self,
        standing: impl Iterator<Item = &'a Element>,
    ) -> Vec<Element> {
        let kept = standing.filter(|element| element.set.purpose() == Purpose::Limit);
        let moved = kept.filter_map(|element| {
            let numbers = |key: &[u8]| -> Option<([u8; 4], u32)> {
                let (_, rest) = key.split_last_chunk::<8>()?;
                let [a, b, c, d, number @ ..] = *rest;
                Some(([a, b, c, d], u32::from_be_bytes(number)))
            };
            let (spi, first) = numbers(&element.key)?;
            let (_, last) = numbers(element.end.as_deref()?)?;
            let in_use = self.children.iter().any(|(_, out)| out.to_be_bytes() == spi);
            in_use.then(|| Element::numbers(self.remote.ip(), spi, first, last))
        });
        moved.collect()
    }

    pub(super) fn relay_data(&self, reach: &Reach) -> Vec<Element> {
        let (set, to) = match reach {
            Reach::Mac(mac) => (Set::RelaySpi, mac.to_vec()),
            Reach::Address(to) if to.is_ipv4() => (Set::RouteSpi4, octets(*to)),
            Reach::Address(to) => (Set::RouteSpi6, octets(*to)),
        };
        self.inbound().map(|spi| Element::to(set, spi, to.clone())).collect()
    }

    pub(super) fn relay_ike(&self, reach: &Reach) -> Vec<Element> {
        let (set, to) = match reach {
            Reach::Mac(mac) => (Set::RelayIke, mac.to_vec()),
            Reach::Address(to) if to.is_ipv4() => (Set::RouteIke4, octets(*to)),
            Reach::Address(to) => (Set::RouteIke6, octets(*to)),
        };
        self.ike_spi().map(|spi| Element::to(set, spi, to)).into_iter().collect()
    }

    /// The client as an element of the own, or of the others', clients.
    pub(super) fn client(&self, whose: Purpose) -> Vec<Element> {
        let (with_port, hosts) = match whose {
            Purpose::Own => ((Set::Own4, Set::Own6), (Set::OwnHost4, Set::OwnHost6)),
            _ => ((Set::Other4, Set::Other6), (Set::OtherHost4, Set::OtherHost6)),
        };
        let remote = self.remote;
        vec![if self.udp_encapsulated {
            let port = remote.port().to_be_bytes();
            Element::with_address(with_port.0, with_port.1, remote.ip(), &port)
        } else {
            Element::with_address(hosts.0, hosts.1, remote.ip(), &[])
        }]
    }

    fn intervals(&self, v4: Set, v6: Set) -> Vec<Element> {
        self.inner.iter().map(|prefix| Element::interval(v4, v6, *prefix)).collect()
    }

    fn inbound(&self) -> impl Iterator<Item = [u8; 4]> + '_ {
        self.children.iter().map(|(inbound, _)| inbound.to_be_bytes())
    }

    fn ike_spi(&self) -> Option<[u8; 8]> {
        self.ike.map(|(initiator, _)| initiator.to_be_bytes())
    }
}

impl Neighbour {
    /// Its inner address through which traffic for `destination` can be routed.
    pub(super) fn inner_for(&self, destination: IpAddr) -> Result<IpAddr, SteeringError> {
        [Some(self.inner), self.inner_also]
            .into_iter()
            .flatten()
            .find(|address| address.is_ipv4() == destination.is_ipv4())
            .ok_or_else(|| {
                SteeringError::Traffic(format!(
                    "neighbour {} has no inner address of the IP version of {destination}",
                    self.name
                ))
            })
    }
}

/// Whether an address lies in a prefix.
pub(super) fn contains(prefix: Prefix, address: IpAddr) -> bool {
    overlap(prefix, Prefix { address, bits: if address.is_ipv4() { 32 } else { 128 } })
}

/// Whether a prefix is a single address.
pub(super) fn is_host(prefix: Prefix) -> bool {
    prefix.bits == if prefix.address.is_ipv4() { 32 } else { 128 }
}

/// The prefix's address without host bits.
pub(super) fn masked(prefix: Prefix) -> Vec<u8> {
    bounds(prefix).0
}

/// Whether two prefixes have an address in common.
fn overlap(a: Prefix, b: Prefix) -> bool {
    let (left, right) = (octets(a.address), octets(b.address));
    let bits = usize::from(a.bits.min(b.bits));
    let octet = |value: &[u8], at: usize| value.get(at).copied().unwrap_or(0);
    left.len() == right.len()
        && (0..bits).all(|bit| {
            let mask = 0x80 >> (bit % 8);
            octet(&left, bit / 8) & mask == octet(&right, bit / 8) & mask
        })
}

#[cfg(test)]
mod tests;
