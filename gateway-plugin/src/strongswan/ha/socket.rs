//! The socket to charon: its "other node".

mod holder;
mod inherit;

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use thiserror::Error;
use zeroize::Zeroizing;

pub use self::holder::Life;
use self::holder::Queue;
use super::message::{Datagram, HaError, MAX_OCTETS, Message, Version};

/// Where we listen unless the configuration says otherwise: charon's `ha.remote`.
pub const DEFAULT_LOCAL: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 4510);
/// Where charon listens unless the configuration says otherwise: `ha.local`.
pub const DEFAULT_CHARON: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 4510);

/// Octets of messages that may wait while nobody reads; a thousand sessions that
/// come up at once fit.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Octets of memory that may wait at charon before we go on sending: a quarter of
/// Linux's usual bound of 212992, and the kernel counts several hundred for each
/// datagram.
const WAITING_AT_CHARON: u64 = 48 << 10;
/// What the kernel may count for a datagram beside twice its octets.
const TAKES: u64 = 1 << 10;
/// How often we look whether charon has read more.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The UDP socket that charon takes for the other node of its cluster.
///
/// Messages are neither acknowledged nor encrypted; they hold secrets, so both
/// ends are loopback addresses. Connected to charon's address: the kernel lets
/// nobody else's datagrams in.
#[derive(Debug)]
pub struct HaSocket {
    socket: UdpSocket,
    local: SocketAddr,
    charon: SocketAddr,
}

/// What came from charon: a message, or one that could not be read.
pub type Received = Result<(Version, Message), HaError>;

impl HaSocket {
    /// Binds `local` ([`DEFAULT_LOCAL`]) for messages to and from `charon`
    /// ([`DEFAULT_CHARON`]).
    ///
    /// # Errors
    /// [`SocketError::Taken`] names the process that holds the address;
    /// [`SocketError::NotLoopback`] refuses to send secrets over a network.
    pub fn bind(local: SocketAddr, charon: SocketAddr) -> Result<Self, SocketError> {
        let socket = UdpSocket::bind(local).map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => SocketError::Taken { local, holder: holder::of(local) },
            _ => SocketError::io("bind", local, error),
        })?;
        Self::from_socket(socket, charon)
    }

    /// Takes the socket that systemd holds for us (`LISTEN_FDS`, the first one), or
    /// `None` if it gave us none. Such a socket is bound before charon starts and
    /// keeps what charon sends while we restart.
    ///
    /// # Errors
    /// [`SocketError`] if what systemd gave is no UDP socket on a loopback address.
    pub fn inherit(charon: SocketAddr) -> Result<Option<Self>, SocketError> {
        match inherit::first_socket() {
            Ok(Some(socket)) => Self::from_socket(socket, charon).map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(SocketError::Inherited { error: error.to_string() }),
        }
    }

    /// Takes a bound socket.
    ///
    /// # Errors
    /// [`SocketError`] as for [`HaSocket::bind`].
    pub fn from_socket(socket: UdpSocket, charon: SocketAddr) -> Result<Self, SocketError> {
        let local = socket
            .local_addr()
            .map_err(|error| SocketError::Inherited { error: error.to_string() })?;
        for address in [local, charon] {
            if !address.ip().is_loopback() {
                return Err(SocketError::NotLoopback { address });
            }
        }
        // Beyond the system's bound only with CAP_NET_ADMIN.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)
                .map_err(|error| SocketError::io("set the buffer of", local, error.into()))?;
        }
        socket.connect(charon).map_err(|error| SocketError::io("connect to", charon, error))?;
        Ok(Self { socket, local, charon })
    }

    /// Our address.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// A second handle on the same socket, so that one thread receives while
    /// another sends.
    ///
    /// # Errors
    /// [`SocketError`] if the system has no more descriptors.
    pub fn try_clone(&self) -> Result<Self, SocketError> {
        let socket = self
            .socket
            .try_clone()
            .map_err(|error| SocketError::io("duplicate the socket at", self.local, error))?;
        Ok(Self { socket, ..*self })
    }

    /// The next message from charon, or `None` after `timeout` without one.
    ///
    /// # Errors
    /// [`SocketError`] if the socket is broken. A message that cannot be read is no
    /// such error; it comes as `Some(Err(..))`.
    pub fn receive(&self, timeout: Duration) -> Result<Option<Received>, SocketError> {
        let fail = |error| SocketError::io("receive at", self.local, error);
        // Zero would mean for ever.
        let timeout = timeout.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(timeout)).map_err(fail)?;
        let mut buffer = Zeroizing::new(vec![0; MAX_OCTETS]);
        match self.socket.recv_from(&mut buffer) {
            // Connecting keeps others out; what came before it is told by its sender.
            Ok((octets, from)) if from == self.charon => {
                Ok(buffer.get(..octets).map(Message::decode))
            }
            Ok((_, from)) => {
                tracing::warn!(%from, local = %self.local, "dropped a datagram that is not charon's");
                Ok(None)
            }
            Err(error) => match error.kind() {
                // An earlier message of ours found nobody at charon's address.
                ErrorKind::ConnectionRefused
                | ErrorKind::WouldBlock
                | ErrorKind::TimedOut
                | ErrorKind::Interrupted => Ok(None),
                _ => Err(fail(error)),
            },
        }
    }

    /// Waits for something to [`receive`](Self::receive): whoever takes it only then can
    /// first make sure that nobody sees it half taken.
    ///
    /// # Errors
    /// If the socket is broken.
    pub fn wait(&self, timeout: Duration) -> Result<bool, SocketError> {
        let fail = |error| SocketError::io("receive at", self.local, error);
        self.socket.set_read_timeout(Some(timeout)).map_err(fail)?;
        match self.socket.peek_from(&mut [0]) {
            Ok(_) => Ok(true),
            Err(error) => match error.kind() {
                ErrorKind::ConnectionRefused
                | ErrorKind::WouldBlock
                | ErrorKind::TimedOut
                | ErrorKind::Interrupted => Ok(false),
                _ => Err(fail(error)),
            },
        }
    }

    /// Sends messages in order, no faster than charon reads them: its queue would
    /// overflow silently. Returns when the last one is out, not when charon has
    /// worked it off (see [`HaSocket::settle`]), and says which charon got them.
    ///
    /// # Errors
    /// [`SocketError::NoCharon`] if nobody listens at charon's address,
    /// [`SocketError::Stuck`] if charon does not read for as long as `patience`,
    /// [`SocketError::Lost`] if the kernel dropped a message: charon's state is
    /// then not what the messages said.
    pub fn send<'a>(
        &self,
        messages: impl IntoIterator<Item = &'a Datagram>,
        patience: Duration,
    ) -> Result<Life, SocketError> {
        let queue = holder::queue(self.charon).ok_or_else(|| self.no_charon())?;
        let (dropped, mut octets) = (queue.dropped, queue.octets);
        for message in messages {
            let takes = TAKES + 2 * message.expose().len() as u64;
            if octets > 0 && octets + takes > WAITING_AT_CHARON {
                let has_room = |q: Queue| q.octets == 0 || q.octets + takes <= WAITING_AT_CHARON;
                octets = self.wait_until(patience, has_room)?.octets;
            }
            octets += takes;
            self.send_one(message)?;
        }
        let queue = holder::queue(self.charon).ok_or_else(|| self.no_charon())?;
        if queue.dropped == dropped { Ok(queue.life) } else { Err(SocketError::Lost) }
    }

    /// Waits until charon has taken all that was sent to it. The last message may
    /// still be in work then: ask vici for the result.
    ///
    /// # Errors
    /// As for [`HaSocket::send`].
    pub fn settle(&self, patience: Duration) -> Result<(), SocketError> {
        self.wait_until(patience, |queue| queue.octets == 0).map(drop)
    }

    /// Waits until whoever receives has taken all that charon sent before this call.
    ///
    /// # Errors
    /// [`SocketError::Behind`] if that does not come within `patience`.
    pub fn catch_up(&self, patience: Duration) -> Result<(), SocketError> {
        let mut left = patience;
        while holder::queue(self.local).is_some_and(|queue| queue.octets > 0) {
            let behind = SocketError::Behind { patience };
            left = left.checked_sub(LOOK_AGAIN).ok_or(behind)?;
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Which charon runs now, if one does.
    pub fn charons_life(&self) -> Option<Life> {
        holder::queue(self.charon).map(|queue| queue.life)
    }

    /// Datagrams that were lost on their way to us because nobody read them. When
    /// it grows, the tracker has gaps.
    pub fn lost(&self) -> u64 {
        holder::queue(self.local).map_or(0, |queue| queue.dropped)
    }

    fn wait_until(
        &self,
        patience: Duration,
        holds: impl Fn(Queue) -> bool,
    ) -> Result<Queue, SocketError> {
        let (mut left, mut before) = (patience, u64::MAX);
        loop {
            let queue = holder::queue(self.charon).ok_or_else(|| self.no_charon())?;
            if holds(queue) {
                return Ok(queue);
            }
            // Whoever reads is slow, not stuck.
            if queue.octets < before {
                left = patience;
            }
            before = queue.octets;
            left = left.checked_sub(LOOK_AGAIN).ok_or(SocketError::Stuck { patience })?;
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn send_one(&self, message: &Datagram) -> Result<(), SocketError> {
        let octets = message.expose();
        for _ in 0..2 {
            match self.socket.send(octets) {
                Ok(sent) if sent == octets.len() => return Ok(()),
                Ok(_) => return Err(SocketError::Lost),
                // Says that an *earlier* datagram found nobody; this one was not sent.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(SocketError::io("send to", self.charon, error)),
            }
        }
        Err(self.no_charon())
    }

    fn no_charon(&self) -> SocketError {
        SocketError::NoCharon { charon: self.charon }
    }
}

/// The socket to charon cannot be had or does not work.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Somebody else holds our address and can read the secrets of every session.
    #[error(
        "{local} is held by {holder}, which thereby hears the secrets of all sessions: stop it; the socket unit must be started before charon and alone hold this address"
    )]
    Taken {
        /// The address.
        local: SocketAddr,
        /// Who holds it.
        holder: String,
    },
    /// An address that others could listen to.
    #[error("{address} is not a loopback address: HA messages hold secrets in clear")]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// systemd gave something else than a UDP socket.
    #[error("the socket that was passed in (LISTEN_FDS) is of no use: {error}")]
    Inherited {
        /// What is wrong with it.
        error: String,
    },
    /// Nobody listens at charon's address.
    #[error(
        "no charon listens at {charon}: is it running, with `load = yes` and `local = {}` in its ha plugin's section?",
        charon.ip()
    )]
    NoCharon {
        /// The address.
        charon: SocketAddr,
    },
    /// charon does not read.
    #[error("charon has not read its HA messages for {patience:?}")]
    Stuck {
        /// How long it was given.
        patience: Duration,
    },
    /// We do not read.
    #[error("charon's HA messages were not read for {patience:?}: this machine is overloaded")]
    Behind {
        /// How long it was waited.
        patience: Duration,
    },
    /// The kernel dropped a message.
    #[error("a message to charon was dropped: its receive buffer was full")]
    Lost,
    /// Anything else.
    #[error("cannot {what} {address}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
}

impl SocketError {
    fn io(what: &'static str, address: SocketAddr, error: io::Error) -> Self {
        Self::Io { what, address, error }
    }
}

#[cfg(test)]
mod tests;
