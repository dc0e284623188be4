//! The ground truth about every session, and the invariants of the design
//! (section 5) in terms of it. No engine is asked for its opinion.
//!
//! Packets are steps of the world, but a violation does not wait for one: the
//! invariants look at what each gateway *could* send or accept next, as long as
//! it likes. So a state from which some number of packets would break an
//! invariant is itself the violation.

use std::fmt;

use cxtp::engine::Standing;
use protocol_spec::{
    id::{BatchId, Generation, SessionId},
    transfer::SessionState,
};

use super::{
    Node, World,
    gateway_model::{Held, Window},
    setup::number_of,
};

/// The invariants that the world can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Invariant {
    /// Never two active owners of one session.
    I1,
    /// No outbound sequence number of an SA is used twice, by anyone.
    I2,
    /// Each session ends with exactly one owner, through which ESP and IKE pass,
    /// or is reported.
    I3,
    /// No Message ID is used for two messages; a request is answered once.
    I4,
    /// A refused or aborted transfer leaves the session at its source.
    I5,
    /// No packet is delivered twice.
    I7,
    /// The engine itself gave up: it panicked or produced what cannot be sent.
    Engine,
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// Of which session, and how.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.detail)
    }
}

/// Outbound numbers that one gateway has used, all between the two included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Used {
    /// Who.
    pub gateway: usize,
    /// From here.
    pub first: u64,
    /// To here.
    pub last: u64,
}

/// What is true of a session, whoever knows it, and the end user's half of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Facts {
    /// Inbound SPI of the SAs that the end user has now.
    pub spi: u32,
    /// Counts the changes of those.
    pub generation: Generation,
    /// Outbound numbers used of these SAs, by whom.
    pub used: Vec<Used>,
    /// Numbers that the end user has sent on these SAs.
    pub sent: u64,
    /// Of those, the ones that some gateway has delivered.
    pub delivered: Window,
    /// What the end user has received on these SAs.
    pub received: Window,
    /// The next request that the end user expects of the gateways.
    pub requests: u32,
    /// The next request that the end user sends.
    pub answered: u32,
    /// What it was answered last.
    pub last_response: Option<u64>,
    /// The end user has ended the session.
    pub ended: bool,
    /// Something happened to it after which it may be lost: its gateway died,
    /// or a disk or gateway refused an act that nothing can replace.
    pub harmed: bool,
    /// Some engine reported it lost.
    pub reported_lost: bool,
    /// An operator wanted it as a file.
    pub exported: bool,
    /// Some engine reported it in doubt.
    pub reported_in_doubt: bool,
    /// An operator made it go on elsewhere than where it was used last: its
    /// Message IDs and inbound window are lost, as the operator was told.
    pub forced: bool,
    /// The last transfer that was begun.
    pub moving: Option<BatchId>,
    /// The last transfer ended without a move: the session stays here.
    pub stays_at: Option<usize>,
}

impl Facts {
    /// Remembers that a gateway used the outbound numbers from `first` to `last`.
    pub fn use_numbers(&mut self, gateway: usize, first: u64, last: u64) {
        match self.used.last_mut() {
            Some(used) if used.gateway == gateway && used.last + 1 == first => used.last = last,
            _ => self.used.push(Used { gateway, first, last }),
        }
    }
}

impl World {
    /// The invariants that hold in every state: I1, I2, I4, I7, and of I3 and I5
    /// that whoever is active can be understood by the end user.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check(&self, session: SessionId) -> Result<(), Violation> {
        let Some(facts) = self.facts.get(&session) else { return Ok(()) };
        let violated = |invariant, detail: String| {
            Err(Violation { invariant, detail: format!("session {}: {detail}", label(session)) })
        };
        let mut owners = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(i, node)| Some((i, node.gateway.active(session)?)));
        let Some((owner, held)) = owners.next() else { return Ok(()) };
        if let Some((other, _)) = owners.next() {
            let (a, b) = (&self.nodes[owner].name, &self.nodes[other].name);
            return violated(Invariant::I1, format!("active at {a} and at {b}"));
        }
        let name = &self.nodes[owner].name;
        if facts.ended {
            return violated(Invariant::I3, format!("has ended and is active at {name}"));
        }
        if facts.forced && held.sa.spi != facts.spi {
            return Ok(());
        }
        if held.sa.spi != facts.spi || held.generation != facts.generation {
            return violated(
                Invariant::I3,
                format!("{name} is active under SAs that the end user has rekeyed"),
            );
        }
        if let Some(number) = reused(facts, held) {
            return violated(
                Invariant::I2,
                format!("{name} may use outbound number {number}, which was used before"),
            );
        }
        if let Some(next) = held.sa.next().filter(|next| !facts.received.accepts(*next)) {
            let invariant = match facts.stays_at {
                Some(_) => Invariant::I5,
                None => Invariant::I3,
            };
            return violated(invariant, format!("the end user refuses number {next} of {name}"));
        }
        if facts.forced {
            return Ok(());
        }
        if let Some(number) = replayable(facts, held) {
            return violated(
                Invariant::I7,
                format!("{name} would deliver inbound number {number} a second time"),
            );
        }
        let ike = (held.ike.next_send, held.ike.next_receive, held.ike.last_response);
        let truth = (facts.requests, facts.answered, facts.last_response);
        if ike != truth {
            return violated(
                Invariant::I4,
                format!("{name} has Message IDs {ike:?}, the end user {truth:?}"),
            );
        }
        Ok(())
    }

    /// The invariants that hold when nothing more happens: I3 and I5.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check_at_rest(&self) -> Result<(), Violation> {
        self.facts.iter().try_for_each(|(session, facts)| {
            let violated = |invariant, detail: String| {
                let detail = format!("session {} at rest: {detail}", label(*session));
                Err(Violation { invariant, detail })
            };
            let holders: Vec<_> = self
                .nodes
                .iter()
                .enumerate()
                .filter_map(|(i, node)| Some((i, node.gateway.sessions.get(session)?)))
                .collect();
            let stands = |node: &Node| Some(node.engine.as_ref()?.session(*session)?.standing);
            let reported_lost = facts.reported_lost
                || self.nodes.iter().any(|node| stands(node) == Some(Standing::Lost));
            // A target that was switched off leaves a doubt behind, for good, and so
            // does a file that nobody puts to use; of what the target had taken over
            // already, whoever switched it off knows.
            let switched_off = self.nodes.iter().any(|node| node.fenced);
            let doubted = self.nodes.iter().any(|node| stands(node) == Some(Standing::InDoubt));
            let in_doubt = doubted && (switched_off || facts.exported);
            let owner = holders.iter().find(|(_, held)| held.state == SessionState::Active);
            if let Some((at, held)) = holders
                .iter()
                .find(|(_, held)| held.state != SessionState::Active)
                .filter(|_| !facts.harmed && !in_doubt)
            {
                let name = &self.nodes[*at].name;
                return violated(Invariant::I3, format!("left behind at {name}: {:?}", held.state));
            }
            match owner {
                _ if facts.ended => Ok(()),
                None if reported_lost && facts.harmed => Ok(()),
                None if in_doubt || (switched_off && facts.harmed) => Ok(()),
                None if facts.stays_at.is_some() && !facts.harmed => {
                    violated(Invariant::I5, "its transfer ended and no gateway has it".to_owned())
                }
                None => {
                    violated(Invariant::I3, format!("no owner; reported lost: {reported_lost}"))
                }
                Some((at, _)) if stands(&self.nodes[*at]) != Some(Standing::Active) => violated(
                    Invariant::I3,
                    format!("{} uses it and its daemon does not know", self.nodes[*at].name),
                ),
                Some((at, held)) if held.sa.next().is_none() => violated(
                    Invariant::I3,
                    format!("{} has no number left to send", self.nodes[*at].name),
                ),
                Some((at, _)) if facts.stays_at.is_some_and(|stays| stays != *at) => violated(
                    Invariant::I5,
                    format!("its transfer ended without a move; now at {}", self.nodes[*at].name),
                ),
                Some(_) => Ok(()),
            }
        })
    }
}

/// A number that was used and that the gateway could use again.
fn reused(facts: &Facts, held: &Held) -> Option<u64> {
    let next = held.sa.next()?;
    facts
        .used
        .iter()
        .find(|used| used.last >= next && used.first < held.sa.end)
        .map(|used| used.first.max(next))
}

/// An inbound number that was delivered and that the gateway would deliver again.
fn replayable(facts: &Facts, held: &Held) -> Option<u64> {
    let Window { highest, bits } = facts.delivered;
    (0..u64::from(Window::SIZE))
        .filter(|age| bits >> age & 1 == 1)
        .filter_map(|age| highest.checked_sub(age))
        .find(|number| held.sa.window.accepts(*number))
}

/// A short word for a session.
pub fn label(session: SessionId) -> String {
    format!("s{}", number_of(session))
}

#[cfg(test)]
mod tests;
