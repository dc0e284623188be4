//! What a move adds to a session: the granted numbers, the last counters, and
//! where it stands.

use std::time::Duration;

use bincode::{Decode, Encode};

use crate::{
    context::{LifetimeUsed, Protocol, ReplayWindow},
    id::{BatchId, Generation, Name, SessionEpoch, SessionId},
    status::Refusal,
};

/// How the move began (RFC 4067 section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum TransferMode {
    /// The context is sent before the end user arrives at the target.
    Predictive,
    /// The context is asked for by the target once it is needed.
    Reactive,
}

/// One SA of a session, as its inbound SPI at the gateway names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct SaRef {
    /// ESP or AH.
    pub protocol: Protocol,
    /// Inbound SPI of the pair.
    pub inbound_spi: u32,
}

/// The outbound sequence numbers of one SA that a gateway may use: `[base, end)`.
/// Nobody else uses them, whatever happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct GrantedRange {
    /// Of which SA pair.
    pub sa: SaRef,
    /// First number that may be used.
    pub base: u64,
    /// First number that may not.
    pub end: u64,
}

/// What changed between staging and pause, read when nothing moves any more:
/// sent in the final CTD. Holds no key, so it may stand in a journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Finals {
    /// The state of SPIs, keys, selectors and addresses that these belong to.
    pub generation: Generation,
    /// Message IDs and the last response.
    pub ike: Option<IkeFinals>,
    /// Counters of each Child SA.
    pub children: Vec<ChildFinals>,
}

/// Message IDs of an IKE SA that is paused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct IkeFinals {
    /// Next Message ID of a request that the gateway sends.
    pub next_send: u32,
    /// Next Message ID of a request that the gateway expects.
    pub next_receive: u32,
    /// The last response as it was sent, from the IKE header on; a repeated
    /// request gets the same octets from the target (RFC 7296 section 2.1).
    pub last_response: Option<Vec<u8>>,
}

/// Counters of a Child SA that is paused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct ChildFinals {
    /// Which SA pair.
    pub sa: SaRef,
    /// Highest outbound number used.
    pub sequence: u64,
    /// The inbound window.
    pub window: ReplayWindow,
    /// What was used of the lifetime.
    pub used: LifetimeUsed,
}

/// Where a session stands on a gateway, as the gateway itself sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum SessionState {
    /// In use here.
    Active,
    /// Stopped here: the guard is up, inner traffic goes to `target`.
    Paused {
        /// Where it is going.
        target: Name,
    },
    /// Installed here but not in use.
    Staged {
        /// Where it comes from.
        source: Name,
        /// The transfer that staged it.
        batch: BatchId,
    },
}

/// What a gateway tells of a session that it holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct SessionStatus {
    /// Which session.
    pub session: SessionId,
    /// Its newest ownership that the gateway knows.
    pub epoch: SessionEpoch,
    /// Its SPIs, keys, selectors and addresses.
    pub generation: Generation,
    /// Where it stands.
    pub state: SessionState,
}

/// What the source needs to know of a session to grant numbers (design:
/// "Grant instead of guess").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct SaUse {
    /// Which SA pair.
    pub sa: SaRef,
    /// Highest outbound number used.
    pub sequence: u64,
    /// Packets per second out, as measured lately.
    pub rate: u32,
    /// Extended sequence numbers.
    pub esn: bool,
}

impl SaUse {
    /// The numbers to grant, or `None` where no room is left and the SA must be
    /// rekeyed instead: base = highest used + max(2^16, 4 x rate x time to
    /// stage); the range stays below 2^32 without ESN, and its base within
    /// 2^32 - W of the highest used with ESN.
    pub fn grant(&self, time_to_stage: Duration, span: u64) -> Option<GrantedRange> {
        let expected = u64::from(self.rate)
            .saturating_mul(4)
            .saturating_mul(u64::try_from(time_to_stage.as_millis()).unwrap_or(u64::MAX))
            / 1000;
        //= spec CXTP-6.6-4
        let headroom = expected.max(crate::limits::MIN_GRANT_HEADROOM);
        let window = u64::from(crate::limits::MAX_REPLAY_WINDOW);
        if headroom > (1 << 32) - window {
            return None;
        }
        let base = self.sequence.checked_add(headroom)?.checked_add(1)?;
        let last = if self.esn { u64::MAX } else { u64::from(u32::MAX) };
        let end = base.saturating_add(span).min(last);
        (end > base && end - base >= span.min(1 << 16)).then_some(GrantedRange {
            sa: self.sa,
            base,
            end,
        })
    }
}

/// The end of one transfer, as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Outcome {
    /// The target owns the session.
    Moved {
        /// From the pause at the source to the target's word that it is active.
        gap: Duration,
    },
    /// The target would not have it; it goes on at the source.
    Refused(Refusal),
    /// It was begun and stopped; it goes on at the source.
    Aborted(Refusal),
    /// It is committed and the target has not answered: paused until it does.
    InDoubt,
    /// No gateway has it any more.
    Lost(Refusal),
}

#[cfg(test)]
mod tests;
