//! Single acts as the protocol orders them, and what must hold after each.

use std::{collections::BTreeSet, time::Duration};

use protocol_spec::{
    id::{BatchId, SessionEpoch, SessionId},
    limits::GRANT_SPAN,
    status::Refusal,
    transfer::{Finals, GrantedRange, SaRef, SessionState},
};

use super::{
    Bench, Fail,
    bench::{index, inner},
    ground::lock,
    packets::{Fate, Packet},
};
use crate::{
    conformance::{Harness, Side},
    plugin::{Activate, Discard, GatewayPlugin, Pause, PerSession, Release, Resume, Stage},
};

/// The other one.
pub(crate) fn other(side: Side) -> Side {
    if side == Side::Source { Side::Target } else { Side::Source }
}

fn one<T>(answer: Result<PerSession<T>, crate::Fault>) -> Result<T, Refusal> {
    answer.unwrap().remove(0).1
}

/// What was used and received so far, each once.
#[derive(Default)]
pub(crate) struct Ledger {
    sent: BTreeSet<(u32, u64)>,
    delivered: BTreeSet<(u32, u64)>,
}

impl Bench {
    /// Makes this thread's calls at a gateway fail from now on as it says.
    pub(crate) fn fail(&mut self, side: Side, fail: Option<Fail>) {
        let mut ground = lock(&self.grounds[index(side)]);
        ground.fail = fail;
        ground.calls = 0;
    }

    /// What failed before did not end the process.
    pub(crate) fn survive(&mut self, side: Side) {
        lock(&self.grounds[index(side)]).record_then = None;
    }

    /// Calls since then, and the last of them.
    pub(crate) fn calls(&self, side: Side) -> (u32, &'static str) {
        let ground = lock(&self.grounds[index(side)]);
        (ground.calls, ground.last_call)
    }

    /// Writes a session down where it is and stages it at the other gateway.
    pub(crate) fn stage(
        &mut self,
        from: Side,
        id: SessionId,
        epoch: u64,
    ) -> Result<(Vec<GrantedRange>, protocol_spec::id::Generation), Refusal> {
        let context = one(self.at(from).snapshot(&[id]))?;
        let children = context.profile().children;
        let grants: Vec<_> = children
            .iter()
            .map(|child| child.usage.grant(Duration::from_secs(1), GRANT_SPAN).unwrap())
            .collect();
        let order = Stage {
            epoch: SessionEpoch(epoch),
            source: self.name(from),
            batch: BatchId([epoch as u8; 16]),
            grants: grants.clone(),
            context,
        };
        let generation = one(self.at(other(from)).stage(vec![order]))?;
        Ok((grants, generation))
    }

    pub(crate) fn pause(&mut self, at: Side, id: SessionId) -> Result<Finals, Refusal> {
        let target = self.name(other(at));
        one(self.at(at).pause(vec![Pause { session: id, target, generation: None }]))
    }

    pub(crate) fn resume(
        &mut self,
        at: Side,
        id: SessionId,
        epoch: u64,
        from: Vec<(SaRef, u64)>,
    ) -> Result<(), Refusal> {
        let order = Resume { session: id, epoch: SessionEpoch(epoch), from };
        one(self.at(at).resume(vec![order]))
    }

    pub(crate) fn activate(
        &mut self,
        at: Side,
        id: SessionId,
        epoch: u64,
        finals: &Finals,
    ) -> Result<(), Refusal> {
        let finals = finals.clone();
        one(self.at(at).activate(vec![Activate {
            session: id,
            epoch: SessionEpoch(epoch),
            finals,
        }]))
    }

    pub(crate) fn release(&mut self, at: Side, id: SessionId, epoch: u64) -> Result<(), Refusal> {
        let target = self.name(other(at));
        one(self.at(at).release(vec![Release { session: id, epoch: SessionEpoch(epoch), target }]))
    }

    pub(crate) fn discard(&mut self, at: Side, id: SessionId, epoch: u64) -> Result<(), Refusal> {
        one(self.at(at).discard(vec![Discard { session: id, epoch: SessionEpoch(epoch) }]))
    }

    /// What a gateway lists of a session: `None` if nothing.
    pub(crate) fn state(&mut self, at: Side, id: SessionId) -> Option<SessionState> {
        let list = self.at(at).list().unwrap();
        list.into_iter().find(|status| status.session == id).map(|status| status.state)
    }

    /// Whether a packet passes at a gateway, either way.
    pub(crate) fn passes(&mut self, at: Side, id: SessionId) -> bool {
        let to = inner(self.users[&id].number);
        let esp = self.fresh(id);
        [Packet::Inner(to), esp].map(|packet| self.offer(at, packet)).contains(&Fate::Passed)
    }

    /// Waits until packets pass: what a refused act left is taken away by the
    /// gateway itself.
    pub(crate) fn passes_soon(&mut self, at: Side, id: SessionId) -> bool {
        (0..400).any(|_| {
            self.passes(at, id) || {
                std::thread::park_timeout(Duration::from_millis(5));
                false
            }
        })
    }

    /// Waits until none passes any more.
    pub(crate) fn silent_soon(&mut self, at: Side, id: SessionId) -> bool {
        (0..400).any(|_| {
            !self.passes(at, id) || {
                std::thread::park_timeout(Duration::from_millis(5));
                false
            }
        })
    }

    /// Nothing of a session is left at a gateway: SAs, policies, holds, IKE SA.
    pub(crate) fn is_empty_of(&mut self, at: Side, id: SessionId) -> bool {
        let state = self.state(at, id);
        let user = &self.users[&id];
        let ground = lock(&self.grounds[index(at)]);
        let spis = [user.inbound, user.outbound];
        let to = inner(user.number);
        state.is_none()
            && ground.sas.iter().all(|sa| !spis.contains(&sa.id.spi))
            && ground.policies.iter().all(|policy| policy.policy.destination.prefix.address != to)
            && !ground.steered.contains_key(&id)
            && !ground.ike.keys().any(|spis| spis.0 == u64::from(user.number))
    }

    /// Packets at both gateways: I1 and I2, and nothing is sent for a session that
    /// is not active.
    pub(crate) fn audit(&mut self, id: SessionId, ledger: &mut Ledger, what: &str) {
        let states = [Side::Source, Side::Target].map(|side| {
            let passes = self.passes(side, id);
            let active = self.state(side, id) == Some(SessionState::Active);
            assert!(
                active || !passes,
                "{what}: packets pass at {side:?}, which has not the session"
            );
            passes
        });
        assert!(states != [true, true], "{what}: packets pass at both gateways");
        for ground in &self.grounds {
            let mut ground = lock(ground);
            for sent in std::mem::take(&mut ground.sent) {
                assert!(ledger.sent.insert(sent), "{what}: {sent:?} was used twice");
            }
            for taken in std::mem::take(&mut ground.delivered) {
                assert!(ledger.delivered.insert(taken), "{what}: {taken:?} was taken twice");
            }
        }
    }
}
