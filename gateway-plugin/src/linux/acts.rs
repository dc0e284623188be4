//! The acts of [`GatewayPlugin`](crate::GatewayPlugin) at a source, each on one
//! session; those at a target are in `stage`.
//!
//! Order is what keeps the invariants here: what stops packets comes before what
//! could let them pass, and goes after it. What the record says comes before what
//! it allows, so that a process that is killed in between finds a session as
//! somebody who repeats the act expects it.

use std::time::Duration;

use protocol_spec::{
    id::{Name, SessionId},
    status::{Refusal, Status},
    transfer::{ChildFinals, Finals},
};

use super::{
    context,
    daemon::Spis,
    gateway::Inner,
    look::Whole,
    pair::Pair,
    session::{Paths, Phase, Session, no_session},
    voice::ANNOUNCES,
};
use crate::{
    holder::clock::Clock,
    plugin::{Pause, Release, Resume},
    xfrm::{KernelPolicy, KernelSa, SaId},
};

/// How long a pause waits in all, for IKE exchanges that are open and for the daemon's
/// answers, before it leaves packets as they are: one that comes too late is taken back,
/// and what had waited at the target would come back too old.
const QUIET: Duration = Duration::from_millis(150);
/// How long the kernel's SAs may outlive the daemon's word.
const GONE: Duration = Duration::from_millis(300);
/// How often outbound numbers are read until they stand still.
const READINGS: usize = 50;

impl Inner {
    pub(super) fn known(&self, id: SessionId) -> Result<&Session, Refusal> {
        let known = self.sessions.get(&id).filter(|session| session.status().is_some());
        known.ok_or_else(|| no_session(id))
    }

    /// The same as they were staged or paused.
    pub(super) fn paths(&self, id: SessionId) -> Result<Paths, Refusal> {
        let session = self.sessions.get(&id);
        session.and_then(|session| session.paths.clone()).ok_or_else(|| no_session(id))
    }

    /// `seen` are the kernel's tables as an order of the same batch saw them.
    pub(super) fn pause(
        &mut self,
        order: Pause,
        seen: &mut Option<Whole>,
    ) -> Result<Finals, Refusal> {
        let (id, clock) = (order.session, Clock::start());
        let session = self.known(id)?;
        match &session.phase {
            Phase::Active | Phase::Unsettled | Phase::Paused { finals: None, .. } => {}
            Phase::Paused { finals: Some(finals), target } => {
                let finals = finals.clone();
                if *target == order.target {
                    return Ok(finals);
                }
                return self.point(id, order, finals);
            }
            _ => return Err(session.unfit("activate it first")),
        }
        if !self.steer.reaches(&order.target) {
            let detail = format!("`{}` is not among the neighbours of this gateway", order.target);
            return Err(Refusal::new(Status::NoPeer, detail));
        }
        if session.announcement.is_some() {
            // Its Message ID would be used for two messages.
            let detail = "the end user has not answered yet where its session is: try later";
            return Err(Refusal::new(Status::Busy, detail));
        }
        // What is looked at must be what is paused: an exchange that is open meanwhile
        // may change it.
        let before = self.daemon.spis(id)?;
        let (paths, is_quiet) = self.look(id, seen)?;
        if !is_quiet {
            self.daemon.wait_quiet(id, QUIET.saturating_sub(clock.now()))?;
        }
        order.refuse_other(self.known(id)?.generation)?;
        // Written down before, so that nothing waits for the disk while packets wait. Who
        // finds it after our end leaves it stopped until it is told to go on.
        self.stand(id, &order.target, None, paths.clone());
        let stopped = self.keep().and_then(|()| self.stop(id, &order, &paths, &before, &clock));
        match &stopped {
            Ok(finals) => self.stand(id, &order.target, Some(finals.clone()), paths),
            Err(_) => {
                self.change(id, |session| session.phase = Phase::Unsettled);
                if let Err(worse) = self.settle(id) {
                    tracing::error!(session = %id, refusal = %worse, "a pause that failed stands");
                }
            }
        }
        stopped
    }

    fn stand(&mut self, id: SessionId, target: &Name, finals: Option<Finals>, paths: Paths) {
        let phase = Phase::Paused { target: target.clone(), finals };
        self.change(id, |session| {
            session.phase = phase;
            session.paths = Some(paths);
        });
    }

    /// A paused session goes to another target than was said.
    fn point(&mut self, id: SessionId, order: Pause, finals: Finals) -> Result<Finals, Refusal> {
        let paths = self.paths(id)?;
        self.steer.divert(id, &paths.flow, &order.target)?;
        self.stand(id, &order.target, Some(finals.clone()), paths);
        self.keep()?;
        Ok(finals)
    }

    fn stop(
        &mut self,
        id: SessionId,
        order: &Pause,
        Paths { pairs, flow }: &Paths,
        before: &Spis,
        clock: &Clock,
    ) -> Result<Finals, Refusal> {
        let answered = self.has_answered(id)?;
        // IKE first, while packets still pass. No request comes any more from here on,
        // so that the answer to the last one can leave before nothing does.
        self.steer.divert_ike(id, flow, &order.target)?;
        self.daemon.wait_quiet(id, QUIET.saturating_sub(clock.now()))?;
        self.steer.block_ike(id, flow)?;
        // An exchange of the daemon's own may have begun before the guard.
        self.daemon.wait_quiet(id, Duration::ZERO)?;
        if answered && !self.has_answered(id)? {
            let detail = "an answer to the end user was on its way: try again";
            return Err(Refusal::new(Status::Busy, detail));
        }
        if self.daemon.spis(id)? != *before {
            let detail = format!("session {id} changed while it was paused");
            return Err(Refusal::new(Status::Busy, detail));
        }
        let generation = self.known(id)?.generation;
        let ike = self.daemon.finals(id)?;
        tracing::debug!(session = %id, "no IKE any more");
        if clock.now() >= QUIET {
            let detail = "the IKE daemon is busy, and its answers come too late: try again";
            return Err(Refusal::new(Status::Busy, detail));
        }
        self.steer.divert(id, flow, &order.target)?;
        tracing::debug!(session = %id, "diverted");
        self.stand_still(pairs)?;
        self.steer.block(id, flow)?;
        let children = self.last_counters(pairs)?;
        tracing::debug!(session = %id, "counted");
        Ok(Finals { generation, ike, children })
    }

    /// Whether the answer to the end user's newest request was seen leaving.
    fn has_answered(&mut self, id: SessionId) -> Result<bool, Refusal> {
        let finals = self.daemon.finals(id)?;
        Ok(finals.is_some_and(|finals| finals.last_response.is_some()))
    }

    /// Waits until nothing is on its way through the outbound SAs: all that was
    /// routed before the diversion has its number then.
    fn stand_still(&mut self, pairs: &[Pair]) -> Result<(), Refusal> {
        let ids: Vec<SaId> = pairs.iter().map(|pair| pair.outbound).collect();
        let mut before = self.tables.counters(&ids)?;
        for _ in 0..READINGS {
            std::thread::yield_now();
            let now = self.tables.counters(&ids)?;
            if now.iter().zip(&before).all(|(now, before)| now.sequence == before.sequence) {
                return Ok(());
            }
            before = now;
        }
        let detail = "packets still leave under the session after its diversion: does another \
                      route or policy lead to it?";
        Err(Refusal::new(Status::Busy, detail))
    }

    fn last_counters(&mut self, pairs: &[Pair]) -> Result<Vec<ChildFinals>, Refusal> {
        let ids: Vec<SaId> = pairs.iter().flat_map(|pair| [pair.inbound, pair.outbound]).collect();
        let counters = self.tables.counters(&ids)?;
        let finals = pairs.iter().zip(counters.chunks(2)).filter_map(|(pair, both)| match both {
            [inbound, outbound] => Some(pair.finals(inbound, outbound)),
            _ => None,
        });
        Ok(finals.collect())
    }

    pub(super) fn resume(&mut self, order: &Resume) -> Result<(), Refusal> {
        let id = order.session;
        let session = self.known(id)?;
        session.refuse_stale(order.epoch)?;
        let before = session.clone();
        match before.phase {
            Phase::Paused { .. } => {}
            // It speaks already; its numbers must not be touched.
            Phase::Active | Phase::Unsettled => {
                self.change(id, |session| session.epoch = order.epoch);
                return self.settle(id);
            }
            _ => return Err(session.unfit("only a paused session is resumed")),
        }
        self.raise(id, order)?;
        self.change(id, |session| {
            session.epoch = order.epoch;
            session.phase = Phase::Unsettled;
        });
        if let Err(refusal) = self.keep() {
            self.change(id, |session| *session = before);
            return Err(refusal);
        }
        self.settle(id)
    }

    /// Goes above the numbers that the target may have used.
    fn raise(&mut self, id: SessionId, order: &Resume) -> Result<(), Refusal> {
        let Paths { pairs, .. } = self.paths(id)?;
        let ids: Vec<SaId> = pairs.iter().map(|pair| pair.outbound).collect();
        let mut counters = self.tables.counters(&ids)?;
        let mut raised = Vec::new();
        for (pair, counters) in pairs.iter().zip(&mut counters) {
            let from =
                order.from.iter().find(|(sa, _)| *sa == pair.sa).map_or(0, |(_, from)| *from);
            if from > counters.sequence.saturating_add(1) {
                counters.sequence = from - 1;
                raised.push((pair.outbound, counters.clone()));
            }
        }
        if raised.is_empty() { Ok(()) } else { self.set_counters(&raised) }
    }

    /// Takes away what diverts a session that is in use.
    pub(super) fn settle(&mut self, id: SessionId) -> Result<(), Refusal> {
        if self.sessions.get(&id).is_some_and(|session| session.phase == Phase::Unsettled) {
            self.steer.restore(id)?;
            self.change(id, |session| {
                session.phase = Phase::Active;
                session.look_at = Duration::ZERO;
            });
            self.unsteered.insert(id, 0);
        }
        Ok(())
    }

    pub(super) fn release(&mut self, order: &Release) -> Result<(), Refusal> {
        let id = order.session;
        let Some(session) = self.sessions.get(&id) else { return Ok(()) };
        session.refuse_stale(order.epoch)?;
        match session.phase {
            Phase::Paused { .. } => {}
            Phase::Released { .. } => {
                self.keep()?;
                return self.leave();
            }
            _ => return Err(session.unfit("only a paused session is released")),
        }
        let spis = session.spis.ike;
        self.remove(id)?;
        if let Some(voice) = &self.voice {
            voice.silence(id, spis);
        }
        self.steer.released(id)?;
        let until = self.clock.now() + self.relays(id);
        self.change(id, |session| {
            session.leave();
            session.stays = false;
            session.epoch = order.epoch;
            session.phase = Phase::Released { until };
        });
        self.keep()?;
        self.leave()
    }

    /// How long what still comes for a session that left is relayed.
    fn relays(&self, id: SessionId) -> Duration {
        let paths = self.sessions.get(&id).and_then(|session| session.paths.as_ref());
        if paths.is_some_and(|paths| self.place.shared.contains(&paths.flow.local.ip())) {
            return self.place.drain;
        }
        self.place.drain.max(ANNOUNCES)
    }

    /// An address that moves as a whole goes after the last session.
    fn leave(&mut self) -> Result<(), Refusal> {
        if self.sessions.values().any(|session| session.status().is_some()) {
            return Ok(());
        }
        self.steer.emptied()
    }

    /// Takes a session out of the kernel and the daemon, silently.
    pub(super) fn remove(&mut self, id: SessionId) -> Result<(), Refusal> {
        let Paths { pairs, .. } = self.paths(id)?;
        let names: Vec<SaId> =
            pairs.iter().flat_map(|pair| [pair.inbound, pair.outbound]).collect();
        if self.daemon.installs_children() {
            self.daemon.forget(id)?;
            if self.orphans.remove(&id) {
                return self.remove_tables(&names);
            }
            // The daemon's answer is silence: the kernel says whether it is done. One
            // that was killed left what it had installed.
            return self.wait_gone(&names).or_else(|refusal| {
                tracing::warn!(session = %id, %refusal, "its SAs are removed without the daemon");
                self.remove_tables(&names)
            });
        }
        // The name goes last: SAs without one would be taken for a new session.
        self.remove_tables(&names)?;
        self.daemon.forget(id)
    }

    /// Removes SAs and the policies that lead to them alone: a daemon that was started
    /// anew may give the same reqid to the end user's next session.
    pub(super) fn remove_tables(&mut self, names: &[SaId]) -> Result<(), Refusal> {
        let (found, others): (Vec<_>, Vec<_>) =
            self.tables.sas()?.into_iter().partition(|sa| names.contains(&sa.id));
        let leads = |policy: &KernelPolicy, sas: &[KernelSa]| {
            sas.iter().any(|sa| context::leads_into(policy, sa))
        };
        let mut policies = self.tables.policies()?;
        policies.retain(|policy| leads(policy, &found) && !leads(policy, &others));
        self.tables.remove(names, &policies)
    }

    pub(super) fn wait_gone(&mut self, names: &[SaId]) -> Result<(), Refusal> {
        let begun = self.clock.now();
        loop {
            let Some(left) = self.first(names, true)? else { return Ok(()) };
            let patience = GONE.saturating_sub(self.clock.now() - begun);
            if patience.is_zero() {
                let detail =
                    format!("the IKE daemon was told to forget {left}, and it is still there");
                return Err(Refusal::new(Status::GatewayFault, detail));
            }
            self.tables.wait(patience)?;
        }
    }

    /// The first of these SAs that is in the kernel, or is not. What comes after it is not
    /// looked at: the change of this one is then still to be waited for.
    pub(super) fn first(&mut self, names: &[SaId], there: bool) -> Result<Option<SaId>, Refusal> {
        for name in names {
            if self.tables.named(name.spi)?.contains(name) == there {
                return Ok(Some(*name));
            }
        }
        Ok(None)
    }
}
