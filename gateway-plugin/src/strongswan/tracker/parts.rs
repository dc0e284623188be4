//! What a session is made of: IKE SAs, what is known of them, Child SAs.

use std::net::{IpAddr, SocketAddr};

use protocol_spec::{
    context::{
        Authentication, ChildSa, ChildSeed, ChildTransforms, Extensions, Identification, IkeSa,
        IkeSecrets, IkeTransforms, Mode, Nat, Native, ReplacedSa, SideEffects, VirtualIp,
    },
    key::KeyMaterial,
    limits::{MAX_KEY_OCTETS, MAX_LIST, MAX_NONCE, MAX_TEXT},
};

use super::{
    NotWhole,
    listing::{ListedChild, Mark},
};
use crate::strongswan::ha::{
    Attribute, IkeId, IkeSpis, TrafficSelector,
    put::{DIALECT, condition, extension},
};

/// Key exchanges of one SA (RFC 9370: one and at most seven further ones).
const MAX_EXCHANGES: usize = 8;
/// Whose bits the private words of version 5 are: plugins of other makers'. They
/// mean nothing to another charon and are left behind.
const PRIVATE: u32 = 1 << 31;

/// An IKE SA: what its keys are made of, and what is known of it.
#[derive(Debug)]
pub(super) struct IkeNode {
    pub(super) id: IkeId,
    transforms: IkeTransforms,
    nonces: (Vec<u8>, Vec<u8>),
    shared: Vec<KeyMaterial>,
    replaced: Option<ReplacedSa>,
    pub(super) next_send: u32,
    pub(super) next_receive: u32,
    pub(super) facts: Facts,
    pub(super) since: Mark,
}

/// What IKE_UPDATEs say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    local_id: Option<Identification>,
    remote_id: Option<Identification>,
    eap_identity: Option<String>,
    pub(super) local: Option<SocketAddr>,
    pub(super) remote: Option<SocketAddr>,
    pub(super) configuration: Option<String>,
    conditions: Option<u32>,
    extensions: Option<u32>,
    pub(super) virtual_ips: Vec<IpAddr>,
    peers: Vec<IpAddr>,
}

/// A Child SA.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) inbound: u32,
    outbound: u32,
    configuration: String,
    /// Under which IKE SA its keys were made, and from what; not known of one that
    /// only vici told.
    made: Option<(IkeSpis, ChildSeed)>,
    negotiated: Option<Negotiated>,
}

/// A Child SA as charon told it.
#[derive(Debug, PartialEq)]
pub struct TrackedChild {
    /// SPI on which the gateway receives.
    pub inbound: u32,
    /// SPI on which the gateway sends.
    pub outbound: u32,
    /// Name of its configuration.
    pub configuration: String,
    /// What its keys are made of, together with SK_d of the session's present IKE
    /// SA. `None` for a child that was made under an earlier IKE SA or whose
    /// making was not heard: another charon cannot derive its keys.
    pub seed: Option<ChildSeed>,
    /// What was agreed; `None` if the message was not heard.
    pub negotiated: Option<Negotiated>,
}

/// What was agreed of a Child SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Tunnel or transport.
    pub mode: Mode,
    /// Algorithms.
    pub transforms: ChildTransforms,
    /// Extended sequence numbers.
    pub esn: bool,
    /// CPI of IPComp: inbound, outbound.
    pub cpi: Option<(u16, u16)>,
    /// Traffic selectors of the gateway's side; empty where only the policies are
    /// known.
    pub local: Vec<TrafficSelector>,
    /// Traffic selectors of the end user's side.
    pub remote: Vec<TrafficSelector>,
}

impl IkeNode {
    pub(super) fn new(id: IkeId, since: Mark) -> Self {
        Self {
            id,
            transforms: IkeTransforms {
                encryption: 0,
                key_bits: 0,
                integrity: 0,
                prf: 0,
                key_exchange: 0,
            },
            nonces: (Vec::new(), Vec::new()),
            shared: Vec::new(),
            replaced: None,
            next_send: 0,
            next_receive: 0,
            facts: Facts::default(),
            since,
        }
    }

    /// An IKE_ADD. With transforms it begins the keys, without it goes on with
    /// them by a further key exchange. `false` if it holds more than keys can.
    pub(super) fn add(&mut self, attributes: Vec<Attribute>) -> bool {
        let begins = attributes.iter().any(|a| matches!(a, Attribute::Encryption(_)));
        if begins {
            self.shared.clear();
            self.replaced = None;
        }
        let (mut old_prf, mut old_sk_d) = (None, None);
        for attribute in attributes {
            match attribute {
                Attribute::Encryption(number) => self.transforms.encryption = number,
                Attribute::KeyBits(bits) => self.transforms.key_bits = bits,
                Attribute::Integrity(number) => self.transforms.integrity = number,
                Attribute::Prf(number) => self.transforms.prf = number,
                Attribute::KeyExchange(number) => self.transforms.key_exchange = number,
                Attribute::NonceInitiator(nonce) if nonce.len() <= MAX_NONCE => {
                    self.nonces.0 = nonce;
                }
                Attribute::NonceResponder(nonce) if nonce.len() <= MAX_NONCE => {
                    self.nonces.1 = nonce;
                }
                Attribute::Secret(secret) | Attribute::AdditionalSecret(secret)
                    if secret.len() <= MAX_KEY_OCTETS && self.shared.len() < MAX_EXCHANGES =>
                {
                    self.shared.push(secret);
                }
                Attribute::OldPrf(number) => old_prf = Some(number),
                Attribute::OldSkD(sk_d) if sk_d.len() <= MAX_KEY_OCTETS => old_sk_d = Some(sk_d),
                Attribute::NonceInitiator(_)
                | Attribute::NonceResponder(_)
                | Attribute::Secret(_)
                | Attribute::AdditionalSecret(_)
                | Attribute::OldSkD(_) => return false,
                // Before authentication: later words, and a move to port 4500, count
                // more.
                Attribute::RemoteAddress(address) => {
                    self.facts.remote.get_or_insert(address);
                }
                _ => {}
            }
        }
        if let (Some(prf), Some(sk_d)) = (old_prf, old_sk_d) {
            self.replaced = Some(ReplacedSa { prf, sk_d });
        }
        true
    }

    /// The IKE SA of a context that is being put into charon.
    pub(super) fn adopt(ike: &IkeSa, since: Mark) -> Self {
        let id = IkeId {
            version: ike.version,
            spi_initiator: ike.spi_initiator,
            spi_responder: ike.spi_responder,
            initiator: ike.initiator,
        };
        let mut node = Self::new(id, since);
        node.transforms = ike.transforms.clone();
        if let IkeSecrets::Seed { nonce_initiator, nonce_responder, shared, replaced } =
            &ike.secrets
        {
            node.nonces = (nonce_initiator.clone(), nonce_responder.clone());
            node.shared = shared.iter().map(KeyMaterial::duplicate).collect();
            node.replaced = replaced.as_ref().map(duplicate);
        }
        (node.next_send, node.next_receive) = (ike.next_send, ike.next_receive);
        let native = ike.native.as_ref().filter(|native| native.dialect == DIALECT);
        node.facts = Facts {
            local_id: Some(ike.local_id.clone()),
            remote_id: Some(ike.remote_id.clone()),
            eap_identity: ike.eap_identity.clone(),
            local: Some(ike.local),
            remote: Some(ike.remote),
            configuration: Some(ike.configuration.clone()),
            conditions: native.map(|native| native.conditions),
            extensions: native.map(|native| native.extensions),
            virtual_ips: ike.virtual_ips.iter().map(|ip| ip.address).collect(),
            peers: ike.peer_addresses.clone(),
        };
        node
    }

    pub(super) fn describe(&self) -> Result<IkeSa, NotWhole> {
        let facts = &self.facts;
        let conditions = facts.conditions.unwrap_or_default();
        let extensions = facts.extensions.unwrap_or_default();
        if self.id.version != 2 {
            return Err(NotWhole::NotTold("what another gateway needs of an IKEv1 SA"));
        }
        if conditions & condition::PPK != 0 {
            return Err(NotWhole::NotTold("the post-quantum pre-shared key of this IKE SA"));
        }
        if self.shared.is_empty() {
            return Err(NotWhole::Missing("the key exchange"));
        }
        let missing = NotWhole::Missing;
        Ok(IkeSa {
            spi_initiator: self.id.spi_initiator,
            spi_responder: self.id.spi_responder,
            initiator: self.id.initiator,
            version: self.id.version,
            transforms: self.transforms.clone(),
            secrets: IkeSecrets::Seed {
                nonce_initiator: self.nonces.0.clone(),
                nonce_responder: self.nonces.1.clone(),
                shared: self.shared.iter().map(KeyMaterial::duplicate).collect(),
                replaced: self.replaced.as_ref().map(duplicate),
            },
            // charon has never more than one request open.
            window: 1,
            next_send: self.next_send,
            next_receive: self.next_receive,
            local_id: facts.local_id.clone().ok_or(missing("the local identity"))?,
            remote_id: facts.remote_id.clone().ok_or(missing("the peer's identity"))?,
            eap_identity: facts.eap_identity.clone(),
            authentication: if conditions & condition::EAP == 0 {
                Authentication::Method(0)
            } else {
                Authentication::Eap(0)
            },
            local: facts.local.ok_or(missing("the local address"))?,
            remote: facts.remote.ok_or(missing("the peer's address"))?,
            nat: Nat {
                local: conditions & condition::NAT_HERE != 0,
                remote: conditions & condition::NAT_THERE != 0,
            },
            extensions: Extensions {
                mobike: extensions & extension::MOBIKE != 0,
                fragmentation: extensions & extension::FRAGMENTATION != 0,
                message_id_sync: extensions & extension::MESSAGE_ID_SYNC != 0,
                replay_counter_sync: false,
                redirect: extensions & extension::REDIRECT != 0,
            },
            peer_addresses: facts.peers.clone(),
            virtual_ips: facts
                .virtual_ips
                .iter()
                .map(|address| VirtualIp { address: *address, pool: String::new() })
                .collect(),
            rekey_in: None,
            reauthenticate_in: None,
            expire_in: None,
            configuration: facts.configuration.clone().ok_or(missing("the configuration"))?,
            side_effects: SideEffects::default(),
            native: Some(Native { dialect: DIALECT.to_owned(), conditions, extensions }),
        })
    }
}

impl Facts {
    /// Takes over what an IKE_UPDATE says; `true` if it is news.
    pub(super) fn update(&mut self, attributes: &[Attribute]) -> bool {
        let before = self.clone();
        // A list that is said at all is said whole.
        let (mut ips, mut peers) = (Vec::new(), Vec::new());
        for attribute in attributes {
            match attribute {
                Attribute::LocalId(id) => self.local_id = Some(id.clone()),
                Attribute::RemoteId(id) => self.remote_id = Some(id.clone()),
                Attribute::RemoteEapId(id) => {
                    self.eap_identity = Some(String::from_utf8_lossy(&id.data).into_owned());
                }
                Attribute::LocalAddress(address) => self.local = Some(*address),
                // Where sessions are parked that we put there: charon repeats our
                // own messages after a RESYNC.
                Attribute::RemoteAddress(address) if !address.ip().is_loopback() => {
                    self.remote = Some(*address);
                }
                Attribute::Configuration(name) if name.len() <= MAX_TEXT => {
                    self.configuration = Some(name.clone());
                }
                Attribute::Conditions(word) if word & PRIVATE == 0 => self.conditions = Some(*word),
                Attribute::Extensions(word) if word & PRIVATE == 0 => self.extensions = Some(*word),
                Attribute::RemoteVirtualIp(address) if ips.len() < MAX_LIST => {
                    ips.push(address.ip());
                }
                Attribute::PeerAddress(address) if peers.len() < MAX_LIST => {
                    peers.push(address.ip());
                }
                _ => {}
            }
        }
        if !ips.is_empty() {
            self.virtual_ips = ips;
        }
        if !peers.is_empty() {
            self.peers = peers;
        }
        *self != before
    }

    pub(super) fn updated(mut self, attributes: &[Attribute]) -> Self {
        self.update(attributes);
        self
    }

    /// What a rekeyed IKE SA has of the one that it replaced, unless it was said of
    /// itself.
    pub(super) fn inherit(&mut self, old: &Self) {
        fn keep<T: Clone>(own: &mut Option<T>, old: &Option<T>) {
            if own.is_none() {
                own.clone_from(old);
            }
        }
        keep(&mut self.local_id, &old.local_id);
        keep(&mut self.remote_id, &old.remote_id);
        keep(&mut self.eap_identity, &old.eap_identity);
        keep(&mut self.local, &old.local);
        keep(&mut self.remote, &old.remote);
        keep(&mut self.configuration, &old.configuration);
        keep(&mut self.conditions, &old.conditions);
        keep(&mut self.extensions, &old.extensions);
        if self.virtual_ips.is_empty() {
            self.virtual_ips.clone_from(&old.virtual_ips);
        }
        if self.peers.is_empty() {
            self.peers.clone_from(&old.peers);
        }
    }

    pub(super) fn names_configuration(attributes: &[Attribute]) -> bool {
        attributes.iter().any(|attribute| matches!(attribute, Attribute::Configuration(_)))
    }
}

impl Child {
    /// A CHILD_ADD; `None` if it has no SPIs or is too large for a context.
    pub(super) fn new(ike: IkeSpis, attributes: Vec<Attribute>) -> Option<Self> {
        let (mut inbound, mut outbound, mut cpi) = (0, 0, (0, 0));
        let mut configuration = String::new();
        let mut seed = ChildSeed {
            initiator: false,
            nonce_initiator: Vec::new(),
            nonce_responder: Vec::new(),
            shared: Vec::new(),
        };
        let mut agreed = Negotiated {
            mode: Mode::Tunnel,
            transforms: ChildTransforms { encryption: 0, key_bits: 0, integrity: 0 },
            esn: false,
            cpi: None,
            local: Vec::new(),
            remote: Vec::new(),
        };
        for attribute in attributes {
            match attribute {
                Attribute::InboundSpi(spi) => inbound = spi.0,
                Attribute::OutboundSpi(spi) => outbound = spi.0,
                Attribute::InboundCpi(number) => cpi.0 = number,
                Attribute::OutboundCpi(number) => cpi.1 = number,
                Attribute::Configuration(name) if name.len() <= MAX_TEXT => configuration = name,
                Attribute::Initiator(flag) => seed.initiator = flag != 0,
                Attribute::NonceInitiator(nonce) => seed.nonce_initiator = nonce,
                Attribute::NonceResponder(nonce) => seed.nonce_responder = nonce,
                Attribute::Secret(secret) | Attribute::AdditionalSecret(secret) => {
                    seed.shared.push(secret);
                }
                Attribute::Mode(1) => agreed.mode = Mode::Transport,
                Attribute::Mode(3) => agreed.mode = Mode::Beet,
                Attribute::Encryption(number) => agreed.transforms.encryption = number,
                Attribute::KeyBits(bits) => agreed.transforms.key_bits = bits,
                Attribute::Integrity(number) => agreed.transforms.integrity = number,
                Attribute::ExtendedNumbers(number) => agreed.esn = number != 0,
                Attribute::LocalSelector(selector) => agreed.local.push(selector),
                Attribute::RemoteSelector(selector) => agreed.remote.push(selector),
                _ => {}
            }
        }
        agreed.cpi = (cpi != (0, 0)).then_some(cpi);
        let fits = inbound != 0
            && outbound != 0
            && seed.nonce_initiator.len() <= MAX_NONCE
            && seed.nonce_responder.len() <= MAX_NONCE
            && seed.shared.len() <= MAX_EXCHANGES
            && seed.shared.iter().all(|secret| secret.len() <= MAX_KEY_OCTETS)
            && agreed.local.len().max(agreed.remote.len()) <= MAX_LIST;
        fits.then_some(Self {
            inbound,
            outbound,
            configuration,
            made: Some((ike, seed)),
            negotiated: Some(agreed),
        })
    }

    /// A Child SA that only vici knows.
    pub(super) fn listed(listed: &ListedChild) -> Self {
        Self {
            inbound: listed.inbound,
            outbound: listed.outbound,
            configuration: listed.name.chars().take(MAX_TEXT / 4).collect(),
            made: None,
            negotiated: None,
        }
    }

    /// A Child SA of a context that is being put into charon.
    pub(super) fn adopt(child: &ChildSa, ike: IkeSpis) -> Self {
        Self {
            inbound: child.inbound.spi,
            outbound: child.outbound.spi,
            configuration: child.configuration.clone(),
            made: child.seed.as_ref().map(|seed| (ike, seed.duplicate())),
            negotiated: Some(Negotiated {
                mode: child.mode,
                transforms: child.transforms.clone(),
                esn: child.esn,
                cpi: child.cpi,
                local: Vec::new(),
                remote: Vec::new(),
            }),
        }
    }

    pub(super) fn describe(&self, present: IkeSpis) -> TrackedChild {
        let seed = self.made.as_ref().filter(|(ike, _)| *ike == present);
        TrackedChild {
            inbound: self.inbound,
            outbound: self.outbound,
            configuration: self.configuration.clone(),
            seed: seed.map(|(_, seed)| seed.duplicate()),
            negotiated: self.negotiated.clone(),
        }
    }
}

fn duplicate(replaced: &ReplacedSa) -> ReplacedSa {
    ReplacedSa { prf: replaced.prf, sk_d: replaced.sk_d.duplicate() }
}
