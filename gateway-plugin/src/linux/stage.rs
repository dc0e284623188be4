//! The acts at a target: staging, activation, and the grants. What it admits is said
//! in `admit`.

use std::time::Duration;

use protocol_spec::{
    context::Context,
    id::{Generation, Name, SessionId},
    status::{Refusal, Status},
    transfer::{Finals, GrantedRange},
};

use super::{
    context,
    gateway::Inner,
    ground::Flow,
    orphans::{Kept, is_unknown, not_yet},
    pair::{Pair, at_least},
    session::{End, Paths, Phase, Session},
};
use crate::{
    plugin::{Activate, Discard, Extend, Stage},
    xfrm::{Counters, KernelSa, SaId},
};

/// How long a daemon may need to make SAs before it is asked what became of them.
const MADE: Duration = Duration::from_millis(800);
/// How far ahead the end of numbers may be that the outer interface enforces.
const FAR: u64 = 1 << 31;

impl Inner {
    pub(super) fn stage(&mut self, order: Stage) -> Result<Generation, Refusal> {
        let Stage { epoch, source, batch, grants, context } = order;
        let id = context.session;
        let generation = context.generation;
        let before = self.sessions.get(&id).cloned();
        if let Some(session) = &before {
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
                Phase::Staged { .. } | Phase::Staging { .. } => {}
                Phase::Released { .. } if session.epoch < epoch => {}
                Phase::Released { .. } => {
                    let detail = format!("epoch {epoch} went from here to another gateway");
                    return Err(Refusal::new(Status::StaleEpoch, detail));
                }
                Phase::Active | Phase::Unsettled | Phase::Paused { .. } => {
                    let detail = session.unfit("release it first").detail;
                    return Err(Refusal::new(Status::TransferRunning, detail));
                }
            }
        }
        context.check().map_err(|bad| Refusal::new(Status::BadContext, bad.to_string()))?;
        self.admit(&context.profile())?;
        tracing::debug!(session = %id, "admitted");
        context
            .check_grants(&grants)
            .map_err(|bad| Refusal::new(Status::NoSequenceRoom, bad.to_string()))?;
        if !self.steer.reaches(&source) {
            let detail = format!("`{source}` is not among the neighbours of this gateway");
            return Err(Refusal::new(Status::NoPeer, detail));
        }
        let was_at = context.ike.as_ref().map(|ike| ike.local);
        let context = self.localise(context)?;
        let moved = context.ike.as_ref().map(|ike| ike.local) != was_at;
        if moved {
            self.can_tell(&context)?;
        }
        let planned = Paths { pairs: context::planned(&context)?, flow: context::flow(&context)? };
        // Only the kernel and the daemon can refuse from here on, by a fault of
        // their own; an older staging makes room.
        self.clear(id)?;
        self.free(&planned)?;
        let ends = grants.iter().map(|grant| End { sa: grant.sa, end: grant.end, told: false });
        self.insert(Session {
            epoch,
            phase: Phase::Staging { source: source.clone(), batch },
            paths: Some(planned),
            ends: ends.collect(),
            moved,
            stays: true,
            ..Session::new(id, generation, context::spis(&context))
        });
        // Recorded first: who finds half of it after our end takes it away again.
        let staged =
            self.keep().and_then(|()| self.put(&context, &grants, &source)).and_then(|paths| {
                self.change(id, |session| {
                    session.phase = Phase::Staged { source, batch, grants };
                    session.paths = Some(paths);
                });
                self.keep()
            });
        if let Err(refusal) = staged {
            match self.clear(id) {
                Ok(()) => {
                    // The epoch that left this gateway is still refused.
                    let left = before.filter(|s| matches!(s.phase, Phase::Released { .. }));
                    left.into_iter().for_each(|session| self.insert(session));
                }
                // It stays, held, until somebody discards or stages it again.
                Err(worse) => {
                    tracing::warn!(session = %id, refusal = %worse, "a failed staging is left");
                }
            }
            return Err(refusal);
        }
        if self.daemon.installs_children() {
            self.kept.insert(id, Kept { context, is_whole: true });
        }
        Ok(generation)
    }

    /// What is taken away after a fault must not be another's.
    fn free(&mut self, planned: &Paths) -> Result<(), Refusal> {
        for name in planned.pairs.iter().flat_map(|pair| [pair.inbound, pair.outbound]) {
            if self.tables.sa(&name)?.is_some() {
                let detail = format!("{name} is in use here: rekey the Child SA first");
                return Err(Refusal::new(Status::SpiCollision, detail));
            }
        }
        Ok(())
    }

    /// Installs a session so that no packet can use it: what would is held first.
    pub(super) fn put(
        &mut self,
        context: &Context,
        grants: &[GrantedRange],
        source: &Name,
    ) -> Result<Paths, Refusal> {
        let flow = context::flow(context)?;
        self.succeed(context.session, &flow)?;
        self.steer.hold(context.session, &flow, source)?;
        tracing::debug!(session = %context.session, "held");
        let local = context.ike.as_ref().map(|ike| ike.local.ip());
        // The name comes first: SAs without one would be taken for a new session.
        self.daemon.stage(context, local)?;
        tracing::debug!(session = %context.session, "daemon told");
        let (mut sas, policies) = context::tables(context, grants)?;
        if self.daemon.installs_children() {
            let made = self.wait_made(context)?;
            tracing::debug!(session = %context.session, "SAs made");
            self.replace(&mut sas, &made)?;
        } else {
            self.tables.install(&sas, &policies)?;
        }
        let pairs = context::pairs(&context::described(context), &sas)?;
        let mut counters = Vec::new();
        for (pair, child) in pairs.iter().zip(&context.children) {
            counters.extend(pair.staged(child, grants)?);
        }
        self.check_counters(&counters)?;
        tracing::debug!(session = %context.session, "SAs complete");
        let (id, paths) = (context.session, Paths { pairs, flow });
        let ends = self.sessions.get(&id).map_or_else(Vec::new, |session| session.ends.clone());
        // What stands by now is not set while packets wait for it.
        self.limit(id, &paths, &ends)?;
        // The daemon installed policies meanwhile.
        self.daemon.staged(context)?;
        Ok(paths)
    }

    /// Waits until the daemon has made the SAs of all Child SAs, and returns them.
    fn wait_made(&mut self, context: &Context) -> Result<Vec<KernelSa>, Refusal> {
        let names = context::names(context)?;
        let spis: Vec<u32> = names.iter().map(|name| name.spi).collect();
        let begun = self.clock.now();
        while self.first(&names, false)?.is_some() {
            let patience = MADE.saturating_sub(self.clock.now() - begun);
            if patience.is_zero() {
                // It knows whether it will not, or has not got so far yet.
                self.daemon.staged(context)?;
                break;
            }
            self.tables.wait(patience)?;
        }
        let mut sas = self.tables.with_spis(&spis)?;
        sas.retain(|sa| names.contains(&sa.id));
        Ok(sas)
    }

    /// A session that has gone makes way where its inner addresses or its client are
    /// in use again.
    pub(super) fn succeed(&mut self, id: SessionId, flow: &Flow) -> Result<(), Refusal> {
        let left = |session: &&Session| {
            let paths = session.paths.as_ref().filter(|_| session.id != id);
            matches!(session.phase, Phase::Released { .. })
                && paths.is_some_and(|paths| {
                    paths.flow.is_of_client(flow)
                        || paths.flow.inner.iter().any(|inner| flow.inner.contains(inner))
                })
        };
        let left = self.sessions.values().filter(left);
        let left: Vec<(SessionId, bool)> = left.map(|old| (old.id, old.stays)).collect();
        for (old, stays) in left {
            self.steer.inherit(old, id)?;
            self.change(old, |session| session.paths = None);
            self.change(id, |session| session.stays |= stays);
        }
        Ok(())
    }

    /// Puts the source's SAs in the place of those that a daemon made. It starts
    /// lifetimes and windows anew, and makes the keys of a Child SA that is older
    /// than its IKE SA from the wrong SK_d; what ties the SAs to its policies stays.
    fn replace(&mut self, sas: &mut [KernelSa], made: &[KernelSa]) -> Result<(), Refusal> {
        for sa in &mut *sas {
            let made = made.iter().find(|made| made.id == sa.id).ok_or_else(|| {
                let detail = format!("the IKE daemon did not install {}: its log says why", sa.id);
                Refusal::new(Status::GatewayFault, detail)
            })?;
            sa.reqid = made.reqid;
            sa.flags = made.flags;
            sa.selector.clone_from(&made.selector);
            (sa.if_id, sa.output_mark) = (made.if_id, made.output_mark);
        }
        let names: Vec<SaId> = sas.iter().map(|sa| sa.id).collect();
        self.tables.remove(&names, &[])?;
        self.tables.install(sas, &[])
    }

    /// Sets numbers and looks whether the kernel has them.
    pub(super) fn set_counters(&mut self, counters: &[(SaId, Counters)]) -> Result<(), Refusal> {
        self.tables.set_counters(counters)?;
        self.check_counters(counters)
    }

    /// Looks whether the kernel has these numbers.
    fn check_counters(&mut self, counters: &[(SaId, Counters)]) -> Result<(), Refusal> {
        let ids: Vec<SaId> = counters.iter().map(|(id, _)| *id).collect();
        let found = self.tables.counters(&ids)?;
        for ((id, wanted), found) in counters.iter().zip(found) {
            // Of an SA that sends, the window means nothing.
            let received = wanted.sequence != 0 || found.window == wanted.window;
            if found.sequence != wanted.sequence || !received {
                let detail = format!(
                    "{id} stands at {} and {} instead of {} and {}: the kernel did not take the numbers",
                    found.sequence, found.window.highest, wanted.sequence, wanted.window.highest
                );
                return Err(Refusal::new(Status::GatewayFault, detail));
            }
        }
        Ok(())
    }

    pub(super) fn activate(&mut self, order: &Activate) -> Result<(), Refusal> {
        let id = order.session;
        let session = self.known(id)?;
        session.refuse_stale(order.epoch)?;
        match &session.phase {
            Phase::Active | Phase::Unsettled if session.epoch == order.epoch => {
                return self.keep();
            }
            Phase::Staged { .. } if session.epoch == order.epoch => {}
            _ => return Err(session.unfit("stage it under this epoch first")),
        }
        order
            .finals
            .check()
            .map_err(|error| Refusal::new(Status::BadContext, error.to_string()))?;
        if order.finals.generation != session.generation {
            let detail = format!("session {id} changed at its source since it was staged");
            return Err(Refusal::new(Status::GenerationChanged, detail));
        }
        let is_half = self.kept.get(&id).is_some_and(|kept| !kept.is_whole);
        let mut missing = is_half || self.orphans.contains(&id);
        if !missing {
            match self.let_go(order) {
                Err(refusal) if is_unknown(&refusal) => missing = true,
                done => done?,
            }
        }
        if missing {
            self.stage_again(id)?;
            self.let_go(order).map_err(not_yet)?;
        }
        self.kept.remove(&id);
        self.change(id, |session| session.phase = Phase::Active);
        if let Some(ike) = &order.finals.ike {
            self.speak(id, ike);
        }
        self.keep()
    }

    /// Its numbers must not be read or set while packets pass.
    pub(super) fn make_sure_held(&mut self, id: SessionId) -> Result<(), Refusal> {
        self.hold_again();
        if self.unheld.contains(&id) {
            let detail = "its packets cannot be held, and its numbers not be set while they pass";
            return Err(Refusal::new(Status::GatewayFault, detail));
        }
        Ok(())
    }

    /// Gives a staged session the source's last numbers and lets its packets pass; it is
    /// held as before if that fails.
    fn let_go(&mut self, order: &Activate) -> Result<(), Refusal> {
        let id = order.session;
        let session = self.known(id)?;
        let (grants, ends) = (session.phase.grants().to_vec(), session.ends.clone());
        let paths = self.paths(id)?;
        self.make_sure_held(id)?;
        self.advance(&paths.pairs, &order.finals, &grants)?;
        tracing::debug!(session = %id, "numbers set");
        self.limit(id, &paths, &ends)?;
        self.open(id, order, &paths).inspect_err(|_| {
            // Whatever passed already, nothing does from here on.
            self.unheld.insert(id);
            self.hold_again();
        })
    }

    /// Gives the SAs the source's last numbers. An activation that failed on its way,
    /// in this process or in one before, may have let packets pass: what they used
    /// stays.
    fn advance(
        &mut self,
        pairs: &[Pair],
        finals: &Finals,
        grants: &[GrantedRange],
    ) -> Result<(), Refusal> {
        let mut wanted = Vec::new();
        for pair in pairs {
            wanted.extend(pair.active(finals, grants)?);
        }
        let ids: Vec<SaId> = wanted.iter().map(|(id, _)| *id).collect();
        let now = self.tables.counters(&ids)?;
        let numbers = wanted.into_iter().zip(&now);
        let numbers = numbers.map(|((id, wanted), now)| (id, at_least(wanted, now)));
        self.set_counters(&numbers.collect::<Vec<_>>())
    }

    /// Packets first; the IKE daemon is the slow end.
    fn open(&mut self, id: SessionId, order: &Activate, paths: &Paths) -> Result<(), Refusal> {
        self.steer.let_go_data(id, &paths.flow)?;
        tracing::debug!(session = %id, "packets pass");
        let mut ike = order.finals.ike.clone();
        if let Some(ike) = &mut ike
            && self.known(id)?.moved
        {
            // The one before is that of our own announcement.
            ike.next_send = ike.next_send.saturating_add(1);
        }
        self.daemon.activate(id, ike.as_ref())?;
        tracing::debug!(session = %id, "daemon speaks");
        self.steer.let_go_ike(id)
    }

    pub(super) fn discard(&mut self, order: &Discard) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(&order.session) else { return self.keep() };
        session.refuse_stale(order.epoch)?;
        match session.phase {
            Phase::Staged { .. } | Phase::Staging { .. } => {
                self.clear(order.session)?;
                self.keep()
            }
            Phase::Released { .. } => Ok(()),
            _ => Err(session.unfit("only a staged session is discarded")),
        }
    }

    /// Takes an older staging or what is left of a released session away.
    pub(super) fn clear(&mut self, id: SessionId) -> Result<(), Refusal> {
        match self.sessions.get(&id).map(|session| &session.phase) {
            Some(Phase::Staged { source, .. } | Phase::Staging { source, .. }) => {
                let source = source.clone();
                self.remove(id)?;
                self.steer.discard(id, &source)?;
            }
            // What stands for it guards its packets until it is held again.
            Some(Phase::Released { .. }) => {}
            _ => return Ok(()),
        }
        self.take_out(id);
        Ok(())
    }

    pub(super) fn extend(&mut self, order: &Extend) -> Result<(), Refusal> {
        let id = order.session;
        let session = self.known(id)?;
        session.refuse_stale(order.epoch)?;
        if session.epoch != order.epoch {
            return Err(session.unfit("the grant belongs to another epoch"));
        }
        let stranger = order.ends.iter().find(|(sa, _)| {
            !session.spis.inbound.contains(&sa.inbound_spi)
                && session.ends.iter().all(|known| known.sa != *sa)
        });
        if let Some((sa, _)) = stranger {
            let detail = format!("SPI {:#010x} is not one of the session's", sa.inbound_spi);
            return Err(Refusal::new(Status::GenerationChanged, detail));
        }
        let new = |sa| order.ends.iter().find(|(of, _)| *of == sa).map_or(0, |(_, end)| *end);
        let mut ends = session.ends.clone();
        for end in &mut ends {
            if new(end.sa) > end.end {
                *end = End { end: new(end.sa), told: false, ..*end };
            }
        }
        if let Some(paths) = session.paths.clone() {
            self.limit(id, &paths, &ends)?;
        }
        self.change(id, |session| {
            session.ends = ends;
            session.look_at = Duration::ZERO;
            if let Phase::Staged { grants, .. } = &mut session.phase {
                grants.iter_mut().for_each(|grant| grant.end = grant.end.max(new(grant.sa)));
            }
        });
        self.keep()
    }

    /// Stands at the end of the granted ranges.
    fn limit(&mut self, id: SessionId, paths: &Paths, ends: &[End]) -> Result<(), Refusal> {
        if ends.is_empty() {
            return Ok(());
        }
        let pair_of = |end: &End| paths.pairs.iter().find(|pair| pair.sa == end.sa);
        let ends: Vec<_> = ends.iter().filter_map(|end| Some((pair_of(end)?, end.end))).collect();
        let sas: Vec<SaId> = ends.iter().map(|(pair, _)| pair.outbound).collect();
        let used = self.tables.counters(&sas)?;
        // Outside only the low 32 bits are seen: an end that is far is none yet.
        let near = ends
            .iter()
            .zip(used)
            .filter(|((_, end), used)| end.saturating_sub(used.sequence) <= FAR);
        let limits: Vec<_> = near.map(|((pair, end), _)| (pair.outbound.spi, *end)).collect();
        self.steer.limit(id, &paths.flow, &limits)
    }
}
