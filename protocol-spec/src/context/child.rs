//! Child SAs: their keys, counters, policies and lifetimes.

use std::{net::IpAddr, time::Duration};

use bincode::{Decode, Encode};

use crate::key::KeyMaterial;

/// ESP or AH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Protocol {
    /// RFC 4303, IP protocol 50.
    Esp,
    /// RFC 4302, IP protocol 51.
    Ah,
}

/// Tunnel or transport mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Mode {
    /// A whole inner packet is carried.
    Tunnel,
    /// Only the payload of the outer packet is protected.
    Transport,
    /// Bound end-to-end tunnel.
    Beet,
}

/// A pair of SAs with what selects traffic into them.
#[derive(Debug, PartialEq, Encode, Decode)]
pub struct ChildSa {
    /// ESP or AH.
    pub protocol: Protocol,
    /// Tunnel or transport.
    pub mode: Mode,
    /// Name of the Child SA's configuration.
    pub configuration: String,
    /// The kernel's request id, which ties policies to SAs.
    pub reqid: u32,
    /// CPI of IPComp: inbound, outbound.
    pub cpi: Option<(u16, u16)>,
    /// Algorithms of both SAs.
    pub transforms: ChildTransforms,
    /// Extended sequence numbers.
    pub esn: bool,
    /// From the end user to us.
    pub inbound: InboundSa,
    /// From us to the end user.
    pub outbound: OutboundSa,
    /// Policies, as the kernel holds them.
    pub policies: Vec<Policy>,
    /// UDP encapsulation (RFC 3948).
    pub encapsulation: Option<UdpEncapsulation>,
    /// Path MTU towards the end user.
    pub pmtu: Option<u32>,
    /// Mark and mask that select the SA.
    pub mark: Option<Mark>,
    /// XFRM interface id.
    pub if_id: Option<u32>,
    /// Limits and what is used of them.
    pub lifetime: Lifetime,
    /// Time left until the Child SA is rekeyed.
    pub rekey_in: Option<Duration>,
    /// From what the keys were made, for a daemon that takes no ready keys.
    pub seed: Option<ChildSeed>,
    /// Outer addresses, where no IKE SA names them or they are others.
    pub endpoints: Option<Endpoints>,
}

/// The inputs of a Child SA's keys beside SK_d (RFC 7296 section 2.17).
#[derive(Debug, PartialEq, Encode, Decode)]
pub struct ChildSeed {
    /// Whether this gateway began the exchange that made the SAs: whose keys come
    /// first in KEYMAT.
    pub initiator: bool,
    /// Nonce of that exchange's initiator.
    pub nonce_initiator: Vec<u8>,
    /// Nonce of that exchange's responder.
    pub nonce_responder: Vec<u8>,
    /// Shared secrets of its key exchanges; empty where it had none.
    pub shared: Vec<KeyMaterial>,
}

impl ChildSeed {
    /// A second copy, see [`KeyMaterial::duplicate`].
    pub fn duplicate(&self) -> Self {
        Self {
            initiator: self.initiator,
            nonce_initiator: self.nonce_initiator.clone(),
            nonce_responder: self.nonce_responder.clone(),
            shared: self.shared.iter().map(KeyMaterial::duplicate).collect(),
        }
    }
}

/// The outer addresses of a pair of SAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Endpoints {
    /// The gateway's.
    pub local: IpAddr,
    /// The end user's.
    pub remote: IpAddr,
}

/// The transforms of a Child SA by their IANA numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct ChildTransforms {
    /// Transform type 1, encryption; 0 with AH.
    pub encryption: u16,
    /// Key length in bits, 0 where the cipher has one length.
    pub key_bits: u16,
    /// Transform type 3, integrity; 0 with an AEAD cipher.
    pub integrity: u16,
}

/// ENCR_AES_GCM_16 (RFC 4106): key with a 4-octet salt behind it.
pub const ENCR_AES_GCM_16: u16 = 20;

/// Keys of one SA.
#[derive(Debug, PartialEq, Encode, Decode)]
pub struct SaKeys {
    /// Encryption key, with its salt for AEAD ciphers.
    pub encryption: KeyMaterial,
    /// Integrity key; empty with AEAD.
    pub integrity: KeyMaterial,
}

impl SaKeys {
    /// A second copy, see [`KeyMaterial::duplicate`].
    pub fn duplicate(&self) -> Self {
        Self { encryption: self.encryption.duplicate(), integrity: self.integrity.duplicate() }
    }
}

/// The SA on which we receive.
#[derive(Debug, PartialEq, Encode, Decode)]
pub struct InboundSa {
    /// Chosen by us (RFC 4301): what can collide at a target.
    pub spi: u32,
    /// Its keys.
    pub keys: SaKeys,
    /// Which numbers were received.
    pub window: ReplayWindow,
}

/// The SA on which we send.
#[derive(Debug, PartialEq, Encode, Decode)]
pub struct OutboundSa {
    /// Chosen by the end user.
    pub spi: u32,
    /// Its keys.
    pub keys: SaKeys,
    /// Highest sequence number used so far; 0 if none was.
    pub sequence: u64,
}

/// A replay window (RFC 4303 section 3.4.3): the highest authenticated number
/// and which of those below it were seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct ReplayWindow {
    /// Packets in the window; 0 switches the check off.
    pub size: u32,
    /// Highest number authenticated; 0 if none was.
    pub highest: u64,
    /// Bit `i` (bit `i % 32` of word `i / 32`) says that number `highest - i`
    /// was received. `size.div_ceil(32)` words; bits beyond `size` are zero.
    pub bitmap: Vec<u32>,
}

/// Source or destination of traffic: an address range, a port range.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Selector {
    /// Prefix of the addresses.
    pub prefix: Prefix,
    /// First and last port; 0 and 65535 for any.
    pub ports: (u16, u16),
}

/// An address prefix. Host bits may be set, as the kernel allows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Prefix {
    /// Address.
    pub address: IpAddr,
    /// Prefix length in bits.
    pub bits: u8,
}

/// The way of the packets that a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Direction {
    /// Received for this host.
    In,
    /// Sent.
    Out,
    /// Received and forwarded.
    Forward,
}

/// An entry of the security policy database.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Policy {
    /// Which way.
    pub direction: Direction,
    /// Lower is stronger, as in the kernel.
    pub priority: u32,
    /// Source of the packets.
    pub source: Selector,
    /// Destination of the packets.
    pub destination: Selector,
    /// IP protocol number, 0 for any.
    pub protocol: u8,
}

/// ESP in UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct UdpEncapsulation {
    /// Our port.
    pub local_port: u16,
    /// The end user's port.
    pub remote_port: u16,
}

/// A packet mark with its mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Mark {
    /// Value.
    pub value: u32,
    /// Mask.
    pub mask: u32,
}

/// Limits of a Child SA and how much of them is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Lifetime {
    /// What was used so far.
    pub used: LifetimeUsed,
    /// At which the SA is rekeyed.
    pub soft: LifetimeLimit,
    /// At which the SA ends.
    pub hard: LifetimeLimit,
}

/// What an SA has used of its lifetime, both directions each on its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct LifetimeUsed {
    /// Octets in, out.
    pub octets: (u64, u64),
    /// Packets in, out.
    pub packets: (u64, u64),
    /// Since the SA was added.
    pub age: Duration,
    /// Since its first packet.
    pub since_first_use: Option<Duration>,
}

/// A limit by each measure; absent means none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct LifetimeLimit {
    /// Octets.
    pub octets: Option<u64>,
    /// Packets.
    pub packets: Option<u64>,
    /// Since the SA was added.
    pub age: Option<Duration>,
    /// Since its first packet.
    pub since_first_use: Option<Duration>,
}
