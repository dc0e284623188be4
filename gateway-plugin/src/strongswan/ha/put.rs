//! PUT: the messages that make a session of another gateway one of this charon's.
//!
//! In this order, each only once (none of them is safe to repeat):
//!
//! 1. [`ike_messages`]: charon has a passive IKE SA, which drops every IKE message,
//!    asks nothing of the peer and lets nothing expire by its own word;
//! 2. [`child_message`] for each Child SA: charon derives keys and installs kernel
//!    SAs *and live policies* at once, with the outer addresses that the IKE SA has
//!    in that moment. The IKE SA stays passive;
//! 3. [`park`], so that nothing else activates it;
//! 4. when the session is this gateway's: [`mids`] with the last numbers, then
//!    [`activate`]. Never the other way round: a Message ID set on an active SA
//!    throws away its stored response and begins an open exchange anew.
//!
//! A Child SA's keys hang on the SK_d of the IKE SA under which it was made. charon
//! has only the present one, so for a child that is older (`seed` is `None`) its
//! keys come out wrong: the caller compares the kernel's SAs with the context and
//! replaces those that differ before anything may use them.

use std::net::{IpAddr, SocketAddr};

use protocol_spec::{
    context::{
        Authentication, ChildSa, Context, Direction, Identification, IkeSa, IkeSecrets, Mode,
        Protocol, ReplacedSa, Selector,
    },
    key::KeyMaterial,
};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{
    attribute::Attribute,
    message::{Datagram, HaError, Kind, Message, Version},
    segment::Gate,
    value::{IkeId, Spi, TrafficSelector},
};

/// Whose bits [`protocol_spec::context::Native`] holds.
pub const DIALECT: &str = "strongswan";
/// Octets of the nonces that stand in for those of a child without seed.
const STAND_IN_NONCE: usize = 32;
/// IPComp transform of RFC 3173's DEFLATE, the only one that Linux has.
const DEFLATE: u8 = 2;
/// Identification types (RFC 7296 section 3.5).
const ID_FQDN: u8 = 2;
const ID_RFC822: u8 = 3;

/// charon's bits of an IKE SA's condition that are needed or made here.
pub(in crate::strongswan) mod condition {
    pub(in crate::strongswan) const NAT_ANY: u32 = 1 << 0;
    pub(in crate::strongswan) const NAT_HERE: u32 = 1 << 1;
    pub(in crate::strongswan) const NAT_THERE: u32 = 1 << 2;
    pub(in crate::strongswan) const EAP: u32 = 1 << 4;
    pub(in crate::strongswan) const ORIGINAL_INITIATOR: u32 = 1 << 6;
    pub(in crate::strongswan) const PPK: u32 = 1 << 13;
    pub(in crate::strongswan) const AUTHENTICATED: u32 = 1 << 14;
}

/// charon's bits of what a peer announced.
pub(in crate::strongswan) mod extension {
    pub(in crate::strongswan) const NAT_TRAVERSAL: u32 = 1 << 0;
    pub(in crate::strongswan) const MOBIKE: u32 = 1 << 1;
    pub(in crate::strongswan) const DPD: u32 = 1 << 8;
    pub(in crate::strongswan) const FRAGMENTATION: u32 = 1 << 11;
    pub(in crate::strongswan) const REDIRECT: u32 = 1 << 13;
    pub(in crate::strongswan) const MESSAGE_ID_SYNC: u32 = 1 << 14;
}

/// A context that charon cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PutError {
    /// Nothing that a daemon could own.
    #[error("the session has no IKE SA, so no charon can own it")]
    NoIkeSa,
    /// The source's daemon gave keys instead of what they are made of.
    #[error(
        "the IKE SA came with ready keys, and charon makes its keys itself from nonces and secrets: move the session to a gateway without charon, or after its user has come back"
    )]
    NoSeed,
    /// Something that the HA messages of this version have no word for.
    #[error("charon's HA messages cannot carry {0}")]
    NotCarried(&'static str),
    /// A value that does not fit.
    #[error(transparent)]
    Message(#[from] HaError),
}

/// How charon calls this IKE SA.
pub fn ike_id(ike: &IkeSa) -> IkeId {
    IkeId {
        version: ike.version,
        spi_initiator: ike.spi_initiator,
        spi_responder: ike.spi_responder,
        initiator: ike.initiator,
    }
}

/// The messages after which charon has the session's IKE SA, passive. `local`
/// replaces the gateway's address where the target has its own (Multi-LAN).
///
/// # Errors
/// [`PutError`] for what charon cannot be told.
pub fn ike_messages(
    context: &Context,
    local: Option<SocketAddr>,
    version: Version,
) -> Result<Vec<Datagram>, PutError> {
    let ike = context.ike.as_ref().ok_or(PutError::NoIkeSa)?;
    let native = ike.native.as_ref().filter(|native| native.dialect == DIALECT);
    if ike.version != 2 {
        // charon wants public values and the pre-shared key for IKEv1.
        return Err(PutError::NotCarried("IKEv1"));
    }
    if native.is_some_and(|native| native.conditions & condition::PPK != 0) {
        return Err(PutError::NotCarried("a post-quantum pre-shared key (RFC 8784)"));
    }
    let mut messages = additions(ike, version)?;
    messages.push(identity(ike, local));
    messages.push(state(ike));
    let encoded: Result<Vec<_>, _> = messages.iter().map(|m| m.encode(version)).collect();
    let mut encoded = encoded?;
    encoded.extend(mids(&ike_id(ike), ike.next_send, ike.next_receive, version)?);
    Ok(encoded)
}

/// The IKE_ADD, and one more for each further key exchange that followed in
/// IKE_INTERMEDIATE (RFC 9370): charon makes the keys anew with each.
fn additions(ike: &IkeSa, version: Version) -> Result<Vec<Message>, PutError> {
    let IkeSecrets::Seed { nonce_initiator, nonce_responder, shared, replaced } = &ike.secrets
    else {
        return Err(PutError::NoSeed);
    };
    let (first, further) = shared.split_first().ok_or(PutError::NoSeed)?;
    if version == Version::V3 && !further.is_empty() {
        return Err(PutError::NotCarried("several key exchanges to a strongSwan 5"));
    }
    let head = || vec![Attribute::IkeVersion(ike.version), Attribute::IkeId(ike_id(ike))];
    let exchange = |secret: &KeyMaterial| {
        [
            Attribute::NonceInitiator(nonce_initiator.clone()),
            Attribute::NonceResponder(nonce_responder.clone()),
            Attribute::Secret(secret.duplicate()),
        ]
    };
    let tail = || Attribute::RemoteAddress(ike.remote);

    // No IkeRekeyId: charon would strip the SA of that name and destroy it. The
    // old SK_d alone makes it derive the keys as of a rekeying.
    let mut attributes = head();
    if let Some(ReplacedSa { prf, sk_d }) = replaced {
        attributes.push(Attribute::OldPrf(*prf));
        attributes.push(Attribute::OldSkD(sk_d.duplicate()));
    }
    let t = &ike.transforms;
    attributes.extend(present(t.encryption).map(Attribute::Encryption));
    attributes.extend(present(t.key_bits).map(Attribute::KeyBits));
    attributes.extend(present(t.integrity).map(Attribute::Integrity));
    attributes.extend(present(t.prf).map(Attribute::Prf));
    attributes.extend(present(t.key_exchange).map(Attribute::KeyExchange));
    attributes.extend(exchange(first));
    // In a rekeying all further secrets go into one seed.
    let (joined, followed) = match replaced {
        Some(_) => (further, &[] as &[KeyMaterial]),
        None => (&[] as &[KeyMaterial], further),
    };
    attributes.extend(join(joined).map(Attribute::AdditionalSecret));
    attributes.push(tail());
    let mut messages = vec![Message { kind: Kind::IkeAdd, attributes }];
    for secret in followed {
        let mut attributes = head();
        attributes.extend(exchange(secret));
        attributes.push(tail());
        messages.push(Message { kind: Kind::IkeAdd, attributes });
    }
    Ok(messages)
}

/// Who, where and under which configuration; the configuration's name makes the
/// SA passive (or, unknown to this charon, destroys it).
fn identity(ike: &IkeSa, local: Option<SocketAddr>) -> Message {
    let mut attributes = vec![
        Attribute::IkeId(ike_id(ike)),
        Attribute::LocalId(ike.local_id.clone()),
        Attribute::RemoteId(ike.remote_id.clone()),
    ];
    attributes.extend(ike.eap_identity.as_deref().map(|text| {
        // As charon reads an EAP identity.
        let kind = if text.contains('@') { ID_RFC822 } else { ID_FQDN };
        Attribute::RemoteEapId(Identification { kind, data: text.as_bytes().to_vec() })
    }));
    attributes.push(Attribute::LocalAddress(local.unwrap_or(ike.local)));
    attributes.push(Attribute::RemoteAddress(ike.remote));
    attributes.push(Attribute::Configuration(ike.configuration.clone()));
    attributes.extend(
        ike.peer_addresses
            .iter()
            .map(|address| Attribute::PeerAddress(SocketAddr::new(*address, ike.remote.port()))),
    );
    Message { kind: Kind::IkeUpdate, attributes }
}

/// Conditions, extensions, inner addresses, once the SA is passive: to an SA that
/// is not, the condition that we are behind a NAT makes charon send a keepalive.
fn state(ike: &IkeSa) -> Message {
    let native = ike.native.as_ref().filter(|native| native.dialect == DIALECT);
    let (conditions, extensions) = native.map_or_else(
        || (conditions(ike), extensions(ike)),
        |native| (native.conditions, native.extensions),
    );
    let mut attributes = vec![
        Attribute::IkeId(ike_id(ike)),
        Attribute::Conditions(conditions),
        Attribute::Extensions(extensions),
    ];
    attributes.extend(
        ike.virtual_ips.iter().map(|ip| Attribute::RemoteVirtualIp(SocketAddr::new(ip.address, 0))),
    );
    Message { kind: Kind::IkeUpdate, attributes }
}

fn conditions(ike: &IkeSa) -> u32 {
    let eap = matches!(ike.authentication, Authentication::Eap(_));
    let rekeyed = matches!(ike.secrets, IkeSecrets::Seed { replaced: Some(_), .. });
    bits([
        (true, condition::AUTHENTICATED),
        (ike.nat.local || ike.nat.remote, condition::NAT_ANY),
        (ike.nat.local, condition::NAT_HERE),
        (ike.nat.remote, condition::NAT_THERE),
        (eap, condition::EAP),
        (ike.initiator && !rekeyed, condition::ORIGINAL_INITIATOR),
    ])
}

fn extensions(ike: &IkeSa) -> u32 {
    let e = &ike.extensions;
    bits([
        (true, extension::NAT_TRAVERSAL | extension::DPD),
        (e.mobike, extension::MOBIKE),
        (e.fragmentation, extension::FRAGMENTATION),
        (e.redirect, extension::REDIRECT),
        (e.message_id_sync, extension::MESSAGE_ID_SYNC),
    ])
}

fn bits<const N: usize>(pairs: [(bool, u32); N]) -> u32 {
    pairs.into_iter().filter(|(set, _)| *set).fold(0, |word, (_, bit)| word | bit)
}

/// The message after which charon has this Child SA, installed in the kernel.
/// Without a seed the keys are made of stand-in nonces and are wrong; see the
/// module's text.
///
/// # Errors
/// [`PutError`] for what charon cannot be told.
pub fn child_message(
    context: &Context,
    child: &ChildSa,
    version: Version,
) -> Result<Datagram, PutError> {
    let ike = context.ike.as_ref().ok_or(PutError::NoIkeSa)?;
    if child.protocol != Protocol::Esp {
        return Err(PutError::NotCarried("AH"));
    }
    let (inbound_cpi, outbound_cpi) = child.cpi.unwrap_or((0, 0));
    let mut attributes = vec![
        Attribute::IkeId(ike_id(ike)),
        Attribute::Initiator(child.seed.as_ref().is_some_and(|seed| seed.initiator).into()),
        Attribute::InboundSpi(Spi(child.inbound.spi)),
        Attribute::OutboundSpi(Spi(child.outbound.spi)),
        Attribute::InboundCpi(inbound_cpi),
        Attribute::OutboundCpi(outbound_cpi),
        Attribute::Mode(match child.mode {
            Mode::Transport => 1,
            Mode::Tunnel => 2,
            Mode::Beet => 3,
        }),
        Attribute::IpComp(if child.cpi.is_some() { DEFLATE } else { 0 }),
        Attribute::Configuration(child.configuration.clone()),
    ];
    let t = &child.transforms;
    attributes.extend(present(t.encryption).map(Attribute::Encryption));
    attributes.extend(present(t.key_bits).map(Attribute::KeyBits));
    attributes.extend(present(t.integrity).map(Attribute::Integrity));
    attributes.push(Attribute::ExtendedNumbers(child.esn.into()));
    match &child.seed {
        Some(seed) => {
            attributes.push(Attribute::NonceInitiator(seed.nonce_initiator.clone()));
            attributes.push(Attribute::NonceResponder(seed.nonce_responder.clone()));
            if let Some((first, further)) = seed.shared.split_first() {
                if version == Version::V3 && !further.is_empty() {
                    return Err(PutError::NotCarried("several key exchanges to a strongSwan 5"));
                }
                attributes.push(Attribute::Secret(first.duplicate()));
                attributes.extend(join(further).map(Attribute::AdditionalSecret));
            }
        }
        None => {
            attributes.push(Attribute::NonceInitiator(vec![0; STAND_IN_NONCE]));
            attributes.push(Attribute::NonceResponder(vec![0; STAND_IN_NONCE]));
        }
    }
    let selectors = selectors(child);
    if selectors.is_empty() {
        return Err(PutError::NotCarried("a Child SA without outbound policy"));
    }
    attributes.extend(selectors);
    Ok(Message { kind: Kind::ChildAdd, attributes }.encode(version)?)
}

/// The traffic selectors of which the policies are the pairs.
fn selectors(child: &ChildSa) -> Vec<Attribute> {
    let (mut local, mut remote) = (Vec::new(), Vec::new());
    for policy in child.policies.iter().filter(|policy| policy.direction == Direction::Out) {
        for (side, selector) in [(&mut local, &policy.source), (&mut remote, &policy.destination)] {
            let selector = range(selector, policy.protocol);
            if !side.contains(&selector) {
                side.push(selector);
            }
        }
    }
    let local = local.into_iter().map(Attribute::LocalSelector);
    local.chain(remote.into_iter().map(Attribute::RemoteSelector)).collect()
}

fn range(selector: &Selector, protocol: u8) -> TrafficSelector {
    let bits = u32::from(selector.prefix.bits);
    let (first, last) = match selector.prefix.address {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(bits).unwrap_or(0);
            let address = u32::from(address);
            (IpAddr::V4((address & !host).into()), IpAddr::V4((address | host).into()))
        }
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(bits).unwrap_or(0);
            let address = u128::from(address);
            (IpAddr::V6((address & !host).into()), IpAddr::V6((address | host).into()))
        }
    };
    TrafficSelector { protocol, ports: selector.ports, dynamic: false, first, last }
}

/// Sets the next Message IDs, of requests that the gateway sends and of requests
/// that it expects. charon ignores a zero, which is what a new SA has anyway.
///
/// On an SA that is active this throws away the stored response and begins an open
/// exchange anew under the new number: only for passive ones.
///
/// # Errors
/// None that a caller could cause; encoding them cannot fail.
pub fn mids(
    ike: &IkeId,
    next_send: u32,
    next_receive: u32,
    version: Version,
) -> Result<Vec<Datagram>, HaError> {
    [(Kind::IkeMidInitiator, next_send), (Kind::IkeMidResponder, next_receive)]
        .into_iter()
        .filter(|(_, mid)| *mid != 0)
        .map(|(kind, mid)| {
            let attributes = vec![Attribute::IkeId(*ike), Attribute::MessageId(mid)];
            Message { kind, attributes }.encode(version)
        })
        .collect()
}

/// Sets the end user's address in charon's books; Child SAs keep theirs.
///
/// # Errors
/// None that a caller could cause.
pub fn move_remote(ike: &IkeId, remote: SocketAddr, version: Version) -> Result<Datagram, HaError> {
    let attributes = vec![Attribute::IkeId(*ike), Attribute::RemoteAddress(remote)];
    Message { kind: Kind::IkeUpdate, attributes }.encode(version)
}

/// Puts a passive SA where no toggling of the gate reaches it.
///
/// # Errors
/// None that a caller could cause.
pub fn park(
    ike: &IkeId,
    remote: SocketAddr,
    gate: &Gate,
    version: Version,
) -> Result<Datagram, HaError> {
    move_remote(ike, SocketAddr::new(gate.park, remote.port()), version)
}

/// Activates exactly this passive SA, whose end user is at `remote`.
///
/// # Errors
/// None that a caller could cause.
pub fn activate(
    ike: &IkeId,
    remote: SocketAddr,
    gate: &Gate,
    version: Version,
) -> Result<[Datagram; 4], HaError> {
    Ok([
        move_remote(ike, SocketAddr::new(gate.gate, remote.port()), version)?,
        segment(Kind::SegmentTake, gate.segment, version)?,
        segment(Kind::SegmentDrop, gate.segment, version)?,
        move_remote(ike, remote, version)?,
    ])
}

/// Has charon's books give an IKE SA an inner address that no pool has instead of its
/// own. Said before [`delete`] of a session that lives on elsewhere: what a pool gave
/// it stays leased to its identity, so that nobody else gets it, and is free again
/// when the session has come home and ended there.
///
/// # Errors
/// None that a caller could cause.
pub fn lend(ike: &IkeId, version: Version) -> Result<Datagram, HaError> {
    let nowhere = Attribute::RemoteVirtualIp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let attributes = vec![Attribute::IkeId(*ike), nowhere];
    Message { kind: Kind::IkeUpdate, attributes }.encode(version)
}

/// Makes charon forget an IKE SA and its Child SAs, in the kernel too, without a
/// word to the end user. Ends its leases: see [`lend`].
///
/// # Errors
/// None that a caller could cause.
pub fn delete(ike: &IkeId, version: Version) -> Result<Datagram, HaError> {
    Message { kind: Kind::IkeDelete, attributes: vec![Attribute::IkeId(*ike)] }.encode(version)
}

/// Makes charon forget one Child SA, in the kernel too, without a word to the end
/// user.
///
/// # Errors
/// None that a caller could cause.
pub fn delete_child(ike: &IkeId, inbound: Spi, version: Version) -> Result<Datagram, HaError> {
    let attributes = vec![Attribute::IkeId(*ike), Attribute::InboundSpi(inbound)];
    Message { kind: Kind::ChildDelete, attributes }.encode(version)
}

/// A message about one segment: [`Kind::SegmentTake`] (its SAs become passive),
/// [`Kind::SegmentDrop`] (active) or [`Kind::Resync`], see [`relearn`].
///
/// # Errors
/// None that a caller could cause.
pub fn segment(kind: Kind, segment: u16, version: Version) -> Result<Datagram, HaError> {
    Message { kind, attributes: vec![Attribute::Segment(segment)] }.encode(version)
}

/// Makes charon tell everything about the IKE SAs of a segment once more, without
/// rekeying their Child SAs: `RESYNC` alone rekeys those of all IKE SAs that are
/// established, so here they are passive while it runs. Works for what was never
/// heard, too. The Child SAs are not told; vici and the kernel know them.
///
/// All passive SAs of the segment become active: never for
/// [`Segments::parking`](super::Segments::parking) while sessions are parked there.
///
/// # Errors
/// None that a caller could cause.
pub fn relearn(segment_number: u16, version: Version) -> Result<[Datagram; 4], HaError> {
    Ok([
        // A charon starts with no segment active, and only an active one can be taken.
        segment(Kind::SegmentDrop, segment_number, version)?,
        segment(Kind::SegmentTake, segment_number, version)?,
        segment(Kind::Resync, segment_number, version)?,
        segment(Kind::SegmentDrop, segment_number, version)?,
    ])
}

fn present(number: u16) -> Option<u16> {
    (number != 0).then_some(number)
}

/// Secrets behind one another, or `None` for none.
fn join(secrets: &[KeyMaterial]) -> Option<KeyMaterial> {
    let octets = secrets.iter().map(KeyMaterial::len).sum();
    let mut joined = Zeroizing::new(Vec::with_capacity(octets));
    secrets.iter().for_each(|secret| joined.extend_from_slice(secret.expose()));
    (octets > 0).then(|| KeyMaterial::new(std::mem::take(&mut *joined)))
}

#[cfg(test)]
mod tests;
