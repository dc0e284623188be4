//! What may be read of the engine without changing it.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Bound,
};

use protocol_spec::{
    id::{BatchId, GatewayEpoch, Generation, Identity, Name, SessionEpoch, SessionId},
    status::Refusal,
};

use super::{
    machine::Engine,
    session::{Failure, Gone, Place, Session},
    source::SourceState,
    target::TargetState,
};

/// Where a session stands, in the word that an operator reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Owned and in use here.
    Active,
    /// Owned here and paused, on its way back to use.
    Paused,
    /// Installed here, owned by its source.
    Staged,
    /// Being given away or taken over.
    Moving,
    /// Committed to a target that has not answered.
    InDoubt,
    /// Owned by another gateway.
    Moved,
    /// Not here and nowhere known.
    Lost,
    /// Ended, or never taken over; only remembered.
    Gone,
}

impl Standing {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Staged => "staged",
            Self::Moving => "moving",
            Self::InDoubt => "in-doubt",
            Self::Moved => "moved",
            Self::Lost => "lost",
            Self::Gone => "gone",
        }
    }
}

/// One session, as the engine sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionView {
    /// Which.
    pub session: SessionId,
    /// Where it stands.
    pub standing: Standing,
    /// Where it stands in the source's table.
    pub source: Option<SourceState>,
    /// Where it stands in the target's table.
    pub target: Option<TargetState>,
    /// The ownership in question: this gateway's, or the one offered.
    pub epoch: SessionEpoch,
    /// Its generation.
    pub generation: Generation,
    /// The other gateway.
    pub with: Option<Name>,
    /// The transfer.
    pub batch: Option<BatchId>,
    /// Why it is lost or was stopped.
    pub reason: Option<Refusal>,
}

/// How far a batch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Progress {
    /// Sessions in it.
    pub sessions: usize,
    /// Ended in any way.
    pub ended: usize,
    /// Of those, moved.
    pub moved: usize,
}

impl Engine {
    /// Every session that the engine remembers, in the order of their ids.
    pub fn sessions(&self) -> impl Iterator<Item = SessionView> + '_ {
        self.sessions.iter().map(|(id, session)| view(*id, session))
    }

    /// The sessions behind one, in the order of their ids; from the first with
    /// `None`.
    pub fn sessions_after(
        &self,
        after: Option<SessionId>,
    ) -> impl Iterator<Item = SessionView> + '_ {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.sessions.range((from, Bound::Unbounded)).map(|(id, session)| view(*id, session))
    }

    /// One session.
    pub fn session(&self, id: SessionId) -> Option<SessionView> {
        self.sessions.get(&id).map(|session| view(id, session))
    }

    /// How many sessions stand where.
    pub fn counts(&self) -> BTreeMap<Standing, usize> {
        let mut counts = BTreeMap::new();
        for (id, session) in &self.sessions {
            *counts.entry(view(*id, session).standing).or_default() += 1;
        }
        counts
    }

    /// The batches that run here as their source, or that were asked for.
    pub fn batches(&self) -> impl Iterator<Item = BatchId> + '_ {
        let pulls = self.core.pulls.keys().map(|request| BatchId(request.0));
        self.core.batches.keys().copied().chain(pulls)
    }

    /// How far a batch is, while it runs.
    pub fn progress(&self, batch: BatchId) -> Option<Progress> {
        if let Some(batch) = self.core.batches.get(&batch) {
            let (ended, moved) = (batch.ended(), batch.summary.moved);
            return Some(Progress { sessions: batch.sessions, ended, moved });
        }
        let pull = self.core.pulls.get(&protocol_spec::id::RequestId(batch.0))?;
        Some(pull.progress())
    }

    /// Peers that were heard of, and whether they are there.
    pub fn peers(&self) -> impl Iterator<Item = (&Identity, bool)> {
        self.core.peers.iter().map(|(identity, peer)| (identity, peer.up))
    }

    /// Which life of this gateway it is.
    pub fn gateway_epoch(&self) -> GatewayEpoch {
        self.core.life
    }

    /// Whether the gateway has said what it holds.
    pub fn is_listed(&self) -> bool {
        self.core.listed
    }

    /// A number for all that the engine remembers: equal engines have equal ones.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

fn view(id: SessionId, session: &Session) -> SessionView {
    let mut view = SessionView {
        session: id,
        standing: Standing::Gone,
        source: None,
        target: None,
        epoch: session.owned.unwrap_or(session.known),
        generation: session.generation,
        with: None,
        batch: None,
        reason: None,
    };
    match &session.place {
        Place::Owned => view.standing = Standing::Active,
        Place::Leaving(departure) => {
            view.standing = match departure.state {
                SourceState::InDoubt | SourceState::Redelivering => Standing::InDoubt,
                SourceState::Resuming => Standing::Paused,
                _ => Standing::Moving,
            };
            view.source = Some(departure.state);
            if departure.epoch > SessionEpoch(0) {
                view.epoch = departure.epoch;
            }
            view.with = Some(departure.target.clone());
            view.batch = Some(departure.batch);
            view.reason = match &departure.failure {
                Some(Failure::Refused(why) | Failure::Aborted(why) | Failure::Lost(why)) => {
                    Some(why.clone())
                }
                None => None,
            };
        }
        Place::Coming(arrival) => {
            view.standing = match arrival.state {
                TargetState::Staged => Standing::Staged,
                _ => Standing::Moving,
            };
            view.target = Some(arrival.state);
            view.epoch = arrival.epoch;
            view.with = Some(arrival.source.clone());
            view.batch = Some(arrival.batch);
            view.reason.clone_from(&arrival.reason);
        }
        Place::Gone(gone) => {
            view.epoch = session.known;
            match gone {
                Gone::Moved(target) => {
                    view.standing = Standing::Moved;
                    view.with = Some(target.clone());
                }
                Gone::Aborted(source) => view.with = Some(source.clone()),
                Gone::Lost(why) => {
                    view.standing = Standing::Lost;
                    view.reason = Some(why.clone());
                }
                Gone::Ended => {}
            }
        }
        Place::Recovered(record) => {
            view.standing = Standing::Moving;
            view.epoch = record.epoch();
        }
    }
    view
}
