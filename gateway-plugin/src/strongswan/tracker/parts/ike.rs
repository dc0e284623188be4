//! An IKE SA: how it is heard, put and written down.

use protocol_spec::{
    context::{
        Authentication, Extensions, IkeSa, IkeSecrets, IkeTransforms, Nat, Native, ReplacedSa,
        SideEffects, VirtualIp,
    },
    key::KeyMaterial,
    limits::{MAX_KEY_OCTETS, MAX_NONCE},
};

use super::{Facts, MAX_EXCHANGES};
use crate::strongswan::{
    ha::{
        Attribute, IkeId,
        put::{DIALECT, condition, extension},
    },
    tracker::{NotWhole, listing::Mark},
};

/// An IKE SA: what its keys are made of, and what is known of it.
#[derive(Debug)]
pub(in super::super) struct IkeNode {
    pub(in super::super) id: IkeId,
    transforms: IkeTransforms,
    nonces: (Vec<u8>, Vec<u8>),
    shared: Vec<KeyMaterial>,
    replaced: Option<ReplacedSa>,
    pub(in super::super) next_send: u32,
    pub(in super::super) next_receive: u32,
    pub(in super::super) facts: Facts,
    pub(in super::super) since: Mark,
}

impl IkeNode {
    pub(in super::super) fn new(id: IkeId, since: Mark) -> Self {
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
    pub(in super::super) fn add(&mut self, attributes: Vec<Attribute>) -> bool {
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
    pub(in super::super) fn adopt(ike: &IkeSa, since: Mark) -> Self {
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

    pub(in super::super) fn describe(&self) -> Result<IkeSa, NotWhole> {
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

fn duplicate(replaced: &ReplacedSa) -> ReplacedSa {
    ReplacedSa { prf: replaced.prf, sk_d: replaced.sk_d.duplicate() }
}
