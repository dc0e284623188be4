//! The acts of [`GatewayPlugin`](crate::GatewayPlugin), each on one session.
//!
//! Order is what keeps the invariants here: what stops packets comes before what
//! could let them pass, and goes after it.

use std::time::Duration;

use protocol_spec::{
    context::Context,
    id::{Generation, SessionId},
    profile::Profile,
    status::{Refusal, Status},
    transfer::{ChildFinals, Finals, GrantedRange},
};

use super::{
    context,
    gateway::Inner,
    pair::Pair,
    session::{Paths, Phase, Session, no_session},
};
use crate::{
    plugin::{Activate, Discard, Extend, Pause, Release, Resume, Stage},
    xfrm::{Counters, SaId},
};

/// How long an open IKE exchange is waited for.
const QUIET: Duration = Duration::from_millis(150);
/// How long the kernel's SAs may outlive the daemon's word.
const GONE: Duration = Duration::from_millis(300);
/// How often outbound numbers are read until they stand still.
const READINGS: usize = 50;

impl Inner {
    fn known(&self, id: SessionId) -> Result<&Session, Refusal> {
        let known = self.sessions.get(&id).filter(|session| session.status().is_some());
        known.ok_or_else(|| no_session(id))
    }

    pub(super) fn admit(&mut self, profile: &Profile) -> Result<(), Refusal> {
        let missing = profile.features.without(self.capabilities()?.features);
        if !missing.is_empty() {
            let detail = format!("this gateway cannot carry: {missing}");
            return Err(Refusal::new(Status::NoFeature, detail));
        }
        let holds = self.sessions.values().filter(|session| session.status().is_some()).count();
        if holds as u64 >= self.place.max_sessions {
            let detail = format!("this gateway holds its {holds} sessions; raise max_sessions");
            return Err(Refusal::new(Status::NoRoom, detail));
        }
        self.admit_steering(profile)?;
        let staged_here = self.sessions.contains_key(&profile.session);
        if !staged_here {
            self.admit_spis(profile)?;
        }
        self.daemon.admit(profile)
    }

    /// Inbound SPIs and inner addresses must be free here.
    fn admit_spis(&mut self, profile: &Profile) -> Result<(), Refusal> {
        let sas = self.tables.sas()?;
        for child in &profile.children {
            let sa = child.usage.sa;
            let taken = sas.iter().find(|known| {
                known.id.spi == sa.inbound_spi
                    && known.id.protocol == sa.protocol
                    && self.place.is_local(known.id.destination)
            });
            if let Some(known) = taken {
                let detail = format!(
                    "the inbound {} is in use here: rekey the Child SA at the source first",
                    known.id
                );
                return Err(Refusal::new(Status::SpiCollision, detail));
            }
        }
        let policies = self.tables.policies()?;
        for selector in profile.children.iter().flat_map(|child| &child.destinations) {
            if policies.iter().any(|policy| context::leads_to(policy, selector)) {
                let prefix = selector.prefix;
                let detail = format!(
                    "packets to {}/{} go to another session here: end that one first",
                    prefix.address, prefix.bits
                );
                return Err(Refusal::new(Status::AddressCollision, detail));
            }
        }
        Ok(())
    }

    pub(super) fn snapshot(
        &mut self,
        ids: &[SessionId],
    ) -> Vec<(SessionId, Result<Context, Refusal>)> {
        let tables = self.tables.sas().and_then(|sas| Ok((sas, self.tables.policies()?)));
        let (sas, policies) = match tables {
            Ok(tables) => tables,
            Err(refusal) => return ids.iter().map(|id| (*id, Err(refusal.clone()))).collect(),
        };
        let mut one = |id: SessionId| {
            let session = self.known(id)?;
            if matches!(session.phase, Phase::Staged { .. }) {
                return Err(session.unfit("its source has the context"));
            }
            let generation = session.generation;
            let described = self.daemon.describe(id)?;
            context::join(id, described, generation, &sas, &policies)
        };
        ids.iter().map(|id| (*id, one(*id))).collect()
    }

    pub(super) fn stage(&mut self, order: Stage) -> Result<Generation, Refusal> {
        let Stage { epoch, source, batch, grants, context } = order;
        let id = context.session;
        let generation = context.generation;
        if let Some(session) = self.sessions.get(&id) {
            session.refuse_stale(epoch)?;
            match &session.phase {
                Phase::Staged { batch: known, .. } if session.epoch == epoch => {
                    return if *known == batch {
                        Ok(session.generation)
                    } else {
                        let detail = format!("epoch {epoch} was staged by another transfer");
                        Err(Refusal::new(Status::StaleEpoch, detail))
                    };
                }
                Phase::Staged { .. } => {}
                Phase::Released { .. } if session.epoch < epoch => {}
                Phase::Released { .. } => {
                    let detail = format!("epoch {epoch} went from here to another gateway");
                    return Err(Refusal::new(Status::StaleEpoch, detail));
                }
                Phase::Active | Phase::Paused { .. } => {
                    let detail = session.unfit("release it first").detail;
                    return Err(Refusal::new(Status::TransferRunning, detail));
                }
            }
        }
        let bad = |error: protocol_spec::check::BadContext| {
            Refusal::new(Status::BadContext, error.to_string())
        };
        context.check().map_err(bad)?;
        context.check_grants(&grants).map_err(bad)?;
        if !self.steer.reaches(&source) {
            let detail = format!("`{source}` is not among the neighbours of this gateway");
            return Err(Refusal::new(Status::NoPeer, detail));
        }
        self.admit(&context.profile())?;
        // Nothing should refuse any more; an older staging makes room.
        self.clear(id)?;
        let context = self.localise(context)?;
        let paths = match self.put(&context, &grants) {
            Ok(paths) => Some(paths),
            Err(refusal) => {
                self.undo_stage(id, &context);
                return Err(refusal);
            }
        };
        let phase = Phase::Staged { source, batch, grants };
        self.sessions.insert(id, Session { id, epoch, generation, phase, paths });
        Ok(generation)
    }

    /// Installs a session so that no packet can use it: what would is held first.
    fn put(&mut self, context: &Context, grants: &[GrantedRange]) -> Result<Paths, Refusal> {
        let flow = context::flow(context)?;
        self.steer.hold(context.session, &flow)?;
        let local = context.ike.as_ref().map(|ike| ike.local.ip());
        if !self.daemon.installs_children() {
            let (sas, policies) = context::tables(context, grants)?;
            self.tables.install(&sas, &policies)?;
        }
        self.daemon.stage(context, local)?;
        let mut sas = Vec::new();
        for name in context::names(context)? {
            sas.extend(self.tables.sa(&name)?);
        }
        let pairs = context::pairs(&context::described(context), &sas)?;
        let mut counters = Vec::new();
        for (pair, child) in pairs.iter().zip(&context.children) {
            counters.extend(pair.staged(child, grants)?);
        }
        self.set_counters(&counters)?;
        Ok(Paths { pairs, flow })
    }

    /// Sets numbers and looks whether the kernel has them.
    fn set_counters(&mut self, counters: &[(SaId, Counters)]) -> Result<(), Refusal> {
        self.tables.set_counters(counters)?;
        let ids: Vec<SaId> = counters.iter().map(|(id, _)| *id).collect();
        let found = self.tables.counters(&ids)?;
        for ((id, wanted), found) in counters.iter().zip(found) {
            if found.sequence != wanted.sequence || found.window != wanted.window {
                let detail = format!(
                    "{id} stands at {} and {} instead of {} and {}: the kernel did not take the numbers",
                    found.sequence, found.window.highest, wanted.sequence, wanted.window.highest
                );
                return Err(Refusal::new(Status::GatewayFault, detail));
            }
        }
        Ok(())
    }

    /// Takes a staging away that failed on the way.
    fn undo_stage(&mut self, id: SessionId, context: &Context) {
        let forgotten = self.daemon.forget(id);
        let removed = if self.daemon.installs_children() {
            Ok(())
        } else {
            context::names(context).and_then(|names| self.remove_tables(&names))
        };
        let discarded = self.steer.discard(id);
        for refusal in [forgotten, removed, discarded].into_iter().filter_map(Result::err) {
            tracing::warn!(session = %id, %refusal, "something is left of a failed staging");
        }
    }

    /// Removes SAs and the policies that lead to them.
    fn remove_tables(&mut self, names: &[SaId]) -> Result<(), Refusal> {
        let mut reqids = Vec::new();
        for name in names {
            reqids.extend(self.tables.sa(name)?.map(|sa| sa.reqid));
        }
        let mut policies = self.tables.policies()?;
        policies
            .retain(|policy| context::reqid(policy).is_some_and(|reqid| reqids.contains(&reqid)));
        self.tables.remove(names, &policies)
    }

    pub(super) fn pause(&mut self, order: Pause) -> Result<Finals, Refusal> {
        let id = order.session;
        let session = self.known(id)?;
        match &session.phase {
            Phase::Active => {}
            Phase::Paused { finals, target } => {
                let finals = finals.clone();
                if *target == order.target {
                    return Ok(finals);
                }
                return self.point(id, order, finals);
            }
            Phase::Staged { .. } => return Err(session.unfit("activate it first")),
            Phase::Released { .. } => return Err(no_session(id)),
        }
        if !self.steer.reaches(&order.target) {
            let detail = format!("`{}` is not among the neighbours of this gateway", order.target);
            return Err(Refusal::new(Status::NoPeer, detail));
        }
        let generation = session.generation;
        let paths = self.look(id)?;
        self.daemon.wait_quiet(id, QUIET)?;
        match self.stop(id, &order, &paths, generation) {
            Ok(finals) => {
                let phase = Phase::Paused { target: order.target, finals: finals.clone() };
                self.change(id, |session| {
                    session.phase = phase;
                    session.paths = Some(paths);
                });
                Ok(finals)
            }
            Err(refusal) => {
                if let Err(worse) = self.steer.restore(id) {
                    tracing::error!(session = %id, refusal = %worse, "a pause that failed stands");
                }
                Err(refusal)
            }
        }
    }

    /// A paused session goes to another target than was said.
    fn point(&mut self, id: SessionId, order: Pause, finals: Finals) -> Result<Finals, Refusal> {
        let paths = self.paths(id)?;
        self.steer.divert(id, &paths.flow, &order.target)?;
        let phase = Phase::Paused { target: order.target, finals: finals.clone() };
        self.change(id, |session| session.phase = phase);
        Ok(finals)
    }

    fn stop(
        &mut self,
        id: SessionId,
        order: &Pause,
        Paths { pairs, flow }: &Paths,
        generation: Generation,
    ) -> Result<Finals, Refusal> {
        self.steer.divert(id, flow, &order.target)?;
        self.stand_still(pairs)?;
        self.steer.block(id, flow)?;
        // An exchange may have begun between the look and the guard.
        self.daemon.wait_quiet(id, Duration::ZERO)?;
        if self.known(id)?.generation != generation {
            let detail = format!("session {id} changed while it was paused");
            return Err(Refusal::new(Status::Busy, detail));
        }
        let ike = self.daemon.finals(id)?;
        let children = self.last_counters(pairs)?;
        Ok(Finals { generation, ike, children })
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
        match &session.phase {
            Phase::Paused { .. } => {}
            Phase::Active if order.from.is_empty() => {
                self.change(id, |session| session.epoch = order.epoch);
                return Ok(());
            }
            // It speaks already; its numbers must not be touched.
            Phase::Active => {
                self.change(id, |session| session.epoch = order.epoch);
                return Ok(());
            }
            _ => return Err(session.unfit("only a paused session is resumed")),
        }
        let Paths { pairs, .. } = self.paths(id)?;
        let ids: Vec<SaId> = pairs.iter().map(|pair| pair.outbound).collect();
        let mut counters = self.tables.counters(&ids)?;
        let mut raised = Vec::new();
        for (pair, counters) in pairs.iter().zip(&mut counters) {
            let from =
                order.from.iter().find(|(sa, _)| *sa == pair.sa).map_or(0, |(_, from)| *from);
            if from > counters.sequence + 1 {
                counters.sequence = from - 1;
                raised.push((pair.outbound, counters.clone()));
            }
        }
        if !raised.is_empty() {
            self.set_counters(&raised)?;
        }
        self.steer.restore(id)?;
        self.change(id, |session| {
            session.epoch = order.epoch;
            session.phase = Phase::Active;
        });
        Ok(())
    }

    pub(super) fn activate(&mut self, order: &Activate) -> Result<(), Refusal> {
        let id = order.session;
        let session = self.known(id)?;
        session.refuse_stale(order.epoch)?;
        let grants = match &session.phase {
            Phase::Active if session.epoch == order.epoch => return self.finish(id, order),
            Phase::Staged { grants, .. } if session.epoch == order.epoch => grants.clone(),
            _ => return Err(session.unfit("stage it under this epoch first")),
        };
        order
            .finals
            .check()
            .map_err(|error| Refusal::new(Status::BadContext, error.to_string()))?;
        if order.finals.generation != session.generation {
            let detail = format!("session {id} changed at its source since it was staged");
            return Err(Refusal::new(Status::GenerationChanged, detail));
        }
        let Paths { pairs, flow } = self.paths(id)?;
        let mut counters = Vec::new();
        for pair in &pairs {
            counters.extend(pair.active(&order.finals, &grants)?);
        }
        // Nothing was sent yet under these SAs: their packets are held.
        self.set_counters(&counters)?;
        self.steer.let_go_data(id, &flow)?;
        self.change(id, |session| session.phase = Phase::Active);
        self.finish(id, order)
    }

    /// The slow end of an activation, when packets pass already: IKE.
    fn finish(&mut self, id: SessionId, order: &Activate) -> Result<(), Refusal> {
        self.daemon.activate(id, order.finals.ike.as_ref())?;
        self.steer.let_go_ike(id)
    }

    pub(super) fn release(&mut self, order: &Release) -> Result<(), Refusal> {
        let id = order.session;
        let Some(session) = self.sessions.get(&id) else { return Ok(()) };
        session.refuse_stale(order.epoch)?;
        match session.phase {
            Phase::Paused { .. } => {}
            Phase::Released { .. } => return Ok(()),
            _ => return Err(session.unfit("only a paused session is released")),
        }
        self.remove(id)?;
        self.steer.released(id)?;
        let until = self.clock.now() + self.place.drain;
        self.change(id, |session| {
            session.epoch = order.epoch;
            session.phase = Phase::Released { until };
        });
        Ok(())
    }

    /// Takes a session out of the daemon and the kernel, silently.
    fn remove(&mut self, id: SessionId) -> Result<(), Refusal> {
        let Paths { pairs, .. } = self.paths(id)?;
        let names: Vec<SaId> =
            pairs.iter().flat_map(|pair| [pair.inbound, pair.outbound]).collect();
        self.daemon.forget(id)?;
        if self.daemon.installs_children() {
            // The daemon's answer is silence: the kernel says whether it is done.
            return self.wait_gone(&names);
        }
        self.remove_tables(&names)
    }

    fn wait_gone(&mut self, names: &[SaId]) -> Result<(), Refusal> {
        let begun = self.clock.now();
        loop {
            let mut left = None;
            for name in names {
                left = left.or(self.tables.sa(name)?.map(|sa| sa.id));
            }
            let Some(left) = left else { return Ok(()) };
            if self.clock.now() - begun > GONE {
                let detail =
                    format!("the IKE daemon was told to forget {left}, and it is still there");
                return Err(Refusal::new(Status::GatewayFault, detail));
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    pub(super) fn discard(&mut self, order: &Discard) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(&order.session) else { return Ok(()) };
        session.refuse_stale(order.epoch)?;
        match session.phase {
            Phase::Staged { .. } => self.clear(order.session),
            Phase::Released { .. } => Ok(()),
            _ => Err(session.unfit("only a staged session is discarded")),
        }
    }

    /// Takes an older staging or what is left of a released session away.
    fn clear(&mut self, id: SessionId) -> Result<(), Refusal> {
        match self.sessions.get(&id).map(|session| &session.phase) {
            Some(Phase::Staged { .. }) => {
                self.remove(id)?;
                self.steer.discard(id)?;
            }
            Some(Phase::Released { .. }) => self.steer.forget(id)?,
            _ => return Ok(()),
        }
        self.sessions.remove(&id);
        Ok(())
    }

    pub(super) fn extend(&mut self, order: &Extend) -> Result<(), Refusal> {
        let id = order.session;
        let session = self.known(id)?;
        session.refuse_stale(order.epoch)?;
        if session.epoch != order.epoch {
            return Err(session.unfit("the grant belongs to another epoch"));
        }
        self.change(id, |session| {
            if let Phase::Staged { grants, .. } = &mut session.phase {
                for grant in grants {
                    let end = order.ends.iter().find(|(sa, _)| *sa == grant.sa);
                    grant.end = end.map_or(grant.end, |(_, end)| grant.end.max(*end));
                }
            }
        });
        Ok(())
    }
}
