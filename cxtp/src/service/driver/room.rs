//! Contexts are asked for only while their target takes them: a slow target
//! bounds the memory of the source.

use std::collections::{HashMap, VecDeque};

use protocol_spec::id::{Name, SessionId};

/// Contexts that may wait to be sent to one gateway.
const MOST_CONTEXTS: usize = 4096;

/// Sessions whose contexts are not asked for yet.
#[derive(Default)]
pub(super) struct Parked {
    /// Where sessions go whose transfer has just begun.
    bound_for: HashMap<SessionId, Name>,
    parked: HashMap<Name, VecDeque<Vec<SessionId>>>,
}

impl Parked {
    /// A transfer has begun; its context will be asked for.
    pub(super) fn expect(&mut self, session: SessionId, target: Name) {
        self.bound_for.insert(session, target);
    }

    /// Keeps back what goes to a target with too much of a backlog; the rest can
    /// be asked for now.
    pub(super) fn park(
        &mut self,
        sessions: Vec<SessionId>,
        backlog: impl Fn(&Name) -> usize,
    ) -> Vec<SessionId> {
        let mut ready = Vec::with_capacity(sessions.len());
        let mut full: HashMap<Name, bool> = HashMap::new();
        let mut kept: HashMap<Name, Vec<SessionId>> = HashMap::new();
        for session in sessions {
            let Some(target) = self.bound_for.remove(&session) else {
                ready.push(session);
                continue;
            };
            let full = *full.entry(target.clone()).or_insert_with(|| {
                self.parked.contains_key(&target) || backlog(&target) >= MOST_CONTEXTS
            });
            if full {
                kept.entry(target).or_default().push(session);
            } else {
                ready.push(session);
            }
        }
        for (target, sessions) in kept {
            self.parked.entry(target).or_default().push_back(sessions);
        }
        ready
    }

    /// What can be asked for now that backlogs are shorter.
    pub(super) fn release(&mut self, backlog: impl Fn(&Name) -> usize) -> Vec<Vec<SessionId>> {
        let mut ready = Vec::new();
        self.parked.retain(|target, waiting| {
            // One order at a time, and the next when the backlog has moved again.
            if backlog(target) < MOST_CONTEXTS / 2 {
                ready.extend(waiting.pop_front());
            }
            !waiting.is_empty()
        });
        ready
    }

    /// All that waits for a gateway that is gone: the engine has stopped those
    /// transfers and lets their contexts pass.
    pub(super) fn release_all(&mut self, target: &Name) -> impl Iterator<Item = Vec<SessionId>> {
        self.parked.remove(target).unwrap_or_default().into_iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: std::ops::Range<u8>) -> Vec<SessionId> {
        numbers.map(|number| SessionId([number; 16])).collect()
    }

    #[test]
    fn a_full_target_holds_back_its_own_sessions_only() {
        let (slow, fast): (Name, Name) = ("slow".parse().unwrap(), "fast".parse().unwrap());
        let backlog = |name: &Name| if *name == slow { MOST_CONTEXTS } else { 0 };
        let mut parked = Parked::default();
        for (number, session) in ids(0..4).into_iter().enumerate() {
            parked.expect(session, if number % 2 == 0 { slow.clone() } else { fast.clone() });
        }
        let ready = parked.park(ids(0..5), backlog);
        assert_eq!(ready, [ids(1..2), ids(3..5)].concat());
        assert!(parked.release(backlog).is_empty());
        // What follows does not overtake, although there is room now.
        parked.expect(SessionId([9; 16]), slow.clone());
        assert!(parked.park(ids(9..10), |_| 0).is_empty());
        assert_eq!(parked.release(|_| 0), [vec![SessionId([0; 16]), SessionId([2; 16])]]);
        assert_eq!(parked.release(|_| 0), [ids(9..10)]);
        assert!(parked.is_empty());
    }
}
