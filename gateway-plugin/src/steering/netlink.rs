//! A netlink socket that asks and waits, with a deadline for every wait.

use std::{io, os::fd::AsFd as _, time::Duration};

use netlink_sys::{Socket, SocketAddr};
use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, poll},
    sys::{
        socket::{setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

use super::{
    SteeringError,
    config::PATIENCE,
    message::{Messages, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_OVERRUN},
};

/// Room for a batch of some ten thousand elements, and for a queue of packets.
const BUFFER: usize = 16 << 20;
/// A dump that changes under our hands is asked for again so many times.
pub(super) const DUMP_ATTEMPTS: u32 = 16;

/// A socket of one netlink family.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// What a dump gave: every message as octets, or that it changed meanwhile.
pub(super) enum Dump {
    /// Bodies of all messages, in order.
    Whole(Vec<Vec<u8>>),
    /// The kernel's state changed during the dump.
    Interrupted,
}

impl Netlink {
    /// Opens a socket of `family` (`NETLINK_ROUTE`, `NETLINK_NETFILTER`) that is
    /// a member of `groups` (their numbers).
    pub(super) fn open(family: isize, groups: &[u32]) -> Result<Self, SteeringError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(family)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            for &group in groups {
                socket.add_membership(group)?;
            }
            socket.set_cap_ack(true)?;
            // Unprivileged: stay with what the system gives.
            let _ = setsockopt(&socket, sockopt::SndBufForce, &BUFFER);
            let _ = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER);
            Ok(socket)
        };
        let socket = open().map_err(|error| SteeringError::kernel("netlink socket", error))?;
        let mut netlink = Self { socket, sequence: 0 };
        netlink.set_patience(PATIENCE)?;
        Ok(netlink)
    }

    /// How long [`Netlink::receive`] waits.
    pub(super) fn set_patience(&mut self, patience: Duration) -> Result<(), SteeringError> {
        let time = TimeVal::microseconds(i64::try_from(patience.as_micros()).unwrap_or(i64::MAX));
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &time)
            .map_err(|error| SteeringError::kernel("netlink socket", error.into()))
    }

    /// Losing messages for want of room is no error of the next receive call.
    pub(super) fn quiet_overruns(&self) -> io::Result<()> {
        self.socket.set_no_enobufs(true)
    }

    /// A sequence number that was not used before.
    pub(super) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Sends messages. May be called while another thread receives.
    pub(super) fn send(&self, octets: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(octets, 0)?;
        if sent == octets.len() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::WriteZero, "the kernel took half a message"))
    }

    /// What the kernel sent next; `None` after the patience without anything.
    pub(super) fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        match self.socket.recv_from_full() {
            Ok((octets, from)) if from.port_number() == 0 => Ok(Some(octets)),
            // Not the kernel: somebody local who guesses at our port.
            Ok(_) => Ok(Some(Vec::new())),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(None),
                Some(libc::EINTR) => Ok(Some(Vec::new())),
                _ => Err(error),
            },
        }
    }

    /// Waits until something is there to be taken; `false` after the patience.
    pub(super) fn wait(&self, patience: Duration) -> io::Result<bool> {
        let patience = u16::try_from(patience.as_millis()).unwrap_or(u16::MAX);
        match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], patience) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes one datagram of the kernel's that is there, in the place of what `into`
    /// held; it must have the capacity for any. `false` if nothing is there.
    pub(super) fn take(&self, into: &mut Vec<u8>) -> io::Result<bool> {
        into.clear();
        match self.socket.recv_from(into, libc::MSG_DONTWAIT) {
            Ok((_, from)) if from.port_number() == 0 => Ok(true),
            Ok(_) => {
                into.clear();
                Ok(true)
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Sends one request and waits for its acknowledgement. The error number is
    /// in the `io::Error`.
    pub(super) fn order(&mut self, octets: &[u8], sequence: u32) -> io::Result<()> {
        self.ask(octets, sequence).map(drop)
    }

    /// Sends one request and waits for its answer: the body of the message that
    /// came before, or instead of, the acknowledgement.
    pub(super) fn ask(&mut self, octets: &[u8], sequence: u32) -> io::Result<Option<Vec<u8>>> {
        self.send(octets)?;
        let mut answer = None;
        loop {
            let Some(received) = self.receive()? else {
                return Err(io::ErrorKind::TimedOut.into());
            };
            for message in Messages(&received).filter(|m| m.sequence == sequence) {
                match message.error() {
                    Some(0) => return Ok(answer),
                    Some(error) => return Err(io::Error::from_raw_os_error(-error)),
                    None => answer = Some(message.body.to_vec()),
                }
            }
        }
    }

    /// Sends a request for a dump and collects what comes.
    pub(super) fn dump(&mut self, octets: &[u8], sequence: u32) -> io::Result<Dump> {
        self.send(octets)?;
        let mut bodies = Vec::new();
        let mut interrupted = false;
        loop {
            let Some(received) = self.receive()? else {
                return Err(io::ErrorKind::TimedOut.into());
            };
            for message in Messages(&received).filter(|m| m.sequence == sequence) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match (message.kind, message.error()) {
                    (NLMSG_DONE, _) if interrupted => return Ok(Dump::Interrupted),
                    (NLMSG_DONE, _) | (_, Some(0)) => return Ok(Dump::Whole(bodies)),
                    (_, Some(error)) => return Err(io::Error::from_raw_os_error(-error)),
                    (NLMSG_OVERRUN, _) => return Ok(Dump::Interrupted),
                    _ => bodies.push(message.body.to_vec()),
                }
            }
        }
    }
}
