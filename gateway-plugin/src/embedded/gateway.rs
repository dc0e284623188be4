//! The embedded gateway itself: its tables, and what an operator or IKE would do
//! to it. The acts of the trait are in `acts`, packets in `datapath`.

use std::{
    collections::{HashMap, VecDeque},
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use protocol_spec::{
    context::{ChildSa, Context, Prefix},
    id::{Generation, Name, SessionEpoch, SessionId},
    profile::Capabilities,
    status::{Refusal, Status},
};

use super::{
    admission,
    config::GatewayConfig,
    counters::{Counters, Tallies},
    datapath::{self, Errand},
    network::Network,
    session::{Body, Phase, Session},
    table::{Routes, Sharded, lock},
};
use crate::{
    holder::{clock::Clock, random},
    plugin::{EventSink, GatewayEvent},
};

/// Events of unknown SPIs in a second, at most.
const UNKNOWN_PER_SECOND: u32 = 20;
/// Errands that wait for the courier, at most.
const ERRANDS: usize = 1 << 16;
/// Asked of the operating system for each socket.
const SOCKET_BUFFER: usize = 4 << 20;
pub(crate) use crate::holder::LOOK_UP;

/// All that threads share.
pub(crate) struct Gateway {
    pub(crate) config: GatewayConfig,
    pub(crate) capabilities: Capabilities,
    pub(crate) instance: [u8; 16],
    pub(crate) clock: Clock,
    pub(crate) sessions: Sharded<SessionId, Arc<Session>>,
    /// The SAD, by inbound SPI.
    pub(crate) spis: Sharded<u32, Arc<Session>>,
    /// The SPD's way out, by inner prefix.
    pub(crate) routes: Routes<Arc<Session>>,
    pub(crate) neighbours: Neighbours,
    pub(crate) tallies: Tallies,
    pub(crate) held: AtomicUsize,
    pub(crate) sockets: Sockets,
    /// The host's networks, where inner side and neighbours are no sockets of ours.
    pub(crate) network: Option<Box<dyn Network>>,
    pub(crate) inner_host: Mutex<Option<SocketAddr>>,
    pub(crate) errands: SyncSender<Errand>,
    pub(crate) stopping: AtomicBool,
    /// One act at a time: admission and installation must not be parted.
    pub(crate) acting: Mutex<()>,
    /// Released sessions, oldest first, whose stragglers are relayed; among them
    /// some that have come back since.
    pub(crate) released: Mutex<VecDeque<Arc<Session>>>,
    /// How many have not.
    pub(crate) gone: AtomicUsize,
    sinks: Mutex<Vec<EventSink>>,
    unknown: Mutex<(Duration, u32)>,
}

pub(crate) struct Sockets {
    pub(crate) outer: Socket,
    pub(crate) inner: Socket,
    pub(crate) relay: Socket,
}

pub(crate) struct Socket {
    pub(crate) udp: UdpSocket,
    /// Takes IPv6 addresses, IPv4 ones in their mapped form.
    pub(crate) v6: bool,
}

/// Where neighbours listen for relayed packets; there are few.
pub(crate) struct Neighbours(RwLock<HashMap<Name, SocketAddr>>);

impl Neighbours {
    pub(crate) fn find(&self, name: &Name) -> Option<SocketAddr> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// Whether one of them listens, and so sends, at this address.
    pub(crate) fn listen_at(&self, address: SocketAddr) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.values().any(|own| *own == address)
    }

    fn insert(&self, name: Name, address: SocketAddr) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name, address);
    }
}

/// Where a gateway listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Addresses {
    /// For end users.
    pub outer: SocketAddr,
    /// For the inner network.
    pub inner: SocketAddr,
    /// For neighbours.
    pub relay: SocketAddr,
}

/// A gateway in this process: real ESP over real sockets. Implements
/// [`crate::GatewayPlugin`]. A clone is another handle of the same gateway; it
/// ends with [`EmbeddedGateway::stop`] or with its last handle.
#[derive(Clone)]
pub struct EmbeddedGateway {
    pub(crate) gateway: Arc<Gateway>,
    _threads: Arc<Threads>,
}

struct Threads {
    gateway: Arc<Gateway>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.gateway.stopping.store(true, Ordering::Release);
        for handle in lock(&self.handles).drain(..) {
            // A thread that panicked has said so on stderr.
            drop(handle.join());
        }
    }
}

impl EmbeddedGateway {
    /// Binds the sockets and starts the datapath.
    ///
    /// # Errors
    /// What the operating system says of the sockets and threads.
    pub fn start(config: GatewayConfig) -> std::io::Result<Self> {
        Self::start_on(config, None)
    }

    /// The same on the host's networks.
    pub(crate) fn start_on(
        config: GatewayConfig,
        network: Option<Box<dyn Network>>,
    ) -> std::io::Result<Self> {
        let sockets = Sockets {
            outer: bind(config.outer)?,
            inner: bind(config.inner)?,
            relay: bind(config.relay)?,
        };
        let (errands, errand_source) = sync_channel(ERRANDS);
        let no_random = || std::io::Error::other("the operating system has no random numbers");
        let neighbours = Neighbours(RwLock::new(config.neighbours.iter().cloned().collect()));
        let gateway = Arc::new(Gateway {
            capabilities: admission::capabilities(config.max_sessions),
            instance: random::octets().ok_or_else(no_random)?,
            clock: Clock::start(),
            sessions: Sharded::new(),
            spis: Sharded::new(),
            routes: Routes::new(),
            neighbours,
            tallies: Tallies::default(),
            held: AtomicUsize::new(0),
            sockets,
            network,
            inner_host: Mutex::new(config.inner_host),
            errands,
            stopping: AtomicBool::new(false),
            acting: Mutex::new(()),
            released: Mutex::new(VecDeque::new()),
            gone: AtomicUsize::new(0),
            sinks: Mutex::new(Vec::new()),
            unknown: Mutex::new((Duration::ZERO, 0)),
            config,
        });
        let threads =
            Arc::new(Threads { gateway: Arc::clone(&gateway), handles: Mutex::new(Vec::new()) });
        datapath::start(&gateway, errand_source, &mut lock(&threads.handles))?;
        Ok(Self { gateway, _threads: threads })
    }

    /// Where the gateway listens.
    ///
    /// # Errors
    /// What the operating system says of the sockets.
    pub fn addresses(&self) -> std::io::Result<Addresses> {
        let sockets = &self.gateway.sockets;
        Ok(Addresses {
            outer: sockets.outer.udp.local_addr()?,
            inner: sockets.inner.udp.local_addr()?,
            relay: sockets.relay.udp.local_addr()?,
        })
    }

    /// Names this life of the gateway: another process has another one.
    pub fn instance(&self) -> [u8; 16] {
        self.gateway.instance
    }

    /// What it has counted.
    pub fn counters(&self) -> Counters {
        self.gateway.tallies.read()
    }

    /// Sessions that it holds, in any state.
    pub fn held_sessions(&self) -> usize {
        self.gateway.held_sessions()
    }

    /// Adds a neighbour or changes where it is.
    pub fn set_neighbour(&self, name: Name, relay: SocketAddr) {
        self.gateway.neighbours.insert(name, relay);
    }

    /// Says where packets from end users go.
    pub fn set_inner_host(&self, address: SocketAddr) {
        *lock(&self.gateway.inner_host) = Some(address);
    }

    /// Ends the datapath. Sessions stay listed but carry nothing any more.
    pub fn stop(&self) {
        self.gateway.stopping.store(true, Ordering::Release);
    }

    /// Sets sessions up as IKE would: gives each its id and uses it at once.
    pub fn provision(&self, contexts: Vec<Context>) -> Vec<Result<SessionId, Refusal>> {
        contexts.into_iter().map(|context| self.gateway.provision(context)).collect()
    }

    /// Adds a Child SA to a session as CREATE_CHILD_SA would. It is used for
    /// sending from now on; the one that it replaces receives until it is removed.
    ///
    /// # Errors
    /// [`Refusal`] if there is no such active session or something collides.
    pub fn add_child(&self, session: SessionId, child: ChildSa) -> Result<Generation, Refusal> {
        self.gateway.add_child(session, child)
    }

    /// Removes a Child SA from a session as a Delete would.
    ///
    /// # Errors
    /// [`Refusal`] if there is no such active session or Child SA.
    pub fn remove_child(&self, session: SessionId, spi: u32) -> Result<Generation, Refusal> {
        self.gateway.remove_child(session, spi)
    }

    /// Ends a session as the end user would.
    ///
    /// # Errors
    /// [`Refusal`] if there is no such session.
    pub fn remove(&self, session: SessionId) -> Result<(), Refusal> {
        self.gateway.remove(session)
    }
}

impl Gateway {
    /// Whether packets can be sent to a gateway.
    pub(crate) fn reaches(&self, gateway: &Name) -> bool {
        match &self.network {
            Some(network) => network.reaches(gateway),
            None => self.neighbours.find(gateway).is_some(),
        }
    }

    /// Has something done on the host's networks, if they are ours to use.
    pub(crate) fn outside(
        &self,
        act: impl FnOnce(&dyn Network) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        self.network.as_deref().map_or(Ok(()), act)
    }

    pub(crate) fn held_sessions(&self) -> usize {
        self.sessions.len().saturating_sub(self.gone.load(Ordering::Relaxed))
    }

    pub(crate) fn subscribe(&self, sink: EventSink) {
        lock(&self.sinks).push(sink);
    }

    pub(crate) fn emit(&self, event: GatewayEvent) {
        lock(&self.sinks).retain(|sink| sink.emit(event.clone()));
    }

    /// Tells of an unknown SPI, but not of every packet of a flood.
    pub(crate) fn unknown_spi(&self, spi: u32, from: SocketAddr) {
        let now = self.clock.now();
        let mut unknown = lock(&self.unknown);
        if now.saturating_sub(unknown.0) >= Duration::from_secs(1) {
            *unknown = (now, 0);
        }
        unknown.1 = unknown.1.saturating_add(1);
        let tell = unknown.1 <= UNKNOWN_PER_SECOND;
        drop(unknown);
        if tell {
            self.emit(GatewayEvent::UnknownSpi { spi, from });
        }
    }

    /// Puts a session into the tables.
    pub(crate) fn install(&self, session: &Arc<Session>) {
        let guts = lock(&session.guts);
        if let Some(body) = &guts.body {
            for spi in body.spis() {
                self.spis.insert(spi, Arc::clone(session));
            }
            for prefix in body.prefixes() {
                self.routes.insert(prefix, Arc::clone(session));
            }
        }
        self.sessions.insert(session.id, Arc::clone(session));
    }

    /// Takes a session out of the tables, wherever it still stands in them. Under its
    /// lock: who finds it removed does not find it again.
    pub(crate) fn uninstall(&self, session: &Arc<Session>, spis: &[u32], prefixes: &[Prefix]) {
        let own = |other: &Arc<Session>| Arc::ptr_eq(other, session);
        for spi in spis {
            self.spis.remove_if(spi, own);
        }
        for prefix in prefixes {
            self.routes.remove_if(*prefix, own);
        }
        self.sessions.remove_if(&session.id, own);
    }

    fn provision(&self, mut context: Context) -> Result<SessionId, Refusal> {
        let _acting = lock(&self.acting);
        let no_random = || Refusal::new(Status::GatewayFault, "no random numbers");
        context.session = SessionId(random::octets().ok_or_else(no_random)?);
        self.admit_context(&context)?;
        let id = context.session;
        self.outside(|network| network.arrived(id, &context))?;
        let body = Body::new(context, self.clock.now());
        let session = Session::new(id, SessionEpoch(0), Phase::Active, body);
        self.install(&session);
        let status = lock(&session.guts).status(id);
        self.announce(&session);
        if let Some(status) = status {
            self.emit(GatewayEvent::Up(status));
        }
        Ok(id)
    }

    /// Changes the Child SAs of an active session.
    fn change<T>(
        &self,
        id: SessionId,
        change: impl FnOnce(&Arc<Session>, &mut Body) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let session = self.sessions.find(&id).ok_or_else(|| no_session(id))?;
        let mut guts = lock(&session.guts);
        if guts.phase != Phase::Active {
            let detail = format!("session {id} is not active here");
            return Err(Refusal::new(Status::TransferRunning, detail));
        }
        let body = guts.body.as_mut().ok_or_else(|| no_session(id))?;
        let before = body.generation();
        let done = change(&session, body)?;
        let generation = body.generation();
        drop(guts);
        if generation != before {
            self.emit(GatewayEvent::Changed { session: id, generation });
        }
        Ok(done)
    }

    fn add_child(&self, id: SessionId, child: ChildSa) -> Result<Generation, Refusal> {
        let _acting = lock(&self.acting);
        // Asked as a session of its own, under the name of its own.
        let alone = Context {
            session: id,
            generation: Generation(0),
            ike: None,
            children: vec![child],
            load: protocol_spec::context::Load::default(),
        };
        self.admit_under(None, &alone)?;
        let child = alone.children.into_iter().next().ok_or_else(|| no_session(id))?;
        self.change(id, |session, body| {
            let spi = child.inbound.spi;
            if body.spis().any(|own| own == spi) {
                let detail = format!("SPI {spi:#010x} is in use by the session itself");
                return Err(Refusal::new(Status::SpiCollision, detail));
            }
            body.add_child(child);
            self.spis.insert(spi, Arc::clone(session));
            for prefix in body.prefixes() {
                self.routes.insert(prefix, Arc::clone(session));
            }
            Ok(body.generation())
        })
    }

    fn remove_child(&self, id: SessionId, spi: u32) -> Result<Generation, Refusal> {
        let _acting = lock(&self.acting);
        self.change(id, |session, body| {
            let before = body.prefixes();
            if !body.remove_child(spi) {
                let detail = format!("session {id} has no SPI {spi:#010x}");
                return Err(Refusal::new(Status::NoSession, detail));
            }
            let own = |other: &Arc<Session>| Arc::ptr_eq(other, session);
            self.spis.remove_if(&spi, own);
            let after = body.prefixes();
            for prefix in before.into_iter().filter(|prefix| !after.contains(prefix)) {
                self.routes.remove_if(prefix, own);
            }
            Ok(body.generation())
        })
    }

    fn remove(&self, id: SessionId) -> Result<(), Refusal> {
        let _acting = lock(&self.acting);
        let session = self.sessions.find(&id).ok_or_else(|| no_session(id))?;
        let mut guts = lock(&session.guts);
        if matches!(guts.phase, Phase::Released { .. } | Phase::Removed) {
            return Err(no_session(id));
        }
        guts.phase = Phase::Removed;
        let waiting = std::mem::take(&mut guts.held).len();
        self.held.fetch_sub(waiting, Ordering::Relaxed);
        if let Some(body) = guts.body.take() {
            let spis: Vec<_> = body.spis().collect();
            self.uninstall(&session, &spis, &body.prefixes());
        }
        drop(guts);
        self.emit(GatewayEvent::Down { session: id });
        self.outside(|network| network.forget(id))
    }
}

pub(crate) fn no_session(id: SessionId) -> Refusal {
    Refusal::new(Status::NoSession, format!("no session {id} here"))
}

/// Gives a socket buffers of so many octets, or as much as is allowed: less works as
/// well.
pub(crate) fn make_room(socket: &socket2::Socket, octets: usize) {
    use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
    // Above the bound for everybody, if we may.
    let received =
        setsockopt(socket, RcvBufForce, &octets).or_else(|_| socket.set_recv_buffer_size(octets));
    if let Err(error) = received.and_then(|()| socket.set_send_buffer_size(octets)) {
        tracing::debug!(%error, "the socket keeps its buffer");
    }
}

fn bind(address: SocketAddr) -> std::io::Result<Socket> {
    use socket2::{Domain, Protocol, Type};
    let told = |error: std::io::Error| {
        std::io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    };
    let socket =
        socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    make_room(&socket, SOCKET_BUFFER);
    socket.set_read_timeout(Some(LOOK_UP))?;
    socket.bind(&address.into()).map_err(told)?;
    Ok(Socket { udp: socket.into(), v6: address.is_ipv6() })
}
