//! The threads of a fleet: two that send, two that receive.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, poll};
use protocol_spec::{
    context::ReplayWindow,
    id::{SessionEpoch, SessionId},
};

use super::{
    super::{
        counters::count,
        esp::{self, Cipher, EspError, HEADER, NEXT_NONE, TAILROOM},
        packet::Flow,
        table::lock,
        window::{self, Verdict},
        wire::read_announcement,
    },
    fleet::FleetConfig,
    shape::host,
    tally::Tally,
};
use crate::holder::clock::Clock;

/// Session, number, time of sending.
pub(crate) const MARK: usize = 4 + 8 + 8;
/// Protocol number for experiments (RFC 3692): inner packets carry nothing else.
const EXPERIMENT: u8 = 253;
const DATAGRAM: usize = 65_507;
/// How often a thread looks whether it shall end.
const LOOK_UP: u16 = 20;
/// Pacing is no finer than this.
const TICK: Duration = Duration::from_millis(1);
/// Datagrams taken from one socket before the next has its turn.
const TURN: usize = 64;

/// Which wire a datagram was seen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// ESP, from an end user to a gateway.
    OuterSent,
    /// ESP, from a gateway to an end user.
    OuterReceived,
    /// An inner packet, from the inner host to a gateway.
    InnerSent,
    /// An inner packet or an announcement, from a gateway to the inner host.
    InnerReceived,
}

/// Sees every datagram between the fleet and the gateways, as it is on the wire.
pub trait WireObserver: Send + Sync {
    /// A datagram to or from `gateway`. Called by the thread that has it in hand,
    /// so it must not wait.
    fn saw(&self, wire: Wire, gateway: SocketAddr, datagram: &[u8], at: Duration);
}

/// All that the threads share.
pub(crate) struct World {
    pub(crate) config: FleetConfig,
    pub(crate) clock: Clock,
    pub(crate) users: Vec<User>,
    pub(crate) sockets: Vec<UdpSocket>,
    pub(crate) host: UdpSocket,
    /// Which user and which of its pairs an inbound SPI belongs to.
    pub(crate) spis: RwLock<HashMap<u32, usize>>,
    /// Whether packets are sent. A sender reads it for a whole batch, so whoever
    /// has written `false` knows that nothing is on its way out.
    pub(crate) sending: RwLock<bool>,
    pub(crate) stopping: AtomicBool,
    pub(crate) strays: AtomicU64,
    pub(crate) observer: Option<Arc<dyn WireObserver>>,
}

/// One end user.
pub(crate) struct User {
    pub(crate) id: SessionId,
    pub(crate) socket: usize,
    pub(crate) outer: Mutex<Outer>,
    /// Where the inner host sends its packets, and the epoch that said so.
    pub(crate) route: Mutex<(SocketAddr, SessionEpoch)>,
    pub(crate) up: Mutex<Tally>,
    pub(crate) down: Mutex<Tally>,
}

/// The end user's own SAs and where it takes its gateway to be.
pub(crate) struct Outer {
    pub(crate) gateway: SocketAddr,
    pub(crate) pairs: Vec<Pair>,
    pub(crate) rekeys: u32,
    pub(crate) replay_rejected: u64,
    pub(crate) forged: u64,
    pub(crate) roamed: u64,
}

/// A pair of SAs at the end user.
pub(crate) struct Pair {
    pub(crate) child: u32,
    pub(crate) inner: IpAddr,
    pub(crate) esn: bool,
    pub(crate) send_spi: u32,
    pub(crate) send: Cipher,
    pub(crate) sequence: u64,
    pub(crate) receive_spi: u32,
    pub(crate) receive: Cipher,
    pub(crate) window: ReplayWindow,
}

impl World {
    fn stopped(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn observe(&self, wire: Wire, gateway: SocketAddr, datagram: &[u8]) {
        if let Some(observer) = &self.observer {
            observer.saw(wire, gateway, datagram, self.clock.now());
        }
    }

    /// Time between two packets of one session, one way.
    fn usual(&self) -> Duration {
        Duration::from_secs(1) / self.config.rate.max(1)
    }

    /// Calls `send` for one user after the other, evenly, at the fleet's rate.
    /// After a delay it catches up at four times the rate, not at once.
    fn pace(&self, mut send: impl FnMut(usize)) {
        let per_second = self.users.len() as u128 * u128::from(self.config.rate);
        if per_second == 0 {
            return;
        }
        let burst = (4 * per_second * TICK.as_nanos()).div_ceil(1_000_000_000).max(4);
        let (mut origin, mut done, mut user) = (None, 0u128, 0);
        while !self.stopped() {
            let sending = self.sending.read().unwrap_or_else(PoisonError::into_inner);
            if !*sending {
                origin = None;
                drop(sending);
                std::thread::park_timeout(TICK);
                continue;
            }
            let now = self.clock.now();
            let begun = *origin.get_or_insert_with(|| {
                done = 0;
                now
            });
            let due = (now - begun).as_nanos() * per_second / 1_000_000_000;
            for _ in 0..burst.min(due.saturating_sub(done)) {
                send(user);
                user = (user + 1) % self.users.len();
                done += 1;
            }
            drop(sending);
            let next = (done + 1) * 1_000_000_000 / per_second;
            let next = Duration::from_nanos(u64::try_from(next).unwrap_or(u64::MAX));
            let wait = next.saturating_sub(now - begun);
            std::thread::park_timeout(wait.clamp(TICK, 20 * TICK));
        }
    }

    /// End users send.
    pub(crate) fn send_up(&self) {
        let mut buffer = vec![0; HEADER + 40 + self.config.payload.max(MARK) + TAILROOM];
        self.pace(|index| {
            let Some(user) = self.users.get(index) else { return };
            let number = lock(&user.up).next();
            let mut outer = lock(&user.outer);
            let gateway = outer.gateway;
            let child = (number % u64::from(self.config.shape.children)) as u32;
            // The newest pair, since it replaces those before it.
            let pair = outer.pairs.iter_mut().rfind(|pair| pair.child == child);
            let Some(pair) = pair else { return };
            let source = pair.inner;
            let mark = self.mark(index, number);
            let length =
                write_packet(&mut buffer[HEADER..], source, host(source.is_ipv6()), &mark, self);
            pair.sequence += 1;
            let next_header = if source.is_ipv4() { esp::NEXT_IPV4 } else { esp::NEXT_IPV6 };
            let sealed = pair.send.seal(
                pair.send_spi,
                pair.sequence,
                pair.esn,
                next_header,
                &mut buffer,
                length,
            );
            drop(outer);
            let (Ok(total), Some(socket)) = (sealed, self.sockets.get(user.socket)) else { return };
            self.observe(Wire::OuterSent, gateway, &buffer[..total]);
            send(socket, &buffer[..total], gateway);
        });
    }

    /// The inner host sends.
    pub(crate) fn send_down(&self) {
        let mut buffer = vec![0; 40 + self.config.payload.max(MARK)];
        let shape = &self.config.shape;
        self.pace(|index| {
            let Some(user) = self.users.get(index) else { return };
            let number = lock(&user.down).next();
            let child = (number % u64::from(shape.children)) as u32;
            let inner = shape.inner_address(self.config.first, index as u32, child);
            let Some(destination) = inner else { return };
            let mark = self.mark(index, number);
            let source = host(destination.is_ipv6());
            let length = write_packet(&mut buffer, source, destination, &mark, self);
            let (gateway, _) = *lock(&user.route);
            self.observe(Wire::InnerSent, gateway, &buffer[..length]);
            send(&self.host, &buffer[..length], gateway);
        });
    }

    fn mark(&self, index: usize, number: u64) -> [u8; MARK] {
        let mut mark = [0; MARK];
        mark[..4].copy_from_slice(&(index as u32).to_be_bytes());
        mark[4..12].copy_from_slice(&number.to_be_bytes());
        let now = u64::try_from(self.clock.now().as_nanos()).unwrap_or(u64::MAX);
        mark[12..].copy_from_slice(&now.to_be_bytes());
        mark
    }

    /// End users receive.
    pub(crate) fn receive_down(&self) {
        let mut buffer = vec![0; DATAGRAM];
        while !self.stopped() {
            let readable: Vec<bool> = {
                let fd = |socket| PollFd::new(AsFd::as_fd(socket), PollFlags::POLLIN);
                let mut fds: Vec<_> = self.sockets.iter().map(fd).collect();
                if poll(&mut fds, LOOK_UP).unwrap_or(0) == 0 {
                    continue;
                }
                fds.iter().map(|fd| fd.any().unwrap_or(false)).collect()
            };
            for (socket, _) in self.sockets.iter().zip(readable).filter(|(_, yes)| *yes) {
                for _ in 0..TURN {
                    match socket.recv_from(&mut buffer) {
                        Ok((length, from)) => self.user_received(&mut buffer[..length], from),
                        // An ICMP error about an earlier packet hides nothing.
                        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                        Err(_) => break,
                    }
                }
            }
        }
    }

    fn user_received(&self, datagram: &mut [u8], from: SocketAddr) {
        self.observe(Wire::OuterReceived, from, datagram);
        let Some((spi, low)) = esp::peek(datagram) else {
            return count(&self.strays);
        };
        let index = self.spis.read().unwrap_or_else(PoisonError::into_inner).get(&spi).copied();
        let Some((index, user)) = index.and_then(|i| Some((i, self.users.get(i)?))) else {
            return count(&self.strays);
        };
        let mut outer = lock(&user.outer);
        let Some(pair) = outer.pairs.iter_mut().find(|pair| pair.receive_spi == spi) else {
            return count(&self.strays);
        };
        let number = window::infer(&pair.window, pair.esn, low)
            .filter(|number| window::check(&pair.window, *number) == Verdict::Fresh);
        let Some(number) = number else {
            outer.replay_rejected += 1;
            return;
        };
        let (payload, next_header) = match pair.receive.open(number, pair.esn, datagram) {
            Ok(opened) => opened,
            Err(EspError::Forged) => {
                outer.forged += 1;
                return;
            }
            Err(_) => return count(&self.strays),
        };
        let newest = number > pair.window.highest;
        window::accept(&mut pair.window, number);
        // The newest authenticated packet says where the gateway is.
        if newest && outer.gateway != from {
            outer.gateway = from;
            outer.roamed += 1;
        }
        drop(outer);
        if next_header == NEXT_NONE {
            return;
        }
        match datagram.get(payload).and_then(read_mark) {
            Some((of, number, sent)) if of == index => {
                lock(&user.down).arrived(number, sent, self.clock.now(), self.usual());
            }
            _ => count(&self.strays),
        }
    }

    /// The inner host receives.
    pub(crate) fn receive_up(&self) {
        let mut buffer = vec![0; DATAGRAM];
        while !self.stopped() {
            let Ok((length, from)) = self.host.recv_from(&mut buffer) else { continue };
            let packet = &buffer[..length];
            self.observe(Wire::InnerReceived, from, packet);
            match read_announcement(packet) {
                Some(entries) => {
                    for entry in entries {
                        let owner =
                            self.config.shape.owner(self.config.first, entry.prefix.address);
                        let user = owner.and_then(|(index, _)| self.users.get(index));
                        let Some(user) = user else { continue };
                        let mut route = lock(&user.route);
                        if entry.epoch >= route.1 {
                            *route = (from, entry.epoch);
                        }
                    }
                }
                None => self.host_received(packet),
            }
        }
    }

    fn host_received(&self, packet: &[u8]) {
        let flow = Flow::parse(packet);
        let owner = flow.and_then(|flow| self.config.shape.owner(self.config.first, flow.source));
        let user = owner.and_then(|(index, _)| Some((index, self.users.get(index)?)));
        match (user, read_mark(packet)) {
            (Some((index, user)), Some((of, number, sent))) if of == index => {
                lock(&user.up).arrived(number, sent, self.clock.now(), self.usual());
            }
            _ => count(&self.strays),
        }
    }
}

/// Sends; a full socket is waited for, but not for ever.
fn send(socket: &UdpSocket, datagram: &[u8], to: SocketAddr) {
    for _ in 0..20 {
        match socket.send_to(datagram, to) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::park_timeout(TICK / 4);
            }
            // An ICMP error about an earlier packet: this one was not sent.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => {
                tracing::debug!(%error, %to, "cannot send");
                return;
            }
            Ok(_) => return,
        }
    }
}

/// Writes an IP packet that carries a mark, and returns its length.
fn write_packet(
    buffer: &mut [u8],
    source: IpAddr,
    destination: IpAddr,
    mark: &[u8; MARK],
    world: &World,
) -> usize {
    let payload = world.config.payload.max(MARK);
    let header = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = (20 + payload) as u16;
            let [t0, t1] = total.to_be_bytes();
            buffer[..12].copy_from_slice(&[0x45, 0, t0, t1, 0, 0, 0x40, 0, 64, EXPERIMENT, 0, 0]);
            buffer[12..16].copy_from_slice(&source.octets());
            buffer[16..20].copy_from_slice(&destination.octets());
            let words = buffer[..20].chunks_exact(2);
            let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
            buffer[10..12].copy_from_slice(&checksum.to_be_bytes());
            20
        }
        (source, destination) => {
            let octets = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            let [l0, l1] = (payload as u16).to_be_bytes();
            buffer[..8].copy_from_slice(&[0x60, 0, 0, 0, l0, l1, EXPERIMENT, 64]);
            buffer[8..24].copy_from_slice(&octets(source));
            buffer[24..40].copy_from_slice(&octets(destination));
            40
        }
    };
    buffer[header..header + MARK].copy_from_slice(mark);
    buffer[header + MARK..header + payload].fill(0);
    header + payload
}

/// Session, number and time of sending of one of our packets.
fn read_mark(packet: &[u8]) -> Option<(usize, u64, Duration)> {
    let header = match packet.first()? >> 4 {
        4 => 20,
        6 => 40,
        _ => return None,
    };
    let mark = packet.get(header..)?.first_chunk::<MARK>()?;
    let (index, rest) = mark.split_first_chunk::<4>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let sent = rest.first_chunk::<8>()?;
    Some((
        u32::from_be_bytes(*index) as usize,
        u64::from_be_bytes(*number),
        Duration::from_nanos(u64::from_be_bytes(*sent)),
    ))
}
