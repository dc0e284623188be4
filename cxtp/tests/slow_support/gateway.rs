//! An embedded gateway that counts the contexts which pass it and, as a target,
//! waits at each order to stage until the test lets it go on.

use std::sync::{
    Arc, Condvar, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use gateway_plugin::{
    Activate, Discard, EventSink, Extend, Fault, GatewayPlugin, Pause, PerSession, Release, Resume,
    Stage,
    embedded::{EmbeddedGateway, GatewayConfig, SessionShape},
};
use protocol_spec::{
    context::Context,
    id::{Generation, SessionId},
    profile::{Capabilities, Profile},
    transfer::{Finals, SessionState, SessionStatus},
};

use crate::common::PATIENCE;

/// Contexts that the source's gateway wrote and the target has not taken yet.
#[derive(Default)]
pub(crate) struct Flight {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Flight {
    pub(crate) fn began(&self, contexts: usize) {
        let now = self.now.fetch_add(contexts, Ordering::SeqCst) + contexts;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    pub(crate) fn ended(&self, contexts: usize) {
        self.now.fetch_sub(contexts, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }

    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// What an order to stage waits for.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    moved: Condvar,
}

#[derive(Default)]
struct GateState {
    closed: bool,
    /// Orders that may pass while it is closed.
    let_through: usize,
    waiting: usize,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.state.lock().unwrap().closed = true;
    }

    pub(crate) fn open(&self) {
        self.state.lock().unwrap().closed = false;
        self.moved.notify_all();
    }

    /// Lets one order through.
    pub(crate) fn let_one_through(&self) {
        self.state.lock().unwrap().let_through += 1;
        self.moved.notify_all();
    }

    /// Whether an order waits.
    pub(crate) fn holds_one(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.waiting > state.let_through
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        let shut = |state: &mut GateState| state.closed && state.let_through == 0;
        let (mut state, waited) = self.moved.wait_timeout_while(state, PATIENCE * 6, shut).unwrap();
        assert!(!waited.timed_out(), "nobody opens the gate");
        state.waiting -= 1;
        state.let_through = state.let_through.saturating_sub(1);
    }
}

/// The gateway; a copy is the same gateway.
#[derive(Clone)]
pub(crate) struct SlowGateway {
    gateway: EmbeddedGateway,
    pub(crate) flight: Arc<Flight>,
    pub(crate) gate: Arc<Gate>,
}

impl SlowGateway {
    pub(crate) fn start(flight: &Arc<Flight>) -> Self {
        let gateway = EmbeddedGateway::start(GatewayConfig::default()).unwrap();
        Self { gateway, flight: Arc::clone(flight), gate: Arc::default() }
    }

    /// Each knows where the other one is.
    pub(crate) fn meet(&self, own: &str, name: &str, other: &Self) {
        let relay = |gateway: &EmbeddedGateway| gateway.addresses().unwrap().relay;
        self.gateway.set_neighbour(name.parse().unwrap(), relay(&other.gateway));
        other.gateway.set_neighbour(own.parse().unwrap(), relay(&self.gateway));
    }

    /// One whose packets nobody will take.
    pub(crate) fn meet_nobody(&self, name: &str) {
        self.gateway.set_neighbour(name.parse().unwrap(), ([127, 0, 0, 1], 9).into());
    }

    /// Sessions come up here, as IKE would have it. Those of the same numbers
    /// have the same SPIs and addresses.
    pub(crate) fn provision(&self, numbers: std::ops::Range<u32>) -> Vec<SessionId> {
        let at = self.gateway.addresses().unwrap().outer;
        let user = ([127, 0, 0, 1], 9).into();
        let shape = SessionShape::default();
        let contexts = numbers.map(|number| shape.context(1, number, at, user).unwrap());
        let provisioned = self.gateway.provision(contexts.collect());
        provisioned.into_iter().map(Result::unwrap).collect()
    }

    /// Every session that is in use here.
    pub(crate) fn active(&self) -> Vec<SessionId> {
        let all = self.gateway.clone().list().unwrap().into_iter();
        all.filter(|status| status.state == SessionState::Active).map(|s| s.session).collect()
    }
}

impl GatewayPlugin for SlowGateway {
    fn snapshot(&mut self, sessions: &[SessionId]) -> Result<PerSession<Context>, Fault> {
        let written = self.gateway.snapshot(sessions)?;
        self.flight.began(written.iter().filter(|(_, context)| context.is_ok()).count());
        Ok(written)
    }

    fn stage(&mut self, orders: Vec<Stage>) -> Result<PerSession<Generation>, Fault> {
        self.gate.pass();
        self.flight.ended(orders.len());
        self.gateway.stage(orders)
    }

    fn capabilities(&mut self) -> Result<Capabilities, Fault> {
        self.gateway.capabilities()
    }

    fn subscribe(&mut self, sink: EventSink) -> Result<(), Fault> {
        self.gateway.subscribe(sink)
    }

    fn list(&mut self) -> Result<Vec<SessionStatus>, Fault> {
        self.gateway.list()
    }

    fn admit(&mut self, profiles: &[Profile]) -> Result<PerSession<()>, Fault> {
        self.gateway.admit(profiles)
    }

    fn pause(&mut self, orders: Vec<Pause>) -> Result<PerSession<Finals>, Fault> {
        self.gateway.pause(orders)
    }

    fn resume(&mut self, orders: Vec<Resume>) -> Result<PerSession<()>, Fault> {
        self.gateway.resume(orders)
    }

    fn activate(&mut self, orders: Vec<Activate>) -> Result<PerSession<()>, Fault> {
        self.gateway.activate(orders)
    }

    fn release(&mut self, orders: Vec<Release>) -> Result<PerSession<()>, Fault> {
        self.gateway.release(orders)
    }

    fn discard(&mut self, orders: Vec<Discard>) -> Result<PerSession<()>, Fault> {
        self.gateway.discard(orders)
    }

    fn extend(&mut self, orders: Vec<Extend>) -> Result<PerSession<()>, Fault> {
        self.gateway.extend(orders)
    }
}
