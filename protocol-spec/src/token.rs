//! Who may pull a session away from its owner: the end user's token and the
//! controller's order.

use bincode::{Decode, Encode};

use crate::{
    id::{Name, RequestId, SessionId},
    transfer::TransferMode,
};

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

/// An authorization token: a MAC of 128 bits over the claims, under a key
/// derived from SK_d.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Token {
    /// What it covers.
    pub claims: TokenClaims,
    /// The MAC.
    pub mac: [u8; 16],
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
