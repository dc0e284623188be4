//! The acts of [`GatewayPlugin`] on the embedded gateway.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use protocol_spec::{
    context::Context,
    id::{Generation, Name, SessionEpoch, SessionId},
    profile::{Capabilities, Profile},
    status::{Refusal, Status},
    transfer::{Finals, SessionStatus},
};

use super::{
    config::Sabotage,
    gateway::{EmbeddedGateway, Gateway, no_session},
    session::{Body, Guts, Held, Phase, Session, duplicate},
    table::lock,
};
use crate::plugin::{
    Activate, Discard, EventSink, Extend, Fault, GatewayPlugin, Pause, PerSession, Release, Resume,
    Stage,
};

impl GatewayPlugin for EmbeddedGateway {
    fn capabilities(&mut self) -> Result<Capabilities, Fault> {
        self.running()?;
        Ok(self.gateway.capabilities.clone())
    }

    fn subscribe(&mut self, sink: EventSink) -> Result<(), Fault> {
        self.running()?;
        self.gateway.subscribe(sink);
        Ok(())
    }

    fn list(&mut self) -> Result<Vec<SessionStatus>, Fault> {
        self.running()?;
        let sessions = self.gateway.sessions.values();
        Ok(sessions.iter().filter_map(|session| lock(&session.guts).status(session.id)).collect())
    }

    fn snapshot(&mut self, sessions: &[SessionId]) -> Result<PerSession<Context>, Fault> {
        self.each(sessions.to_vec(), |id| *id, |gateway, id| gateway.snapshot(id))
    }

    fn admit(&mut self, profiles: &[Profile]) -> Result<PerSession<()>, Fault> {
        self.running()?;
        let admit = |profile: &Profile| (profile.session, self.gateway.admit_profile(profile));
        Ok(profiles.iter().map(admit).collect())
    }

    fn stage(&mut self, orders: Vec<Stage>) -> Result<PerSession<Generation>, Fault> {
        self.each(orders, |order| order.context.session, Gateway::stage)
    }

    fn pause(&mut self, orders: Vec<Pause>) -> Result<PerSession<Finals>, Fault> {
        self.each(orders, |order| order.session, Gateway::pause)
    }

    fn resume(&mut self, orders: Vec<Resume>) -> Result<PerSession<()>, Fault> {
        self.each(orders, |order| order.session, Gateway::resume)
    }

    fn activate(&mut self, orders: Vec<Activate>) -> Result<PerSession<()>, Fault> {
        self.each(orders, |order| order.session, Gateway::activate)
    }

    fn release(&mut self, orders: Vec<Release>) -> Result<PerSession<()>, Fault> {
        self.each(orders, |order| order.session, Gateway::release)
    }

    fn discard(&mut self, orders: Vec<Discard>) -> Result<PerSession<()>, Fault> {
        self.each(orders, |order| order.session, Gateway::discard)
    }

    fn extend(&mut self, orders: Vec<Extend>) -> Result<PerSession<()>, Fault> {
        self.each(orders, |order| order.session, Gateway::extend)
    }
}

impl EmbeddedGateway {
    fn running(&self) -> Result<(), Fault> {
        if self.gateway.stopping.load(Ordering::Acquire) {
            return Err(Fault::Lost("it was stopped".to_owned()));
        }
        Ok(())
    }

    fn each<O, T>(
        &self,
        orders: Vec<O>,
        session: impl Fn(&O) -> SessionId,
        act: impl Fn(&Gateway, O) -> Result<T, Refusal>,
    ) -> Result<PerSession<T>, Fault> {
        self.running()?;
        let _acting = lock(&self.gateway.acting);
        let answer = |order| (session(&order), act(&self.gateway, order));
        Ok(orders.into_iter().map(answer).collect())
    }
}

/// An act that does not fit the state of its session.
fn unfit(id: SessionId, guts: &Guts, cure: &str) -> Refusal {
    let state = match &guts.phase {
        Phase::Active => "active here".to_owned(),
        Phase::Paused(target) => format!("paused here for {target}"),
        Phase::Staged { source, .. } => format!("staged here from {source}"),
        Phase::Released { target, .. } => format!("released to {target}"),
        Phase::Removed => "gone".to_owned(),
    };
    Refusal::new(Status::NoTransfer, format!("session {id} is {state}: {cure}"))
}

impl Gateway {
    fn known(&self, id: SessionId) -> Result<Arc<Session>, Refusal> {
        self.sessions.find(&id).ok_or_else(|| no_session(id))
    }

    fn refuse_unreachable(&self, gateway: &Name) -> Result<(), Refusal> {
        if self.reaches(gateway) {
            return Ok(());
        }
        let detail = match self.network {
            Some(_) => format!("`{gateway}` is not among the neighbours of this gateway"),
            None => format!("no relay address of `{gateway}` is configured"),
        };
        Err(Refusal::new(Status::NoPeer, detail))
    }

    fn snapshot(&self, id: SessionId) -> Result<Context, Refusal> {
        let session = self.known(id)?;
        let mut guts = lock(&session.guts);
        let now = self.clock.now();
        let body = match &guts.phase {
            Phase::Active => guts.body.as_mut().map(|body| body.snapshot(now)),
            // The last counters stay what they are, so nothing ages.
            Phase::Paused(_) => guts.body.as_ref().map(|body| duplicate(&body.context)),
            Phase::Staged { .. } => return Err(unfit(id, &guts, "its source has the context")),
            Phase::Released { .. } | Phase::Removed => None,
        };
        body.ok_or_else(|| no_session(id))
    }

    fn stage(&self, order: Stage) -> Result<Generation, Refusal> {
        let Stage { epoch, source, batch, grants, context } = order;
        let id = context.session;
        let generation = context.generation;
        let before = self.sessions.find(&id);
        if let Some(before) = &before {
            let guts = lock(&before.guts);
            guts.refuse_stale(epoch)?;
            match &guts.phase {
                Phase::Staged { batch: known, .. } if guts.epoch == epoch => {
                    let body = guts.body.as_ref().filter(|_| *known == batch);
                    return body.map(|body| body.generation()).ok_or_else(|| {
                        let detail = format!("epoch {epoch} was staged by another transfer");
                        Refusal::new(Status::StaleEpoch, detail)
                    });
                }
                Phase::Staged { .. } | Phase::Removed => {}
                Phase::Released { .. } if guts.epoch < epoch => {}
                Phase::Released { .. } => {
                    let detail = format!("epoch {epoch} went from here to another gateway");
                    return Err(Refusal::new(Status::StaleEpoch, detail));
                }
                Phase::Active | Phase::Paused(_) => {
                    let cure = "release it first";
                    let detail = unfit(id, &guts, cure).detail;
                    return Err(Refusal::new(Status::TransferRunning, detail));
                }
            }
        }
        self.admit_context(&context)?;
        self.refuse_unreachable(&source)?;
        let mut body = Body::staged(context, &grants, self.clock.now())?;
        if self.config.sabotage == Some(Sabotage::NoGrant) {
            body.forget_grants();
        }
        self.outside(|network| network.expect(id, &body.context))?;
        // Nothing can refuse any more; what was known of it makes room, once the new
        // one stands where packets look for it.
        let session = Session::new(id, epoch, Phase::Staged { source, batch }, body);
        self.install(&session);
        // What an older staging held goes back: its source goes on meanwhile, and here
        // it would grow too old.
        if let Some(before) = before {
            let came_from = match &lock(&before.guts).phase {
                Phase::Staged { source, .. } => Some(source.clone()),
                _ => None,
            };
            let held = self.clear(&before);
            if let Some(came_from) = came_from {
                self.relay_held(id, held, &came_from);
            }
        }
        Ok(generation)
    }

    /// Takes an older staging or a tombstone away, and hands over what it held.
    fn clear(&self, session: &Arc<Session>) -> VecDeque<Held> {
        let mut guts = lock(&session.guts);
        let (spis, prefixes) =
            match (std::mem::replace(&mut guts.phase, Phase::Removed), &guts.body) {
                (Phase::Released { spis, prefixes, .. }, _) => {
                    self.gone.fetch_sub(1, Ordering::Relaxed);
                    (spis.into_vec(), prefixes.into_vec())
                }
                (_, Some(body)) => (body.spis().collect(), body.prefixes()),
                (_, None) => (Vec::new(), Vec::new()),
            };
        guts.body = None;
        let held = std::mem::take(&mut guts.held);
        self.uninstall(session, &spis, &prefixes);
        held
    }

    fn pause(&self, order: Pause) -> Result<Finals, Refusal> {
        let id = order.session;
        let session = self.known(id)?;
        self.refuse_unreachable(&order.target)?;
        let mut guts = lock(&session.guts);
        let now = self.clock.now();
        match &guts.phase {
            Phase::Active => {
                if let Some(body) = &mut guts.body {
                    order.refuse_other(body.generation())?;
                    // What is on its way here still waits for the lock, and goes the
                    // same way after it.
                    self.outside(|network| network.divert(id, &body.context, &order.target))?;
                    body.age(now);
                }
            }
            Phase::Paused(target) if *target == order.target => {}
            Phase::Paused(_) => {
                if let Some(body) = &guts.body {
                    self.outside(|network| network.divert(id, &body.context, &order.target))?;
                }
            }
            Phase::Staged { .. } => return Err(unfit(id, &guts, "activate it first")),
            Phase::Released { .. } | Phase::Removed => return Err(no_session(id)),
        }
        guts.phase = Phase::Paused(order.target);
        guts.body.as_ref().map(|body| body.finals()).ok_or_else(|| no_session(id))
    }

    fn resume(&self, order: Resume) -> Result<(), Refusal> {
        let id = order.session;
        let session = self.known(id)?;
        let mut guts = lock(&session.guts);
        guts.refuse_stale(order.epoch)?;
        if !matches!(guts.phase, Phase::Active | Phase::Paused(_)) {
            return Err(unfit(id, &guts, "only a paused session is resumed"));
        }
        self.go_active(&session, &mut guts, order.epoch, |body| {
            body.skip_to(&order.from);
            self.outside(|network| network.restore(id))
        })
    }

    fn activate(&self, order: Activate) -> Result<(), Refusal> {
        let id = order.session;
        let session = self.known(id)?;
        let mut guts = lock(&session.guts);
        guts.refuse_stale(order.epoch)?;
        match &guts.phase {
            Phase::Active if guts.epoch == order.epoch => return Ok(()),
            Phase::Staged { .. } if guts.epoch == order.epoch => {}
            _ => return Err(unfit(id, &guts, "stage it under this epoch first")),
        }
        let local = self.sockets.outer.udp.local_addr().ok();
        self.go_active(&session, &mut guts, order.epoch, |body| {
            // One that forgets its grants does not look at them here either.
            if self.config.sabotage != Some(Sabotage::NoGrant) {
                body.refuse_finals(&order.finals)?;
            }
            body.take_finals(order.finals);
            if let (Some(ike), Some(local)) = (&mut body.context.ike, local) {
                ike.local = local;
            }
            self.outside(|network| network.arrived(id, &body.context))
        })?;
        drop(guts);
        self.greet(&session);
        Ok(())
    }

    /// Puts a session to use after `prepare`, announces it, and sends what waited.
    fn go_active(
        &self,
        session: &Arc<Session>,
        guts: &mut Guts,
        epoch: SessionEpoch,
        prepare: impl FnOnce(&mut Body) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let body = guts.body.as_mut().ok_or_else(|| no_session(session.id))?;
        prepare(body)?;
        guts.epoch = epoch;
        guts.phase = Phase::Active;
        self.announce(session);
        self.send_held(session.id, guts);
        Ok(())
    }

    fn release(&self, order: Release) -> Result<(), Refusal> {
        // Of one that is not known any more there is nothing to forget.
        let Some(session) = self.sessions.find(&order.session) else { return Ok(()) };
        let mut guts = lock(&session.guts);
        guts.refuse_stale(order.epoch)?;
        match (&guts.phase, &guts.body) {
            (Phase::Paused(_), Some(body)) => {
                let spis = body.spis().collect();
                let prefixes = body.prefixes().into();
                guts.phase = Phase::Released { target: order.target.clone(), spis, prefixes };
            }
            (Phase::Released { .. }, _) => {
                return self.outside(|network| network.released(order.session));
            }
            (Phase::Removed, _) => return Ok(()),
            _ => return Err(unfit(order.session, &guts, "only a paused session is released")),
        }
        guts.epoch = order.epoch;
        let goes_on = self.config.sabotage == Some(Sabotage::NoPause);
        if !goes_on {
            guts.body = None;
        }
        let held = std::mem::take(&mut guts.held);
        drop(guts);
        self.outside(|network| network.released(order.session))?;
        if goes_on {
            // The old owner speaks after the new one, whatever else is on its way.
            self.greet(&session);
        }
        self.relay_held(order.session, held, &order.target);
        self.keep_released(session);
        Ok(())
    }

    /// Remembers where a session went; forgets the oldest when there are too many.
    fn keep_released(&self, session: Arc<Session>) {
        let mut released = lock(&self.released);
        released.push_back(session);
        let gone = self.gone.fetch_add(1, Ordering::Relaxed) + 1;
        let mut spare = gone.saturating_sub(self.config.max_released);
        while let Some(oldest) = released.front() {
            let back = !matches!(lock(&oldest.guts).phase, Phase::Released { .. });
            if !back && spare == 0 {
                break;
            }
            let oldest = released.pop_front();
            if let Some(oldest) = oldest.filter(|_| !back) {
                spare -= 1;
                self.clear(&oldest);
                if let Err(refusal) = self.outside(|network| network.forget(oldest.id)) {
                    tracing::warn!(session = %oldest.id, %refusal, "its guard stays");
                }
            }
        }
    }

    fn discard(&self, order: Discard) -> Result<(), Refusal> {
        let Some(session) = self.sessions.find(&order.session) else { return Ok(()) };
        let guts = lock(&session.guts);
        guts.refuse_stale(order.epoch)?;
        let source = match &guts.phase {
            Phase::Staged { source, .. } => source.clone(),
            Phase::Released { .. } | Phase::Removed => return Ok(()),
            _ => return Err(unfit(order.session, &guts, "only a staged session is discarded")),
        };
        drop(guts);
        let held = self.clear(&session);
        self.relay_held(order.session, held, &source);
        self.outside(|network| network.forget(order.session))
    }

    fn extend(&self, order: Extend) -> Result<(), Refusal> {
        let id = order.session;
        let session = self.known(id)?;
        let mut guts = lock(&session.guts);
        guts.refuse_stale(order.epoch)?;
        if guts.epoch != order.epoch {
            return Err(unfit(id, &guts, "the grant belongs to another epoch"));
        }
        let body = guts.body.as_mut().ok_or_else(|| no_session(id))?;
        body.extend(&order.ends)?;
        if guts.phase == Phase::Active {
            self.send_held(id, &mut guts);
        }
        Ok(())
    }
}
