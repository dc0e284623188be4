//! Feature profile types: what a context needs and what a gateway can carry, by
//! name (RFC 4067 sections 2.3 and 3.3: FPT and presence).

use std::{collections::BTreeSet, fmt, net::IpAddr};

use bincode::{Decode, Encode};

use crate::{
    context::{ChildTransforms, Context, IkeTransforms, Mode, Protocol, Selector, SideEffects},
    id::{Generation, SessionId},
    transfer::{SaRef, SaUse},
};

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        /// One thing that a context may hold and that not every gateway can
        /// carry. The number is the FPT and the bit in a [`FeatureSet`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Feature { $($(#[$doc])* $name = $bit,)* }

        impl Feature {
            /// Every registered feature, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The word for it in a refusal.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

features! {
    /// An IKE SA.
    Ike = 0, "IKE SA";
    /// IKE version 1.
    IkeV1 = 1, "IKEv1";
    /// More than one key exchange (RFC 9370).
    MultipleKeyExchanges = 2, "multiple key exchanges";
    /// EAP authentication.
    Eap = 3, "EAP";
    /// MOBIKE.
    Mobike = 4, "MOBIKE";
    /// IKE fragmentation.
    Fragmentation = 5, "IKE fragmentation";
    /// RFC 6311.
    MessageIdSync = 6, "Message-ID synchronisation";
    /// Virtual IPs.
    VirtualIp = 7, "virtual IP";
    /// A NAT in the way.
    Nat = 8, "NAT";
    /// ESP.
    Esp = 9, "ESP";
    /// AH.
    Ah = 10, "AH";
    /// Tunnel mode.
    TunnelMode = 11, "tunnel mode";
    /// Transport mode.
    TransportMode = 12, "transport mode";
    /// BEET mode.
    BeetMode = 13, "BEET mode";
    /// IPComp.
    IpComp = 14, "IPComp";
    /// Extended sequence numbers.
    Esn = 15, "extended sequence numbers";
    /// A replay window of more than 32 packets.
    LargeWindow = 16, "replay window above 32 packets";
    /// UDP encapsulation.
    UdpEncapsulation = 17, "UDP encapsulation";
    /// Marks.
    Mark = 18, "mark";
    /// XFRM interface ids.
    IfId = 19, "if_id";
    /// Byte or packet lifetimes.
    CountedLifetime = 20, "lifetime in octets or packets";
    /// IPv4 outside.
    OuterIpv4 = 21, "IPv4 outside";
    /// IPv6 outside.
    OuterIpv6 = 22, "IPv6 outside";
    /// IPv4 inside.
    InnerIpv4 = 23, "IPv4 inside";
    /// IPv6 inside.
    InnerIpv6 = 24, "IPv6 inside";
    /// Selectors narrower than whole prefixes: ports or a protocol.
    PortSelectors = 25, "port or protocol selectors";
}

/// A set of [`Feature`]s; bit `n` is the feature with number `n`. Bits that are
/// not registered are kept, so that a newer peer's set survives.
//= spec CXTP-8.3-2
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct FeatureSet(pub u64);

impl FeatureSet {
    /// Adds a feature.
    pub fn insert(&mut self, feature: Feature) {
        self.0 |= 1 << feature as u8;
    }

    /// Whether the feature is in the set.
    pub fn contains(self, feature: Feature) -> bool {
        self.0 & (1 << feature as u8) != 0
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether nothing is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Feature> for FeatureSet {
    fn from_iter<T: IntoIterator<Item = Feature>>(features: T) -> Self {
        let mut set = Self::default();
        features.into_iter().for_each(|feature| set.insert(feature));
        set
    }
}

impl fmt::Display for FeatureSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> =
            Feature::ALL.iter().filter(|x| self.contains(**x)).map(|x| x.name()).collect();
        f.write_str(&names.join(", "))
    }
}

impl fmt::Debug for FeatureSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// What a gateway can carry; said in the hello, so that a source can refuse a
/// hopeless transfer without asking.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Capabilities {
    /// Features that the gateway can carry.
    pub features: FeatureSet,
    /// Child SA algorithms: encryption, key bits, integrity.
    pub child_transforms: BTreeSet<(u16, u16, u16)>,
    /// IKE encryption algorithms: encryption, key bits, integrity, prf, key
    /// exchange. Empty where the gateway does not care, because it only keeps
    /// the IKE SA and never speaks for it.
    pub ike_transforms: BTreeSet<(u16, u16, u16, u16, u16)>,
    /// Largest replay window in packets.
    pub max_replay_window: u32,
    /// Most sessions it holds.
    pub max_sessions: u64,
}

/// Everything about a session that admission looks at, and no key: what a
/// preflight sends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Profile {
    /// Which session.
    pub session: SessionId,
    /// Its SPIs, selectors and addresses at the time.
    pub generation: Generation,
    /// What it needs.
    pub features: FeatureSet,
    /// IKE SPIs, initiator's and responder's.
    pub ike_spis: Option<(u64, u64)>,
    /// IKE algorithms.
    pub ike_transforms: Option<IkeTransforms>,
    /// Name of its configuration; empty without an IKE SA.
    pub configuration: String,
    /// What would be lost with it.
    pub side_effects: SideEffects,
    /// Inner addresses of the end user.
    pub virtual_ips: Vec<IpAddr>,
    /// Its Child SAs.
    pub children: Vec<ChildProfile>,
}

/// What admission looks at in a Child SA.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct ChildProfile {
    /// Protocol and inbound SPI, and how its numbers are used.
    pub usage: SaUse,
    /// Algorithms.
    pub transforms: ChildTransforms,
    /// Packets in its replay window.
    pub replay_window: u32,
    /// Request id.
    pub reqid: u32,
    /// Destinations of its outbound policies: what the target will route.
    pub destinations: Vec<Selector>,
}

impl Context {
    /// What this context needs of a gateway.
    pub fn features(&self) -> FeatureSet {
        let mut set = FeatureSet::default();
        if let Some(ike) = &self.ike {
            set.insert(Feature::Ike);
            for (present, feature) in [
                (ike.version == 1, Feature::IkeV1),
                (ike.extensions.mobike, Feature::Mobike),
                (ike.extensions.fragmentation, Feature::Fragmentation),
                (ike.extensions.message_id_sync, Feature::MessageIdSync),
                (!ike.virtual_ips.is_empty(), Feature::VirtualIp),
                (ike.nat.local || ike.nat.remote, Feature::Nat),
                (ike.remote.is_ipv4(), Feature::OuterIpv4),
                (ike.remote.is_ipv6(), Feature::OuterIpv6),
                (
                    matches!(ike.authentication, crate::context::Authentication::Eap(_)),
                    Feature::Eap,
                ),
                (
                    matches!(&ike.secrets, crate::context::IkeSecrets::Seed { shared, .. } if shared.len() > 1),
                    Feature::MultipleKeyExchanges,
                ),
            ] {
                if present {
                    set.insert(feature);
                }
            }
        }
        for child in &self.children {
            set.insert(match child.protocol {
                Protocol::Esp => Feature::Esp,
                Protocol::Ah => Feature::Ah,
            });
            set.insert(match child.mode {
                Mode::Tunnel => Feature::TunnelMode,
                Mode::Transport => Feature::TransportMode,
                Mode::Beet => Feature::BeetMode,
            });
            let counted = [&child.lifetime.soft, &child.lifetime.hard]
                .iter()
                .any(|limit| limit.octets.is_some() || limit.packets.is_some());
            let selectors = || child.policies.iter().flat_map(|p| [&p.source, &p.destination]);
            let narrow = child.policies.iter().any(|p| p.protocol != 0)
                || selectors().any(|s| s.ports != (0, u16::MAX));
            for (present, feature) in [
                (child.cpi.is_some(), Feature::IpComp),
                (child.esn, Feature::Esn),
                (child.inbound.window.size > 32, Feature::LargeWindow),
                (child.encapsulation.is_some(), Feature::UdpEncapsulation),
                (child.mark.is_some(), Feature::Mark),
                (child.if_id.is_some(), Feature::IfId),
                (counted, Feature::CountedLifetime),
                (selectors().any(|s| s.prefix.address.is_ipv4()), Feature::InnerIpv4),
                (selectors().any(|s| s.prefix.address.is_ipv6()), Feature::InnerIpv6),
                (narrow, Feature::PortSelectors),
            ] {
                if present {
                    set.insert(feature);
                }
            }
        }
        set
    }

    /// What admission looks at; holds no key.
    pub fn profile(&self) -> Profile {
        let ike = self.ike.as_ref();
        Profile {
            session: self.session,
            generation: self.generation,
            features: self.features(),
            ike_spis: ike.map(|ike| (ike.spi_initiator, ike.spi_responder)),
            ike_transforms: ike.map(|ike| ike.transforms.clone()),
            configuration: ike.map(|ike| ike.configuration.clone()).unwrap_or_default(),
            side_effects: ike.map(|ike| ike.side_effects).unwrap_or_default(),
            virtual_ips: ike
                .map(|ike| ike.virtual_ips.iter().map(|ip| ip.address).collect())
                .unwrap_or_default(),
            children: self
                .children
                .iter()
                .map(|child| ChildProfile {
                    usage: SaUse {
                        sa: SaRef { protocol: child.protocol, inbound_spi: child.inbound.spi },
                        sequence: child.outbound.sequence,
                        rate: self.load.packets_per_second,
                        esn: child.esn,
                    },
                    transforms: child.transforms.clone(),
                    replay_window: child.inbound.window.size,
                    reqid: child.reqid,
                    destinations: child
                        .policies
                        .iter()
                        .filter(|policy| policy.direction == crate::context::Direction::Out)
                        .map(|policy| policy.destination.clone())
                        .collect(),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests;
