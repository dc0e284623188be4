//! Every bound of the protocol in one place. Peers may announce lower ones in
//! their hello, never higher ones.

use std::time::Duration;

/// Largest body of a frame on a stream, in octets.
pub const MAX_BODY: usize = 1 << 20;
/// Largest frame in a datagram, in octets.
pub const MAX_DATAGRAM: usize = 1200;
/// Largest number of entries (sessions) in one message.
pub const MAX_ENTRIES: usize = 1024;
/// Most Child SAs in one context.
pub const MAX_CHILDREN: usize = 256;
/// Most octets in one item of key material.
pub const MAX_KEY_OCTETS: usize = 1024;
/// Largest replay window in packets (Linux `XFRMA_REPLAY_ESN_VAL`, 128 words).
pub const MAX_REPLAY_WINDOW: u32 = 4096;
/// Most octets in a name.
pub const MAX_NAME: usize = 64;
/// Most octets in any other text of a context.
pub const MAX_TEXT: usize = 256;
/// Most octets in the explanation of a refusal.
pub const MAX_DETAIL: usize = 256;
/// Most octets in an identification payload.
pub const MAX_IDENTIFICATION: usize = 4096;
/// Most octets in a nonce (RFC 7296 section 3.9).
pub const MAX_NONCE: usize = 256;
/// Most octets in the last response of an IKE SA.
pub const MAX_RESPONSE: usize = 65_535;
/// Most addresses of an IKE SA, and most policies of a Child SA.
pub const MAX_LIST: usize = 256;

/// How long a session may be paused before its transfer is committed; after
/// that the source aborts (RFC 4067 section 4, CT_MAX_TRANSFER_TIME).
pub const CT_MAX_TRANSFER_TIME: Duration = Duration::from_millis(200);
/// First repetition of a request (RFC 4067 section 4, CT_REQUEST_RETRY); doubles.
pub const CT_REQUEST_RETRY: Duration = Duration::from_secs(2);
/// A request is given up after this time (RFC 4067 section 4, CT_RETRY_MAX).
pub const CT_RETRY_MAX: Duration = Duration::from_secs(15);
/// CTAR and CT-Req a gateway takes from one peer in a second (RFC 4067 section 4,
/// CT_REQUEST_RATE).
pub const CT_REQUEST_RATE: u32 = 10;

/// Smallest headroom between the highest number used and the base of a grant.
pub const MIN_GRANT_HEADROOM: u64 = 1 << 16;
/// Numbers in the first granted range of an SA; a `Grant` message extends it
/// once the source has released.
pub const GRANT_SPAN: u64 = 1 << 24;
