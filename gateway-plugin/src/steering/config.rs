//! What an operator says about a gateway's surroundings.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use protocol_spec::{context::Prefix, id::Name};

use super::SteeringError;

/// A gateway's surroundings.
#[derive(Clone, Debug)]
pub struct Config {
    /// This gateway's name.
    pub name: Name,
    /// Interfaces towards the end users.
    pub outer: Vec<String>,
    /// Interface towards the protected network.
    pub inner: String,
    /// Addresses that gateways share (Mono-LAN); empty in Multi-LAN.
    pub shared: Vec<IpAddr>,
    /// How shared addresses move.
    pub mode: Mode,
    /// The gateways that answer clients whom nobody knows (mode `Shared`). One that is
    /// not among them has only sessions that were moved to it.
    pub members: Vec<Name>,
    /// How the inner network learns that an end user's inner address is here.
    pub inner_reach: InnerReach,
    /// Prefixes that never leave an outer interface in clear, whatever sessions
    /// there are: the protected network and the pools.
    pub inner_networks: Vec<Prefix>,
    /// Program run when a session or an address comes or goes.
    pub hook: Option<PathBuf>,
    /// Ports on which this gateway's IKE daemon listens: without and with the
    /// non-ESP marker (RFC 3948 section 2.2).
    pub ike_ports: (u16, u16),
    /// NFQUEUE number for packets that are held; the routing table for diverted
    /// traffic has `table`.
    pub queue: u16,
    /// Routing table for diverted traffic.
    pub table: u32,
    /// Preference of the rule that looks into `table`: before all others that
    /// could send inner traffic elsewhere.
    pub preference: u32,
    /// Bounds of what is held for one session.
    pub limits: Limits,
}

/// How shared addresses move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is shared, or something else moves the addresses.
    #[default]
    None,
    /// All gateways receive for one address, and who owns a client takes its
    /// packets.
    Shared(Layer2),
    /// A whole address moves from gateway to gateway.
    Address,
}

/// The named layer-2 method by which all gateways receive frames for a shared
/// address: they all answer ARP and ND with one MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer2 {
    /// A multicast MAC address (group bit set): switches deliver to all ports, or
    /// to those of a static entry. Routers by the letter of RFC 1812 section
    /// 3.3.2 want a static ARP entry for it.
    Multicast([u8; 6]),
    /// A unicast MAC address that no switch ever learns, because no frame is sent
    /// from it: switches flood it. Outer interfaces become promiscuous.
    Flooded([u8; 6]),
}

impl Layer2 {
    /// The MAC address in the answers.
    pub fn mac(self) -> [u8; 6] {
        match self {
            Self::Multicast(mac) | Self::Flooded(mac) => mac,
        }
    }
}

/// How the inner network learns where an end user's inner address is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InnerReach {
    /// Inner addresses are routed to this gateway by somebody else: a diversion
    /// stays as long as the session lives elsewhere.
    #[default]
    Routed,
    /// This gateway answers ARP and ND for them on the inner interface and
    /// announces them when a session arrives.
    Proxy,
}

/// Bounds of what is held for one session; the oldest packet goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Packets.
    pub packets: usize,
    /// Octets.
    pub octets: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { packets: 4096, octets: 4 << 20 }
    }
}

/// How long an answer of the kernel or of a neighbour may take.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

impl Config {
    /// A gateway between `outer` and `inner` with everything else at its default.
    pub fn new(name: Name, outer: impl Into<String>, inner: impl Into<String>) -> Self {
        Self {
            name,
            outer: vec![outer.into()],
            inner: inner.into(),
            shared: Vec::new(),
            mode: Mode::None,
            members: Vec::new(),
            inner_reach: InnerReach::Routed,
            inner_networks: Vec::new(),
            hook: None,
            ike_ports: (500, 4500),
            queue: 4067,
            table: 4067,
            preference: 40,
            limits: Limits::default(),
        }
    }

    /// Whether sessions on this address move without a change of address.
    pub(super) fn is_shared(&self, address: IpAddr) -> bool {
        self.shared.contains(&address)
    }

    /// The MAC address that gateways share, in mode `Shared`.
    pub(super) fn shared_mac(&self) -> Option<[u8; 6]> {
        match self.mode {
            Mode::Shared(layer2) => Some(layer2.mac()),
            Mode::None | Mode::Address => None,
        }
    }

    /// Finds what cannot work before anything is touched.
    pub(super) fn validate(&self) -> Result<(), SteeringError> {
        let wrong = |key, why: &str| Err(SteeringError::Config { key, why: why.to_owned() });
        if self.outer.is_empty() {
            return wrong("outer", "name at least one interface towards the end users");
        }
        for name in self.outer.iter().chain([&self.inner]) {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
            if name.is_empty() || name.len() > 15 || !name.chars().all(plain) {
                return Err(SteeringError::Config {
                    key: "outer, inner",
                    why: format!("`{name}` is not an interface name"),
                });
            }
        }
        if self.outer.contains(&self.inner) {
            return wrong("inner", "the inner interface cannot be an outer one too");
        }
        if !(1..=i32::MAX as u32).contains(&self.table) || (253..=255).contains(&self.table) {
            return wrong("table", "name a routing table of its own, such as 4067");
        }
        if self.limits.packets == 0 || self.limits.octets == 0 {
            return wrong("limits", "a bound of nothing would lose every packet that is held");
        }
        if self.ike_ports.0 == self.ike_ports.1 {
            return wrong("ike_ports", "IKE and ESP in UDP need a port each");
        }
        for prefix in &self.inner_networks {
            let widest = if prefix.address.is_ipv4() { 32 } else { 128 };
            if prefix.bits == 0 || prefix.bits > widest {
                return wrong("inner_networks", "a prefix has 1 to 32 (IPv6: 128) bits");
            }
        }
        match self.mode {
            Mode::None => Ok(()),
            Mode::Address if self.shared.is_empty() => {
                wrong("shared", "mode `address` needs at least one address")
            }
            Mode::Address => Ok(()),
            Mode::Shared(_) if self.shared.is_empty() => {
                wrong("shared", "mode `shared` needs at least one address")
            }
            Mode::Shared(_) if self.members.is_empty() => {
                wrong("members", "name the gateways that answer clients whom nobody knows")
            }
            Mode::Shared(Layer2::Multicast(mac)) if mac[0] & 1 == 0 => {
                wrong("layer2", "a multicast MAC address has the lowest bit of octet 1 set")
            }
            Mode::Shared(Layer2::Flooded(mac)) if mac[0] & 1 == 1 || mac == [0; 6] => {
                wrong("layer2", "a flooded MAC address is a unicast one, such as 02:00:5e:00:00:01")
            }
            Mode::Shared(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
