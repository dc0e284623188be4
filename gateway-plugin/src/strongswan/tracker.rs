//! What charon's HA messages, heard from the first one on, say about its sessions.
//!
//! [`Tracker`] has no socket and no clock: messages and vici's list go in, notices
//! come out. A session is a small graph, not the last message: the present IKE SA
//! with what its keys are made of, IKE SAs that are to replace it, and Child SAs,
//! each with the IKE SA under which it was made.
//!
//! ```text
//!  IKE_ADD ----> half open --IKE_UPDATE(configuration)--> session   (Up)
//!  IKE_ADD(replaces X) --> successor of X's session
//!  IKE_DELETE(X), or IKE_UPDATE(configuration) of a successor:
//!                          the successor is the session's IKE SA    (Changed)
//!  IKE_DELETE of the last one                                       (Down)
//!  CHILD_ADD, CHILD_DELETE, IKE_UPDATE with news                    (Changed)
//! ```
//!
//! Messages get lost while nobody listens. One that names an IKE SA that is not
//! known here is a [`Notice::Gap`]; [`Tracker::reconcile`] finds the others.

mod heard;
mod listing;
mod numbers;
mod parts;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::IpAddr,
};

use protocol_spec::{
    context::{Context, IkeSa},
    id::{Generation, SessionId},
    limits::MAX_CHILDREN,
};
use thiserror::Error;

use self::parts::IkeNode;
pub use self::{
    listing::{ListedChild, ListedIke, ListedState, Mark},
    parts::{Negotiated, TrackedChild},
};
use super::ha::{IkeId, IkeSpis, Kind, Message};
use crate::plugin::GatewayEvent;

/// Most successors that an IKE SA may have at once: a rekeying of either side and
/// repetitions of both.
const MAX_SUCCESSORS: usize = 4;
/// Most unknown IKE SAs that are remembered so as to be reported once.
const MAX_UNKNOWN: usize = 4096;
/// Most ended IKE SAs that are remembered so as not to be reported as unknown.
const MAX_ENDED: usize = 1024;

/// How much a tracker takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most sessions. One more is refused, and said to be.
    pub sessions: usize,
    /// Most IKE SAs without an authenticated peer. Anybody can open such; the
    /// oldest gives way.
    pub half_open: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sessions: 100_000, half_open: 4096 }
    }
}

/// What a message changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// For the daemon.
    Event(GatewayEvent),
    /// charon has an IKE SA whose beginning was not heard. To heal it, send
    /// [`relearn`](super::ha::put::relearn) for the segment of its client, then
    /// reconcile.
    Gap {
        /// Which.
        ike: IkeSpis,
        /// Its client, where the message or the list says it.
        client: Option<std::net::SocketAddr>,
    },
    /// A session that is not followed.
    Refused {
        /// Which.
        ike: IkeSpis,
        /// Why.
        why: &'static str,
    },
}

/// Why a session cannot be written down.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotWhole {
    /// No such session.
    #[error("no such session")]
    Unknown,
    /// A message is missing.
    #[error(
        "charon has not told {0} of this session: a message was lost; resynchronise its segment"
    )]
    Missing(&'static str),
    /// Something that HA messages leave out.
    #[error("charon's HA messages do not tell {0}")]
    NotTold(&'static str),
}

/// A session as charon told it: the IKE SA, and the Child SAs for the caller to
/// join with the kernel's.
#[derive(Debug, PartialEq)]
pub struct Description {
    /// Which session.
    pub session: SessionId,
    /// Its state.
    pub generation: Generation,
    /// The IKE SA. Its times, pools, side effects and the peer's authentication
    /// method are not among charon's HA messages and are left empty.
    pub ike: IkeSa,
    /// Its Child SAs in the order in which they were made.
    pub children: Vec<TrackedChild>,
}

/// The sessions of one charon.
#[derive(Debug, Default)]
pub struct Tracker {
    limits: Limits,
    sessions: BTreeMap<SessionId, Session>,
    /// Every IKE SA of a session, successors too.
    owners: HashMap<IkeSpis, SessionId>,
    half_open: VecDeque<IkeNode>,
    unknown: HashSet<IkeSpis>,
    /// IKE SAs that ended lately: charon still tells Message IDs of one that was
    /// rekeyed, when the peer's Delete for it comes.
    ended: VecDeque<IkeSpis>,
    /// Names of sessions from before our own restart.
    remembered: HashMap<IkeSpis, (SessionId, Generation)>,
    mark: Mark,
}

#[derive(Debug)]
struct Session {
    generation: Generation,
    ike: IkeNode,
    successors: Vec<IkeNode>,
    /// IKE SAs that it had before, until they are known to be gone.
    replaced: Vec<IkeSpis>,
    children: Vec<parts::Child>,
    since: Mark,
    /// When it last changed.
    touched: Mark,
}

impl Tracker {
    /// A tracker that knows nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes a message from charon. `fresh` names the session, should it be a new
    /// one: random, and used only then.
    pub fn handle(&mut self, message: Message, fresh: SessionId) -> Vec<Notice> {
        let Some(id) = message.ike_id().copied() else {
            // STATUS, RESYNC and segments are between charons.
            return Vec::new();
        };
        let mut notices = Vec::new();
        match message.kind {
            Kind::IkeAdd => self.add(id, message.attributes, &mut notices),
            Kind::IkeUpdate => self.update(id, &message.attributes, fresh, &mut notices),
            Kind::IkeMidInitiator | Kind::IkeMidResponder => {
                self.message_id(id, message.kind, &message.attributes, &mut notices);
            }
            Kind::IkeDelete => self.delete(id.spis(), &mut notices),
            Kind::ChildAdd => self.child_add(id, message.attributes, &mut notices),
            Kind::ChildDelete => self.child_delete(id.spis(), &message.attributes, &mut notices),
            Kind::SegmentDrop | Kind::SegmentTake | Kind::Status | Kind::Resync | Kind::IkeIv => {}
        }
        notices
    }

    /// The sessions and their states.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, Generation)> {
        self.sessions.iter().map(|(id, session)| (*id, session.generation))
    }

    /// The session that an IKE SA belongs to.
    pub fn find(&self, ike: IkeSpis) -> Option<SessionId> {
        self.owners.get(&ike).copied()
    }

    /// Whether a session's IKE SA has a Child SA with this inbound SPI.
    pub fn has_child(&self, ike: IkeSpis, inbound: u32) -> bool {
        let session = self.owners.get(&ike).and_then(|owner| self.sessions.get(owner));
        session.is_some_and(|session| session.children.iter().any(|c| c.inbound == inbound))
    }

    /// The IKE SA of another session whose end user has this inner address.
    pub fn holder(&self, address: IpAddr, than: SessionId) -> Option<IkeSpis> {
        let others = self.sessions.iter().filter(|(session, _)| **session != than);
        others
            .map(|(_, session)| &session.ike)
            .find(|ike| ike.facts.virtual_ips.contains(&address))
            .map(|ike| ike.id.spis())
    }

    /// How charon calls a session's IKE SA.
    pub fn ike_id(&self, session: SessionId) -> Option<IkeId> {
        self.sessions.get(&session).map(|session| session.ike.id)
    }

    /// Writes a session down. Copies its secrets.
    ///
    /// # Errors
    /// [`NotWhole`] says what is missing.
    pub fn describe(&self, session: SessionId) -> Result<Description, NotWhole> {
        let Session { generation, ike, children, .. } =
            self.sessions.get(&session).ok_or(NotWhole::Unknown)?;
        let spis = ike.id.spis();
        Ok(Description {
            session,
            generation: *generation,
            ike: ike.describe()?,
            children: children.iter().map(|child| child.describe(spis)).collect(),
        })
    }

    /// Takes in a session that we put into this charon ourselves: charon says
    /// nothing about those until they are active. No event. One of the same name
    /// is replaced.
    ///
    /// # Errors
    /// [`Notice::Refused`] where there is no room or no IKE SA to follow.
    pub fn adopt(&mut self, context: &Context) -> Result<(), Notice> {
        self.forget(context.session);
        let Some(ike) = &context.ike else { return Ok(()) };
        let ike = IkeNode::adopt(ike, self.tick());
        if let Some(why) = self.no_room() {
            return Err(Notice::Refused { ike: ike.id.spis(), why });
        }
        let spis = ike.id.spis();
        let children = context.children.iter().map(|child| parts::Child::adopt(child, spis));
        let session = Session {
            generation: context.generation,
            ike,
            successors: Vec::new(),
            replaced: Vec::new(),
            children: children.take(MAX_CHILDREN).collect(),
            since: self.tick(),
            touched: self.mark,
        };
        self.enter(context.session, session);
        Ok(())
    }

    /// Forgets a session that was taken from charon by us. No event.
    pub fn forget(&mut self, session: SessionId) {
        if let Some(session) = self.sessions.remove(&session) {
            let nodes = session.successors.iter().chain([&session.ike]);
            for node in nodes {
                self.owners.remove(&node.id.spis());
            }
        }
    }

    /// Forgets everything: charon has started anew and has no session any more.
    pub fn reset(&mut self) -> Vec<Notice> {
        let gone = std::mem::take(&mut self.sessions);
        self.owners.clear();
        self.half_open.clear();
        self.unknown.clear();
        self.ended.clear();
        gone.into_keys().map(|session| Notice::Event(GatewayEvent::Down { session })).collect()
    }

    /// Gives the session of this IKE SA its old name, and generations after the
    /// known one, when it is heard of again: after a restart of our own.
    pub fn remember(&mut self, ike: IkeSpis, session: SessionId, generation: Generation) {
        if self.remembered.len() < self.limits.sessions {
            self.remembered.insert(ike, (session, generation));
        }
    }

    /// What this IKE SA was called before, if it was not heard of since.
    pub fn remembered(&self, ike: IkeSpis) -> Option<(SessionId, Generation)> {
        self.remembered.get(&ike).copied()
    }

    /// Says gaps again that were reported already: after a `RESYNC`.
    pub fn report_gaps_again(&mut self) {
        self.unknown.clear();
    }

    /// An IKE SA that is known, of whatever standing.
    fn node(&mut self, spis: IkeSpis) -> Option<&mut IkeNode> {
        match self.owners.get(&spis) {
            Some(owner) => {
                let session = self.sessions.get_mut(owner)?;
                let nodes = session.successors.iter_mut().chain([&mut session.ike]);
                nodes.into_iter().find(|node| node.id.spis() == spis)
            }
            None => self.half_open.iter_mut().find(|node| node.id.spis() == spis),
        }
    }

    fn enter(&mut self, id: SessionId, session: Session) {
        self.owners.insert(session.ike.id.spis(), id);
        self.unknown.remove(&session.ike.id.spis());
        self.sessions.insert(id, session);
    }

    fn no_room(&self) -> Option<&'static str> {
        (self.sessions.len() >= self.limits.sessions).then_some("too many sessions are followed")
    }

    fn changed(&mut self, id: SessionId, notices: &mut Vec<Notice>) {
        let now = self.tick();
        if let Some(session) = self.sessions.get_mut(&id) {
            session.touched = now;
            session.generation = session.generation.next();
            let generation = session.generation;
            notices.push(Notice::Event(GatewayEvent::Changed { session: id, generation }));
        }
    }

    fn gap(
        &mut self,
        ike: IkeSpis,
        client: Option<std::net::SocketAddr>,
        notices: &mut Vec<Notice>,
    ) {
        if self.ended.contains(&ike) {
            return;
        }
        if self.unknown.len() >= MAX_UNKNOWN {
            // Rather say one twice than remember without bound.
            self.unknown.clear();
        }
        if self.unknown.insert(ike) {
            notices.push(Notice::Gap { ike, client });
        }
    }
}

#[cfg(test)]
mod tests;
