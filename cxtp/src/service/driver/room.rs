//! Contexts are asked for only while there is room for them on their way: a slow
//! target bounds the memory of the source, however many sessions and batches
//! are to go there.

use std::collections::{HashMap, VecDeque};

use protocol_spec::id::{Name, SessionId};

/// Contexts that may be on their way to one gateway: asked of our own and not
/// written yet, or waiting to be sent.
const MOST_CONTEXTS: usize = 4096;

/// Sessions whose contexts are not asked for yet, and how many were.
#[derive(Default)]
pub(super) struct Parked {
    /// Where the sessions go that are being moved.
    bound_for: HashMap<SessionId, Name>,
    /// Contexts that our gateway is writing.
    asked: HashMap<SessionId, Name>,
    roads: HashMap<Name, Road>,
}

/// The way to one gateway.
#[derive(Default)]
struct Road {
    /// Contexts that our gateway is writing.
    asked: usize,
    /// In their order. Some may have ended, or gone another way, since.
    waiting: VecDeque<SessionId>,
}

impl Parked {
    /// A transfer has begun; its context will be asked for.
    pub(super) fn begun(&mut self, session: SessionId, target: Name) {
        self.bound_for.insert(session, target);
    }

    /// A transfer has ended; nobody waits for its context any more.
    pub(super) fn ended(&mut self, session: SessionId) {
        self.bound_for.remove(&session);
    }

    /// Every transfer to a gateway has ended, since that is gone.
    pub(super) fn closed(&mut self, target: &Name) {
        if let Some(road) = self.roads.get_mut(target) {
            road.waiting.clear();
        }
        self.roads.retain(|_, road| !road.is_idle());
    }

    /// Contexts are wanted: those that can be asked for now. The rest waits for
    /// [`Parked::next`]. What is not bound for another gateway needs no room.
    pub(super) fn want(
        &mut self,
        sessions: Vec<SessionId>,
        backlog: impl Fn(&Name) -> usize,
    ) -> Vec<SessionId> {
        let mut ready = Vec::with_capacity(sessions.len());
        let mut rooms: HashMap<Name, usize> = HashMap::new();
        for session in sessions {
            let Some(target) = self.bound_for.get(&session) else {
                ready.push(session);
                continue;
            };
            let road = self.roads.entry(target.clone()).or_default();
            let room = rooms.entry(target.clone()).or_insert_with(|| road.room(backlog(target)));
            // What follows does not overtake.
            if *room == 0 || !road.waiting.is_empty() {
                road.waiting.push_back(session);
                continue;
            }
            *room -= 1;
            let target = target.clone();
            self.ask(session, target);
            ready.push(session);
        }
        ready
    }

    /// The contexts that there is room for by now. Room gathers before it is
    /// used, so that sessions are not asked for one by one.
    pub(super) fn next(&mut self, backlog: impl Fn(&Name) -> usize) -> Vec<SessionId> {
        let mut ready = Vec::new();
        for (target, road) in &mut self.roads {
            let mut room = road.room(backlog(target));
            if room < MOST_CONTEXTS / 2 {
                continue;
            }
            while room > 0
                && let Some(session) = road.waiting.pop_front()
            {
                if self.bound_for.get(&session) == Some(target) {
                    ready.push((session, target.clone()));
                    room -= 1;
                }
            }
        }
        for (session, target) in &ready {
            self.ask(*session, target.clone());
        }
        self.roads.retain(|_, road| !road.is_idle());
        ready.into_iter().map(|(session, _)| session).collect()
    }

    /// Our gateway wrote these contexts, or never will.
    pub(super) fn came(&mut self, sessions: impl IntoIterator<Item = SessionId>) {
        for session in sessions {
            self.answered(session);
        }
        self.roads.retain(|_, road| !road.is_idle());
    }

    /// Whether nothing waits for room.
    pub(super) fn is_empty(&self) -> bool {
        self.roads.values().all(|road| road.waiting.is_empty())
    }

    fn ask(&mut self, session: SessionId, target: Name) {
        self.answered(session);
        self.roads.entry(target.clone()).or_default().asked += 1;
        self.asked.insert(session, target);
    }

    fn answered(&mut self, session: SessionId) {
        if let Some(target) = self.asked.remove(&session)
            && let Some(road) = self.roads.get_mut(&target)
        {
            road.asked -= 1;
        }
    }
}

impl Road {
    /// How many contexts may be asked for beside those that wait to be sent.
    fn room(&self, backlog: usize) -> usize {
        MOST_CONTEXTS.saturating_sub(backlog + self.asked)
    }

    fn is_idle(&self) -> bool {
        self.asked == 0 && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: std::ops::Range<usize>) -> Vec<SessionId> {
        let id = |number: usize| SessionId((number as u128).to_be_bytes());
        numbers.map(id).collect()
    }

    fn parked(target: &Name, sessions: &[SessionId]) -> Parked {
        let mut parked = Parked::default();
        sessions.iter().for_each(|session| parked.begun(*session, target.clone()));
        parked
    }

    #[test]
    fn a_full_target_holds_back_its_own_sessions_only() {
        let (slow, fast): (Name, Name) = ("slow".parse().unwrap(), "fast".parse().unwrap());
        let backlog = |name: &Name| if *name == slow { MOST_CONTEXTS } else { 0 };
        let mut parked = parked(&slow, &[ids(0..1), ids(2..3), ids(9..10)].concat());
        parked.begun(ids(1..2)[0], fast.clone());
        parked.begun(ids(3..4)[0], fast.clone());
        let ready = parked.want(ids(0..5), backlog);
        assert_eq!(ready, [ids(1..2), ids(3..5)].concat());
        assert!(parked.next(backlog).is_empty());
        // What follows does not overtake, although there is room now.
        assert!(parked.want(ids(9..10), |_| 0).is_empty());
        assert_eq!(parked.next(|_| 0), [ids(0..1), ids(2..3), ids(9..10)].concat());
        assert!(parked.is_empty());
    }

    #[test]
    fn what_was_asked_for_takes_room_until_it_waits_to_be_sent() {
        let name: Name = "slow".parse().unwrap();
        let mut parked = parked(&name, &ids(0..3 * MOST_CONTEXTS));
        // Two orders one after the other, before the first is answered.
        assert_eq!(parked.want(ids(0..MOST_CONTEXTS - 1), |_| 0).len(), MOST_CONTEXTS - 1);
        assert_eq!(parked.want(ids(MOST_CONTEXTS - 1..3 * MOST_CONTEXTS), |_| 0).len(), 1);
        assert!(parked.next(|_| 0).is_empty());
        parked.came(ids(0..MOST_CONTEXTS));
        assert!(parked.next(|_| MOST_CONTEXTS).is_empty());
        let next = parked.next(|_| MOST_CONTEXTS / 4);
        assert_eq!(next, ids(MOST_CONTEXTS..MOST_CONTEXTS + MOST_CONTEXTS / 4 * 3));
    }

    #[test]
    fn nobody_asks_for_what_has_ended() {
        let name: Name = "slow".parse().unwrap();
        let mut parked = parked(&name, &ids(0..4));
        assert!(parked.want(ids(0..4), |_| MOST_CONTEXTS).is_empty());
        parked.ended(ids(1..2)[0]);
        parked.begun(ids(2..3)[0], "other".parse().unwrap());
        assert_eq!(parked.next(|_| 0), [ids(0..1), ids(3..4)].concat());
        parked.came(ids(0..4));
        assert!(parked.roads.is_empty() && parked.asked.is_empty());
        assert!(parked.want(ids(3..4), |_| MOST_CONTEXTS).is_empty());
        parked.closed(&name);
        assert!(parked.is_empty() && parked.roads.is_empty());
    }
}
