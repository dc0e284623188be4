//! A fleet of embedded end users and the inner host, as a library.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use protocol_spec::{
    id::{SessionEpoch, SessionId},
    status::Refusal,
};

use super::{
    super::{Addresses, GatewayAdmin, esp::Cipher, gateway::make_room, table::lock, window},
    report::{FleetReport, SessionReport},
    shape::{MAX_NUMBER, PairKeys, SessionShape},
    tally::{Counts, Tally},
    traffic::{Outer, Pair, User, WireObserver, World},
};
use crate::holder::{clock::Clock, random};

/// Sessions provisioned in one call.
const CHUNK: u32 = 256;
const SOCKET_BUFFER: usize = 4 << 20;
/// How often stragglers are counted.
const STRAGGLER_PAUSE: Duration = Duration::from_millis(2);

/// What a fleet is like.
#[derive(Clone)]
pub struct FleetConfig {
    /// How many sessions.
    pub sessions: u32,
    /// Packets per second, each way, of each session.
    pub rate: u32,
    /// Octets that each inner packet carries; at least 20 are used.
    pub payload: usize,
    /// What the sessions are like.
    pub shape: SessionShape,
    /// SPIs and inner addresses are numbered from here on: fleets whose numbers
    /// differ do not collide.
    pub first: u32,
    /// UDP sockets that the end users share.
    pub sockets: usize,
    /// Where the end users' sockets listen; loopback of the gateway's family if
    /// absent.
    pub bind: Option<IpAddr>,
    /// Where the inner host listens; loopback of the gateway's family if absent.
    pub host: Option<SocketAddr>,
    /// How long stragglers are waited for.
    pub patience: Duration,
    /// Whether packets are sent from the start.
    pub sending: bool,
    /// Sees every datagram.
    pub observer: Option<Arc<dyn WireObserver>>,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            sessions: 10,
            rate: 20,
            payload: 64,
            shape: SessionShape::default(),
            first: 1,
            sockets: 16,
            bind: None,
            host: None,
            patience: Duration::from_secs(2),
            sending: true,
            observer: None,
        }
    }
}

/// End users and an inner host that are running.
pub struct UserFleet {
    world: Arc<World>,
    threads: Vec<JoinHandle<()>>,
    /// Time spent sending so far, and since when it is sending again.
    sent_for: Mutex<(Duration, Option<Duration>)>,
}

impl UserFleet {
    /// Sets the sessions up at `home`, tells it and `others` where the inner host
    /// is, and begins to send.
    ///
    /// # Errors
    /// What the operating system says of sockets and threads, and what a gateway
    /// says of a session.
    pub fn start(
        config: FleetConfig,
        home: &mut dyn GatewayAdmin,
        others: &mut [&mut dyn GatewayAdmin],
    ) -> io::Result<Self> {
        let shape = &config.shape;
        let last =
            config.sessions.checked_mul(shape.children).and_then(|n| n.checked_add(config.first));
        if config.sessions == 0 || shape.children == 0 || last.is_none_or(|last| last > MAX_NUMBER)
        {
            return Err(io::Error::other("there must be between 1 and 16 million sessions"));
        }
        let at = reachable(home.addresses().map_err(io::Error::other)?);
        let sockets = bind_users(&config, at.outer)?;
        let host = bind_host(&config, at.inner)?;
        let host_address = host.local_addr()?;
        home.set_inner_host(host_address).map_err(io::Error::other)?;
        for other in others {
            other.set_inner_host(host_address).map_err(io::Error::other)?;
        }
        let users = set_up(&config, &sockets, at, home)?;
        let mut spis = HashMap::new();
        for (index, user) in users.iter().enumerate() {
            spis.extend(lock(&user.outer).pairs.iter().map(|pair| (pair.receive_spi, index)));
        }
        let clock = Clock::start();
        let sending = config.sending;
        let world = Arc::new(World {
            clock,
            users,
            sockets,
            host,
            spis: RwLock::new(spis),
            sending: RwLock::new(sending),
            stopping: AtomicBool::new(false),
            strays: AtomicU64::new(0),
            observer: config.observer.clone(),
            config,
        });
        let mut fleet = Self {
            world,
            threads: Vec::new(),
            sent_for: Mutex::new((Duration::ZERO, sending.then(|| clock.now()))),
        };
        fleet.spawn("users-receive", World::receive_down)?;
        fleet.spawn("host-receive", World::receive_up)?;
        fleet.spawn("users-send", World::send_up)?;
        fleet.spawn("host-send", World::send_down)?;
        Ok(fleet)
    }

    fn spawn(&mut self, name: &str, body: fn(&World)) -> io::Result<()> {
        let world = Arc::clone(&self.world);
        self.threads.push(Builder::new().name(name.to_owned()).spawn(move || body(&world))?);
        Ok(())
    }

    /// The sessions, in the order in which they were set up.
    pub fn sessions(&self) -> Vec<SessionId> {
        self.world.users.iter().map(|user| user.id).collect()
    }

    /// Where the inner host listens.
    ///
    /// # Errors
    /// What the operating system says of the socket.
    pub fn host(&self) -> io::Result<SocketAddr> {
        self.world.host.local_addr()
    }

    /// Time since the fleet began, on the clock of gaps and observers.
    pub fn now(&self) -> Duration {
        self.world.clock.now()
    }

    /// Stops sending and waits until every packet is in, or for the fleet's
    /// patience. Then what is missing is lost. Says whether all came.
    pub fn hold(&self) -> bool {
        *self.world.sending.write().unwrap_or_else(PoisonError::into_inner) = false;
        let begun = self.now();
        {
            let mut sent_for = lock(&self.sent_for);
            if let Some(since) = sent_for.1.take() {
                sent_for.0 += begun.saturating_sub(since);
            }
        }
        let all_in = || {
            self.world.users.iter().all(|user| lock(&user.up).all_in() && lock(&user.down).all_in())
        };
        let mut complete = all_in();
        while !complete && self.now().saturating_sub(begun) < self.world.config.patience {
            std::thread::park_timeout(STRAGGLER_PAUSE);
            complete = all_in();
        }
        for user in &self.world.users {
            lock(&user.up).rest();
            lock(&user.down).rest();
        }
        complete
    }

    /// Sends again after [`UserFleet::hold`].
    pub fn go_on(&self) {
        *self.world.sending.write().unwrap_or_else(PoisonError::into_inner) = true;
        let now = self.now();
        lock(&self.sent_for).1.get_or_insert(now);
    }

    /// Begins a phase: the longest gaps and delays are counted anew.
    pub fn begin_phase(&self) {
        let now = self.now();
        for user in &self.world.users {
            lock(&user.up).begin_phase(now);
            lock(&user.down).begin_phase(now);
        }
    }

    /// Counts up to now, both directions of all sessions: `(up, down)`.
    pub fn counters(&self) -> (Counts, Counts) {
        let mut sums = (Counts::default(), Counts::default());
        for user in &self.world.users {
            sums.0.add(&lock(&user.up).counts());
            sums.1.add(&lock(&user.down).counts());
        }
        sums
    }

    /// Everything counted up to now. While packets are on their way they count as
    /// lost.
    pub fn report(&self) -> FleetReport {
        let (sent_for, since) = *lock(&self.sent_for);
        let running = since.map_or(Duration::ZERO, |since| self.now().saturating_sub(since));
        let mut report = FleetReport {
            sessions: self.world.users.len(),
            rate: self.world.config.rate,
            seconds: (sent_for + running).as_secs_f64(),
            strays: self.world.strays.load(Ordering::Relaxed),
            ..FleetReport::default()
        };
        for user in &self.world.users {
            let (up, up_gaps) = taken(&user.up);
            let (down, down_gaps) = taken(&user.down);
            report.up.add(&up);
            report.down.add(&down);
            let outer = lock(&user.outer);
            report.replay_rejected += outer.replay_rejected;
            report.forged += outer.forged;
            report.roamed += outer.roamed;
            report.per_session.push(SessionReport {
                session: user.id,
                up,
                down,
                replay_rejected: outer.replay_rejected,
                up_gaps,
                down_gaps,
            });
        }
        report
    }

    /// Stops sending, waits for stragglers, ends, and tells everything.
    pub fn stop(self) -> FleetReport {
        self.hold();
        self.report()
    }

    /// Which gateway the end user of the `index`th session takes for its own.
    pub fn gateway_of(&self, index: usize) -> Option<SocketAddr> {
        self.world.users.get(index).map(|user| lock(&user.outer).gateway)
    }

    /// Rekeys the first Child SA of the `index`th session at the gateway that has
    /// it. Both SAs of the old pair still receive until
    /// [`UserFleet::finish_rekey`], so nothing is lost.
    ///
    /// # Errors
    /// What the gateway says.
    pub fn rekey(
        &self,
        index: u32,
        gateway: &mut dyn GatewayAdmin,
    ) -> io::Result<Result<(), Refusal>> {
        let user = self.user(index)?;
        let at = reachable(gateway.addresses().map_err(io::Error::other)?);
        let address = self.user_address(user)?;
        let rekeys = {
            let mut outer = lock(&user.outer);
            outer.rekeys += 1;
            outer.rekeys
        };
        let config = &self.world.config;
        let made = config.shape.rekeyed((config.first, index, 0), rekeys, at.outer, address);
        let (child, keys) = made.ok_or_else(no_random)?;
        let receive_spi = keys.to_user.0;
        let mut pair = Some(pair(&config.shape, config.first, index, 0, keys)?);
        // It receives before the gateway can send, and sends once the gateway
        // can receive: till then the pair stands in front, the newest behind it.
        {
            let mut spis = self.world.spis.write().unwrap_or_else(PoisonError::into_inner);
            spis.insert(receive_spi, index as usize);
        }
        let mut outer = lock(&user.outer);
        if let Some(pair) = pair.take() {
            outer.pairs.insert(0, pair);
        }
        drop(outer);
        let answer = gateway.add_child(user.id, child).map_err(io::Error::other)?;
        let mut outer = lock(&user.outer);
        if let Some(at) = outer.pairs.iter().position(|pair| pair.receive_spi == receive_spi) {
            let pair = outer.pairs.remove(at);
            if answer.is_ok() {
                outer.pairs.push(pair);
            }
        }
        Ok(answer.map(|_| ()))
    }

    /// Removes the Child SA that [`UserFleet::rekey`] replaced.
    ///
    /// # Errors
    /// What the gateway says.
    pub fn finish_rekey(
        &self,
        index: u32,
        gateway: &mut dyn GatewayAdmin,
    ) -> io::Result<Result<(), Refusal>> {
        let user = self.user(index)?;
        let old = {
            let outer = lock(&user.outer);
            let mut pairs = outer.pairs.iter().filter(|pair| pair.child == 0);
            pairs.next().filter(|_| pairs.next().is_some()).map(|pair| pair.send_spi)
        };
        let Some(old) = old else { return Ok(Ok(())) };
        let answer = gateway.remove_child(user.id, old).map_err(io::Error::other)?;
        if answer.is_ok() {
            lock(&user.outer).pairs.retain(|pair| pair.send_spi != old);
        }
        Ok(answer.map(|_| ()))
    }

    fn user(&self, index: u32) -> io::Result<&User> {
        let user = self.world.users.get(index as usize);
        user.ok_or_else(|| io::Error::other(format!("there is no session {index}")))
    }

    fn user_address(&self, user: &User) -> io::Result<SocketAddr> {
        let socket = self.world.sockets.get(user.socket);
        socket.ok_or_else(|| io::Error::other("an end user without a socket"))?.local_addr()
    }
}

impl Drop for UserFleet {
    fn drop(&mut self) {
        self.world.stopping.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on stderr.
            drop(thread.join());
        }
    }
}

fn taken(tally: &Mutex<Tally>) -> (Counts, Vec<super::tally::Gap>) {
    let tally = lock(tally);
    (tally.counts(), tally.gaps().to_vec())
}

fn no_random() -> io::Error {
    io::Error::other("the operating system has no random numbers")
}

/// Sets every session up at its gateway and makes its end user.
fn set_up(
    config: &FleetConfig,
    sockets: &[UdpSocket],
    at: Addresses,
    home: &mut dyn GatewayAdmin,
) -> io::Result<Vec<User>> {
    let mut users = Vec::with_capacity(config.sessions as usize);
    for begin in (0..config.sessions).step_by(CHUNK as usize) {
        let indices = begin..config.sessions.min(begin + CHUNK);
        let mut contexts = Vec::new();
        let mut pairs = Vec::new();
        for index in indices.clone() {
            let socket = sockets.get(index as usize % sockets.len());
            let address = socket.ok_or_else(no_random)?.local_addr()?;
            let made = config.shape.session(config.first, index, at.outer, address);
            let (context, keys) = made.ok_or_else(no_random)?;
            contexts.push(context);
            let made: io::Result<Vec<_>> = (0..)
                .zip(keys)
                .map(|(child, keys)| pair(&config.shape, config.first, index, child, keys))
                .collect();
            pairs.push(made?);
        }
        let ids = home.provision(contexts).map_err(io::Error::other)?;
        for ((id, pairs), index) in ids.into_iter().zip(pairs).zip(indices) {
            users.push(User {
                id: id.map_err(io::Error::other)?,
                socket: index as usize % sockets.len(),
                outer: Mutex::new(Outer {
                    gateway: at.outer,
                    pairs,
                    rekeys: 0,
                    replay_rejected: 0,
                    forged: 0,
                    roamed: 0,
                }),
                route: Mutex::new((at.inner, SessionEpoch(0))),
                up: Mutex::default(),
                down: Mutex::default(),
            });
        }
    }
    Ok(users)
}

fn pair(
    shape: &SessionShape,
    first: u32,
    index: u32,
    child: u32,
    keys: PairKeys,
) -> io::Result<Pair> {
    let iv_mask = || random::octets().map(u64::from_ne_bytes).ok_or_else(no_random);
    Ok(Pair {
        child,
        inner: shape.inner_address(first, index, child).ok_or_else(no_random)?,
        esn: shape.esn,
        send_spi: keys.to_gateway.0,
        send: Cipher::new(&keys.to_gateway.1, iv_mask()?).map_err(io::Error::other)?,
        sequence: 0,
        receive_spi: keys.to_user.0,
        receive: Cipher::new(&keys.to_user.1, iv_mask()?).map_err(io::Error::other)?,
        window: window::empty(shape.window),
    })
}

/// Addresses that one can send to, where a gateway listens on all of its own.
fn reachable(at: Addresses) -> Addresses {
    let real = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port())
        }
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port())
        }
        _ => address,
    };
    Addresses { outer: real(at.outer), inner: real(at.inner), relay: real(at.relay) }
}

fn loopback(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

fn bind_users(config: &FleetConfig, gateway: SocketAddr) -> io::Result<Vec<UdpSocket>> {
    let ip = config.bind.unwrap_or_else(|| loopback(gateway));
    let count = config.sockets.clamp(1, config.sessions as usize);
    (0..count)
        .map(|_| {
            let socket = bind(SocketAddr::new(ip, 0))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
        .collect()
}

fn bind_host(config: &FleetConfig, gateway: SocketAddr) -> io::Result<UdpSocket> {
    let address = config.host.unwrap_or_else(|| SocketAddr::new(loopback(gateway), 0));
    let socket = bind(address)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    Ok(socket)
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })?;
    make_room(&socket2::SockRef::from(&socket), SOCKET_BUFFER);
    Ok(socket)
}
