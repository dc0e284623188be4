//! One connection to charon's socket, every step of it within a deadline.

use std::{
    collections::BTreeSet,
    fmt,
    io::{ErrorKind, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{
    clock::Deadline,
    codec::{Frames, Packet},
    error::{Malformed, Unwritable, ViciError},
};

/// A connection. Whoever gets an error from it drops it.
#[derive(Debug)]
pub(super) struct Connection {
    socket: UnixStream,
    frames: Frames,
    /// Streamed events that charon knows we want.
    pub(super) registered: BTreeSet<String>,
}

/// Why a connection is of no use any more.
#[derive(Debug)]
pub(super) enum Broken {
    TimedOut,
    Lost(String),
    Malformed(Malformed),
    Unwritable(Unwritable),
}

impl Broken {
    /// As an error of the call that met it.
    pub(super) fn during(self, command: &str, deadline: Deadline) -> ViciError {
        let command = command.to_owned();
        match self {
            Self::TimedOut => ViciError::TimedOut { command, within: deadline.given() },
            Self::Lost(reason) => ViciError::Lost { command, reason },
            Self::Malformed(reason) => ViciError::Malformed { command, reason },
            Self::Unwritable(reason) => ViciError::Unwritable { command, reason },
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("timed out"),
            Self::Lost(reason) => write!(f, "charon closed the connection: {reason}"),
            Self::Malformed(reason) => write!(f, "charon sent what is not vici: {reason}"),
            Self::Unwritable(reason) => reason.fmt(f),
        }
    }
}

impl Connection {
    pub(super) fn open(path: &Path, deadline: Deadline) -> Result<Self, ViciError> {
        let fail = |reason: std::io::Error| ViciError::Connect {
            path: path.to_owned(),
            reason: match reason.kind() {
                // charon is stopped, and its backlog full.
                ErrorKind::WouldBlock => "nobody accepts the connection".to_owned(),
                _ => reason.to_string(),
            },
            absent: matches!(reason.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound),
        };
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(fail)?;
        // A Unix socket whose backlog is full makes connect wait as long as the
        // send timeout says.
        let late = || fail(ErrorKind::TimedOut.into());
        socket.set_write_timeout(Some(deadline.left().ok_or_else(late)?)).map_err(fail)?;
        socket.connect(&SockAddr::unix(path).map_err(fail)?).map_err(fail)?;
        Ok(Self {
            socket: UnixStream::from(socket),
            frames: Frames::new(),
            registered: BTreeSet::new(),
        })
    }

    /// The socket, to wait for it together with others.
    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Whether charon is at the other end and owes us nothing: only then may a
    /// kept connection be used for another call.
    pub(super) fn is_in_step(&self) -> bool {
        if !self.frames.is_empty() {
            return false;
        }
        let mut octet = [0];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.socket.as_raw_fd(), &mut octet, flags) == Err(Errno::EAGAIN)
    }

    pub(super) fn send(&mut self, packet: &Packet, deadline: Deadline) -> Result<(), Broken> {
        let octets = packet.write().map_err(Broken::Unwritable)?;
        let mut rest = octets.as_slice();
        while !rest.is_empty() {
            let left = deadline.left().ok_or(Broken::TimedOut)?;
            self.socket.set_write_timeout(Some(left)).map_err(lost)?;
            match self.socket.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) => passing(error)?,
            }
        }
        Ok(())
    }

    /// The next packet, waiting for it until the deadline.
    pub(super) fn receive(&mut self, deadline: Deadline) -> Result<Packet, Broken> {
        loop {
            if let Some(packet) = self.next()? {
                return Ok(packet);
            }
            let left = deadline.left().ok_or(Broken::TimedOut)?;
            self.socket.set_read_timeout(Some(left)).map_err(lost)?;
            self.fill()?;
        }
    }

    /// The next packet among what was read already.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, Broken> {
        self.frames.next().map_err(Broken::Malformed)
    }

    /// Reads what is there; waits for it as long as the read timeout says.
    pub(super) fn fill(&mut self) -> Result<(), Broken> {
        let mut octets = [0; 16 * 1024];
        match self.socket.read(&mut octets) {
            Ok(0) => Err(Broken::Lost("end of stream".to_owned())),
            Ok(count) => {
                self.frames.push(octets.get(..count).unwrap_or_default());
                Ok(())
            }
            Err(error) => passing(error),
        }
    }
}

/// What the caller's loop tries again until its deadline, and what ends the
/// connection.
fn passing(error: std::io::Error) -> Result<(), Broken> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(()),
        _ => Err(lost(error)),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "stands in `map_err`")]
fn lost(error: std::io::Error) -> Broken {
    Broken::Lost(error.to_string())
}
