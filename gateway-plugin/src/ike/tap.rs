//! Seeing all IKE that reaches or leaves this host while a daemon holds the ports:
//! a packet socket with a filter, read by one thread and shared by all who follow
//! a session. It also remembers the last response sent for each IKE SA, so that
//! the next owner can repeat it. No keys are held here.
//!
//! Needs CAP_NET_RAW. What arrives is heard before any packet filter, so also what
//! is then held or dropped; of what is sent only what really leaves: an answer that
//! a filter stops on its way out was never given and is not remembered. IP
//! fragments are not put together: a response in IP fragments is not remembered
//! (RFC 7383 fragments are).

mod filter;
mod memory;

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{LinkAddr, recvfrom},
};
use socket2::{Domain, Protocol, Socket, Type};

use self::memory::Memory;
use super::{answer::LastResponse, message::Header, packet};

/// An IKE message that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// It left this host; else it arrived.
    pub outgoing: bool,
    /// From the IP and UDP headers.
    pub source: SocketAddr,
    /// To, by the same headers.
    pub destination: SocketAddr,
    /// Its header. Nothing proves it.
    pub header: Header,
    /// The whole message, without non-ESP marker.
    pub message: Vec<u8>,
}

/// Messages that wait for one follower; more are dropped, as a network would.
const QUEUE: usize = 256;
/// Followers at the same time.
const MAX_FOLLOWERS: usize = 65_536;
/// Errors of the socket in a row after which the tap ends.
const MAX_ERRORS: u32 = 100;
/// Ethertype for all protocols, without which nothing outgoing is seen.
const ALL_PROTOCOLS: u16 = 0x0003;
/// Packet type of what this host sends.
const PACKET_OUTGOING: u8 = 4;

/// The tap. It listens until it is dropped.
#[derive(Debug)]
pub struct Tap {
    shared: Arc<Mutex<Shared>>,
    /// Closing it wakes the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    memory: Memory,
    followers: HashMap<(u64, u64), Vec<SyncSender<Sighting>>>,
    ended: bool,
}

impl Tap {
    /// Listens on all interfaces of this network namespace. Responses sent from
    /// `locals` are remembered, those of at most `sessions` IKE SAs.
    ///
    /// # Errors
    /// What the kernel says; without CAP_NET_RAW [`ErrorKind::PermissionDenied`].
    pub fn start(locals: Vec<IpAddr>, sessions: usize) -> io::Result<Self> {
        let protocol = i32::from(ALL_PROTOCOLS.to_be());
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(protocol)))?;
        socket.attach_filter(&filter::program())?;
        socket.set_nonblocking(true)?;
        let (stop, stopped) = UnixStream::pair()?;
        let shared = Arc::new(Mutex::new(Shared {
            memory: Memory::new(locals, sessions),
            followers: HashMap::new(),
            ended: false,
        }));
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("ike-tap".into()).spawn(move || {
            if let Err(error) = listen(&socket, &stopped, &theirs) {
                tracing::error!(%error, "the tap for IKE has ended");
            }
            let mut shared = lock(&theirs);
            shared.ended = true;
            shared.followers.clear();
        })?;
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// All messages of the IKE SA with these SPIs (initiator, responder) from now
    /// on, both ways, until the receiver is dropped. Messages that nobody fetches
    /// are dropped beyond 256.
    ///
    /// # Errors
    /// If the tap has ended or has too many followers.
    pub fn follow(&self, spis: (u64, u64)) -> io::Result<Receiver<Sighting>> {
        let (sender, receiver) = sync_channel(QUEUE);
        let mut shared = lock(&self.shared);
        if shared.ended {
            return Err(io::Error::other("the tap for IKE has ended: start it anew"));
        }
        if shared.followers.len() >= MAX_FOLLOWERS {
            return Err(io::Error::other("too many IKE SAs are followed at once"));
        }
        shared.followers.entry(spis).or_default().push(sender);
        Ok(receiver)
    }

    /// The response that this host sent last on the IKE SA with these SPIs
    /// (initiator, responder), if it was seen.
    pub fn last_response(&self, spis: (u64, u64)) -> Option<LastResponse> {
        lock(&self.shared).memory.last(spis)
    }

    /// Takes over what another gateway said last on an IKE SA that is here now.
    pub fn learn(&self, spis: (u64, u64), last: LastResponse) {
        lock(&self.shared).memory.learn(spis, last);
    }

    /// Forgets the responses of an IKE SA that has gone.
    pub fn forget(&self, spis: (u64, u64)) {
        lock(&self.shared).memory.forget(spis);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say: errors were logged.
            let _ = thread.join();
        }
    }
}

/// A follower that panicked cannot have left the maps half written.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads until the other end of `stopped` closes.
fn listen(socket: &Socket, stopped: &UnixStream, shared: &Mutex<Shared>) -> io::Result<()> {
    let mut buffer = vec![0; 65_600];
    let mut errors = 0;
    loop {
        let mut fds = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if fds[1].any().unwrap_or(true) {
            return Ok(());
        }
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok((octets, link)) => {
                errors = 0;
                let outgoing = link.is_some_and(|link| link.pkttype() == PACKET_OUTGOING);
                if let Some(sighting) = buffer.get(..octets).and_then(|p| sight(p, outgoing)) {
                    lock(shared).tell(sighting);
                }
            }
            Err(error) if io::Error::from(error).kind() == ErrorKind::WouldBlock => {}
            // An interface that goes down reports here once; the socket lives on.
            Err(error) if errors < MAX_ERRORS => {
                errors += 1;
                tracing::debug!(%error, "the tap for IKE missed something");
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn sight(packet: &[u8], outgoing: bool) -> Option<Sighting> {
    let found = packet::find(packet)?;
    Some(Sighting {
        outgoing,
        source: found.source,
        destination: found.destination,
        header: Header::parse(found.message).ok()?,
        message: found.message.to_vec(),
    })
}

impl Shared {
    fn tell(&mut self, sighting: Sighting) {
        if sighting.outgoing && sighting.header.response {
            self.memory.remember(&sighting);
        }
        let spis = (sighting.header.spi_initiator, sighting.header.spi_responder);
        let Some(followers) = self.followers.get_mut(&spis) else { return };
        followers.retain(|follower| match follower.try_send(sighting.clone()) {
            Ok(()) | Err(TrySendError::Full(_)) => true,
            Err(TrySendError::Disconnected(_)) => false,
        });
        if followers.is_empty() {
            self.followers.remove(&spis);
        }
    }
}
