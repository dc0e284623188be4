//! The context: a session written down, all that another gateway needs to go on
//! with it (design: "The context"; thesis section 3.3; RFC 6311).
//!
//! Times are durations, never wall-clock instants, so that clocks of different
//! gateways need not agree. Sequence numbers are 64 bits wide everywhere; an SA
//! without ESN uses the low 32.

mod child;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bincode::{Decode, Encode};

pub use self::child::{
    ChildSa, ChildSeed, ChildTransforms, Direction, ENCR_AES_GCM_16, Endpoints, InboundSa,
    Lifetime, LifetimeLimit, LifetimeUsed, Mark, Mode, OutboundSa, Policy, Prefix, Protocol,
    ReplayWindow, SaKeys, Selector, UdpEncapsulation,
};
use crate::{
    id::{Generation, SessionId},
    key::KeyMaterial,
};

/// One session. Holds key material: it travels only inside PCTD, to a gateway.
#[derive(Debug, PartialEq, Encode, Decode)]
pub struct Context {
    /// Which session this is.
    pub session: SessionId,
    /// The state of its SPIs, keys, selectors and addresses that this describes.
    pub generation: Generation,
    /// The IKE SA; absent where SAs in the kernel belong to no IKE daemon.
    pub ike: Option<IkeSa>,
    /// The Child SAs, in the order in which they were created.
    pub children: Vec<ChildSa>,
    /// What the session costs, for the load planner.
    pub load: Load,
}

/// An IKE SA (RFC 7296) with what RFC 4555, 6311, 7383 add to its state.
#[derive(Debug, PartialEq, Encode, Decode)]
pub struct IkeSa {
    /// SPI of the original initiator.
    pub spi_initiator: u64,
    /// SPI of the original responder.
    pub spi_responder: u64,
    /// Whether this gateway was the original initiator.
    pub initiator: bool,
    /// IKE version: 1 or 2.
    pub version: u8,
    /// Negotiated transforms.
    pub transforms: IkeTransforms,
    /// How a daemon gets its keys.
    pub secrets: IkeSecrets,
    /// Window size (RFC 7296 section 2.3).
    pub window: u32,
    /// Next Message ID of a request that this gateway sends.
    pub next_send: u32,
    /// Next Message ID of a request that this gateway expects.
    pub next_receive: u32,
    /// Who we are to the end user, and who the end user is.
    pub local_id: Identification,
    /// The end user's identity.
    pub remote_id: Identification,
    /// Identity proven inside EAP, where it was used.
    pub eap_identity: Option<String>,
    /// How the end user proved who it is.
    pub authentication: Authentication,
    /// This gateway's address and port.
    pub local: SocketAddr,
    /// The end user's address and port, as the gateway sees it.
    pub remote: SocketAddr,
    /// Who is behind a NAT.
    pub nat: Nat,
    /// Extensions that both sides announced.
    pub extensions: Extensions,
    /// Further addresses of the end user (RFC 4555 section 3.4).
    pub peer_addresses: Vec<IpAddr>,
    /// Inner addresses that the end user was given.
    pub virtual_ips: Vec<VirtualIp>,
    /// Time left until the IKE SA is rekeyed.
    pub rekey_in: Option<Duration>,
    /// Time left until the end user must authenticate again.
    pub reauthenticate_in: Option<Duration>,
    /// Time left until the IKE SA ends.
    pub expire_in: Option<Duration>,
    /// Name of the gateway's configuration under which the session was set up.
    pub configuration: String,
    /// What the source's daemon does for this session beside IKE and ESP.
    pub side_effects: SideEffects,
    /// What the daemon at the source notes of the SA in words of its own.
    pub native: Option<Native>,
}

/// The transforms of an IKE SA by their IANA numbers (IKEv2 parameters).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct IkeTransforms {
    /// Transform type 1, encryption.
    pub encryption: u16,
    /// Key length in bits, 0 where the cipher has one length.
    pub key_bits: u16,
    /// Transform type 3, integrity; 0 with an AEAD cipher.
    pub integrity: u16,
    /// Transform type 2, pseudo-random function.
    pub prf: u16,
    /// Transform type 4, key exchange method.
    pub key_exchange: u16,
}

/// From what the keys of an IKE SA are made. A daemon that takes ready keys gets
/// `Keys`; strongSwan's HA messages want `Seed`.
#[derive(Debug, PartialEq, Encode, Decode)]
pub enum IkeSecrets {
    /// The inputs of RFC 7296 section 2.14 (or 2.18 for a rekeyed SA).
    Seed {
        /// Nonce of the exchange's initiator.
        nonce_initiator: Vec<u8>,
        /// Nonce of the exchange's responder.
        nonce_responder: Vec<u8>,
        /// Diffie-Hellman shared secrets, more than one with RFC 9370.
        shared: Vec<KeyMaterial>,
        /// The SA that this one replaced by rekeying.
        replaced: Option<ReplacedSa>,
    },
    /// The keys of RFC 7296 section 2.14.
    Keys(IkeKeys),
}

/// What a rekeyed IKE SA still needs of the one that it replaced: the rekeying
/// was computed with the old SA's key and function (RFC 7296 section 2.18).
#[derive(Debug, PartialEq, Encode, Decode)]
pub struct ReplacedSa {
    /// Its pseudo-random function, transform type 2.
    pub prf: u16,
    /// Its SK_d.
    pub sk_d: KeyMaterial,
}

/// The seven keys of an IKE SA (RFC 7296 section 2.14).
#[derive(Debug, PartialEq, Encode, Decode)]
pub struct IkeKeys {
    /// From which Child SAs' and rekeyed IKE SAs' keys are made.
    pub sk_d: KeyMaterial,
    /// Integrity, original initiator to responder; empty with AEAD.
    pub sk_ai: KeyMaterial,
    /// Integrity, original responder to initiator; empty with AEAD.
    pub sk_ar: KeyMaterial,
    /// Encryption, original initiator to responder.
    pub sk_ei: KeyMaterial,
    /// Encryption, original responder to initiator.
    pub sk_er: KeyMaterial,
    /// AUTH payload of the original initiator.
    pub sk_pi: KeyMaterial,
    /// AUTH payload of the original responder.
    pub sk_pr: KeyMaterial,
}

/// An identification payload (RFC 7296 section 3.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Identification {
    /// ID Type: 1 IPv4, 2 FQDN, 3 RFC 822, 5 IPv6, 9 DN, 10 GN, 11 key id.
    pub kind: u8,
    /// Identification data.
    pub data: Vec<u8>,
}

/// Authentication Method (RFC 7296 section 3.8) or EAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Authentication {
    /// An IKEv2 Authentication Method by number.
    Method(u8),
    /// EAP, with its method type (RFC 3748).
    Eap(u8),
}

/// Where a NAT stands (RFC 7296 section 2.23).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Nat {
    /// This gateway is behind a NAT.
    pub local: bool,
    /// The end user is behind a NAT.
    pub remote: bool,
}

/// Extensions of an IKE SA that both sides announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Extensions {
    /// RFC 4555.
    pub mobike: bool,
    /// RFC 7383.
    pub fragmentation: bool,
    /// RFC 6311, Message IDs.
    pub message_id_sync: bool,
    /// RFC 6311, replay counters.
    pub replay_counter_sync: bool,
    /// RFC 5685.
    pub redirect: bool,
}

/// An inner address given to the end user, and the pool that it came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct VirtualIp {
    /// The address.
    pub address: IpAddr,
    /// Name of the pool at the home gateway.
    pub pool: String,
}

/// What a daemon does for a session beside IKE and ESP, and what would be lost
/// if a target cannot do it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct SideEffects {
    /// Programs run when the session comes up or goes down.
    pub hooks: bool,
    /// RADIUS or other accounting is running.
    pub accounting: bool,
}

/// A daemon's own bit sets of an IKE SA, carried as they are to a daemon that
/// speaks the same dialect; any other makes its own from the typed fields.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Native {
    /// Whose bits these are, such as `strongswan`.
    pub dialect: String,
    /// Conditions of the SA.
    pub conditions: u32,
    /// Extensions that the peer announced.
    pub extensions: u32,
}

/// Traffic of a session, for the load planner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Load {
    /// Packets per second, in and out together.
    pub packets_per_second: u32,
    /// Octets per second, in and out together.
    pub octets_per_second: u64,
}
