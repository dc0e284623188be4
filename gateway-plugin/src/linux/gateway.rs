//! The Linux gateway itself: what its threads share, and what they do by
//! themselves. The acts of the trait are in `acts`.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use protocol_spec::{
    context::{Context, Endpoints},
    id::{Generation, SessionId},
    profile::{Capabilities, Feature, FeatureSet, Profile},
    status::{Refusal, Status},
    transfer::{Finals, SessionStatus},
};

use super::{
    context,
    daemon::{DaemonEvent, IkeDaemon, Known},
    ground::{Steer, Tables},
    session::{Paths, Phase, Session, no_session},
};
use crate::{
    holder::{LOOK_UP, ServedGateway, clock::Clock},
    plugin::{
        Activate, Discard, EventSink, Extend, Fault, GatewayEvent, GatewayPlugin, Pause,
        PerSession, Release, Resume, Stage,
    },
};

/// What the acts need to know of the gateway's surroundings.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Addresses that this gateway shares with others (Mono-LAN).
    pub(crate) shared: Vec<IpAddr>,
    /// Outer addresses of its own, at most one of each family.
    pub(crate) own: Vec<IpAddr>,
    /// Most sessions at a time.
    pub(crate) max_sessions: u64,
    /// How long stragglers of a released session are relayed.
    pub(crate) drain: Duration,
    /// Which life of the kernel's tables this is.
    pub(crate) life: [u8; 16],
}

impl Place {
    pub(crate) fn is_local(&self, address: IpAddr) -> bool {
        self.shared.contains(&address) || self.own.contains(&address)
    }
}

/// All that threads share.
pub(crate) struct Inner {
    pub(super) place: Place,
    pub(super) tables: Box<dyn Tables>,
    pub(super) steer: Box<dyn Steer>,
    pub(super) daemon: Box<dyn IkeDaemon>,
    pub(super) sessions: BTreeMap<SessionId, Session>,
    pub(super) clock: Clock,
    sinks: Vec<EventSink>,
}

/// The gateway of the Linux kernel, with an IKE daemon above it or without. A
/// clone is another handle of the same gateway.
#[derive(Clone)]
pub struct LinuxGateway {
    inner: Arc<Mutex<Inner>>,
    life: [u8; 16],
    _threads: Arc<Threads>,
}

struct Threads {
    stopping: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(handle) = self.handle.take() {
            // A thread that panicked has said so on stderr.
            drop(handle.join());
        }
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LinuxGateway {
    /// A gateway of these parts, with the sessions that the daemon knows.
    pub(crate) fn start(
        place: Place,
        tables: Box<dyn Tables>,
        steer: Box<dyn Steer>,
        daemon: Box<dyn IkeDaemon>,
        events: Receiver<DaemonEvent>,
    ) -> std::io::Result<Self> {
        let life = place.life;
        let inner = Inner {
            place,
            tables,
            steer,
            daemon,
            sessions: BTreeMap::new(),
            clock: Clock::start(),
            sinks: Vec::new(),
        };
        let inner = Arc::new(Mutex::new(inner));
        if let Err(fault) = lock(&inner).learn() {
            tracing::warn!(%fault, "the sessions are not known yet");
        }
        let stopping = Arc::new(AtomicBool::new(false));
        let handle = {
            let (inner, stopping) = (Arc::clone(&inner), Arc::clone(&stopping));
            let follow = move || follow(&inner, &events, &stopping);
            Some(Builder::new().name("daemon-events".to_owned()).spawn(follow)?)
        };
        Ok(Self { inner, life, _threads: Arc::new(Threads { stopping, handle }) })
    }
}

/// Takes what the daemon tells, and forgets released sessions in their time.
fn follow(inner: &Mutex<Inner>, events: &Receiver<DaemonEvent>, stopping: &AtomicBool) {
    while !stopping.load(Ordering::Acquire) {
        match events.recv_timeout(LOOK_UP) {
            Ok(event) => lock(inner).heard(event),
            Err(RecvTimeoutError::Timeout) => lock(inner).drain(),
            Err(RecvTimeoutError::Disconnected) => {
                lock(inner).drain();
                std::thread::park_timeout(LOOK_UP);
            }
        }
    }
}

impl Inner {
    /// Asks the daemon for all sessions.
    fn learn(&mut self) -> Result<(), Fault> {
        let sas = self.tables.sas().map_err(|error| Fault::Unreachable(error.to_string()))?;
        let known = self.daemon.sessions(&sas)?;
        let gone: Vec<SessionId> = self
            .sessions
            .values()
            .filter(|session| session.phase == Phase::Active)
            .map(|session| session.id)
            .filter(|id| known.iter().all(|known| known.session != *id))
            .collect();
        gone.into_iter().for_each(|session| self.heard(DaemonEvent::Down(session)));
        known.into_iter().for_each(|known| self.heard(DaemonEvent::Up(known)));
        Ok(())
    }

    fn heard(&mut self, event: DaemonEvent) {
        match event {
            DaemonEvent::Up(known) | DaemonEvent::Changed(known) => self.heard_of(known),
            DaemonEvent::Down(session) => {
                if self.sessions.get(&session).is_some_and(|known| known.phase == Phase::Active) {
                    self.sessions.remove(&session);
                    if let Err(refusal) = self.steer.forget(session) {
                        tracing::warn!(%session, %refusal, "something is left of a session");
                    }
                    self.tell(&GatewayEvent::Down { session });
                }
            }
            DaemonEvent::Gap => {
                if let Err(fault) = self.learn() {
                    tracing::warn!(%fault, "the sessions could not be asked for again");
                }
            }
        }
    }

    fn heard_of(&mut self, Known { session: id, generation }: Known) {
        match self.sessions.get_mut(&id) {
            None => {
                let session = Session::new(id, generation);
                let status = session.status();
                self.sessions.insert(id, session);
                status.into_iter().for_each(|status| self.tell(&GatewayEvent::Up(status)));
            }
            Some(session) if session.generation != generation => {
                session.generation = generation;
                self.tell(&GatewayEvent::Changed { session: id, generation });
            }
            Some(_) => {}
        }
    }

    fn tell(&mut self, event: &GatewayEvent) {
        self.sinks.retain(|sink| sink.emit(event.clone()));
    }

    fn drain(&mut self) {
        let now = self.clock.now();
        let over =
            |session: &&Session| matches!(session.phase, Phase::Released { until } if until <= now);
        let over: Vec<SessionId> = self.sessions.values().filter(over).map(|s| s.id).collect();
        for id in over {
            match self.steer.forget(id) {
                // The tombstone stays: a stage under its epoch is refused.
                Ok(()) => self.change(id, |session| {
                    session.phase = Phase::Released { until: Duration::MAX };
                }),
                Err(refusal) => tracing::warn!(session = %id, %refusal, "still relayed"),
            }
        }
    }

    pub(super) fn capabilities(&mut self) -> Result<Capabilities, Refusal> {
        self.daemon
            .capabilities()
            .map_err(|fault| Refusal::new(Status::GatewayFault, fault.to_string()))
    }

    /// Whether the end user can be led here: by a shared address, or by MOBIKE.
    pub(super) fn admit_steering(&self, profile: &Profile) -> Result<(), Refusal> {
        if !self.place.shared.is_empty() {
            return Ok(());
        }
        follows(profile.features)
    }

    /// The session at an address of this gateway.
    pub(super) fn localise(&self, mut context: Context) -> Result<Context, Refusal> {
        let remote = context.ike.as_ref().map(|ike| ike.remote.ip());
        if let Some(ike) = &mut context.ike
            && !self.place.is_local(ike.local.ip())
        {
            let same = self.place.own.iter().find(|own| own.is_ipv4() == ike.local.is_ipv4());
            let own = same.copied().ok_or_else(|| {
                let detail = format!(
                    "the session is at {}, which is no address here, and there is no other of its \
                     family: set network.own",
                    ike.local.ip()
                );
                Refusal::new(Status::NoSteering, detail)
            })?;
            ike.local.set_ip(own);
            follows(context.features())?;
        }
        let local = context.ike.as_ref().map(|ike| ike.local.ip());
        for child in &mut context.children {
            match (&mut child.endpoints, local, remote) {
                (Some(ends), Some(local), _) => ends.local = local,
                (Some(Endpoints { local, .. }), None, _) if !self.place.is_local(*local) => {
                    let detail = format!(
                        "the SAs are at {local}, which is no address here, and nothing can tell \
                         the end user another one"
                    );
                    return Err(Refusal::new(Status::NoSteering, detail));
                }
                _ => {}
            }
        }
        Ok(context)
    }

    /// A session's SAs and packets as they are now.
    pub(super) fn look(&mut self, id: SessionId) -> Result<Paths, Refusal> {
        let context = self
            .snapshot(&[id])
            .into_iter()
            .next()
            .map_or_else(|| Err(no_session(id)), |(_, context)| context)?;
        let mut sas = Vec::new();
        for name in context::names(&context)? {
            sas.extend(self.tables.sa(&name)?);
        }
        let pairs = context::pairs(&context::described(&context), &sas)?;
        Ok(Paths { pairs, flow: context::flow(&context)? })
    }

    /// The same as they were staged or paused.
    pub(super) fn paths(&self, id: SessionId) -> Result<Paths, Refusal> {
        let session = self.sessions.get(&id);
        session.and_then(|session| session.paths.clone()).ok_or_else(|| no_session(id))
    }

    pub(super) fn change(&mut self, id: SessionId, change: impl FnOnce(&mut Session)) {
        if let Some(session) = self.sessions.get_mut(&id) {
            change(session);
        }
    }
}

/// Whether the end user follows to another address.
fn follows(features: FeatureSet) -> Result<(), Refusal> {
    let why = if features.contains(Feature::Nat) {
        "a NAT stands before the end user and drops what comes from another address: share the \
         address between the gateways"
    } else if !features.contains(Feature::Mobike) {
        "the end user did not announce MOBIKE, so it cannot be told another address: share the \
         address between the gateways"
    } else {
        return Ok(());
    };
    Err(Refusal::new(Status::NoSteering, why))
}

impl LinuxGateway {
    fn each<O, T>(
        &self,
        orders: Vec<O>,
        session: impl Fn(&O) -> SessionId,
        act: impl Fn(&mut Inner, O) -> Result<T, Refusal>,
    ) -> Result<PerSession<T>, Fault> {
        let mut inner = lock(&self.inner);
        let answer = |order| (session(&order), act(&mut inner, order));
        Ok(orders.into_iter().map(answer).collect())
    }
}

impl GatewayPlugin for LinuxGateway {
    fn capabilities(&mut self) -> Result<Capabilities, Fault> {
        lock(&self.inner).daemon.capabilities()
    }

    fn subscribe(&mut self, sink: EventSink) -> Result<(), Fault> {
        lock(&self.inner).sinks.push(sink);
        Ok(())
    }

    fn list(&mut self) -> Result<Vec<SessionStatus>, Fault> {
        let mut inner = lock(&self.inner);
        inner.learn()?;
        Ok(inner.sessions.values().filter_map(Session::status).collect())
    }

    fn snapshot(&mut self, sessions: &[SessionId]) -> Result<PerSession<Context>, Fault> {
        Ok(lock(&self.inner).snapshot(sessions))
    }

    fn admit(&mut self, profiles: &[Profile]) -> Result<PerSession<()>, Fault> {
        let mut inner = lock(&self.inner);
        Ok(profiles.iter().map(|profile| (profile.session, inner.admit(profile))).collect())
    }

    fn stage(&mut self, orders: Vec<Stage>) -> Result<PerSession<Generation>, Fault> {
        self.each(orders, |order| order.context.session, Inner::stage)
    }

    fn pause(&mut self, orders: Vec<Pause>) -> Result<PerSession<Finals>, Fault> {
        self.each(orders, |order| order.session, Inner::pause)
    }

    fn resume(&mut self, orders: Vec<Resume>) -> Result<PerSession<()>, Fault> {
        self.each(orders, |order| order.session, |inner, order| inner.resume(&order))
    }

    fn activate(&mut self, orders: Vec<Activate>) -> Result<PerSession<()>, Fault> {
        self.each(orders, |order| order.session, |inner, order| inner.activate(&order))
    }

    fn release(&mut self, orders: Vec<Release>) -> Result<PerSession<()>, Fault> {
        self.each(orders, |order| order.session, |inner, order| inner.release(&order))
    }

    fn discard(&mut self, orders: Vec<Discard>) -> Result<PerSession<()>, Fault> {
        self.each(orders, |order| order.session, |inner, order| inner.discard(&order))
    }

    fn extend(&mut self, orders: Vec<Extend>) -> Result<PerSession<()>, Fault> {
        self.each(orders, |order| order.session, |inner, order| inner.extend(&order))
    }
}

impl ServedGateway for LinuxGateway {
    fn life(&self) -> [u8; 16] {
        self.life
    }

    fn outlives_process(&self) -> bool {
        true
    }
}
