//! The Linux gateway itself: what its threads share, and what they do by
//! themselves. The acts of the trait are in `acts`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
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
    daemon::{DaemonEvent, IkeDaemon},
    ground::{Steer, Tables},
    life,
    orphans::Kept,
    record::Record,
    session::Session,
    voice::Voice,
};
use crate::{
    holder::{ServedGateway, clock::Clock},
    plugin::{
        Activate, Discard, EventSink, Extend, Fault, GatewayPlugin, Pause, PerSession, Release,
        Resume, Stage,
    },
};

/// What the acts need to know of the gateway's surroundings.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Addresses that this gateway shares with others (Mono-LAN).
    pub(crate) shared: Vec<IpAddr>,
    /// Outer addresses of its own, at most one of each family.
    pub(crate) own: Vec<IpAddr>,
    /// What a session must have to be taken.
    pub(crate) require: FeatureSet,
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
    /// What we say in IKE beside the daemon, where there is one.
    pub(super) voice: Option<Voice>,
    pub(super) sessions: BTreeMap<SessionId, Session>,
    pub(super) record: Record,
    /// Whose entry in the record is not what it should be.
    pub(super) unkept: BTreeSet<SessionId>,
    /// Sessions that an earlier process left half-way, and that are so still.
    pub(super) unmended: BTreeSet<SessionId>,
    /// Staged sessions whose packets may pass after an activation that failed.
    pub(super) unheld: BTreeSet<SessionId>,
    /// Staged sessions that the daemon did not have when it was asked last.
    pub(super) orphans: BTreeSet<SessionId>,
    /// Contexts of staged sessions, for a daemon that is started anew before they are
    /// active: in memory alone, for they hold keys.
    pub(super) kept: BTreeMap<SessionId, Kept>,
    /// Active sessions that are to be steered here, and how often it was tried.
    pub(super) unsteered: BTreeMap<SessionId, u8>,
    /// Sessions whose end user an earlier process had not told yet, likewise.
    pub(super) untold: BTreeMap<SessionId, u8>,
    /// Until when inner packets wait for end users that follow here.
    pub(super) following: BTreeMap<SessionId, Duration>,
    /// Itself, for threads that outlast a call.
    pub(super) me: Weak<Mutex<Inner>>,
    pub(super) clock: Clock,
    /// When the steering is looked after next.
    pub(super) maintain_at: Duration,
    pub(super) sinks: Vec<EventSink>,
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
            handle.thread().unpark();
            // A thread that panicked has said so on stderr.
            drop(handle.join());
        }
    }
}

pub(super) fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LinuxGateway {
    /// A gateway of these parts, with the sessions that the daemon knows and those
    /// that an earlier process recorded in the file at `record`.
    pub(crate) fn start(
        place: Place,
        tables: Box<dyn Tables>,
        steer: Box<dyn Steer>,
        daemon: Box<dyn IkeDaemon>,
        voice: Option<Voice>,
        events: Receiver<DaemonEvent>,
        record: &Path,
    ) -> std::io::Result<Self> {
        let life = place.life;
        let (record, sessions) = Record::open(record).map_err(std::io::Error::other)?;
        let parts = |me: &Weak<Mutex<Inner>>| Inner {
            place,
            tables,
            steer,
            daemon,
            voice,
            sessions: BTreeMap::new(),
            record,
            unkept: BTreeSet::new(),
            unmended: BTreeSet::new(),
            unheld: BTreeSet::new(),
            orphans: BTreeSet::new(),
            kept: BTreeMap::new(),
            unsteered: BTreeMap::new(),
            untold: BTreeMap::new(),
            following: BTreeMap::new(),
            me: me.clone(),
            clock: Clock::start(),
            maintain_at: Duration::ZERO,
            sinks: Vec::new(),
        };
        let inner = Arc::new_cyclic(|me| Mutex::new(parts(me)));
        lock(&inner).recall(sessions);
        let stopping = Arc::new(AtomicBool::new(false));
        let handle = {
            let (inner, stopping) = (Arc::clone(&inner), Arc::clone(&stopping));
            let follow = move || life::follow(&inner, &events, &stopping);
            Some(Builder::new().name("daemon-events".to_owned()).spawn(follow)?)
        };
        Ok(Self { inner, life, _threads: Arc::new(Threads { stopping, handle }) })
    }
}

impl Inner {
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
        mut act: impl FnMut(&mut Inner, O) -> Result<T, Refusal>,
    ) -> Result<PerSession<T>, Fault> {
        let mut inner = lock(&self.inner);
        let begun = inner.clock.now();
        let sessions = orders.len();
        tracing::debug!(order = std::any::type_name::<O>(), sessions, "begun");
        let answer = |order| (session(&order), act(&mut inner, order));
        let answers = orders.into_iter().map(answer).collect();
        let took = inner.clock.now() - begun;
        tracing::debug!(order = std::any::type_name::<O>(), sessions, ?took, "done");
        Ok(answers)
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
        inner.welcome();
        inner.keep_if_possible();
        Ok(inner.sessions.values().filter_map(Session::status).collect())
    }

    fn snapshot(&mut self, sessions: &[SessionId]) -> Result<PerSession<Context>, Fault> {
        Ok(lock(&self.inner).snapshot(sessions))
    }

    fn admit(&mut self, profiles: &[Profile]) -> Result<PerSession<()>, Fault> {
        let mut inner = lock(&self.inner);
        let mut admit = |profile: &Profile| (profile.session, inner.admit(profile));
        Ok(profiles.iter().map(&mut admit).collect())
    }

    fn stage(&mut self, orders: Vec<Stage>) -> Result<PerSession<Generation>, Fault> {
        self.each(orders, |order: &Stage| order.context.session, Inner::stage)
    }

    fn pause(&mut self, orders: Vec<Pause>) -> Result<PerSession<Finals>, Fault> {
        // Read once for a batch: a gateway may have thousands of SAs.
        let mut seen = None;
        self.each(orders, |order| order.session, |inner, order| inner.pause(order, &mut seen))
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
