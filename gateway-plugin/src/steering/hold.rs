//! Packets that wait: whose they are, how many may wait, and what happens to them.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::IpAddr,
};

use protocol_spec::{context::Prefix, id::SessionId};

use super::{
    config::Limits,
    ledger::prefix,
    packet::{Kind, Seen},
    set::{Element, Purpose, Set},
    traffic::{contains, is_host},
};

/// What waits for one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldCount {
    /// Packets that wait.
    pub packets: usize,
    /// Their octets.
    pub octets: usize,
    /// Packets dropped because too much waited.
    pub dropped: u64,
}

/// A packet in the kernel's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// The kernel's number of it.
    pub(super) id: u32,
    pub(super) purpose: Purpose,
    /// The packet from its IP header on.
    pub(super) packet: Vec<u8>,
}

/// What to tell the kernel about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept(u32),
    Drop(u32),
}

/// All sessions that hold.
#[derive(Debug)]
pub(super) struct Holds {
    limits: Limits,
    sessions: HashMap<SessionId, Hold>,
    spis: HashMap<[u8; 4], SessionId>,
    ikes: HashMap<[u8; 8], SessionId>,
    inner: HashMap<IpAddr, SessionId>,
    prefixes: Vec<(Prefix, SessionId)>,
    /// How often inner packets of any session began to wait.
    turns: u64,
}

#[derive(Debug, Default)]
struct Hold {
    /// For what packets wait.
    purposes: BTreeSet<Purpose>,
    /// Which turn it is that inner packets wait, or waited last.
    turn: u64,
    waiting: VecDeque<Waiting>,
    count: HeldCount,
}

impl Holds {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            sessions: HashMap::new(),
            spis: HashMap::new(),
            ikes: HashMap::new(),
            inner: HashMap::new(),
            prefixes: Vec::new(),
            turns: 0,
        }
    }

    /// Begins to hold by these elements instead of those before; what waits stays. Of a
    /// kind without elements nothing changes: packets that were let go are known by
    /// those of before, while some of them are still on their way into the queue.
    pub(super) fn hold<'a>(
        &mut self,
        session: SessionId,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        let elements: Vec<_> = elements.into_iter().collect();
        for purpose in elements.iter().map(|element| element.set.purpose()).collect::<BTreeSet<_>>()
        {
            self.unlist(session, purpose);
        }
        let hold = self.sessions.entry(session).or_default();
        for element in elements {
            let purpose = element.set.purpose();
            if purpose.is_hold() && hold.purposes.insert(purpose) && purpose == Purpose::HoldInner {
                self.turns += 1;
                hold.turn = self.turns;
            }
            match element.set {
                Set::HoldSpi => {
                    if let Ok(spi) = element.key[..].try_into() {
                        self.spis.insert(spi, session);
                    }
                }
                Set::HoldIke => {
                    if let Ok(spi) = element.key[..].try_into() {
                        self.ikes.insert(spi, session);
                    }
                }
                Set::HoldInner4 | Set::HoldInner6 | Set::HoldFrom4 | Set::HoldFrom6 => {
                    let Some(prefix) = prefix(element) else { continue };
                    if is_host(prefix) {
                        self.inner.insert(prefix.address, session);
                    } else if !self.prefixes.contains(&(prefix, session)) {
                        self.prefixes.push((prefix, session));
                    }
                }
                _ => {}
            }
        }
    }

    /// Takes a packet that the kernel queued, or says what becomes of it and of
    /// those that must make room.
    pub(super) fn take(&mut self, id: u32, seen: Option<Seen>, packet: &[u8]) -> Vec<Verdict> {
        let Some((session, purpose)) = seen.and_then(|seen| self.whose(&seen)) else {
            // Nobody's: its hold ended by a discard.
            return vec![Verdict::Drop(id)];
        };
        let Some(hold) = self.sessions.get_mut(&session) else { return vec![Verdict::Drop(id)] };
        if !hold.purposes.contains(&purpose) {
            // Let go; it was on its way into the queue.
            return vec![Verdict::Accept(id)];
        }
        hold.count.packets += 1;
        hold.count.octets += packet.len();
        hold.waiting.push_back(Waiting { id, purpose, packet: packet.to_vec() });
        let mut verdicts = Vec::new();
        while hold.count.packets > self.limits.packets || hold.count.octets > self.limits.octets {
            let Some(oldest) = hold.waiting.pop_front() else { break };
            hold.count.packets -= 1;
            hold.count.octets -= oldest.packet.len();
            hold.count.dropped += 1;
            verdicts.push(Verdict::Drop(oldest.id));
        }
        verdicts
    }

    /// Ends the hold of some kinds; what waited goes on in its order, and so does
    /// what still comes.
    pub(super) fn let_go(&mut self, session: SessionId, purposes: &[Purpose]) -> Vec<Verdict> {
        let Some(hold) = self.sessions.get_mut(&session) else { return Vec::new() };
        hold.purposes.retain(|purpose| !purposes.contains(purpose));
        let (going, staying): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut hold.waiting)
            .into_iter()
            .partition(|waiting| purposes.contains(&waiting.purpose));
        hold.waiting = staying;
        hold.count.packets -= going.len();
        hold.count.octets -= going.iter().map(|waiting| waiting.packet.len()).sum::<usize>();
        going.into_iter().map(|waiting| Verdict::Accept(waiting.id)).collect()
    }

    /// Which turn it is that a session's inner packets wait.
    pub(super) fn turn(&self, session: SessionId) -> Option<u64> {
        self.sessions.get(&session).map(|hold| hold.turn)
    }

    /// Ends a session's hold; what waited comes back, to be dropped.
    pub(super) fn discard(&mut self, session: SessionId) -> VecDeque<Waiting> {
        [Purpose::HoldEsp, Purpose::HoldInner, Purpose::HoldIke]
            .into_iter()
            .for_each(|purpose| self.unlist(session, purpose));
        self.sessions.remove(&session).map(|hold| hold.waiting).unwrap_or_default()
    }

    pub(super) fn count(&self, session: SessionId) -> HeldCount {
        self.sessions.get(&session).map(|hold| hold.count).unwrap_or_default()
    }

    fn whose(&self, seen: &Seen) -> Option<(SessionId, Purpose)> {
        let outer = match seen.kind {
            Kind::Protected(spi) => self.spis.get(&spi).map(|s| (*s, Purpose::HoldEsp)),
            Kind::Ike(spi) => self.ikes.get(&spi).map(|s| (*s, Purpose::HoldIke)),
            Kind::Other => None,
        };
        outer.or_else(|| {
            let host = self.inner.get(&seen.destination).copied();
            let of_prefix = || {
                let mut all = self.prefixes.iter();
                all.find(|(prefix, _)| contains(*prefix, seen.destination)).map(|(_, s)| *s)
            };
            host.or_else(of_prefix).map(|session| (session, Purpose::HoldInner))
        })
    }

    fn unlist(&mut self, session: SessionId, purpose: Purpose) {
        if !self.sessions.contains_key(&session) {
            return;
        }
        match purpose {
            Purpose::HoldEsp => self.spis.retain(|_, owner| *owner != session),
            Purpose::HoldIke => self.ikes.retain(|_, owner| *owner != session),
            Purpose::HoldInner => {
                self.inner.retain(|_, owner| *owner != session);
                self.prefixes.retain(|(_, owner)| *owner != session);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
