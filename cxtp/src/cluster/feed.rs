//! What an owner tells one standby of its sessions, and how far it has come.
//!
//! A standby needs the newest state of each session, not its history. So a feed
//! holds no states: it knows which sessions have changed since the standby last
//! acknowledged them, and asks for the state of one when it is its turn. Whatever
//! happens to a connection or to the standby costs at most one state for each
//! session, and the memory of a feed is a few words for each session however far
//! the standby is behind.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use protocol_spec::id::{GatewayEpoch, SessionId};

/// Counts the changes of one session that the standby must know: of its SPIs,
/// keys, selectors and addresses, and of its Message IDs. Starts at one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// One message of a feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Counts the messages of a connection, from one; acknowledged by this number.
    pub number: u64,
    /// Sessions whose state, as it is now, is to be told; or that they are gone.
    pub sessions: Vec<(SessionId, News)>,
}

/// What is to be told of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Its state, which is at least of this revision.
    State(Revision),
    /// That the standby shall forget it, which was this revision.
    Gone(Revision),
}

/// How a feed stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Sessions of which the standby does not have the newest state.
    pub sessions: usize,
    /// How long the oldest of these changes has waited.
    pub age: Duration,
}

/// The owner's end of what it tells one standby.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Sessions that may be on their way at one time.
    window: usize,
    sessions: BTreeMap<SessionId, Entry>,
    /// Sessions to be told, the oldest change first; each is here at most once.
    waiting: VecDeque<SessionId>,
    /// Messages on their way, in the order of their numbers.
    on_the_way: VecDeque<Batch>,
    /// Sessions in them.
    under_way: usize,
    /// The standby's life, while there is a connection, and the next message.
    connection: Option<(GatewayEpoch, u64)>,
    /// The life of the standby that acknowledged what is acknowledged.
    told: Option<GatewayEpoch>,
}

#[derive(Clone, Debug)]
struct Entry {
    newest: Revision,
    acknowledged: Revision,
    /// The standby was told to forget all up to here.
    forgotten: Revision,
    /// Since when the newest acknowledged state is not the newest.
    behind_since: Option<Duration>,
    is_waiting: bool,
    is_gone: bool,
}

impl Feed {
    /// A feed of nothing to a standby that is not there, with at most `window`
    /// sessions on their way.
    pub fn new(window: usize) -> Self {
        Self {
            window: window.max(1),
            sessions: BTreeMap::new(),
            waiting: VecDeque::new(),
            on_the_way: VecDeque::new(),
            under_way: 0,
            connection: None,
            told: None,
        }
    }

    /// A session came, or what the standby must know of it changed. The revision
    /// that [`Feed::has`] will know the change by.
    pub fn changed(&mut self, session: SessionId, now: Duration) -> Revision {
        let entry = self.sessions.entry(session).or_insert(Entry {
            newest: Revision(0),
            acknowledged: Revision(0),
            forgotten: Revision(0),
            behind_since: None,
            is_waiting: false,
            is_gone: false,
        });
        entry.newest.0 += 1;
        entry.is_gone = false;
        entry.wait(session, &mut self.waiting, now);
        entry.newest
    }

    /// A session ended, or has another standby now.
    pub fn gone(&mut self, session: SessionId, now: Duration) {
        let Some(entry) = self.sessions.get_mut(&session) else { return };
        entry.newest.0 += 1;
        (entry.is_gone, entry.forgotten) = (true, entry.newest);
        entry.wait(session, &mut self.waiting, now);
    }

    /// The standby is there, in this life. What it had not acknowledged is told
    /// again; all, if it is another life, which knows nothing.
    pub fn connected(&mut self, life: GatewayEpoch, now: Duration) {
        self.disconnected(now);
        self.connection = Some((life, 1));
        if self.told.replace(life).is_some_and(|before| before != life) {
            self.sessions.retain(|_, entry| !entry.is_gone);
            let sessions = &self.sessions;
            self.waiting.retain(|session| sessions.contains_key(session));
            for (session, entry) in &mut self.sessions {
                entry.acknowledged = Revision(0);
                entry.wait(*session, &mut self.waiting, now);
            }
        }
    }

    /// The connection is gone, and what was on its way may be lost.
    pub fn disconnected(&mut self, now: Duration) {
        self.connection = None;
        self.under_way = 0;
        for batch in std::mem::take(&mut self.on_the_way) {
            for (session, _) in batch.sessions {
                if let Some(entry) = self.sessions.get_mut(&session) {
                    entry.wait(session, &mut self.waiting, now);
                }
            }
        }
    }

    /// The next message to send, of at most `room` sessions; `None` while nothing
    /// has changed or the standby has not acknowledged enough.
    pub fn poll(&mut self, room: usize) -> Option<Batch> {
        let room = room.min(self.window.saturating_sub(self.under_way));
        let (_, next) = self.connection.as_mut().filter(|_| room > 0)?;
        let mut sessions = Vec::new();
        while sessions.len() < room
            && let Some(session) = self.waiting.pop_front()
        {
            let Some(entry) = self.sessions.get_mut(&session) else { continue };
            entry.is_waiting = false;
            let news =
                if entry.is_gone { News::Gone(entry.newest) } else { News::State(entry.newest) };
            sessions.push((session, news));
        }
        if sessions.is_empty() {
            return None;
        }
        let batch = Batch { number: *next, sessions };
        *next += 1;
        self.under_way += batch.sessions.len();
        self.on_the_way.push_back(batch.clone());
        Some(batch)
    }

    /// The standby has all messages of this connection up to this number. `false`
    /// if that many were not sent: the standby is not to be trusted with anything.
    #[must_use]
    pub fn acknowledged(&mut self, number: u64, now: Duration) -> bool {
        let Some((_, next)) = self.connection else { return true };
        if number >= next {
            return false;
        }
        while self.on_the_way.front().is_some_and(|batch| batch.number <= number) {
            let Some(batch) = self.on_the_way.pop_front() else { break };
            self.under_way -= batch.sessions.len();
            for (session, news) in batch.sessions {
                self.taken(session, news, now);
            }
        }
        true
    }

    fn taken(&mut self, session: SessionId, news: News, now: Duration) {
        let Some(entry) = self.sessions.get_mut(&session) else { return };
        match news {
            News::Gone(revision) if revision == entry.newest => {
                self.sessions.remove(&session);
            }
            // It has come back meanwhile: what is newer is on its way or waits.
            News::Gone(_) => {}
            News::State(revision) => {
                entry.acknowledged = entry.acknowledged.max(revision);
                // What is still behind changed after this state was told.
                entry.behind_since = (entry.acknowledged < entry.newest).then_some(now);
            }
        }
    }

    /// Whether the standby has this revision of a session: then what it announces
    /// to the end user may leave.
    pub fn has(&self, session: SessionId, revision: Revision) -> bool {
        self.sessions.get(&session).is_some_and(|entry| {
            entry.acknowledged >= revision && entry.acknowledged > entry.forgotten
        })
    }

    /// Whether the newest state of every session is on its way or acknowledged.
    pub fn has_told_all(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How far the standby is behind.
    pub fn lag(&self, now: Duration) -> Lag {
        let behind = self.sessions.values().filter_map(|entry| entry.behind_since);
        let (sessions, oldest) =
            behind.fold((0, now), |(count, oldest), since| (count + 1, oldest.min(since)));
        Lag { sessions, age: now.saturating_sub(oldest) }
    }
}

impl Entry {
    fn wait(&mut self, session: SessionId, waiting: &mut VecDeque<SessionId>, now: Duration) {
        self.behind_since.get_or_insert(now);
        if !std::mem::replace(&mut self.is_waiting, true) {
            waiting.push_back(session);
        }
    }
}

#[cfg(test)]
mod tests;
