//! What must survive a crash. No record holds a key.

use std::time::Duration;

use bincode::{Decode, Encode};
use protocol_spec::{
    id::{BatchId, GatewayEpoch, Name, SessionEpoch, SessionId},
    status::Refusal,
    transfer::{Finals, GrantedRange, SaRef},
};

/// The newest record of a session replaces the older ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Record {
    /// Source: from here on only `target` may use the session. The commit point.
    Committed {
        /// Which session.
        session: SessionId,
        /// The ownership given away.
        epoch: SessionEpoch,
        /// The transfer.
        batch: BatchId,
        /// To whom.
        target: Name,
        /// The numbers granted: a forced resume goes above them.
        grants: Vec<GrantedRange>,
        /// It was handed out as a file: the target may not have heard of it yet
        /// and is not asked, since its honest answer would end the transfer.
        by_file: bool,
    },
    /// Source: the target said that it never will; the session goes on here
    /// under this epoch.
    Resumed {
        /// Which session.
        session: SessionId,
        /// The ownership under which it goes on.
        epoch: SessionEpoch,
        /// First numbers that may be used, where the target may have used lower
        /// ones; so that the resume can be done again.
        from: Vec<(SaRef, u64)>,
    },
    /// Source: the target is active; the session is or will be released. A
    /// tombstone.
    Moved {
        /// Which session.
        session: SessionId,
        /// The ownership that the target has.
        epoch: SessionEpoch,
        /// Who has it.
        target: Name,
        /// How long the tombstone is to be kept from when it was written.
        keep: Duration,
    },
    /// Target: this gateway owns the session. Written before its first act.
    Active {
        /// Which session.
        session: SessionId,
        /// The ownership.
        epoch: SessionEpoch,
        /// The transfer.
        batch: BatchId,
        /// From whom.
        source: Name,
        /// The last counters, so that the activation can be done again.
        finals: Finals,
    },
    /// Target: this gateway will never activate this epoch.
    Aborted {
        /// Which session.
        session: SessionId,
        /// The ownership that never was.
        epoch: SessionEpoch,
        /// From whom it would have come.
        source: Name,
        /// The newest ownership that this gateway ever had of the session, so
        /// that a former owner who asks about an older one hears the truth.
        owned: Option<SessionEpoch>,
    },
    /// The session ended or was lost here, in whatever way.
    Ended {
        /// Which session.
        session: SessionId,
        /// Its last ownership.
        epoch: SessionEpoch,
        /// Why, where it was not an ordinary end.
        lost: Option<Refusal>,
    },
}

impl Record {
    /// Which session it is about.
    pub fn session(&self) -> SessionId {
        match self {
            Self::Committed { session, .. }
            | Self::Resumed { session, .. }
            | Self::Moved { session, .. }
            | Self::Active { session, .. }
            | Self::Aborted { session, .. }
            | Self::Ended { session, .. } => *session,
        }
    }

    /// The epoch that it settles.
    pub fn epoch(&self) -> SessionEpoch {
        match self {
            Self::Committed { epoch, .. }
            | Self::Resumed { epoch, .. }
            | Self::Moved { epoch, .. }
            | Self::Active { epoch, .. }
            | Self::Aborted { epoch, .. }
            | Self::Ended { epoch, .. } => *epoch,
        }
    }
}

/// What the journal holds when the daemon starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Which life this is: one more than the last, already written down.
    pub gateway_epoch: GatewayEpoch,
    /// The newest record of each session.
    pub records: Vec<Record>,
}
