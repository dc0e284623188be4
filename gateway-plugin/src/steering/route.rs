//! Routes, rules, addresses and neighbours over rtnetlink.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::IpAddr,
    time::Instant,
};

use nix::libc;
use protocol_spec::{context::Prefix, id::Name};

use super::{
    SteeringError,
    config::PATIENCE,
    link::{Link, Links},
    message::{
        Attributes, Builder, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE,
    },
    netlink::{DUMP_ATTEMPTS, Dump, Netlink},
    set::octets,
    traffic::masked,
};

/// `NETLINK_ROUTE`.
const ROUTE: isize = 0;
/// Multicast group of changes of neighbours.
const GROUP_NEIGHBOURS: u32 = 3;

/// `AF_INET`, `AF_INET6`.
const FAMILIES: [u8; 2] = [2, 10];

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWRULE: u16 = 32;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// Says who made a route: not the kernel, not an administrator.
const PROTOCOL: u8 = 67;
const UNICAST: u8 = 1;
/// The next hop is on the link whatever our prefixes say.
const ONLINK: u32 = 4;
const IFA_F_NODAD: u8 = 0x02;
const NTF_USE: u8 = 0x01;
const NTF_PROXY: u8 = 0x08;
/// States of a neighbour whose MAC address can be used: permanent, noarp,
/// reachable, probe, stale, delay.
const NUD_VALID: u16 = 0x80 | 0x40 | 0x02 | 0x10 | 0x04 | 0x08;

/// How outer packets reach another gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// As they are, to this MAC address.
    Mac([u8; 6]),
    /// Readdressed and routed.
    Address(IpAddr),
}

/// Where the routing tables send packets for an address.
struct Hop {
    interface: u32,
    gateway: Option<IpAddr>,
}

/// The routing of this host.
pub(super) struct Routes {
    netlink: Netlink,
    table: u32,
    /// Prefixes that our table sends elsewhere.
    diverted: HashSet<(Vec<u8>, u8)>,
    /// MAC addresses of gateways on our outer links, as they were found last.
    macs: HashMap<IpAddr, [u8; 6]>,
}

impl Routes {
    pub(super) fn open(table: u32) -> Result<Self, SteeringError> {
        let mut routes = Self {
            netlink: Netlink::open(ROUTE, &[])?,
            table,
            diverted: HashSet::new(),
            macs: HashMap::new(),
        };
        routes.diverted()?;
        Ok(routes)
    }

    /// Makes the rules by which our table is asked first.
    pub(super) fn ensure_rules(&mut self, preference: u32) -> Result<(), SteeringError> {
        const TO_TABLE: u8 = 1;
        let table = self.table.to_ne_bytes();
        let what = format!("routing rule {preference}");
        for family in FAMILIES {
            let body = [family, 0, 0, 0, 0, 0, 0, TO_TABLE, 0, 0, 0, 0];
            let flags = NLM_F_CREATE | NLM_F_EXCL;
            self.order(RTM_NEWRULE, flags, &body, &what, Some(libc::EEXIST), |b| {
                b.put(FRA_PRIORITY, &preference.to_ne_bytes());
                b.put(FRA_TABLE, &table);
            })?;
        }
        Ok(())
    }

    /// Sends a prefix to a gateway on an interface.
    pub(super) fn divert(
        &mut self,
        prefix: Prefix,
        gateway: IpAddr,
        interface: u32,
    ) -> Result<(), SteeringError> {
        let what = format!("route to {}/{} via {gateway}", prefix.address, prefix.bits);
        let (body, destination, table) = self.route(prefix, ONLINK);
        self.order(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body, &what, None, |b| {
            b.put(RTA_DST, &destination);
            b.put(RTA_TABLE, &table);
            b.put(RTA_GATEWAY, &octets(gateway));
            b.put(RTA_OIF, &interface.to_ne_bytes());
        })?;
        self.diverted.insert((destination, prefix.bits));
        Ok(())
    }

    /// Takes that back. Succeeds if it was not there.
    pub(super) fn undivert(&mut self, prefix: Prefix) -> Result<(), SteeringError> {
        let what = format!("route to {}/{}", prefix.address, prefix.bits);
        let (body, destination, table) = self.route(prefix, 0);
        let place = (destination, prefix.bits);
        if !self.diverted.contains(&place) {
            return Ok(());
        }
        self.order(RTM_DELROUTE, 0, &body, &what, Some(libc::ESRCH), |b| {
            b.put(RTA_DST, &place.0);
            b.put(RTA_TABLE, &table);
        })?;
        self.diverted.remove(&place);
        Ok(())
    }

    /// Whether our table sends a prefix elsewhere.
    pub(super) fn is_diverted(&self, prefix: Prefix) -> bool {
        self.diverted.contains(&(masked(prefix), prefix.bits))
    }

    /// `struct rtmsg`, destination and table of a route of ours.
    fn route(&self, prefix: Prefix, flags: u32) -> ([u8; 12], Vec<u8>, [u8; 4]) {
        let mut body =
            [family(prefix.address), prefix.bits, 0, 0, 0, PROTOCOL, 0, UNICAST, 0, 0, 0, 0];
        body[8..].copy_from_slice(&flags.to_ne_bytes());
        (body, masked(prefix), self.table.to_ne_bytes())
    }

    /// All prefixes that are diverted.
    pub(super) fn diverted(&mut self) -> Result<Vec<Prefix>, SteeringError> {
        let mut prefixes = Vec::new();
        for family in FAMILIES {
            let mut body = [0; 12];
            body[0] = family;
            for message in self.dump(RTM_GETROUTE, &body, "dump of routes")? {
                let attributes = Attributes(message.get(12..).unwrap_or_default());
                let [_, bits, _, _, _, protocol, ..] = message[..] else { continue };
                if attributes.ne32(RTA_TABLE) != Some(self.table) || protocol != PROTOCOL {
                    continue;
                }
                let address = attributes.find(RTA_DST).and_then(read_address);
                prefixes.extend(address.map(|address| Prefix { address, bits }));
            }
        }
        self.diverted = prefixes.iter().map(|prefix| (masked(*prefix), prefix.bits)).collect();
        Ok(prefixes)
    }

    /// Adds an address to an interface without asking the network whether
    /// another host has it: moving it is the point.
    pub(super) fn add_address(
        &mut self,
        address: IpAddr,
        link: &Link,
    ) -> Result<(), SteeringError> {
        self.address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, address, link, None)
    }

    /// Removes an address. Succeeds if it was not there.
    pub(super) fn remove_address(
        &mut self,
        address: IpAddr,
        link: &Link,
    ) -> Result<(), SteeringError> {
        self.address(RTM_DELADDR, 0, address, link, Some(libc::EADDRNOTAVAIL))
    }

    fn address(
        &mut self,
        kind: u16,
        flags: u16,
        address: IpAddr,
        link: &Link,
        fine: Option<i32>,
    ) -> Result<(), SteeringError> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let mut body = [family(address), bits, IFA_F_NODAD, 0, 0, 0, 0, 0];
        body[4..].copy_from_slice(&link.index.to_ne_bytes());
        self.order(kind, flags, &body, &format!("address {address}"), fine, |b| {
            b.put(IFA_LOCAL, &octets(address));
            b.put(IFA_ADDRESS, &octets(address));
        })
    }

    /// Answers ARP or ND for an address on an interface, or no longer.
    pub(super) fn proxy(
        &mut self,
        address: IpAddr,
        link: &Link,
        answer: bool,
    ) -> Result<(), SteeringError> {
        let (kind, flags, fine) = if answer {
            (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, None)
        } else {
            (RTM_DELNEIGH, 0, Some(libc::ENOENT))
        };
        let body = neighbour(address, link.index, NTF_PROXY);
        self.order(kind, flags, &body, &format!("proxy for {address}"), fine, |b| {
            b.put(NDA_DST, &octets(address));
        })
    }

    /// How outer packets reach a gateway: by its MAC address if it is on one of
    /// our outer links, else through a router.
    pub(super) fn reach(
        &mut self,
        name: &Name,
        address: IpAddr,
        links: &Links,
    ) -> Result<Reach, SteeringError> {
        let unreachable =
            |why: String| SteeringError::Unreachable { name: name.to_string(), address, why };
        let hop = self.hop(address).map_err(|error| unreachable(format!("no route: {error}")))?;
        if hop.gateway.is_some() {
            return Ok(Reach::Address(address));
        }
        let link = *links
            .outer_with(hop.interface)
            .ok_or_else(|| unreachable("its route leaves by no outer interface".to_owned()))?;
        self.resolve(address, &link)
            .map_err(|error| unreachable(format!("asking for its MAC address: {error}")))
            .map(Reach::Mac)
    }

    /// The MAC address of a neighbour on a link.
    pub(super) fn mac(&mut self, address: IpAddr, link: &Link) -> Option<[u8; 6]> {
        self.resolve(address, link).ok()
    }

    fn hop(&mut self, address: IpAddr) -> io::Result<Hop> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let mut body = [0; 12];
        body[..2].copy_from_slice(&[family(address), bits]);
        let answer =
            self.ask(RTM_GETROUTE, NLM_F_ACK, &body, |b| b.put(RTA_DST, &octets(address)))?;
        let answer = answer.ok_or(io::ErrorKind::NotFound)?;
        let attributes = Attributes(answer.get(12..).unwrap_or_default());
        Ok(Hop {
            interface: attributes.ne32(RTA_OIF).ok_or(io::ErrorKind::NotFound)?,
            gateway: attributes.find(RTA_GATEWAY).and_then(read_address),
        })
    }

    /// Asks the neighbour table, and the network where it does not know.
    fn resolve(&mut self, address: IpAddr, link: &Link) -> io::Result<[u8; 6]> {
        if let Some(mac) = self.look_up(address, link)? {
            self.macs.insert(address, mac);
            return Ok(mac);
        }
        // Listening before asking, or the answer could come unheard.
        let changes = Netlink::open(ROUTE, &[GROUP_NEIGHBOURS]).map_err(io::Error::other)?;
        let body = neighbour(address, link.index, NTF_USE);
        self.ask(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE, &body, |b| {
            b.put(NDA_DST, &octets(address));
        })?;
        let deadline = now() + PATIENCE;
        while now() < deadline {
            if let Some(mac) = self.look_up(address, link)? {
                self.macs.insert(address, mac);
                return Ok(mac);
            }
            match changes.receive() {
                Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => return Err(error),
                _ => {}
            }
        }
        // It answered once; a neighbour that is busy now is still there.
        self.macs.get(&address).copied().ok_or_else(|| io::ErrorKind::TimedOut.into())
    }

    fn look_up(&mut self, address: IpAddr, link: &Link) -> io::Result<Option<[u8; 6]>> {
        let body = neighbour(address, link.index, 0);
        let answer = self.ask(RTM_GETNEIGH, NLM_F_ACK, &body, |b| b.put(NDA_DST, &octets(address)));
        let answer = match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        let state = answer.get(8..10).and_then(|s| s.first_chunk()).map(|s| u16::from_ne_bytes(*s));
        let mac = Attributes(answer.get(12..).unwrap_or_default()).find(NDA_LLADDR);
        let mac = mac.and_then(|octets| <[u8; 6]>::try_from(octets).ok());
        Ok(mac.filter(|_| state.is_some_and(|state| state & NUD_VALID != 0)))
    }

    /// One order; `fine` is an error that means: it is so already.
    fn order(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        what: &str,
        fine: Option<i32>,
        attributes: impl FnOnce(&mut Builder),
    ) -> Result<(), SteeringError> {
        match self.ask(kind, flags | NLM_F_ACK, body, attributes) {
            Ok(_) => Ok(()),
            Err(error) if fine.is_some() && error.raw_os_error() == fine => Ok(()),
            Err(error) => Err(SteeringError::kernel(what, error)),
        }
    }

    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        attributes: impl FnOnce(&mut Builder),
    ) -> io::Result<Option<Vec<u8>>> {
        let sequence = self.netlink.next_sequence();
        let mut builder = Builder::default();
        builder.message(kind, flags, sequence, body);
        attributes(&mut builder);
        self.netlink.ask(&builder.into_octets(), sequence)
    }

    fn dump(
        &mut self,
        kind: u16,
        body: &[u8],
        what: &'static str,
    ) -> Result<Vec<Vec<u8>>, SteeringError> {
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.netlink.next_sequence();
            let mut builder = Builder::default();
            builder.message(kind, NLM_F_DUMP, sequence, body);
            let dump = self.netlink.dump(&builder.into_octets(), sequence);
            match dump.map_err(|error| SteeringError::kernel(what, error))? {
                Dump::Whole(bodies) => return Ok(bodies),
                Dump::Interrupted => {}
            }
        }
        Err(SteeringError::Answer { what, why: "it changes without pause" })
    }
}

fn family(address: IpAddr) -> u8 {
    FAMILIES[usize::from(address.is_ipv6())]
}

/// `struct ndmsg`.
fn neighbour(address: IpAddr, interface: u32, flags: u8) -> [u8; 12] {
    let mut body = [family(address), 0, 0, 0, 0, 0, 0, 0, 0, 0, flags, 0];
    body[4..8].copy_from_slice(&interface.to_ne_bytes());
    body
}

fn read_address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

#[expect(clippy::disallowed_methods, reason = "the deadline of one question to the network")]
fn now() -> Instant {
    Instant::now()
}
