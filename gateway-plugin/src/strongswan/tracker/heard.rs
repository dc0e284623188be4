//! What each kind of message changes.

use protocol_spec::{
    id::{Generation, SessionEpoch, SessionId},
    limits::MAX_CHILDREN,
    transfer::{SessionState, SessionStatus},
};

use super::{
    MAX_ENDED, MAX_SUCCESSORS, Notice, Session, Tracker,
    parts::{Child, Facts, IkeNode},
};
use crate::{
    plugin::GatewayEvent,
    strongswan::ha::{Attribute, IkeId, IkeSpis, Kind},
};

impl Tracker {
    pub(super) fn add(&mut self, id: IkeId, attributes: Vec<Attribute>, notices: &mut Vec<Notice>) {
        let replaces = attributes.iter().find_map(|attribute| match attribute {
            Attribute::IkeRekeyId(old) => Some(old.spis()),
            _ => None,
        });
        let refused = |why| Notice::Refused { ike: id.spis(), why };
        // The same SA again: a further key exchange of it, or a repetition.
        if let Some(node) = self.node(id.spis()) {
            if !node.add(attributes) {
                notices.push(refused("its keys are longer than any that are known"));
            }
            return;
        }
        let mut node = IkeNode::new(id, self.tick());
        if !node.add(attributes) {
            notices.push(refused("its keys are longer than any that are known"));
            return;
        }
        self.unknown.remove(&id.spis());
        let owner = replaces.and_then(|old| self.owners.get(&old).copied());
        if let Some((owner, session)) =
            owner.and_then(|owner| Some((owner, self.sessions.get_mut(&owner)?)))
        {
            if session.successors.len() == MAX_SUCCESSORS {
                let oldest = session.successors.remove(0);
                self.owners.remove(&oldest.id.spis());
            }
            session.successors.push(node);
            self.owners.insert(id.spis(), owner);
            return;
        }
        if self.half_open.len() >= self.limits.half_open.max(1) {
            self.half_open.pop_front();
        }
        self.half_open.push_back(node);
    }

    pub(super) fn update(
        &mut self,
        id: IkeId,
        attributes: &[Attribute],
        fresh: SessionId,
        notices: &mut Vec<Notice>,
    ) {
        let spis = id.spis();
        if let Some(owner) = self.owners.get(&spis).copied() {
            let Some(session) = self.sessions.get_mut(&owner) else { return };
            let changed = if session.ike.id.spis() == spis {
                session.ike.facts.update(attributes)
            } else {
                if let Some(next) = session.successors.iter_mut().find(|n| n.id.spis() == spis) {
                    next.facts.update(attributes);
                }
                // Only an SA in use gets a configuration.
                Facts::names_configuration(attributes) && self.succeed(owner, Some(spis))
            };
            if changed {
                self.changed(owner, notices);
            }
            return;
        }
        let Some(at) = self.half_open.iter().position(|node| node.id.spis() == spis) else {
            let client = Facts::default().updated(attributes).remote;
            self.gap(spis, client, notices);
            return;
        };
        let Some(node) = self.half_open.get_mut(at) else { return };
        node.facts.update(attributes);
        if node.facts.configuration.is_none() {
            return;
        }
        if let Some(why) = self.no_room() {
            notices.push(Notice::Refused { ike: spis, why });
            return;
        }
        let Some(ike) = self.half_open.remove(at) else { return };
        let (name, last) = self.remembered.remove(&spis).unwrap_or((fresh, Generation::default()));
        let generation = last.next();
        let since = self.tick();
        let session = Session {
            generation,
            ike,
            successors: Vec::new(),
            replaced: Vec::new(),
            children: Vec::new(),
            since,
            touched: since,
        };
        self.enter(name, session);
        notices.push(Notice::Event(GatewayEvent::Up(SessionStatus {
            session: name,
            epoch: SessionEpoch::default(),
            generation,
            state: SessionState::Active,
        })));
    }

    pub(super) fn message_id(
        &mut self,
        id: IkeId,
        kind: Kind,
        attributes: &[Attribute],
        notices: &mut Vec<Notice>,
    ) {
        let Some(node) = self.node(id.spis()) else {
            self.gap(id.spis(), None, notices);
            return;
        };
        for attribute in attributes {
            match (kind, attribute) {
                (Kind::IkeMidInitiator, Attribute::MessageId(mid)) => node.next_send = *mid,
                (_, Attribute::MessageId(mid)) => node.next_receive = *mid,
                _ => {}
            }
        }
    }

    pub(super) fn delete(&mut self, spis: IkeSpis, notices: &mut Vec<Notice>) {
        self.half_open.retain(|node| node.id.spis() != spis);
        self.unknown.remove(&spis);
        self.remembered.remove(&spis);
        if self.ended.len() == MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(spis);
        let Some(owner) = self.owners.get(&spis).copied() else { return };
        let Some(session) = self.sessions.get_mut(&owner) else { return };
        if session.ike.id.spis() != spis {
            // A rekeying that came to nothing, or lost against the peer's.
            session.successors.retain(|node| node.id.spis() != spis);
            self.owners.remove(&spis);
        } else if self.succeed(owner, None) {
            self.changed(owner, notices);
        } else {
            self.forget(owner);
            notices.push(Notice::Event(GatewayEvent::Down { session: owner }));
        }
    }

    /// Makes a successor, the newest unless it is named, the session's IKE SA.
    fn succeed(&mut self, owner: SessionId, spis: Option<IkeSpis>) -> bool {
        let Some(session) = self.sessions.get_mut(&owner) else { return false };
        let at = match spis {
            Some(spis) => session.successors.iter().position(|node| node.id.spis() == spis),
            None => session.successors.len().checked_sub(1),
        };
        let Some(at) = at else { return false };
        let mut next = session.successors.remove(at);
        next.facts.inherit(&session.ike.facts);
        let old = std::mem::replace(&mut session.ike, next);
        if session.replaced.len() == MAX_SUCCESSORS {
            session.replaced.remove(0);
        }
        session.replaced.push(old.id.spis());
        self.owners.remove(&old.id.spis());
        true
    }

    pub(super) fn child_add(
        &mut self,
        id: IkeId,
        attributes: Vec<Attribute>,
        notices: &mut Vec<Notice>,
    ) {
        let spis = id.spis();
        let Some(owner) = self.owners.get(&spis).copied() else {
            self.gap(spis, None, notices);
            return;
        };
        let Some(session) = self.sessions.get_mut(&owner) else { return };
        let refused = |why| Notice::Refused { ike: spis, why };
        let Some(child) = Child::new(spis, attributes) else {
            notices
                .push(refused("a Child SA of it has no SPIs or is larger than any that is known"));
            return;
        };
        let known = session.children.iter().position(|other| other.inbound == child.inbound);
        if let Some(same) = known.and_then(|at| session.children.get_mut(at)) {
            *same = child;
        } else if session.children.len() < MAX_CHILDREN {
            session.children.push(child);
        } else {
            notices.push(refused("it has more Child SAs than a context holds"));
            return;
        }
        self.changed(owner, notices);
    }

    pub(super) fn child_delete(
        &mut self,
        spis: IkeSpis,
        attributes: &[Attribute],
        notices: &mut Vec<Notice>,
    ) {
        let Some(owner) = self.owners.get(&spis).copied() else { return };
        let Some(session) = self.sessions.get_mut(&owner) else { return };
        let before = session.children.len();
        for attribute in attributes {
            if let Attribute::InboundSpi(spi) = attribute {
                session.children.retain(|child| child.inbound != spi.0);
            }
        }
        if session.children.len() != before {
            self.changed(owner, notices);
        }
    }
}
