//! A small IKE responder, for trials: it takes one end user in with X25519, AES-256-CBC,
//! HMAC-SHA2-256 and a pre-shared key, gives it one Child SA, and hands over the
//! context. It announces what a stock daemon as responder does not: Message ID
//! synchronisation (RFC 6311). No daemon: it never rekeys, and it has one identity.
//!
//! Without sockets, which [`take_in`] has; only the key exchange draws its own
//! randomness.

mod door;
mod proposal;

use std::net::Ipv4Addr;

use protocol_spec::{
    KeyMaterial,
    context::{
        Authentication, ChildTransforms, Extensions, Identification, IkeSa, IkeSecrets,
        IkeTransforms, Nat, SideEffects, VirtualIp,
    },
    ike_keys::Prf,
};
use ring::{agreement, rand::SystemRandom};

pub use self::door::take_in;
use self::proposal::{Proposal, Transform};
use super::{
    IkeError,
    answer::Path,
    crypt::Crypt,
    keys::{ChildKeys, ChildSeedRef, derive, derive_child},
    message::{HEADER, Header, Payload, read_chain, write_chain},
    notify::{Notify, kind, nat_detection},
    random,
};

const SA_INIT: u8 = 34;
const AUTH: u8 = 35;
const SA: u8 = 33;
const KEY_EXCHANGE: u8 = 34;
const ID_INITIATOR: u8 = 35;
const ID_RESPONDER: u8 = 36;
const AUTHENTICATION: u8 = 39;
const NONCE: u8 = 40;
const SELECTORS_INITIATOR: u8 = 44;
const SELECTORS_RESPONDER: u8 = 45;
const CONFIGURATION: u8 = 47;
/// Authentication Method: shared key.
const SHARED_KEY: u8 = 2;
const PRF: u16 = 5;
const X25519: u16 = 31;

const IKE: &[Transform] = &[
    Transform::new(1, 12, 256),
    Transform::new(3, 12, 0),
    Transform::new(2, PRF, 0),
    Transform::new(4, X25519, 0),
];
const ESP: &[&[Transform]] = &[
    &[Transform::new(1, 20, 128), Transform::new(5, 0, 0)],
    &[Transform::new(1, 20, 256), Transform::new(5, 0, 0)],
    &[Transform::new(1, 12, 256), Transform::new(3, 12, 0), Transform::new(5, 0, 0)],
];

/// Who we are and what an end user gets.
#[derive(Debug)]
pub struct Terms {
    /// Our identity.
    pub identity: Identification,
    /// The key that we share with every end user.
    pub shared_key: KeyMaterial,
    /// Our SPI of the IKE SA; not 0.
    pub spi: u64,
    /// Our SPI of the Child SA; above 255.
    pub child_spi: u32,
    /// The inner address for an end user that asks for one.
    pub virtual_ip: Ipv4Addr,
}

/// An end user that was taken in.
#[derive(Debug)]
pub struct Established {
    /// The response to send.
    pub datagram: Vec<u8>,
    /// The IKE SA as it stands after that.
    pub ike: IkeSa,
    /// Transforms of the Child SA.
    pub transforms: ChildTransforms,
    /// Keys of the Child SA; the end user is the initiator.
    pub keys: ChildKeys,
    /// Our SPI and the end user's.
    pub child_spis: (u32, u32),
}

/// What is to be done about a datagram.
#[derive(Debug)]
pub enum Step {
    /// Send this response back.
    Send(Vec<u8>),
    /// Send the response: the session stands.
    Established(Box<Established>),
}

/// One end user on its way in.
#[derive(Debug)]
pub struct Handshake {
    terms: Terms,
    started: Option<Started>,
    /// The last request and its answer, for repetitions (I4).
    answered: Option<(Vec<u8>, Vec<u8>)>,
}

/// After IKE_SA_INIT.
#[derive(Debug)]
struct Started {
    spis: (u64, u64),
    shared: KeyMaterial,
    nonces: [Vec<u8>; 2],
    request: Vec<u8>,
    response: Vec<u8>,
}

impl Handshake {
    /// Waits for an end user.
    pub fn new(terms: Terms) -> Self {
        Self { terms, started: None, answered: None }
    }

    /// Looks at an IKE datagram (without non-ESP marker) that arrived.
    ///
    /// # Errors
    /// Why it was not taken; the handshake stands as before.
    pub fn handle_datagram(&mut self, datagram: &[u8], path: Path) -> Result<Step, IkeError> {
        if let Some((request, response)) = &self.answered
            && request == datagram
        {
            return Ok(Step::Send(response.clone()));
        }
        let header = Header::parse(datagram)?;
        let step = match (header.exchange, header.message_id, &self.started) {
            _ if header.response || !header.from_initiator => return Err(IkeError::NotOurs),
            (SA_INIT, 0, _) => self.init(header, datagram, path)?,
            (AUTH, 1, Some(started)) => {
                Step::Established(Box::new(started.authenticate(&self.terms, datagram, path)?))
            }
            _ => return Err(IkeError::NotOurs),
        };
        let response = match &step {
            Step::Send(response) => response,
            Step::Established(established) => &established.datagram,
        };
        self.answered = Some((datagram.to_vec(), response.clone()));
        Ok(step)
    }

    fn init(&mut self, header: Header, datagram: &[u8], path: Path) -> Result<Step, IkeError> {
        let payloads = read_chain(header.next, datagram.get(HEADER..).unwrap_or_default())?;
        let chosen = proposal::choose(&proposal::read(body(&payloads, SA)?)?, &[IKE])
            .ok_or(IkeError::Malformed("it does not offer aes256-sha256-x25519"))?;
        let theirs = match body(&payloads, KEY_EXCHANGE)?.split_first_chunk::<4>() {
            Some((&[high, low, _, _], public)) if u16::from_be_bytes([high, low]) == X25519 => {
                public
            }
            _ => return Err(IkeError::Malformed("its key exchange is not X25519")),
        };
        let nonce_initiator = body(&payloads, NONCE)?.to_vec();
        if !(16..=256).contains(&nonce_initiator.len()) {
            return Err(IkeError::Malformed("a nonce has 16 to 256 octets"));
        }
        let nonce_responder = [random::cookie()?, random::cookie()?].concat();
        let (ours, shared) = agree(theirs)?;

        let spis = (header.spi_initiator, self.terms.spi);
        let mut reply = vec![
            Payload::new(SA, proposal::write(&chosen)),
            Payload::new(KEY_EXCHANGE, [&X25519.to_be_bytes()[..], &[0, 0], &ours].concat()),
            Payload::new(NONCE, nonce_responder.clone()),
        ];
        // RFC 7296 section 2.23: as the answer's sender sees source and destination.
        let detection = nat_detection(spis, path.destination, path.source);
        reply.extend(detection.iter().map(Notify::payload));
        let mut chain = Vec::new();
        write_chain(&reply, &mut chain)?;
        let answer = Header {
            spi_responder: spis.1,
            next: SA,
            from_initiator: false,
            response: true,
            ..header
        };
        let response = [&answer.write(HEADER + chain.len())?[..], &chain].concat();

        self.started = Some(Started {
            spis,
            shared,
            nonces: [nonce_initiator, nonce_responder],
            request: datagram.to_vec(),
            response: response.clone(),
        });
        Ok(Step::Send(response))
    }
}

impl Started {
    fn authenticate(
        &self,
        terms: &Terms,
        datagram: &[u8],
        path: Path,
    ) -> Result<Established, IkeError> {
        let mut ike = self.context(terms, path);
        let crypt = Crypt::new(&ike)?;
        let (header, payloads) = crypt.open(datagram)?;
        if (header.spi_initiator, header.spi_responder) != self.spis {
            return Err(IkeError::NotOurs);
        }
        let prf = Prf::from_number(PRF).ok_or(IkeError::UnsupportedPrf(PRF))?;
        let keys = derive(&ike)?;
        let [nonce_initiator, nonce_responder] = &self.nonces;
        // AUTH of a side (RFC 7296 section 2.15): over its first message, the other
        // side's nonce and its own identity.
        let auth = |message: &[u8], nonce: &[u8], sk_p: &KeyMaterial, id: &[u8]| {
            let pad = prf.apply(terms.shared_key.expose(), &[b"Key Pad for IKEv2"]);
            let id = prf.apply(sk_p.expose(), &[id]);
            prf.apply(pad.expose(), &[message, nonce, id.expose()])
        };
        let id_initiator = body(&payloads, ID_INITIATOR)?;
        let expected = auth(&self.request, nonce_responder, &keys.sk_pi, id_initiator);
        let (proof, method) = match body(&payloads, AUTHENTICATION)?.split_first_chunk::<4>() {
            Some((&[method, ..], proof)) => (KeyMaterial::new(proof.to_vec()), method),
            None => return Err(IkeError::Malformed("an AUTH payload is too short")),
        };
        if method != SHARED_KEY || proof != expected {
            return Err(IkeError::Forged);
        }

        let offered = proposal::read(body(&payloads, SA)?)?;
        let chosen = proposal::choose(&offered, ESP)
            .ok_or(IkeError::Malformed("it offers no ESP with AES-GCM or AES-CBC that we have"))?;
        let outbound = <[u8; 4]>::try_from(chosen.spi.as_slice())
            .map_err(|_| IkeError::Malformed("an ESP SPI has 4 octets"))?;
        let transforms = child_transforms(&chosen);
        let seed = ChildSeedRef { nonce_initiator, nonce_responder, shared: &[] };

        ike.remote_id = identification(id_initiator)?;
        let id_responder = identity_body(&terms.identity);
        let proof = auth(&self.response, nonce_initiator, &keys.sk_pr, &id_responder);
        let ours = Proposal { spi: terms.child_spi.to_be_bytes().to_vec(), ..chosen };
        let asks_address = payloads.iter().any(|payload| payload.kind == CONFIGURATION);
        let mut reply = vec![
            Payload::new(ID_RESPONDER, id_responder),
            Payload::new(AUTHENTICATION, [&[SHARED_KEY, 0, 0, 0], proof.expose()].concat()),
        ];
        let mut selectors_initiator = body(&payloads, SELECTORS_INITIATOR)?.to_vec();
        if asks_address {
            let address = terms.virtual_ip.octets();
            // CFG_REPLY with INTERNAL_IP4_ADDRESS.
            let body = [&[2, 0, 0, 0, 0, 1, 0, 4][..], &address].concat();
            reply.push(Payload::new(CONFIGURATION, body));
            let head = [1, 0, 0, 0, 7, 0, 0, 16, 0, 0, 0xff, 0xff];
            selectors_initiator = [&head[..], &address, &address].concat();
            ike.virtual_ips =
                vec![VirtualIp { address: terms.virtual_ip.into(), pool: String::new() }];
        }
        let selectors_responder = body(&payloads, SELECTORS_RESPONDER)?.to_vec();
        reply.extend([
            Payload::new(SA, proposal::write(&ours)),
            Payload::new(SELECTORS_INITIATOR, selectors_initiator),
            Payload::new(SELECTORS_RESPONDER, selectors_responder),
        ]);
        // A responder announces nothing that the initiator did not (RFC 6311 section 3).
        let announced = |number| {
            payloads.iter().any(|p| Notify::parse(p).is_ok_and(|notify| notify.kind == number))
        };
        ike.extensions = Extensions {
            mobike: announced(kind::MOBIKE_SUPPORTED),
            message_id_sync: announced(kind::MESSAGE_ID_SYNC_SUPPORTED),
            ..Extensions::default()
        };
        for (both, number) in [
            (ike.extensions.mobike, kind::MOBIKE_SUPPORTED),
            (ike.extensions.message_id_sync, kind::MESSAGE_ID_SYNC_SUPPORTED),
        ] {
            if both {
                reply.push(Notify::new(number, Vec::new()).payload());
            }
        }
        let answer = Header { from_initiator: false, response: true, ..header };
        Ok(Established {
            datagram: crypt.seal(answer, &reply, &random::iv()?)?,
            keys: derive_child(PRF, &keys.sk_d, seed, &transforms)?,
            transforms,
            child_spis: (terms.child_spi, u32::from_be_bytes(outbound)),
            ike,
        })
    }

    /// The IKE SA at the addresses where the end user was seen last.
    fn context(&self, terms: &Terms, path: Path) -> IkeSa {
        let [nonce_initiator, nonce_responder] = self.nonces.clone();
        IkeSa {
            spi_initiator: self.spis.0,
            spi_responder: self.spis.1,
            initiator: false,
            version: 2,
            transforms: IkeTransforms {
                encryption: 12,
                key_bits: 256,
                integrity: 12,
                prf: PRF,
                key_exchange: X25519,
            },
            secrets: IkeSecrets::Seed {
                nonce_initiator,
                nonce_responder,
                shared: vec![self.shared.duplicate()],
                replaced: None,
            },
            window: 1,
            next_send: 0,
            next_receive: 2,
            local_id: terms.identity.clone(),
            remote_id: Identification { kind: 0, data: Vec::new() },
            eap_identity: None,
            authentication: Authentication::Method(SHARED_KEY),
            local: path.destination,
            remote: path.source,
            nat: Nat::default(),
            extensions: Extensions::default(),
            peer_addresses: Vec::new(),
            virtual_ips: Vec::new(),
            rekey_in: None,
            reauthenticate_in: None,
            expire_in: None,
            configuration: String::new(),
            side_effects: SideEffects::default(),
            native: None,
        }
    }
}

/// Our public value and the shared secret.
fn agree(theirs: &[u8]) -> Result<(Vec<u8>, KeyMaterial), IkeError> {
    let private =
        agreement::EphemeralPrivateKey::generate(&agreement::X25519, &SystemRandom::new())
            .map_err(|_| IkeError::NoRandomness)?;
    let ours = private.compute_public_key().map_err(|_| IkeError::NoRandomness)?;
    let theirs = agreement::UnparsedPublicKey::new(&agreement::X25519, theirs);
    let shared =
        agreement::agree_ephemeral(private, &theirs, |secret| KeyMaterial::new(secret.to_vec()))
            .map_err(|_| IkeError::Malformed("its public value is none of X25519"))?;
    Ok((ours.as_ref().to_vec(), shared))
}

fn body(payloads: &[Payload], kind: u8) -> Result<&[u8], IkeError> {
    payloads
        .iter()
        .find(|payload| payload.kind == kind)
        .map(|payload| payload.body.as_slice())
        .ok_or(IkeError::Malformed("a payload that the exchange needs is missing"))
}

fn identity_body(identity: &Identification) -> Vec<u8> {
    [&[identity.kind, 0, 0, 0], identity.data.as_slice()].concat()
}

fn identification(body: &[u8]) -> Result<Identification, IkeError> {
    let (&[kind, ..], data) = body
        .split_first_chunk::<4>()
        .ok_or(IkeError::Malformed("an identification payload is too short"))?;
    Ok(Identification { kind, data: data.to_vec() })
}

fn child_transforms(chosen: &Proposal) -> ChildTransforms {
    let of = |kind| chosen.transforms.iter().find(|transform| transform.kind == kind);
    ChildTransforms {
        encryption: of(1).map_or(0, |transform| transform.id),
        key_bits: of(1).map_or(0, |transform| transform.key_bits),
        integrity: of(3).map_or(0, |transform| transform.id),
    }
}

#[cfg(test)]
mod tests;
