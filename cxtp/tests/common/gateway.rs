//! A gateway without packets: it keeps the rules of the plugin trait and counts
//! what it is told to do.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use gateway_plugin::{
    Activate, Discard, EventSink, Extend, Fault, GatewayEvent, GatewayPlugin, Pause, PerSession,
    Release, Resume, Stage,
};
use protocol_spec::{
    context::Context,
    id::{Generation, SessionEpoch, SessionId},
    profile::{Capabilities, Profile},
    samples,
    status::{Refusal, Status},
    transfer::{Finals, GrantedRange, SessionState, SessionStatus},
};

use super::say;

/// Sessions that one of these gateways holds.
const CAPACITY: usize = 10_000;

/// A gateway; a copy is the same gateway.
#[derive(Clone, Default)]
pub(crate) struct ModelGateway(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    sink: Option<EventSink>,
    sessions: BTreeMap<SessionId, Held>,
    known: BTreeMap<SessionId, SessionEpoch>,
    /// How often each session was put to use by an order.
    activations: BTreeMap<SessionId, u32>,
    most_staged: usize,
}

struct Held {
    epoch: SessionEpoch,
    state: SessionState,
    /// What it may use once it is active.
    grants: Vec<GrantedRange>,
    context: Context,
}

impl ModelGateway {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A session comes up here, as IKE would have it.
    pub(crate) fn provision(&self, context: Context) {
        let mut state = self.state();
        let id = context.session;
        let state_now = SessionState::Active;
        let held = Held { epoch: SessionEpoch(0), state: state_now, grants: Vec::new(), context };
        let status = held.status();
        state.sessions.insert(id, held);
        if let Some(sink) = &state.sink {
            sink.emit(GatewayEvent::Up(status));
        }
    }

    /// The epoch under which the session is in use here, if it is.
    pub(crate) fn active(&self, session: SessionId) -> Option<SessionEpoch> {
        let state = self.state();
        let held = state.sessions.get(&session)?;
        (held.state == SessionState::Active).then_some(held.epoch)
    }

    /// Whether the gateway has the session in whatever state.
    pub(crate) fn holds(&self, session: SessionId) -> bool {
        self.state().sessions.contains_key(&session)
    }

    /// Every session that is in use here.
    pub(crate) fn all_active(&self) -> Vec<SessionId> {
        let state = self.state();
        let active = state.sessions.iter().filter(|(_, held)| held.state == SessionState::Active);
        active.map(|(id, _)| *id).collect()
    }

    /// How often the session was put to use by an order.
    pub(crate) fn activations(&self, session: SessionId) -> u32 {
        self.state().activations.get(&session).copied().unwrap_or(0)
    }

    /// Sessions that are staged now, and the most that ever were at one time.
    pub(crate) fn staged(&self) -> (usize, usize) {
        let state = self.state();
        (state.staged(), state.most_staged)
    }
}

impl Held {
    fn status(&self) -> SessionStatus {
        SessionStatus {
            session: self.context.session,
            epoch: self.epoch,
            generation: self.context.generation,
            state: self.state.clone(),
        }
    }
}

fn refuse<T>(status: Status, detail: &str) -> Result<T, Refusal> {
    Err(Refusal::new(status, detail))
}

impl State {
    fn staged(&self) -> usize {
        let staged = |held: &&Held| matches!(held.state, SessionState::Staged { .. });
        self.sessions.values().filter(staged).count()
    }

    /// The session, if an act with this epoch may touch it.
    fn held(&mut self, id: SessionId, epoch: Option<SessionEpoch>) -> Result<&mut Held, Refusal> {
        let Some(held) = self.sessions.get_mut(&id) else {
            return refuse(Status::NoSession, "not here");
        };
        if epoch.is_some_and(|epoch| epoch < held.epoch) {
            return refuse(Status::StaleEpoch, "the gateway knows a newer one");
        }
        Ok(held)
    }

    fn admit(&self, session: SessionId, spis: &[u32]) -> Result<(), Refusal> {
        if self.sessions.len() >= CAPACITY {
            return refuse(Status::NoRoom, "the gateway is full");
        }
        let other = |held: &&Held| held.context.session != session;
        let taken = self.sessions.values().filter(other).any(|held| {
            held.context.children.iter().any(|child| spis.contains(&child.inbound.spi))
        });
        if taken { refuse(Status::SpiCollision, "the inbound SPI is in use") } else { Ok(()) }
    }

    fn stage(&mut self, order: Stage) -> Result<Generation, Refusal> {
        let id = order.context.session;
        let generation = order.context.generation;
        let spis: Vec<_> = order.context.children.iter().map(|child| child.inbound.spi).collect();
        self.admit(id, &spis)?;
        if self.known.get(&id).is_some_and(|known| order.epoch < *known) {
            return refuse(Status::StaleEpoch, "the gateway knows a newer one");
        }
        if self.sessions.get(&id).is_some_and(|held| held.state == SessionState::Active) {
            return refuse(Status::TransferRunning, "in use here");
        }
        let state = SessionState::Staged { source: order.source, batch: order.batch };
        let Stage { epoch, grants, context, .. } = order;
        self.known.insert(id, epoch);
        self.sessions.insert(id, Held { epoch, state, grants, context });
        self.most_staged = self.most_staged.max(self.staged());
        Ok(generation)
    }

    fn pause(&mut self, order: &Pause) -> Result<Finals, Refusal> {
        let held = self.held(order.session, None)?;
        if matches!(held.state, SessionState::Staged { .. }) {
            return refuse(Status::NoSession, "only staged here");
        }
        held.state = SessionState::Paused { target: order.target.clone() };
        Ok(samples::finals(&held.context))
    }

    fn activate(&mut self, order: &Activate) -> Result<(), Refusal> {
        let held = self.held(order.session, Some(order.epoch))?;
        if held.state == SessionState::Active {
            return Ok(());
        }
        held.epoch = order.epoch;
        held.state = SessionState::Active;
        for child in &mut held.context.children {
            let granted = held.grants.iter().find(|grant| grant.sa == child.sa());
            child.outbound.sequence = granted.map_or(child.outbound.sequence, |grant| grant.base);
        }
        *self.activations.entry(order.session).or_default() += 1;
        Ok(())
    }

    fn resume(&mut self, order: &Resume) -> Result<(), Refusal> {
        let held = self.held(order.session, Some(order.epoch))?;
        held.epoch = order.epoch;
        held.state = SessionState::Active;
        Ok(())
    }

    fn release(&mut self, order: &Release) -> Result<(), Refusal> {
        if self.sessions.contains_key(&order.session) {
            self.held(order.session, Some(order.epoch))?;
            self.sessions.remove(&order.session);
        }
        self.known.insert(order.session, order.epoch);
        Ok(())
    }

    fn discard(&mut self, order: &Discard) -> Result<(), Refusal> {
        match self.sessions.get(&order.session).map(|held| (&held.state, held.epoch)) {
            None => Ok(()),
            Some((SessionState::Staged { .. }, epoch)) if epoch <= order.epoch => {
                self.sessions.remove(&order.session);
                Ok(())
            }
            Some((SessionState::Staged { .. }, _)) => refuse(Status::StaleEpoch, "a newer one"),
            Some(_) => refuse(Status::TransferRunning, "in use here"),
        }
    }
}

impl GatewayPlugin for ModelGateway {
    fn capabilities(&mut self) -> Result<Capabilities, Fault> {
        Ok(say::capabilities())
    }

    fn subscribe(&mut self, sink: EventSink) -> Result<(), Fault> {
        self.state().sink = Some(sink);
        Ok(())
    }

    fn list(&mut self) -> Result<Vec<SessionStatus>, Fault> {
        Ok(self.state().sessions.values().map(Held::status).collect())
    }

    fn snapshot(&mut self, sessions: &[SessionId]) -> Result<PerSession<Context>, Fault> {
        let mut state = self.state();
        let all = sessions.iter().map(|id| match state.held(*id, None) {
            Ok(held) => (*id, Ok(say::copy(&held.context))),
            Err(refusal) => (*id, Err(refusal)),
        });
        Ok(all.collect())
    }

    fn admit(&mut self, profiles: &[Profile]) -> Result<PerSession<()>, Fault> {
        let state = self.state();
        let all = profiles.iter().map(|profile| {
            let spis = profile.children.iter().map(|child| child.usage.sa.inbound_spi);
            (profile.session, state.admit(profile.session, &spis.collect::<Vec<_>>()))
        });
        Ok(all.collect())
    }

    fn stage(&mut self, orders: Vec<Stage>) -> Result<PerSession<Generation>, Fault> {
        let mut state = self.state();
        let all = orders.into_iter().map(|order| (order.context.session, state.stage(order)));
        Ok(all.collect())
    }

    fn pause(&mut self, orders: Vec<Pause>) -> Result<PerSession<Finals>, Fault> {
        let mut state = self.state();
        Ok(orders.iter().map(|order| (order.session, state.pause(order))).collect())
    }

    fn resume(&mut self, orders: Vec<Resume>) -> Result<PerSession<()>, Fault> {
        let mut state = self.state();
        Ok(orders.iter().map(|order| (order.session, state.resume(order))).collect())
    }

    fn activate(&mut self, orders: Vec<Activate>) -> Result<PerSession<()>, Fault> {
        let mut state = self.state();
        Ok(orders.iter().map(|order| (order.session, state.activate(order))).collect())
    }

    fn release(&mut self, orders: Vec<Release>) -> Result<PerSession<()>, Fault> {
        let mut state = self.state();
        Ok(orders.iter().map(|order| (order.session, state.release(order))).collect())
    }

    fn discard(&mut self, orders: Vec<Discard>) -> Result<PerSession<()>, Fault> {
        let mut state = self.state();
        Ok(orders.iter().map(|order| (order.session, state.discard(order))).collect())
    }

    fn extend(&mut self, orders: Vec<Extend>) -> Result<PerSession<()>, Fault> {
        let mut state = self.state();
        let all = orders
            .iter()
            .map(|order| (order.session, state.held(order.session, Some(order.epoch)).map(|_| ())));
        Ok(all.collect())
    }
}
