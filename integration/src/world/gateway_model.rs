//! The gateway of the world: what the plugin trait promises, and no more.
//!
//! It is a process of its own: it outlives a crash of the daemon beside it, and
//! what it holds dies with it. It remembers nothing of a session that it does
//! not hold, so every memory that safety needs must be the engine's.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
};

use protocol_spec::{
    context::{LifetimeUsed, Protocol, ReplayWindow},
    id::{BatchId, Generation, Name, SessionEpoch, SessionId},
    status::{Refusal, Status},
    transfer::{ChildFinals, Finals, GrantedRange, IkeFinals, SaRef, SessionState, SessionStatus},
};

use super::image::Image;

/// A replay window of 64 packets (RFC 4303 section 3.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Window {
    /// Highest number received.
    pub highest: u64,
    /// Bit `i` says that `highest - i` was received.
    pub bits: u64,
}

impl Window {
    /// Packets in the window.
    pub const SIZE: u32 = u64::BITS;

    /// Whether a packet with this number is neither a replay nor too old.
    pub fn accepts(&self, number: u64) -> bool {
        match self.highest.checked_sub(number) {
            None => true,
            Some(age) => age < u64::from(Self::SIZE) && self.bits >> age & 1 == 0,
        }
    }

    /// Marks a number as received.
    pub fn mark(&mut self, number: u64) {
        if let Some(age) = self.highest.checked_sub(number) {
            self.bits |= 1 << age;
        } else {
            let shift = number - self.highest;
            self.bits = if shift < 64 { self.bits << shift } else { 0 } | 1;
            self.highest = number;
        }
    }

    /// As a context and finals hold it.
    pub fn to_wire(self) -> ReplayWindow {
        #[expect(clippy::cast_possible_truncation, reason = "two halves of a word")]
        let bitmap = vec![self.bits as u32, (self.bits >> 32) as u32];
        ReplayWindow { size: Self::SIZE, highest: self.highest, bitmap }
    }

    /// From a context or finals.
    pub fn from_wire(window: &ReplayWindow) -> Self {
        let word = |i: usize| u64::from(window.bitmap.get(i).copied().unwrap_or_default());
        Self { highest: window.highest, bits: word(0) | word(1) << 32 }
    }
}

/// What an IKE SA counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MessageIds {
    /// Next request that the gateway sends.
    pub next_send: u32,
    /// Next request that the gateway expects.
    pub next_receive: u32,
    /// Content of the last response.
    pub last_response: Option<u64>,
}

/// The pair of Child SAs of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sa {
    /// Inbound SPI, which names the pair; no two pairs of the world share one.
    pub spi: u32,
    /// Highest outbound number used.
    pub sequence: u64,
    /// First outbound number that may not be used.
    pub end: u64,
    /// Inbound replay window.
    pub window: Window,
}

impl Sa {
    /// What the wire calls this pair.
    pub fn reference(&self) -> SaRef {
        SaRef { protocol: Protocol::Esp, inbound_spi: self.spi }
    }

    /// The next outbound number, if one may be used.
    pub fn next(&self) -> Option<u64> {
        Some(self.sequence + 1).filter(|number| *number < self.end)
    }
}

/// A session as the gateway holds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// Newest ownership that the gateway was told of.
    pub epoch: SessionEpoch,
    /// Counts changes of the SA.
    pub generation: Generation,
    /// Where the session stands here.
    pub state: SessionState,
    /// The IKE SA's counters.
    pub ike: MessageIds,
    /// The Child SAs.
    pub sa: Sa,
}

/// A session to install, without what a context has beside.
#[derive(Clone, Debug, Hash)]
pub struct Installation {
    /// The ownership that it will have.
    pub epoch: SessionEpoch,
    /// Where it comes from.
    pub source: Name,
    /// The transfer.
    pub batch: BatchId,
    /// The numbers granted.
    pub grants: Vec<GrantedRange>,
    /// Which session.
    pub session: SessionId,
    /// What its context said.
    pub image: Image,
}

/// The sessions of one gateway.
#[derive(Clone, Debug, Default, Hash)]
pub struct GatewayModel {
    /// What it holds.
    pub sessions: BTreeMap<SessionId, Held>,
}

type Acted<T> = Result<T, Refusal>;

fn refused<T>(status: Status) -> Acted<T> {
    Err(Refusal::new(status, "the model gateway refuses"))
}

impl GatewayModel {
    /// Whether the gateway uses the session: it alone may send and accept.
    pub fn is_active(&self, session: SessionId) -> bool {
        self.active(session).is_some()
    }

    /// The session, if the gateway uses it.
    pub fn active(&self, session: SessionId) -> Option<&Held> {
        self.sessions.get(&session).filter(|held| held.state == SessionState::Active)
    }

    /// The session to work on, if the gateway uses it.
    pub fn active_mut(&mut self, session: SessionId) -> Option<&mut Held> {
        self.sessions.get_mut(&session).filter(|held| held.state == SessionState::Active)
    }

    /// All sessions as the gateway tells them.
    pub fn list(&self) -> Vec<SessionStatus> {
        self.sessions
            .iter()
            .map(|(session, held)| SessionStatus {
                session: *session,
                epoch: held.epoch,
                generation: held.generation,
                state: held.state.clone(),
            })
            .collect()
    }

    /// GET.
    pub fn snapshot(&self, session: SessionId) -> Acted<Image> {
        match self.sessions.get(&session) {
            None => refused(Status::NoSession),
            Some(Held { state: SessionState::Staged { .. }, .. }) => refused(Status::NoSession),
            Some(held) => Ok(Image { generation: held.generation, ike: held.ike, sa: held.sa }),
        }
    }

    /// Whether the session could be staged now.
    pub fn admit(&self, session: SessionId) -> Acted<()> {
        match self.sessions.get(&session).map(|held| &held.state) {
            None | Some(SessionState::Staged { .. }) => Ok(()),
            Some(_) => refused(Status::SpiCollision),
        }
    }

    /// PUT.
    pub fn stage(&mut self, order: &Installation) -> Acted<Generation> {
        let state = SessionState::Staged { source: order.source.clone(), batch: order.batch };
        if let Some(held) = self.sessions.get(&order.session) {
            if order.epoch < held.epoch {
                return refused(Status::StaleEpoch);
            }
            if !matches!(held.state, SessionState::Staged { .. }) {
                return refused(Status::SpiCollision);
            }
            if order.epoch == held.epoch {
                return Ok(held.generation);
            }
        }
        let mut sa = order.image.sa;
        let Some(grant) = order.grants.iter().find(|grant| grant.sa == sa.reference()) else {
            return refused(Status::NoSequenceRoom);
        };
        sa.sequence = grant.base.saturating_sub(1);
        sa.end = grant.end;
        let held = Held {
            epoch: order.epoch,
            generation: order.image.generation,
            state,
            ike: order.image.ike,
            sa,
        };
        self.sessions.insert(order.session, held);
        Ok(order.image.generation)
    }

    /// Stops a session and reads its last counters.
    pub fn pause(&mut self, session: SessionId, target: &Name) -> Acted<Finals> {
        match self.sessions.get_mut(&session) {
            None => refused(Status::NoSession),
            Some(Held { state: SessionState::Staged { .. }, .. }) => refused(Status::NoSession),
            Some(held) => {
                held.state = SessionState::Paused { target: target.clone() };
                Ok(held.finals())
            }
        }
    }

    /// Takes back a pause.
    pub fn resume(
        &mut self,
        session: SessionId,
        epoch: SessionEpoch,
        from: &[(SaRef, u64)],
    ) -> Acted<()> {
        let Some(held) = self.sessions.get_mut(&session) else {
            return refused(Status::NoSession);
        };
        match held.state {
            _ if epoch < held.epoch => refused(Status::StaleEpoch),
            SessionState::Staged { .. } => refused(Status::NoSession),
            SessionState::Active => Ok(()),
            SessionState::Paused { .. } => {
                held.epoch = epoch;
                held.state = SessionState::Active;
                let own = held.sa.reference();
                for (_, first) in from.iter().filter(|(sa, _)| *sa == own) {
                    held.sa.sequence = held.sa.sequence.max(first.saturating_sub(1));
                }
                Ok(())
            }
        }
    }

    /// Puts a staged session to use.
    pub fn activate(
        &mut self,
        session: SessionId,
        epoch: SessionEpoch,
        finals: &Finals,
    ) -> Acted<()> {
        let Some(held) = self.sessions.get_mut(&session) else {
            return refused(Status::NoSession);
        };
        match held.state {
            _ if epoch != held.epoch => refused(Status::StaleEpoch),
            SessionState::Active => Ok(()),
            SessionState::Paused { .. } => refused(Status::NoSession),
            SessionState::Staged { .. } => {
                let reference = held.sa.reference();
                if let Some(child) = finals.children.iter().find(|child| child.sa == reference) {
                    held.sa.window = Window::from_wire(&child.window);
                }
                if let Some(ike) = &finals.ike {
                    held.ike = MessageIds {
                        next_send: ike.next_send,
                        next_receive: ike.next_receive,
                        last_response: ike.last_response.as_deref().map(content_of),
                    };
                }
                held.state = SessionState::Active;
                Ok(())
            }
        }
    }

    /// Ends a paused session silently.
    pub fn release(&mut self, session: SessionId, epoch: SessionEpoch) -> Acted<()> {
        match self.sessions.get(&session) {
            None => Ok(()),
            Some(held) if epoch < held.epoch => refused(Status::StaleEpoch),
            Some(Held { state: SessionState::Paused { .. }, .. }) => {
                self.sessions.remove(&session);
                Ok(())
            }
            Some(_) => refused(Status::NoSession),
        }
    }

    /// Removes what was staged.
    pub fn discard(&mut self, session: SessionId, epoch: SessionEpoch) -> Acted<()> {
        match self.sessions.get(&session) {
            None => Ok(()),
            Some(held) if epoch < held.epoch => refused(Status::StaleEpoch),
            Some(Held { state: SessionState::Staged { .. }, .. }) => {
                self.sessions.remove(&session);
                Ok(())
            }
            Some(_) => refused(Status::NoSession),
        }
    }

    /// Moves the end of the granted range up.
    pub fn extend(&mut self, session: SessionId, epoch: SessionEpoch, ends: &[(SaRef, u64)]) {
        if let Some(held) = self.sessions.get_mut(&session).filter(|held| held.epoch == epoch) {
            let own = held.sa.reference();
            for (_, end) in ends.iter().filter(|(sa, _)| *sa == own) {
                held.sa.end = held.sa.end.max(*end);
            }
        }
    }
}

/// The octets of a response with this content.
fn octets_of(content: u64) -> Vec<u8> {
    content.to_be_bytes().to_vec()
}

/// The content of a response with these octets.
fn content_of(octets: &[u8]) -> u64 {
    octets.try_into().map(u64::from_be_bytes).unwrap_or_else(|_| {
        // Octets that no gateway of the world sent: some content that none has.
        let mut hasher = std::hash::DefaultHasher::new();
        octets.hash(&mut hasher);
        hasher.finish() | 1 << 63
    })
}

impl Held {
    /// Its last counters, as a pause reads them.
    pub fn finals(&self) -> Finals {
        Finals {
            generation: self.generation,
            ike: Some(IkeFinals {
                next_send: self.ike.next_send,
                next_receive: self.ike.next_receive,
                last_response: self.ike.last_response.map(octets_of),
            }),
            children: vec![ChildFinals {
                sa: self.sa.reference(),
                sequence: self.sa.sequence,
                window: self.sa.window.to_wire(),
                used: LifetimeUsed::default(),
            }],
        }
    }
}
