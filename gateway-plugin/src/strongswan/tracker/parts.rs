//! What a session is made of: IKE SAs, what is known of them, Child SAs.

mod child;
mod facts;
mod ike;

pub(super) use child::Child;
pub use child::{Negotiated, TrackedChild};
pub(super) use facts::Facts;
pub(super) use ike::IkeNode;

/// Key exchanges of one SA (RFC 9370: one and at most seven further ones).
const MAX_EXCHANGES: usize = 8;
