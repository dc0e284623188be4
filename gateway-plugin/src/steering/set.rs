//! The sets of the ruleset and how their elements are written.

use std::net::IpAddr;

use protocol_spec::context::Prefix;

/// A set or map of `ruleset.nft`. Keys are the octets of the packet, each field
/// of a concatenation padded to four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Set {
    /// Inbound SPIs whose packets wait.
    HoldSpi,
    /// Initiator SPIs of IKE SAs whose packets wait.
    HoldIke,
    /// IPv4 destinations whose packets wait.
    HoldInner4,
    /// IPv6 destinations whose packets wait.
    HoldInner6,
    /// IPv4 destinations and the MAC address of a gateway, whose packets for them wait.
    HoldFrom4,
    /// The same in IPv6.
    HoldFrom6,
    /// Inbound SPI to the target's MAC address.
    RelaySpi,
    /// IKE SPI to the target's MAC address.
    RelayIke,
    /// Inbound SPI to the target's IPv4 address.
    RouteSpi4,
    /// IKE SPI to the target's IPv4 address.
    RouteIke4,
    /// Inbound SPI to the target's IPv6 address.
    RouteSpi6,
    /// IKE SPI to the target's IPv6 address.
    RouteIke6,
    /// End user's IPv4 address and outbound SPI that must not leave.
    Block4,
    /// End user's IPv6 address and outbound SPI that must not leave.
    Block6,
    /// End user's IPv4 address and IKE initiator SPI that must not leave.
    BlockIke4,
    /// End user's IPv6 address and IKE initiator SPI that must not leave.
    BlockIke6,
    /// End user's IPv4 address, outbound SPI and the low 32 bits of numbers that must
    /// not leave.
    Limit4,
    /// The same in IPv6.
    Limit6,
    /// IPv4 prefixes that never leave in clear.
    Guard4,
    /// IPv6 prefixes that never leave in clear.
    Guard6,
    /// Clients whose packets for a shared address are taken: address and port.
    Own4,
    /// The same, any port.
    OwnHost4,
    /// Clients of other gateways.
    Other4,
    /// The same, any port.
    OtherHost4,
    /// The same four in IPv6.
    Own6,
    /// See [`Set::OwnHost4`].
    OwnHost6,
    /// See [`Set::Other4`].
    Other6,
    /// See [`Set::OtherHost4`].
    OtherHost6,
    /// Hash buckets of unknown clients that this gateway takes.
    Buckets,
}

/// nfnetlink's number of family `inet`.
const INET: u8 = 1;
/// nfnetlink's number of family `netdev`.
const NETDEV: u8 = 5;
/// Those of our tables that have sets.
pub(super) const FAMILIES: [u8; 2] = [INET, NETDEV];
/// The table, in each family.
pub(super) const TABLE: &str = "cxtp";

impl Set {
    /// All whose elements belong to sessions.
    pub(super) const OF_SESSIONS: [Self; 28] = [
        Self::HoldSpi,
        Self::HoldIke,
        Self::HoldInner4,
        Self::HoldInner6,
        Self::HoldFrom4,
        Self::HoldFrom6,
        Self::RelaySpi,
        Self::RelayIke,
        Self::RouteSpi4,
        Self::RouteIke4,
        Self::RouteSpi6,
        Self::RouteIke6,
        Self::Block4,
        Self::Block6,
        Self::BlockIke4,
        Self::BlockIke6,
        Self::Limit4,
        Self::Limit6,
        Self::Guard4,
        Self::Guard6,
        Self::Own4,
        Self::OwnHost4,
        Self::Other4,
        Self::OtherHost4,
        Self::Own6,
        Self::OwnHost6,
        Self::Other6,
        Self::OtherHost6,
    ];

    /// Its name in the ruleset.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::HoldSpi => "hold_spi",
            Self::HoldIke => "hold_ike",
            Self::HoldInner4 => "hold_inner4",
            Self::HoldInner6 => "hold_inner6",
            Self::HoldFrom4 => "hold_from4",
            Self::HoldFrom6 => "hold_from6",
            Self::RelaySpi => "relay_spi",
            Self::RelayIke => "relay_ike",
            Self::RouteSpi4 => "route_spi4",
            Self::RouteIke4 => "route_ike4",
            Self::RouteSpi6 => "route_spi6",
            Self::RouteIke6 => "route_ike6",
            Self::Block4 => "block4",
            Self::Block6 => "block6",
            Self::BlockIke4 => "block_ike4",
            Self::BlockIke6 => "block_ike6",
            Self::Limit4 => "limit4",
            Self::Limit6 => "limit6",
            Self::Guard4 => "guard4",
            Self::Guard6 => "guard6",
            Self::Own4 => "own4",
            Self::OwnHost4 => "own_host4",
            Self::Other4 => "other4",
            Self::OtherHost4 => "other_host4",
            Self::Own6 => "own6",
            Self::OwnHost6 => "own_host6",
            Self::Other6 => "other6",
            Self::OtherHost6 => "other_host6",
            Self::Buckets => "buckets",
        }
    }

    /// The family of its table.
    pub(super) fn family(self) -> u8 {
        match self {
            Self::HoldSpi
            | Self::HoldIke
            | Self::HoldInner4
            | Self::HoldInner6
            | Self::HoldFrom4
            | Self::HoldFrom6 => INET,
            _ => NETDEV,
        }
    }

    /// Whether an element of it names its first and its last key, each a
    /// concatenation, as the kernel wants it where a field is an interval.
    pub(super) fn spans(self) -> bool {
        matches!(self, Self::Limit4 | Self::Limit6 | Self::HoldFrom4 | Self::HoldFrom6)
    }

    /// What it is part of.
    pub(super) fn purpose(self) -> Purpose {
        match self {
            Self::HoldSpi => Purpose::HoldEsp,
            Self::HoldInner4 | Self::HoldInner6 | Self::HoldFrom4 | Self::HoldFrom6 => {
                Purpose::HoldInner
            }
            Self::HoldIke => Purpose::HoldIke,
            Self::RelaySpi | Self::RouteSpi4 | Self::RouteSpi6 => Purpose::RelayData,
            Self::RelayIke | Self::RouteIke4 | Self::RouteIke6 => Purpose::RelayIke,
            Self::Block4 | Self::Block6 => Purpose::BlockData,
            Self::BlockIke4 | Self::BlockIke6 => Purpose::BlockIke,
            Self::Limit4 | Self::Limit6 => Purpose::Limit,
            Self::Guard4 | Self::Guard6 => Purpose::Guard,
            Self::Own4 | Self::OwnHost4 | Self::Own6 | Self::OwnHost6 => Purpose::Own,
            Self::Other4 | Self::OtherHost4 | Self::Other6 | Self::OtherHost6 => Purpose::Other,
            Self::Buckets => Purpose::Unknown,
        }
    }
}

/// What an element is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Purpose {
    /// ESP packets wait.
    HoldEsp,
    /// Inner packets wait.
    HoldInner,
    /// IKE packets wait.
    HoldIke,
    /// ESP goes on to the target.
    RelayData,
    /// IKE packets go on to the target.
    RelayIke,
    /// Nothing leaves under the session's SAs.
    BlockData,
    /// No IKE message leaves.
    BlockIke,
    /// Numbers that were not granted do not leave.
    Limit,
    /// Inner packets never leave in clear.
    Guard,
    /// The session's client is ours.
    Own,
    /// The session's client is another gateway's.
    Other,
    /// Who takes unknown clients.
    Unknown,
}

impl Purpose {
    /// All for which packets wait.
    pub(super) const HOLDS: [Self; 3] = [Self::HoldEsp, Self::HoldInner, Self::HoldIke];
    /// The same of data.
    pub(super) const HOLDS_DATA: [Self; 2] = [Self::HoldEsp, Self::HoldInner];

    /// Whether packets wait for it.
    pub(super) fn is_hold(self) -> bool {
        Self::HOLDS.contains(&self)
    }
}

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Element {
    pub(super) set: Set,
    pub(super) key: Vec<u8>,
    /// For an interval, the first key behind it; `None` at the end of all keys. In a
    /// set of [`Set::spans`], the last key of it.
    pub(super) end: Option<Vec<u8>>,
    /// For a map, the value.
    pub(super) data: Option<Vec<u8>>,
}

impl Element {
    /// A plain element.
    pub(super) fn of(set: Set, key: impl Into<Vec<u8>>) -> Self {
        Self { set, key: key.into(), end: None, data: None }
    }

    /// An element of a map.
    pub(super) fn to(set: Set, key: impl Into<Vec<u8>>, data: impl Into<Vec<u8>>) -> Self {
        Self { data: Some(data.into()), ..Self::of(set, key) }
    }

    /// All addresses of a prefix.
    pub(super) fn interval(v4: Set, v6: Set, prefix: Prefix) -> Self {
        let set = if prefix.address.is_ipv4() { v4 } else { v6 };
        let (first, behind) = bounds(prefix);
        Self { end: behind, ..Self::of(set, first) }
    }

    /// All addresses of a prefix in packets from a MAC address.
    pub(super) fn from(prefix: Prefix, mac: [u8; 6]) -> Self {
        let (first, last) = ends(prefix);
        let key = |address| Self::with_address(Set::HoldFrom4, Set::HoldFrom6, address, &mac);
        Self { end: Some(key(last).key), ..key(first) }
    }

    /// Numbers from `first` to `last` under an outbound SPI.
    pub(super) fn numbers(remote: IpAddr, spi: [u8; 4], first: u32, last: u32) -> Self {
        let key = |number: u32| {
            let rest = [spi, number.to_be_bytes()].concat();
            Self::with_address(Set::Limit4, Set::Limit6, remote, &rest)
        };
        Self { end: Some(key(last).key), ..key(first) }
    }

    /// An address and something else.
    pub(super) fn with_address(v4: Set, v6: Set, address: IpAddr, rest: &[u8]) -> Self {
        let set = if address.is_ipv4() { v4 } else { v6 };
        let mut key = octets(address);
        key.extend_from_slice(rest);
        key.resize(key.len().next_multiple_of(4), 0);
        Self::of(set, key)
    }
}

/// The octets of an address, in the order of the packet.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// First and last address of a prefix.
fn ends(prefix: Prefix) -> (IpAddr, IpAddr) {
    let bits = u32::from(prefix.bits);
    match prefix.address {
        IpAddr::V4(address) => {
            let free = u32::MAX.checked_shr(bits).unwrap_or(0);
            let first = address.to_bits() & !free;
            (IpAddr::V4(first.into()), IpAddr::V4((first | free).into()))
        }
        IpAddr::V6(address) => {
            let free = u128::MAX.checked_shr(bits).unwrap_or(0);
            let first = address.to_bits() & !free;
            (IpAddr::V6(first.into()), IpAddr::V6((first | free).into()))
        }
    }
}

/// First address of a prefix, and the first one behind it.
pub(super) fn bounds(prefix: Prefix) -> (Vec<u8>, Option<Vec<u8>>) {
    let (number, width) = match prefix.address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32_u32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let free = width.saturating_sub(u32::from(prefix.bits));
    let step = 1_u128.checked_shl(free);
    let first = step.map_or(0, |step| number & !(step - 1));
    let behind =
        step.and_then(|step| first.checked_add(step)).filter(|b| width == 128 || b >> 32 == 0);
    let cut = |number: u128| {
        number.to_be_bytes().into_iter().skip(16 - width as usize / 8).collect::<Vec<u8>>()
    };
    (cut(first), behind.map(cut))
}

#[cfg(test)]
mod tests;
