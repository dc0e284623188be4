//! What an owner does so that its sessions have standbys.
//!
//! It chooses the standbys of each session among the members that are there, keeps a
//! [`Feed`] for each member, and turns what a feed wants told into deltas. The state of
//! a session is read when it is its turn, so nothing is kept here but its number.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use protocol_spec::{
    context::Context,
    id::{GatewayEpoch, Name, SessionEpoch, SessionId},
    message::{ReplicaDelta, ReplicaEntry},
    status::{Refusal, Status},
};

use super::{Batch, Feed, Lag, News, Revision, standbys};
use crate::engine::{FILL, estimate};

/// What the owner wants done.
#[derive(Debug, PartialEq)]
pub enum Wish {
    /// Read these sessions now, and hand what they are to [`Replicator::read`] with
    /// this number.
    Read(u64, Vec<SessionId>),
    /// Send this to a standby, in the order of the wishes.
    Tell(Name, ReplicaDelta),
}

/// The owner's end of all its replicas.
#[derive(Debug)]
pub struct Replicator {
    this: Name,
    /// Standbys of each session.
    copies: usize,
    /// Sessions that one standby is told of and has not acknowledged.
    window: usize,
    members: BTreeMap<Name, Member>,
    sessions: BTreeMap<SessionId, Kept>,
    /// What could not be read for a standby.
    unread: BTreeSet<(Name, SessionId)>,
    /// Readings that were begun.
    readings: u64,
    wishes: VecDeque<Wish>,
}

/// A session that is owned here.
#[derive(Debug)]
struct Kept {
    epoch: SessionEpoch,
    /// Who stands by, and the revision that it is to have.
    standbys: BTreeMap<Name, Revision>,
}

#[derive(Debug)]
struct Member {
    feed: Feed,
    /// The connection, while there is one.
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    /// The number of the next delta.
    next: u64,
    /// It was told that it knows all.
    complete: bool,
    /// What is being read for it.
    reading: Option<Reading>,
    /// Batches of the feed that were told, each with the number of its delta.
    told: VecDeque<(u64, u64)>,
}

#[derive(Debug)]
struct Reading {
    /// Tells it from those of connections that are gone, which may have been read
    /// before the last change.
    number: u64,
    batch: u64,
    complete: bool,
    /// Contexts that are still to come.
    outstanding: BTreeSet<SessionId>,
    entries: Vec<ReplicaEntry>,
}

/// Sessions that are read at a time for one standby.
const AT_ONCE: usize = 64;
/// Nothing has it: the state could not be read.
const UNREAD: Revision = Revision(u64::MAX);

impl Replicator {
    /// An owner without sessions that knows of these members, of which none is there.
    pub fn new(
        this: Name,
        members: impl IntoIterator<Item = Name>,
        copies: usize,
        window: usize,
    ) -> Self {
        let member = |name| (name, Member { feed: Feed::new(window), connection: None });
        let members = members.into_iter().filter(|name| *name != this).map(member).collect();
        Self {
            this,
            copies,
            window,
            members,
            sessions: BTreeMap::new(),
            unread: BTreeSet::new(),
            readings: 0,
            wishes: VecDeque::new(),
        }
    }

    /// A session came, or what its standbys must know of it changed.
    pub fn changed(&mut self, session: SessionId, epoch: SessionEpoch, now: Duration) {
        let kept =
            self.sessions.entry(session).or_insert(Kept { epoch, standbys: BTreeMap::new() });
        kept.epoch = epoch;
        self.assign(session, true, now);
        self.pump();
    }

    /// A session ended here, or has another owner.
    pub fn gone(&mut self, session: SessionId, now: Duration) {
        let Some(kept) = self.sessions.remove(&session) else { return };
        for name in kept.standbys.keys() {
            if let Some(member) = self.members.get_mut(name) {
                member.feed.gone(session, now);
            }
        }
        self.pump();
    }

    /// A member is there, in this life.
    pub fn up(&mut self, name: &Name, life: GatewayEpoch, now: Duration) {
        self.unsay(name);
        let Some(member) = self.members.get_mut(name) else { return };
        member.feed.connected(life, now);
        member.connection =
            Some(Connection { next: 1, complete: false, reading: None, told: VecDeque::new() });
        self.choose_anew(now);
        self.pump();
    }

    /// A member is not there any more.
    pub fn down(&mut self, name: &Name, now: Duration) {
        self.unsay(name);
        let Some(member) = self.members.get_mut(name) else { return };
        member.feed.disconnected(now);
        member.connection = None;
        self.choose_anew(now);
        self.pump();
    }

    /// A member has all deltas of its connection up to this number.
    ///
    /// # Errors
    /// It was not sent that many: nothing counts as held there until it connects anew.
    pub fn acknowledged(&mut self, name: &Name, number: u64, now: Duration) -> Result<(), Refusal> {
        let Some(member) = self.members.get_mut(name) else { return Ok(()) };
        let Some(connection) = &mut member.connection else { return Ok(()) };
        //= spec CXTP-4.14-4
        if number >= connection.next {
            *member = Member { feed: Feed::new(self.window), connection: None };
            for (session, kept) in &mut self.sessions {
                if let Some(revision) = kept.standbys.get_mut(name) {
                    *revision = member.feed.changed(*session, now);
                }
            }
            self.choose_anew(now);
            self.pump();
            let detail = format!("delta {number} was acknowledged and never sent");
            return Err(Refusal::new(Status::BadContext, detail));
        }
        while let Some((_, batch)) = connection.told.pop_front_if(|(delta, _)| *delta <= number) {
            // It was polled from this feed on this connection.
            let _ = member.feed.acknowledged(batch, now);
        }
        self.pump();
        Ok(())
    }

    /// What was read. A session that could not be read now is read again at the next
    /// [`Replicator::tick`].
    pub fn read(&mut self, number: u64, results: Vec<(SessionId, Option<Context>)>) {
        let reading = self.members.iter_mut().find_map(|(name, member)| {
            let reading = member.connection.as_mut()?.reading.as_mut()?;
            (reading.number == number).then_some((name, reading))
        });
        let Some((name, reading)) = reading else { return };
        for (session, context) in results {
            if !reading.outstanding.remove(&session) {
                continue;
            }
            let Some(kept) = self.sessions.get_mut(&session) else { continue };
            if context.is_none()
                && let Some(revision) = kept.standbys.get_mut(name)
            {
                *revision = UNREAD;
                self.unread.insert((name.clone(), session));
            }
            let epoch = kept.epoch;
            reading.entries.extend(context.map(|context| ReplicaEntry {
                session,
                epoch,
                context: Some(context),
            }));
        }
        self.pump();
    }

    /// Time has passed: what could not be read is read again.
    pub fn tick(&mut self, now: Duration) {
        for (name, session) in std::mem::take(&mut self.unread) {
            let kept = self.sessions.get_mut(&session);
            if let Some(revision) = kept.and_then(|kept| kept.standbys.get_mut(&name))
                && *revision == UNREAD
                && let Some(member) = self.members.get_mut(&name)
            {
                *revision = member.feed.changed(session, now);
            }
        }
        self.pump();
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    /// Whether as many standbys as there shall be have the newest state of a session.
    pub fn is_held(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|kept| {
            kept.standbys.len() == self.copies
                && kept.standbys.iter().all(|(name, revision)| {
                    let member = self.members.get(name);
                    member.is_some_and(|member| member.feed.has(session, *revision))
                })
        })
    }

    /// How far each member is behind.
    pub fn lags(&self, now: Duration) -> impl Iterator<Item = (&Name, Lag)> {
        self.members.iter().map(move |(name, member)| (name, member.feed.lag(now)))
    }

    /// Takes back what was to be said on a connection that is gone.
    fn unsay(&mut self, name: &Name) {
        self.wishes.retain(|wish| !matches!(wish, Wish::Tell(to, _) if to == name));
    }

    fn choose(&self, session: SessionId) -> Vec<Name> {
        let there = self.members.iter().filter(|(_, member)| member.connection.is_some());
        let there = there.map(|(name, _)| name);
        standbys(session, &self.this, there, self.copies).into_iter().cloned().collect()
    }

    /// Members came or went: sessions get other standbys.
    fn choose_anew(&mut self, now: Duration) {
        let all: Vec<_> = self.sessions.keys().copied().collect();
        for session in all {
            self.assign(session, false, now);
        }
    }

    /// Gives a session its standbys. While too few are there it keeps those that it had.
    fn assign(&mut self, session: SessionId, changed: bool, now: Duration) {
        let mut chosen = self.choose(session);
        let Some(kept) = self.sessions.get_mut(&session) else { return };
        if chosen.len() < self.copies.min(kept.standbys.len()) {
            chosen = kept.standbys.keys().cloned().collect();
        }
        let mut before = std::mem::take(&mut kept.standbys);
        for name in chosen {
            let Some(member) = self.members.get_mut(&name) else { continue };
            let revision = before.remove(&name).filter(|_| !changed);
            let revision = revision.unwrap_or_else(|| member.feed.changed(session, now));
            kept.standbys.insert(name, revision);
        }
        for name in before.into_keys() {
            if let Some(member) = self.members.get_mut(&name) {
                member.feed.gone(session, now);
            }
        }
    }

    /// Reads what is to be told next and tells what was read, one batch of a member at
    /// a time.
    fn pump(&mut self) {
        for (name, Member { feed, connection }) in &mut self.members {
            let Some(connection) = connection else { continue };
            loop {
                if let Some(reading) =
                    connection.reading.take_if(|reading| reading.outstanding.is_empty())
                {
                    let deltas = connection.tell(reading).into_iter();
                    self.wishes.extend(deltas.map(|delta| Wish::Tell(name.clone(), delta)));
                }
                if connection.reading.is_some()
                    || !connection.begin(feed, &self.sessions, &mut self.readings)
                {
                    break;
                }
                if let Some(reading) = &connection.reading
                    && !reading.outstanding.is_empty()
                {
                    let sessions = reading.outstanding.iter().copied().collect();
                    self.wishes.push_back(Wish::Read(reading.number, sessions));
                }
            }
        }
    }
}

impl Connection {
    /// Begins the next delta; `false` while there is nothing to tell.
    fn begin(
        &mut self,
        feed: &mut Feed,
        sessions: &BTreeMap<SessionId, Kept>,
        readings: &mut u64,
    ) -> bool {
        let batch = feed.poll(AT_ONCE);
        //= spec CXTP-4.14-5
        let complete = !self.complete && feed.has_told_all();
        self.complete |= complete;
        if batch.is_none() && !complete {
            return false;
        }
        *readings += 1;
        let Batch { number: batch, sessions: news } = batch.unwrap_or_default();
        let (outstanding, entries) = (BTreeSet::new(), Vec::new());
        let mut reading = Reading { number: *readings, batch, complete, outstanding, entries };
        for (session, news) in news {
            match news {
                News::State(_) if sessions.contains_key(&session) => {
                    reading.outstanding.insert(session);
                }
                // It went meanwhile, and that is told next.
                News::State(_) => {}
                News::Gone(_) => {
                    let epoch = SessionEpoch(0);
                    reading.entries.push(ReplicaEntry { session, epoch, context: None });
                }
            }
        }
        self.reading = Some(reading);
        true
    }

    /// As many deltas as it takes for each to fit a message.
    fn tell(&mut self, reading: Reading) -> Vec<ReplicaDelta> {
        let Reading { batch, complete, entries, .. } = reading;
        let mut parts = vec![Vec::new()];
        let mut full = 0;
        for entry in entries {
            let size = 32 + entry.context.as_ref().map_or(0, estimate);
            if full > 0 && full + size > FILL {
                parts.push(Vec::new());
                full = 0;
            }
            full += size;
            if let Some(part) = parts.last_mut() {
                part.push(entry);
            }
        }
        let last = parts.len() - 1;
        //= spec CXTP-4.14-1
        let deltas = parts.into_iter().zip(self.next..).enumerate();
        let deltas = deltas.map(|(part, (entries, number))| ReplicaDelta {
            number,
            complete: complete && part == last,
            entries,
        });
        let deltas: Vec<_> = deltas.collect();
        self.next += deltas.len() as u64;
        if batch > 0 {
            self.told.push_back((self.next - 1, batch));
        }
        deltas
    }
}

#[cfg(test)]
mod tests;
