//! The observer of a scenario: judges from frames alone, knows no key, asks nobody.

mod packet;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    net::IpAddr,
    time::Duration,
};

use serde::Serialize;

use self::packet::{Ike, Packet, What};
use super::{
    net::{GATEWAYS, INNER_NETS, Link, Network, OUTER, SHARED, VIRTUAL_NETS},
    tap::Frame,
};
use crate::observer::{Handover, Observer as EspObserver};

/// `IKE_SA_INIT` (RFC 7296, section 3.1).
const IKE_SA_INIT: u8 = 34;
/// IPv4 and IPv6 in IP, which nothing in the lab sends: ESP is what tunnels.
const IP_IN_IP: [u8; 2] = [4, 41];
/// IKE messages of gateways that are remembered at most.
const MAX_MESSAGES: usize = 1 << 20;
/// Findings that are kept in words.
const MAX_WORDS: usize = 20;

/// What was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Seen {
    /// ESP and AH packets that gateways sent to end users.
    pub esp_to_users: u64,
    /// ESP and AH packets that end users sent.
    pub esp_to_gateways: u64,
    /// IKE messages on the outer side.
    pub ike_messages: u64,
    /// IKE SAs that end users began after the mark: `IKE_SA_INIT` requests with an
    /// SPI of their own.
    pub new_ike_sas: u64,
    /// Packets of a gateway that had given up the SA, and changes of owner beyond
    /// those that the scenario made.
    pub owner_violations: u64,
    /// Sequence numbers that were used twice under one SA.
    pub seq_reuse: u64,
    /// Changes of the gateway that speaks for an SA.
    pub handovers: u64,
    /// Message IDs under which gateways sent two different IKE messages.
    pub message_id_reuse: u64,
    /// Packets on the outer side with an inner address that were neither ESP nor AH.
    pub cleartext_leaks: u64,
    /// Packets that the gateways sent to end users and that could not be judged.
    pub untracked: u64,
    /// Some of the findings in words.
    pub findings: Vec<String>,
}

/// The observer.
pub struct Observer {
    links: HashMap<usize, Link>,
    inner: Vec<Prefix>,
    gateways: Vec<IpAddr>,
    users: HashMap<IpAddr, u32>,
    esp: EspObserver,
    moves: u64,
    handovers: HashMap<(u32, u32), u64>,
    silences: Vec<(Duration, Handover)>,
    inits: HashSet<u64>,
    marked: bool,
    messages: HashMap<(u64, u64, bool, u32, u16), u64>,
    seen: Seen,
}

impl Observer {
    /// Of these links. `moves` is how often the scenario moves a session at most.
    pub fn new(links: &[Link], moves: u64) -> Self {
        let inner = INNER_NETS.iter().chain(&VIRTUAL_NETS).filter_map(|net| Prefix::parse(net));
        let gateways = OUTER.iter().chain([&SHARED]).flat_map(|p| [p.of(false), p.of(true)]);
        Self {
            links: links.iter().map(|link| (link.index, link.clone())).collect(),
            inner: inner.collect(),
            gateways: gateways.collect(),
            users: HashMap::new(),
            esp: EspObserver::default(),
            moves,
            handovers: HashMap::new(),
            silences: Vec::new(),
            inits: HashSet::new(),
            marked: false,
            messages: HashMap::new(),
            seen: Seen::default(),
        }
    }

    /// From now on a new IKE SA is a finding.
    pub fn mark(&mut self) {
        self.marked = true;
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        let esp = self.esp.figures();
        let beyond = self.handovers.values().map(|count| count.saturating_sub(self.moves));
        Seen {
            owner_violations: esp.owner_violations + beyond.sum::<u64>(),
            seq_reuse: esp.seq_reuse,
            handovers: esp.handovers,
            untracked: esp.untracked,
            ..self.seen.clone()
        }
    }

    /// Which gateway sent the newest packet of each SA towards end users: the SPI and
    /// the place among [`GATEWAYS`].
    pub fn owners(&self) -> Vec<(u32, usize)> {
        self.esp.owners().map(|(sa, gateway)| (sa.spi, gateway)).collect()
    }

    /// The longest silence of an SA at a change of its owner.
    pub fn longest_silence(&self) -> Option<Duration> {
        self.silences.iter().map(|(_, handover)| handover.silence).max()
    }

    /// Looks at a frame.
    pub fn see(&mut self, frame: Frame<'_>) {
        let Some(link) = self.links.get(&frame.link) else { return };
        if !matches!(link.network, Network::Outer | Network::Access) {
            return;
        }
        let gateway = GATEWAYS.iter().position(|gateway| *gateway == link.node);
        let outer = link.network == Network::Outer;
        let node = link.node.clone();
        let Some(packet) = Packet::parse(frame.octets) else { return };
        match packet.what {
            What::Esp(header) => self.esp(&packet, header, gateway, outer, frame.at),
            What::Ike(ike) => self.ike(&packet, ike, gateway),
            What::Other(protocol) => {
                let ends = [packet.source, packet.destination];
                let inner = ends.iter().any(|end| self.inner.iter().any(|net| net.contains(*end)));
                if inner || IP_IN_IP.contains(&protocol) {
                    self.seen.cleartext_leaks += 1;
                    let [from, to] = ends;
                    self.word(format!("{node} sent {from} > {to} in clear, protocol {protocol}"));
                }
            }
        }
    }

    fn esp(
        &mut self,
        packet: &Packet<'_>,
        header: [u8; 8],
        gateway: Option<usize>,
        outer: bool,
        at: Duration,
    ) {
        // A packet to a gateway is an end user's, or one that a gateway passes on. Behind
        // the router the same packets are seen once more.
        if self.gateways.contains(&packet.destination) {
            self.seen.esp_to_gateways += u64::from(gateway.is_none() && outer);
            return;
        }
        let Some(gateway) = gateway.filter(|_| outer) else { return };
        self.seen.esp_to_users += 1;
        let next = u32::try_from(self.users.len()).unwrap_or(u32::MAX);
        let user = *self.users.entry(packet.destination).or_insert(next);
        let before = self.esp.figures();
        self.esp.to_user(user, gateway, &header, at);
        let now = self.esp.figures().since(&before);
        let spi = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let number = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        if now.seq_reuse > 0 || now.owner_violations > 0 {
            let name = GATEWAYS[gateway];
            let what = if now.seq_reuse > 0 { "again" } else { "though it gave the SA away" };
            self.word(format!("{name} sent number {number} of SPI {spi:08x} {what}"));
        }
        for handover in self.esp.take_handovers() {
            *self.handovers.entry((handover.sa.user, handover.sa.spi)).or_default() += 1;
            self.silences.push((at, handover));
        }
    }

    fn ike(&mut self, packet: &Packet<'_>, ike: Ike<'_>, gateway: Option<usize>) {
        self.seen.ike_messages += 1;
        if ike.exchange == IKE_SA_INIT && !ike.response && gateway.is_none() {
            let new = self.inits.insert(ike.initiator_spi);
            if new && self.marked {
                self.seen.new_ike_sas += 1;
                self.word(format!("a new IKE SA {:016x} began", ike.initiator_spi));
            }
        }
        // What goes to a gateway is an end user's message, passed on.
        let to_gateway = self.gateways.contains(&packet.destination);
        if gateway.is_none() || ike.exchange == IKE_SA_INIT || to_gateway {
            return;
        }
        let key =
            (ike.initiator_spi, ike.responder_spi, ike.response, ike.message_id, ike.fragment);
        let mut hasher = DefaultHasher::new();
        ike.octets.hash(&mut hasher);
        let hash = hasher.finish();
        if self.messages.len() < MAX_MESSAGES {
            let known = *self.messages.entry(key).or_insert(hash);
            if known != hash {
                self.seen.message_id_reuse += 1;
                self.word(format!(
                    "two messages with Message ID {} of IKE SA {:016x}",
                    ike.message_id, ike.initiator_spi
                ));
            }
        }
    }

    fn word(&mut self, finding: String) {
        if self.seen.findings.len() < MAX_WORDS {
            self.seen.findings.push(finding);
        }
    }
}

/// A prefix of addresses.
#[derive(Clone, Copy, Debug)]
struct Prefix {
    address: IpAddr,
    length: u32,
}

impl Prefix {
    fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        Some(Self { address: address.parse().ok()?, length: length.parse().ok()? })
    }

    fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                let differ = net.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= self.length
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                let differ = net.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= self.length
            }
            _ => false,
        }
    }
}
