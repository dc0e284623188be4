//! What stands in the kernel and for whom: a mirror of the sets' elements.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use protocol_spec::{context::Prefix, id::SessionId};

use super::{
    SteeringError, is_block, is_relay,
    nft::{Change, Nft},
    set::{Element, Purpose, Set},
    traffic::{Standing, masked},
};

/// The elements of all sessions.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    sessions: BTreeMap<SessionId, BTreeSet<Element>>,
    owners: HashMap<(Set, Vec<u8>), SessionId>,
}

impl Ledger {
    /// Reads the kernel's sets. Elements without a session's id are not ours.
    pub(super) fn read(nft: &mut Nft) -> Result<Self, SteeringError> {
        let mut ledger = Self::default();
        for set in Set::OF_SESSIONS {
            for (element, session) in nft.elements(set)? {
                if let Some(session) = session {
                    ledger.insert(session, element);
                }
            }
        }
        Ok(ledger)
    }

    /// All sessions with their elements.
    pub(super) fn sessions(&self) -> impl Iterator<Item = (SessionId, &BTreeSet<Element>)> {
        self.sessions.iter().map(|(session, elements)| (*session, elements))
    }

    /// The elements of one session.
    pub(super) fn of(&self, session: SessionId) -> impl Iterator<Item = &Element> {
        self.sessions.get(&session).into_iter().flatten()
    }

    /// For what a session has elements.
    pub(super) fn purposes(&self, session: SessionId) -> BTreeSet<Purpose> {
        self.of(session).map(|element| element.set.purpose()).collect()
    }

    /// The change after which a session has, of the purposes that are `replaced`,
    /// the `wanted` elements and no others.
    pub(super) fn plan(
        &self,
        session: SessionId,
        replaced: impl Fn(Purpose) -> bool,
        wanted: Vec<Element>,
    ) -> Result<Change, SteeringError> {
        let wanted: BTreeSet<Element> = wanted.into_iter().collect();
        for element in &wanted {
            match self.owners.get(&(element.set, element.key.clone())) {
                Some(owner) if *owner != session => {
                    return Err(SteeringError::Taken { what: describe(element), owner: *owner });
                }
                _ => {}
            }
        }
        let old =
            |element: &&Element| replaced(element.set.purpose()) && !wanted.contains(*element);
        let remove = self.of(session).filter(old).cloned().collect();
        let there = self.sessions.get(&session);
        let add = wanted
            .iter()
            .filter(|element| !there.is_some_and(|there| there.contains(*element)))
            .cloned()
            .collect();
        Ok(Change { session: Some(session), remove, add })
    }

    /// The change after which another session has the guard of one that has gone, of
    /// which nothing is left.
    pub(super) fn inherited(&self, from: SessionId, to: SessionId) -> Change {
        let guard = |element: &&Element| element.set.purpose() == Purpose::Guard;
        Change {
            session: Some(to),
            remove: self.of(from).cloned().collect(),
            add: self.of(from).filter(guard).cloned().collect(),
        }
    }

    /// Takes over a change that the kernel made.
    pub(super) fn commit(&mut self, change: &Change) {
        let Some(session) = change.session else { return };
        for element in &change.remove {
            let owner = self.owners.remove(&(element.set, element.key.clone()));
            let owner = owner.unwrap_or(session);
            if let Some(elements) = self.sessions.get_mut(&owner) {
                elements.remove(element);
                if elements.is_empty() {
                    self.sessions.remove(&owner);
                }
            }
        }
        for element in &change.add {
            self.insert(session, element.clone());
        }
    }

    /// The changes that bring the kernel from what it has, `found`, to this.
    pub(super) fn missing_in(&self, found: &Self) -> Vec<Change> {
        let lost = |(session, elements): (&SessionId, &BTreeSet<Element>)| {
            let there = found.sessions.get(session);
            let add: Vec<_> = elements
                .iter()
                .filter(|element| !there.is_some_and(|there| there.contains(*element)))
                .cloned()
                .collect();
            (!add.is_empty()).then(|| Change { session: Some(*session), remove: Vec::new(), add })
        };
        self.sessions.iter().filter_map(lost).collect()
    }

    /// What stands for each session, for people and for a daemon that restarts.
    pub(super) fn standing(&self, diverted: &[Prefix]) -> Vec<(SessionId, Standing)> {
        let one = |(session, elements): (&SessionId, &BTreeSet<Element>)| {
            let purposes = self.purposes(*session);
            let inner: Vec<_> = elements.iter().filter_map(guarded).collect();
            let diverts = inner.iter().any(|prefix| {
                diverted.iter().any(|d| d.bits == prefix.bits && masked(*d) == masked(*prefix))
            });
            let standing = Standing {
                holds_data: Purpose::HOLDS_DATA.iter().any(|hold| purposes.contains(hold)),
                holds_ike: purposes.contains(&Purpose::HoldIke),
                relays: purposes.iter().any(|purpose| is_relay(*purpose)),
                blocks: purposes.iter().any(|purpose| is_block(*purpose)),
                owns_client: purposes.contains(&Purpose::Own),
                diverts,
                inner,
            };
            (*session, standing)
        };
        self.sessions.iter().map(one).collect()
    }

    /// The guarded prefixes of a session.
    pub(super) fn inner(&self, session: SessionId) -> Vec<Prefix> {
        self.of(session).filter_map(guarded).collect()
    }

    fn insert(&mut self, session: SessionId, element: Element) {
        self.owners.insert((element.set, element.key.clone()), session);
        self.sessions.entry(session).or_default().insert(element);
    }
}

/// The prefix of an element of the guard.
pub(super) fn guarded(element: &Element) -> Option<Prefix> {
    (element.set.purpose() == Purpose::Guard).then(|| prefix(element))?
}

/// The prefix of an interval.
pub(super) fn prefix(element: &Element) -> Option<Prefix> {
    let number = |key: &[u8]| key.iter().fold(0_u128, |n, octet| n << 8 | u128::from(*octet));
    // Behind the address stands what else a packet must have.
    let rest = if element.set.spans() { 8 } else { 0 };
    let address = |key: &[u8]| key.get(..key.len().checked_sub(rest)?).map(<[u8]>::to_vec);
    let key = address(&element.key)?;
    let width = u32::try_from(key.len() * 8).ok()?;
    let first = number(&key);
    // What the last address has beyond the first one: the free bits, all set.
    let last = match &element.end {
        Some(end) if element.set.spans() => number(&address(end)?),
        Some(end) => number(end).checked_sub(1)?,
        None if width == 128 => u128::MAX,
        None => (1_u128 << width) - 1,
    };
    let free = (last ^ first).count_ones();
    let address = match <[u8; 4]>::try_from(&key[..]) {
        Ok(octets) => IpAddr::from(octets),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(&key[..]).ok()?),
    };
    Some(Prefix { address, bits: u8::try_from(width.checked_sub(free)?).ok()? })
}

/// What an element is, for a person.
fn describe(element: &Element) -> String {
    if let Some(prefix) = guarded(element) {
        return format!("inner prefix {}/{}", prefix.address, prefix.bits);
    }
    let digits: String = element.key.iter().map(|octet| format!("{octet:02x}")).collect();
    format!("{digits} in set {}", element.set.name())
}

#[cfg(test)]
mod tests;
