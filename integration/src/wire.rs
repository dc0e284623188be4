//! The outer network between end users and gateways: a transparent link in UDP that
//! an [`Observer`] watches.
//!
//! End users know a gateway by its *front*, an address of the wire. To the gateways
//! each end user appears under a *public* address of its own, the same at every
//! gateway, as behind a NAT that filters nothing:
//!
//! ```text
//!  end user u ---> front of A ---> public address of u ---> outer socket of A
//!  end user u <--- front of A <--- public address of u <--- outer socket of A
//!             <--- front of B <---                     <--- outer socket of B
//! ```
//!
//! So a session that moves keeps the address under which it is known, and whatever
//! any gateway sends to an end user passes here.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use crate::{
    clock,
    observer::{GatewayId, Observer, UserId},
};

#[cfg(test)]
mod tests;

/// What a socket may hold that is not read yet.
const BUFFER: usize = 4 << 20;
/// Longest datagram that is forwarded.
const LONGEST: usize = 9000;
/// Datagrams that are taken from one socket before the next one has its turn.
const TURN: usize = 256;
/// How soon the threads notice that they shall end.
const HEARTBEAT: u16 = 50;
/// End users that the wire knows at most.
const MAX_USERS: usize = 16_384;

/// A running wire. Ends with its value.
pub struct Wire {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    fronts: Vec<UdpSocket>,
    gateways: Vec<SocketAddr>,
    users: RwLock<Users>,
    /// Watches the public sockets.
    publics: Epoll,
    observer: Mutex<Observer>,
    began: Instant,
    ended: AtomicBool,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Users {
    by_address: HashMap<SocketAddr, Arc<User>>,
    by_id: Vec<Arc<User>>,
}

struct User {
    id: UserId,
    address: SocketAddr,
    public: UdpSocket,
}

fn open(ip: IpAddr) -> io::Result<UdpSocket> {
    let address = SocketAddr::new(ip, 0);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    // Best effort: a system may allow less.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Wire {
    /// A wire between any end users and these gateways, named by their outer sockets.
    ///
    /// # Errors
    /// The system's, when it gives no sockets or threads.
    pub fn start(gateways: &[SocketAddr]) -> io::Result<Self> {
        let fronts = gateways.iter().map(|g| open(g.ip())).collect::<io::Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            fronts,
            gateways: gateways.to_vec(),
            users: RwLock::default(),
            publics: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            observer: Mutex::default(),
            began: clock::now(),
            ended: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        });
        let mut wire = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        let outward = Arc::clone(&shared);
        let watch = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (gateway, front) in (0_u64..).zip(&shared.fronts) {
            watch.add(front, EpollEvent::new(EpollFlags::EPOLLIN, gateway))?;
        }
        wire.threads.push(spawn("wire-to-gateways", move || outward.to_gateways(&watch))?);
        wire.threads.push(spawn("wire-to-users", move || shared.to_users())?);
        Ok(wire)
    }

    /// The address under which end users know a gateway.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is no such gateway.
    pub fn front(&self, gateway: GatewayId) -> io::Result<SocketAddr> {
        self.shared.fronts.get(gateway).ok_or(io::ErrorKind::NotFound)?.local_addr()
    }

    /// The address under which gateways know the end user with this address. It
    /// exists from the first question or the first datagram on.
    ///
    /// # Errors
    /// The system's, when it gives no more sockets.
    pub fn public(&self, user: SocketAddr) -> io::Result<SocketAddr> {
        self.shared.user(user)?.public.local_addr()
    }

    /// The observer, with everything that passed until now.
    pub fn observer(&self) -> MutexGuard<'_, Observer> {
        self.shared.observer()
    }

    /// Datagrams that the wire itself could not forward: none, on a sane system.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on stderr.
            let _ = thread.join();
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

impl Shared {
    fn observer(&self) -> MutexGuard<'_, Observer> {
        self.observer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn user(&self, address: SocketAddr) -> io::Result<Arc<User>> {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = users.by_address.get(&address) {
            return Ok(Arc::clone(user));
        }
        drop(users);
        let mut users = self.users.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = users.by_address.get(&address) {
            return Ok(Arc::clone(user));
        }
        if users.by_id.len() >= MAX_USERS {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let id = UserId::try_from(users.by_id.len()).map_err(io::Error::other)?;
        let user = Arc::new(User { id, address, public: open(address.ip())? });
        users.by_address.insert(address, Arc::clone(&user));
        users.by_id.push(Arc::clone(&user));
        self.publics.add(&user.public, EpollEvent::new(EpollFlags::EPOLLIN, u64::from(id)))?;
        Ok(user)
    }

    fn user_by_id(&self, id: u64) -> Option<Arc<User>> {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        users.by_id.get(usize::try_from(id).ok()?).map(Arc::clone)
    }

    fn count(&self, sent: io::Result<usize>) {
        if sent.is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Calls `ready` with each socket that has something, until the wire ends.
    fn each_ready(&self, watch: &Epoll, mut ready: impl FnMut(u64)) {
        let mut events = [EpollEvent::empty(); 128];
        while !self.ended.load(Ordering::Relaxed) {
            let count = match watch.wait(&mut events, EpollTimeout::from(HEARTBEAT)) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => {
                    eprintln!("the wire cannot wait for packets: {error}");
                    return;
                }
            };
            events.iter().take(count).for_each(|event| ready(event.data()));
        }
    }

    fn to_gateways(&self, watch: &Epoll) {
        let mut buffer = [0; LONGEST];
        self.each_ready(watch, |id| {
            let Some(gateway) = usize::try_from(id).ok() else { return };
            let (Some(front), Some(outer)) = (self.fronts.get(gateway), self.gateways.get(gateway))
            else {
                return;
            };
            for _ in 0..TURN {
                // Errors other than "nothing there" are ICMP answers to what was sent.
                let Ok((length, from)) = front.recv_from(&mut buffer) else { return };
                let Ok(user) = self.user(from) else {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                self.observer().to_gateway(&buffer[..length]);
                self.count(user.public.send_to(&buffer[..length], outer));
            }
        });
    }

    fn to_users(&self) {
        let mut buffer = [0; LONGEST];
        self.each_ready(&self.publics, |id| {
            let Some(user) = self.user_by_id(id) else { return };
            for _ in 0..TURN {
                let Ok((length, from)) = user.public.recv_from(&mut buffer) else { return };
                let Some(gateway) = self.gateways.iter().position(|outer| *outer == from) else {
                    // Not one of the gateways: nothing that the end user should see.
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                let at = clock::now().saturating_duration_since(self.began);
                self.observer().to_user(user.id, gateway, &buffer[..length], at);
                self.count(self.fronts[gateway].send_to(&buffer[..length], user.address));
            }
        });
    }
}

/// A free UDP address on loopback, for a process that is to be started. Another
/// program may take it before; the process then says so and ends.
///
/// # Errors
/// The system's, when it has no address left.
pub fn free_address() -> io::Result<SocketAddr> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// How long the wire's threads may take to notice that they shall end.
pub const END: Duration = Duration::from_millis(HEARTBEAT as u64 * 2);
