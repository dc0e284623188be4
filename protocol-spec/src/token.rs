//! Who may pull a session away from its owner: the end user's token and the
//! controller's order.

use bincode::{Decode, Encode};
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    codec,
    id::{Name, RequestId, SessionId},
    ike_keys::Prf,
    key::KeyMaterial,
    transfer::TransferMode,
};

/// Stands before the claims of a token, and makes the token's key another one
/// than any that IKE uses.
const TOKEN_LABEL: &[u8] = b"cxtp/1 token";
/// Stands before the claims of an order.
const ORDER_LABEL: &[u8] = b"cxtp/1 order";

/// What an authorization token covers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct TokenClaims {
    /// Which session, if the end user knows its id.
    pub session: Option<SessionId>,
    /// IKE SPIs, initiator's and responder's.
    pub ike_spis: (u64, u64),
    /// Where the session is.
    pub source: Name,
    /// Where it shall go.
    pub target: Name,
    /// How.
    pub mode: TransferMode,
    /// Random, not used twice (RFC 4067 section 2.5.1, Sequence Number).
    pub sequence: u64,
    /// Valid until this many seconds since 1970-01-01 UTC.
    pub expires: u64,
}

impl TokenClaims {
    /// The MAC of these claims: the first 128 bits of `prf(key, label | claims)`
    /// under `key = prf+(SK_d, label)`, with the negotiated pseudo-random function
    /// of the IKE SA. `None` for a function that [`Prf`] does not have.
    //= spec CXTP-7.1-1
    pub fn mac(&self, sk_d: &KeyMaterial, prf: u16) -> Option<[u8; 16]> {
        let prf = Prf::from_number(prf)?;
        let key = prf.expand(sk_d.expose(), &[TOKEN_LABEL], prf.octets())?;
        let claims = codec::encode(self).ok()?;
        let mac = prf.apply(key.expose(), &[TOKEN_LABEL, &claims]);
        mac.expose().first_chunk().copied()
    }
}

/// An authorization token: a MAC of 128 bits over the claims, under a key
/// derived from SK_d.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Token {
    /// What it covers.
    pub claims: TokenClaims,
    /// The MAC.
    pub mac: [u8; 16],
}

impl Token {
    /// The token of an end user, who knows SK_d as its gateway does. `None` for a
    /// pseudo-random function that [`Prf`] does not have.
    pub fn issue(claims: TokenClaims, sk_d: &KeyMaterial, prf: u16) -> Option<Self> {
        let mac = claims.mac(sk_d, prf)?;
        Some(Self { claims, mac })
    }

    /// Whether the end user made this token. Says nothing about expiry and
    /// repetition.
    pub fn verify(&self, sk_d: &KeyMaterial, prf: u16) -> bool {
        //= spec CXTP-7.1-2
        self.claims.mac(sk_d, prf).is_some_and(|mac| mac.ct_eq(&self.mac).into())
    }
}

/// What a controller orders.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct OrderClaims {
    /// Used once.
    pub id: RequestId,
    /// Who orders.
    pub controller: Name,
    /// Which sessions.
    pub sessions: Vec<SessionId>,
    /// Where they are.
    pub source: Name,
    /// Where they shall go.
    pub target: Name,
    /// Valid until this many seconds since 1970-01-01 UTC.
    pub expires: u64,
}

/// A controller's order with its Ed25519 signature over the label
/// `cxtp/1 order` and the encoded claims.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Order {
    /// What is ordered.
    pub claims: OrderClaims,
    /// 64 octets.
    pub signature: Vec<u8>,
}

impl OrderClaims {
    fn signed_octets(&self) -> Option<Zeroizing<Vec<u8>>> {
        let claims = codec::encode(self).ok()?;
        Some(Zeroizing::new([ORDER_LABEL, &claims].concat()))
    }
}

impl Order {
    /// Signs claims. `None` for claims larger than any message may be.
    pub fn sign(claims: OrderClaims, key: &Ed25519KeyPair) -> Option<Self> {
        let signature = key.sign(&claims.signed_octets()?).as_ref().to_vec();
        Some(Self { claims, signature })
    }

    /// Whether the holder of this Ed25519 key (32 octets) signed the order. Says
    /// nothing about expiry and repetition.
    pub fn verify(&self, public_key: &[u8]) -> bool {
        //= spec CXTP-7.2-1
        self.claims.signed_octets().is_some_and(|octets| {
            UnparsedPublicKey::new(&ED25519, public_key).verify(&octets, &self.signature).is_ok()
        })
    }
}

#[cfg(test)]
mod tests;
