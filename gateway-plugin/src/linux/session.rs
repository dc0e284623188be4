//! A session on the Linux gateway: where it stands. Its keys are the kernel's and
//! the daemon's; here is only what neither of them knows.

use std::time::Duration;

use protocol_spec::{
    id::{BatchId, Generation, Name, SessionEpoch, SessionId},
    status::{Refusal, Status},
    transfer::{Finals, GrantedRange, SaRef, SessionState, SessionStatus},
};

use super::{daemon::Spis, ground::Flow, pair::Pair, voice::Announcement};

/// Where a session stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Active,
    /// On the way back from Paused: Active again as soon as what diverts it is gone.
    Unsettled,
    Paused {
        target: Name,
        /// What the pause read, once it has: the same for ever after, for nothing
        /// moves any more.
        finals: Option<Finals>,
    },
    /// Being installed or removed: parts of it may be there, all of it is held.
    Staging {
        source: Name,
        batch: BatchId,
    },
    Staged {
        source: Name,
        batch: BatchId,
        grants: Vec<GrantedRange>,
    },
    /// Gone to another gateway, which still gets what arrives here until then; or one
    /// that came from another gateway and has ended.
    Released {
        until: Duration,
    },
}

impl Phase {
    /// What a staged one was granted.
    pub(crate) fn grants(&self) -> &[GrantedRange] {
        if let Self::Staged { grants, .. } = self { grants } else { &[] }
    }

    fn word(&self) -> String {
        match self {
            Self::Active | Self::Unsettled => "active here".to_owned(),
            Self::Paused { target, .. } => format!("paused here for {target}"),
            Self::Staging { source, .. } => format!("half staged here from {source}"),
            Self::Staged { source, .. } => format!("staged here from {source}"),
            Self::Released { .. } => "released".to_owned(),
        }
    }
}

/// A session's SAs and packets in this kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Paths {
    pub(crate) pairs: Vec<Pair>,
    pub(crate) flow: Flow,
}

/// The end of the numbers that one SA may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) sa: SaRef,
    /// First number that may not leave.
    pub(crate) end: u64,
    /// Whether it was told that it is reached.
    pub(crate) told: bool,
}

/// A session and its newest ownership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) epoch: SessionEpoch,
    pub(crate) generation: Generation,
    pub(crate) phase: Phase,
    /// By which it is found again.
    pub(crate) spis: Spis,
    /// As it was staged, paused or looked at last; an active one is looked at anew. Of
    /// one that left, what its guard stands for.
    pub(crate) paths: Option<Paths>,
    /// Of numbers that were granted; empty for a session that came up here.
    pub(crate) ends: Vec<End>,
    /// Its end user knows it at another address than this gateway's, and is told.
    pub(crate) moved: bool,
    /// Its end user is looked for here once it has ended, for another gateway leaves it
    /// to this one: it came from there, or a session before it did.
    pub(crate) stays: bool,
    /// What its end user has not answered yet.
    pub(crate) announcement: Option<Announcement>,
    /// When its numbers are looked at again.
    pub(crate) look_at: Duration,
}

impl Session {
    /// One that came up here.
    pub(crate) fn new(id: SessionId, generation: Generation, spis: Spis) -> Self {
        Self {
            id,
            epoch: SessionEpoch(0),
            generation,
            phase: Phase::Active,
            spis,
            paths: None,
            ends: Vec::new(),
            moved: false,
            stays: false,
            announcement: None,
            look_at: Duration::ZERO,
        }
    }

    /// It is here no more: what is left is its epoch, what still stands for it, and
    /// whether its end user is looked for here.
    pub(crate) fn leave(&mut self) {
        self.phase = Phase::Released { until: Duration::MAX };
        self.spis = Spis::default();
        self.ends = Vec::new();
        self.moved = false;
        self.announcement = None;
    }

    /// What `list` says of it; nothing once it is gone.
    pub(crate) fn status(&self) -> Option<SessionStatus> {
        let state = match &self.phase {
            Phase::Active | Phase::Unsettled => SessionState::Active,
            Phase::Paused { target, .. } => SessionState::Paused { target: target.clone() },
            Phase::Staging { source, batch } | Phase::Staged { source, batch, .. } => {
                SessionState::Staged { source: source.clone(), batch: *batch }
            }
            Phase::Released { .. } => return None,
        };
        let Self { id, epoch, generation, .. } = *self;
        Some(SessionStatus { session: id, epoch, generation, state })
    }

    /// Whether the end user's packets go through this kernel, or will at once.
    pub(crate) fn is_in_use(&self) -> bool {
        matches!(self.phase, Phase::Active | Phase::Unsettled)
    }

    /// Refuses an act of an older ownership.
    pub(crate) fn refuse_stale(&self, epoch: SessionEpoch) -> Result<(), Refusal> {
        if epoch < self.epoch {
            let detail = format!("epoch {epoch} is below the known {}", self.epoch);
            return Err(Refusal::new(Status::StaleEpoch, detail));
        }
        Ok(())
    }

    /// A refusal of an act that does not fit where the session stands.
    pub(crate) fn unfit(&self, cure: &str) -> Refusal {
        let detail = format!("session {} is {}: {cure}", self.id, self.phase.word());
        Refusal::new(Status::NoTransfer, detail)
    }
}

/// A refusal for a session that is not known.
pub(crate) fn no_session(id: SessionId) -> Refusal {
    Refusal::new(Status::NoSession, format!("this gateway has no session {id}"))
}
