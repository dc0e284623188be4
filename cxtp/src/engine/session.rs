//! What the engine remembers of one session.

use std::time::Duration;

use protocol_spec::{
    id::{BatchId, Generation, Name, RequestId, SessionEpoch},
    status::Refusal,
    transfer::{Finals, GrantedRange, SaRef},
};

use super::{Record, source::SourceState, target::TargetState};

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Session {
    /// Newest epoch that was ever given out for it or heard of; the next attempt
    /// goes above it.
    pub(super) known: SessionEpoch,
    /// Newest ownership that this gateway had.
    pub(super) owned: Option<SessionEpoch>,
    /// Newest epoch in the journal: what is not above it is settled for good.
    pub(super) settled: Option<SessionEpoch>,
    pub(super) generation: Generation,
    /// The journal ticket that its next step waits for. One at a time, so that
    /// no two records of a session can change places.
    pub(super) ticket: Option<u64>,
    pub(super) deadline: Option<Duration>,
    pub(super) place: Place,
}

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// Owned here and not being moved.
    Owned,
    /// Being given away, or committed to another gateway.
    Leaving(Box<Departure>),
    /// Being taken over.
    Coming(Box<Arrival>),
    /// Not here any more; a tombstone.
    Gone(Gone),
    /// In the journal, and the gateway has not been asked yet.
    Recovered(Box<Record>),
}

/// Why it is not here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Gone {
    Moved(Name),
    Aborted(Name),
    Ended,
    Lost(Refusal),
}

/// A session that is given away.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Departure {
    pub(super) state: SourceState,
    pub(super) batch: BatchId,
    pub(super) target: Name,
    /// The ownership offered.
    pub(super) epoch: SessionEpoch,
    /// What was granted with it.
    pub(super) grants: Vec<GrantedRange>,
    /// The state of the session that was sent.
    pub(super) generation: Generation,
    /// The target may hold it staged and would have to be told to drop it.
    pub(super) offered: bool,
    /// How often it was read again, or its pause tried again.
    pub(super) again: u32,
    pub(super) paused_at: Duration,
    pub(super) committed_at: Duration,
    /// How long the next question waits.
    pub(super) retry: Duration,
    /// Read at the pause, until they are sent.
    pub(super) finals: Option<Box<Finals>>,
    /// The gateway cannot give the finals any more: the target is told to abort.
    pub(super) spent: bool,
    /// Where a forced resume begins.
    pub(super) from: Vec<(SaRef, u64)>,
    /// How it ends if it does not move.
    pub(super) failure: Option<Failure>,
    pub(super) gap: Duration,
    /// Into a file, for this request.
    pub(super) file: Option<RequestId>,
    /// Committed to a file: the target is not asked, it answers once it has it.
    pub(super) passive: bool,
    /// The operator's word that is being carried out.
    pub(super) resolving: Option<RequestId>,
    /// The batch has counted it.
    pub(super) counted: bool,
}

/// Why a transfer ended at its source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Failure {
    Refused(Refusal),
    Aborted(Refusal),
    Lost(Refusal),
}

/// A session that is taken over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Arrival {
    pub(super) state: TargetState,
    pub(super) source: Name,
    pub(super) batch: BatchId,
    pub(super) epoch: SessionEpoch,
    pub(super) finals: Option<Box<Finals>>,
    /// How often the gateway was asked to put it to use.
    pub(super) attempts: u32,
    pub(super) reason: Option<Refusal>,
    /// The question that is answered by its end.
    pub(super) asked: Option<RequestId>,
    /// From a file, for this request.
    pub(super) file: Option<RequestId>,
    /// The gateway holds it.
    pub(super) installed: bool,
    /// What stood here before, in case nothing comes of it.
    pub(super) before: Option<Gone>,
}

impl Session {
    /// One that is owned here.
    pub(super) fn owned(epoch: SessionEpoch, generation: Generation) -> Self {
        Self {
            known: epoch,
            owned: Some(epoch),
            settled: None,
            generation,
            ticket: None,
            deadline: None,
            place: Place::Owned,
        }
    }

    /// Whether this gateway activated `epoch`, or a later ownership that can only
    /// have come after it.
    pub(super) fn had(&self, epoch: SessionEpoch) -> bool {
        self.owned.is_some_and(|owned| owned >= epoch)
    }

    /// Whether the journal says that `epoch` never will be activated, unless it
    /// was.
    pub(super) fn is_settled(&self, epoch: SessionEpoch) -> bool {
        self.settled.is_some_and(|settled| settled >= epoch)
    }
}
