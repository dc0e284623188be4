//! What an operator decides about the engine.

use std::{collections::BTreeMap, time::Duration};

use protocol_spec::{id::Name, limits};

/// The engine's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// This gateway.
    pub name: Name,
    /// The peers that may connect, by name.
    pub peers: BTreeMap<Name, PeerPolicy>,
    /// Public Ed25519 keys of controllers whose orders count, by name.
    pub controllers: BTreeMap<Name, Vec<u8>>,
    /// From pause to commit of one session; after it the source aborts.
    pub max_transfer_time: Duration,
    /// First repetition of a request; doubles each time.
    pub request_retry: Duration,
    /// A request is given up after this time.
    pub retry_max: Duration,
    /// A session that was sent is staged within this time or its transfer ends.
    pub stage_timeout: Duration,
    /// A staged session that hears nothing of its source is dropped after this
    /// time, with *aborted* in the journal.
    pub staged_timeout: Duration,
    /// Sessions of one batch that may be sent and not yet answered: bounds the
    /// memory of the source.
    pub staging_window: usize,
    /// A batch stages all that its staging window holds before it pauses the first one,
    /// and begins others when all of those have gone: where the target's gateway does
    /// one thing after the other, a paused session would wait while others are staged.
    pub stage_first: bool,
    /// Sessions that may be paused and not yet active elsewhere at one time:
    /// bounds the gap of each.
    pub pause_window: usize,
    /// How often a session that changed is staged again before it is aborted.
    pub max_restage: u32,
    /// Batches that may run at one time.
    pub max_batches: usize,
    /// How long a tombstone is kept where no hard lifetime is known.
    pub tombstone: Duration,
    /// Numbers in the first granted range.
    pub grant_span: u64,
    /// CTAR and CT-Req taken from one peer in a second.
    pub request_rate: u32,
    /// The guard that is taken out.
    #[cfg(feature = "sabotage")]
    pub sabotage: Option<super::Sabotage>,
}

/// What one peer may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPolicy {
    /// It may send us sessions.
    pub may_push: bool,
    /// It may ask us for sessions, with an authority.
    pub may_pull: bool,
    /// Sessions staged for it here at one time.
    pub max_staged: usize,
    /// Sessions that it may pull in a minute.
    pub pulls_per_minute: u32,
}

impl Default for PeerPolicy {
    fn default() -> Self {
        Self { may_push: true, may_pull: false, max_staged: 65_536, pulls_per_minute: 0 }
    }
}

impl EngineConfig {
    /// The defaults, with RFC 4067's constants.
    pub fn new(name: Name) -> Self {
        Self {
            name,
            peers: BTreeMap::new(),
            controllers: BTreeMap::new(),
            max_transfer_time: limits::CT_MAX_TRANSFER_TIME,
            request_retry: limits::CT_REQUEST_RETRY,
            retry_max: limits::CT_RETRY_MAX,
            stage_timeout: Duration::from_secs(15),
            staged_timeout: Duration::from_secs(60),
            staging_window: 2048,
            stage_first: false,
            pause_window: 64,
            max_restage: 3,
            max_batches: 64,
            tombstone: Duration::from_secs(24 * 3600),
            grant_span: limits::GRANT_SPAN,
            request_rate: limits::CT_REQUEST_RATE,
            #[cfg(feature = "sabotage")]
            sabotage: None,
        }
    }
}
