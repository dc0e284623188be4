//! What a standby holds of the sessions of others.

use std::collections::{BTreeMap, BTreeSet};

use protocol_spec::{
    KeyMaterial, codec,
    context::Context,
    id::{Name, SessionEpoch, SessionId},
    message::{ReplicaAck, ReplicaDelta, ReplicaEntry},
    status::{Refusal, Status},
};

/// The standby's end: the newest replica of each session, encoded, so that one costs
/// little more than its own octets.
#[derive(Debug)]
pub struct Replicas {
    /// Octets of contexts that may be held.
    room: usize,
    held: usize,
    replicas: BTreeMap<SessionId, Held>,
    owners: BTreeMap<Name, Owner>,
}

#[derive(Debug)]
struct Held {
    owner: Name,
    epoch: SessionEpoch,
    /// Encoded; most of it are keys.
    context: KeyMaterial,
}

/// The connection with one owner.
#[derive(Debug, Default)]
struct Owner {
    /// The number of its next delta; none once one was missed.
    next: Option<u64>,
    /// Replicas of earlier connections of which it has not spoken on this one.
    unspoken: BTreeSet<SessionId>,
    /// It has spoken of all that it knows.
    complete: bool,
}

impl Replicas {
    /// Nothing yet, and at most so many octets of contexts.
    pub fn new(room: usize) -> Self {
        Self { room, held: 0, replicas: BTreeMap::new(), owners: BTreeMap::new() }
    }

    /// An owner has connected anew. What is held of it stays.
    //= spec CXTP-4.14-2
    pub fn connected(&mut self, owner: &Name) {
        let ours = self.replicas.iter().filter(|(_, held)| held.owner == *owner);
        let unspoken = ours.map(|(session, _)| *session).collect();
        let connection = Owner { next: Some(1), unspoken, complete: false };
        self.owners.insert(owner.clone(), connection);
    }

    /// Holds what an owner says.
    ///
    /// # Errors
    /// Nothing of the delta is to be trusted, or there is no room for it: it and all
    /// that follow it on this connection are not acknowledged.
    pub fn told(&mut self, owner: &Name, delta: ReplicaDelta) -> Result<ReplicaAck, Refusal> {
        let ReplicaDelta { number, complete, entries } = delta;
        let connection = self.owners.entry(owner.clone()).or_default();
        //= spec CXTP-4.14-1
        if connection.next.take() != Some(number) {
            let detail = format!("delta {number} does not follow what was told before");
            return Err(Refusal::new(Status::BadContext, detail));
        }
        for entry in &entries {
            connection.unspoken.remove(&entry.session);
        }
        connection.complete |= complete;
        for entry in entries {
            self.hold(owner, entry)?;
        }
        if let Some(connection) = self.owners.get_mut(owner) {
            connection.next = number.checked_add(1);
        }
        Ok(ReplicaAck { number })
    }

    fn hold(&mut self, owner: &Name, entry: ReplicaEntry) -> Result<(), Refusal> {
        let ReplicaEntry { session, epoch, context } = entry;
        let held = self.replicas.get(&session);
        let Some(context) = context else {
            // Another owner may have told of it since.
            if held.is_some_and(|held| held.owner == *owner) {
                self.drop_replica(session);
            }
            return Ok(());
        };
        //= spec CXTP-4.14-3
        if held.is_some_and(|held| held.epoch > epoch) {
            return Ok(());
        }
        //= spec CXTP-4.14-3
        if context.session != session {
            return Err(Refusal::new(Status::BadContext, "the context of another session"));
        }
        context.check()?;
        let mut context = codec::encode(&context)
            .map_err(|error| Refusal::new(Status::BadContext, error.to_string()))?;
        let context = KeyMaterial::new(std::mem::take(&mut *context));
        self.drop_replica(session);
        if self.held + context.len() > self.room {
            let detail = format!("{} octets of replicas are held, the most allowed", self.held);
            return Err(Refusal::new(Status::RateLimited, detail));
        }
        self.held += context.len();
        self.replicas.insert(session, Held { owner: owner.clone(), epoch, context });
        Ok(())
    }

    fn drop_replica(&mut self, session: SessionId) {
        if let Some(held) = self.replicas.remove(&session) {
            self.held -= held.context.len();
        }
    }

    /// Takes the replica of a session out, to own the session here or to drop it.
    pub fn take(&mut self, session: SessionId) -> Option<(Name, SessionEpoch, Context)> {
        let held = self.replicas.remove(&session)?;
        self.held -= held.context.len();
        // It was encoded here.
        let context = codec::decode(held.context.expose()).ok()?;
        Some((held.owner, held.epoch, context))
    }

    /// The sessions of an owner that are held here, with their ownership.
    pub fn of<'a>(
        &'a self,
        owner: &'a Name,
    ) -> impl Iterator<Item = (SessionId, SessionEpoch)> + 'a {
        let ours = self.replicas.iter().filter(move |(_, held)| held.owner == *owner);
        ours.map(|(session, held)| (*session, held.epoch))
    }

    /// Sessions that are held here and that their owner does not know any more: it has
    /// spoken of all others since it connected.
    pub fn orphans(&self, owner: &Name) -> impl Iterator<Item = SessionId> {
        let complete = self.owners.get(owner).filter(|connection| connection.complete);
        complete.into_iter().flat_map(|connection| connection.unspoken.iter().copied())
    }

    /// The state of a session that is held here.
    #[cfg(test)]
    pub(super) fn generation(&self, session: SessionId) -> Option<u64> {
        let context: Context = codec::decode(self.replicas.get(&session)?.context.expose()).ok()?;
        Some(context.generation.0)
    }

    /// Octets of contexts that are held.
    pub fn octets(&self) -> usize {
        self.held
    }
}

#[cfg(test)]
mod tests;
